"""The waveform of a recording with a span on it that a person drags, or moves with arrow keys."""

from itertools import pairwise
from typing import Any

import gradio as gr
import numpy as np

from maskgen.io.audio import Waveform, mixed_down

NO_RECORDING: dict[str, Any] = {"wave": "", "seconds": 0.0, "start": 0.0, "end": 0.0}
"""Value of the component without a recording."""
COLUMNS = 320
"""Columns in which lowest and highest samples are drawn."""
FIRST_SPAN = (0.25, 0.75)
"""The span at first, as shares of the recording."""
TEMPLATE = """
${value.wave ? `<div class="mg-wave">
  <svg viewBox="0 -1 320 2" preserveAspectRatio="none" role="img" aria-label="Waveform of the recording"><path d="${value.wave}"/></svg>
  <div class="mg-span" style="left:${100 * value.start / value.seconds}%;width:${100 * (value.end - value.start) / value.seconds}%"></div>
  ${["start", "end"].map(name => `<span class="mg-handle" data-edge="${name}" role="slider" tabindex="0" aria-orientation="horizontal"
    aria-label="${name === "start" ? "Start" : "End"} of the span in seconds" aria-valuemin="0" aria-valuemax="${value.seconds.toFixed(2)}"
    aria-valuenow="${value[name].toFixed(2)}" style="left:${100 * value[name] / value.seconds}%"></span>`).join("")}
</div>
<p class="mg-hint">${value.start.toFixed(2)} to ${value.end.toFixed(2)} s of ${value.seconds.toFixed(2)} s are replaced.
Drag over the waveform; arrow keys move an edge.</p>`
: `<p class="mg-hint">Upload or record speech, or take the result above; then drag over its waveform.</p>`}
"""
SCRIPT = """
let from = null;
const second = event => {
  const box = element.querySelector(".mg-wave").getBoundingClientRect();
  return Math.min(1, Math.max(0, (event.clientX - box.left) / box.width)) * props.value.seconds;
};
const put = (start, end) => { props.value = {...props.value, start: Math.min(start, end), end: Math.max(start, end)}; };
element.addEventListener("pointerdown", event => {
  if (!event.target.closest(".mg-wave")) return;
  event.preventDefault();
  const edge = event.target.dataset.edge, {start, end} = props.value;
  from = edge === "start" ? end : edge === "end" ? start : second(event);
  event.target.focus?.();
});
window.addEventListener("pointermove", event => { if (from !== null) put(from, second(event)); });
window.addEventListener("pointerup", () => { from = null; });
window.addEventListener("pointercancel", () => { from = null; });
element.addEventListener("keydown", event => {
  const edge = event.target.dataset.edge, step = {ArrowLeft: -0.05, ArrowRight: 0.05, ArrowDown: -0.05, ArrowUp: 0.05}[event.key];
  if (!edge || !step) return;
  event.preventDefault();
  const moved = Math.min(props.value.seconds, Math.max(0, props.value[edge] + step));
  if (edge === "start" ? moved < props.value.end : moved > props.value.start) props.value = {...props.value, [edge]: moved};
});
"""


def wave_span() -> gr.HTML:
    """The component; its value holds the waveform's path, its length, and the span in seconds."""
    return gr.HTML(NO_RECORDING, html_template=TEMPLATE, js_on_load=SCRIPT, label="Span", apply_default_css=False)


def span_value(wave: Waveform) -> dict[str, Any]:
    """A recording with the middle half of it as the span."""
    start, end = (share * wave.seconds for share in FIRST_SPAN)
    return {"wave": _path(mixed_down(wave.samples)[0]), "seconds": wave.seconds, "start": start, "end": end}


def chosen_span(value: Any, wave: Waveform) -> tuple[float, float]:
    """The span in seconds.

    Args:
        value: Of the component, as a browser sent it.
        wave: The recording.

    Raises:
        ValueError: If it is no span of the recording.
    """
    edges = [value.get(name) for name in ("start", "end")] if isinstance(value, dict) else []
    numbers = [float(edge) for edge in edges if isinstance(edge, (int, float)) and not isinstance(edge, bool)]
    if len(numbers) != 2 or not 0 <= numbers[0] < numbers[1]:
        raise ValueError("no span is chosen; drag over the waveform from its first to its last second")
    return numbers[0], min(numbers[1], wave.seconds)


def _path(samples: np.ndarray) -> str:
    """Lowest and highest sample of each column, the loudest filling the height."""
    scale = max(1e-3, float(np.abs(samples).max()))
    edges = np.linspace(0, len(samples), COLUMNS + 1).astype(int)
    columns = [samples[low : max(low + 1, high)] / scale for low, high in pairwise(edges)]
    spans = ((-float(one.max()), -float(one.min()) + 0.02) for one in columns)
    return "".join(f"M{place},{top:.2f}V{bottom:.2f}" for place, (top, bottom) in enumerate(spans))
