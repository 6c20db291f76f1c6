"""Report of a search of generation settings: JSON, and a page that plots quality against model calls."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from maskgen.evaluation.html import page, table, text
from maskgen.evaluation.tuning.search import RULE
from maskgen.evaluation.tuning.trials import Trial
from maskgen.evaluation.tuning.tune import Tuned, describe
from maskgen.io.files import write_atomic

WIDE, HIGH, LEFT, BELOW, EDGE = 640, 380, 60, 44, 16
"""The plot in screen pixels, and its margins."""
TICKS = 6


def write_tune_report(out: Path, tuned: Tuned, facts: Mapping[str, Any], measure: str) -> dict[str, Any]:
    """Write `pareto.json` and `report.html`.

    Args:
        out: Folder, created if missing.
        tuned: Result of the search.
        facts: What the scores depend on besides the settings.
        measure: Name of the quality measure.

    Returns:
        The content of `pareto.json`.
    """
    out.mkdir(parents=True, exist_ok=True)
    report = {
        "format": 1,
        "facts": dict(facts),
        "measure": measure,
        "rule": RULE,
        "first_round": [trial.to_dict() for trial in tuned.first],
        "second_round": [trial.to_dict() for trial in tuned.second],
        "front": list(tuned.front),
        "chosen": tuned.chosen,
        "own": 0,
        "settings": tuned.second[tuned.chosen].settings.to_dict(),
    }
    write_atomic(out / "pareto.json", (json.dumps(report, indent=2) + "\n").encode())
    write_atomic(out / "report.html", render_tune_report(tuned, facts, measure).encode())
    return report


def render_tune_report(tuned: Tuned, facts: Mapping[str, Any], measure: str) -> str:
    """The page."""
    about = ", ".join(f"{name} {value}" for name, value in facts.items())
    first, second = len(tuned.first[0].rows), len(tuned.second[0].rows)
    rounds = (
        f"{len(tuned.first)} settings on {first} rows, then {len(tuned.second)} on {second}: the half nearest the front, the whole front "
        "and the bundle's own. Rows and seeds are the same for all."
    )
    body = [
        "<h1>maskgen: search of generation settings</h1>",
        f"<p>{text(about)}</p><p>{text(rounds)}</p><p><small>{text(RULE)}</small></p>",
        plot(tuned, measure),
        f"<h2>All rows</h2>{_trials_table(tuned.second, tuned.front, tuned.chosen)}",
        f"<h2>A quarter of the rows</h2>{_trials_table(tuned.first, (), None)}",
    ]
    return page("maskgen: search of generation settings", "".join(body))


def _trials_table(trials: Sequence[Trial], front: Sequence[int], chosen: int | None) -> str:
    """One line per trial, best first."""
    lines = []
    for place in sorted(range(len(trials)), key=lambda one: -trials[one].point[1]):
        trial = trials[place].to_dict()
        marks = [mark for mark, holds in (("chosen", place == chosen), ("front", place in front)) if holds]
        quality = f"{trial['quality']:.4f} <small>{trial['low']:.3f} to {trial['high']:.3f}</small>"
        numbers = [quality, f"{trial['passes']:.4g}", f"{trial['elapsed_s_a_row']:.3f}"]
        lines.append([text(describe(trial["changes"])), *numbers, ", ".join(marks)])
    return table(["setting", "quality", "model calls per row", "seconds per row", ""], lines, last="text")


def plot(tuned: Tuned, measure: str) -> str:
    """Quality against model calls as an SVG: all trials of the second round, the Pareto front as a line, the chosen one circled."""
    points = [trial.point for trial in tuned.second]
    across, up = ticks(0.0, max(passes for passes, _ in points)), ticks(min(one for _, one in points), max(one for _, one in points))

    def at(passes: float, quality: float) -> tuple[float, float]:
        x = LEFT + (passes - across[0]) / (across[-1] - across[0]) * (WIDE - LEFT - EDGE)
        y = HIGH - BELOW - (quality - up[0]) / (up[-1] - up[0]) * (HIGH - BELOW - EDGE)
        return x, y

    parts = [_line(at(across[0], value), at(across[-1], value)) + _label(at(across[0], value), f"{value:.4g}", "end") for value in up]
    parts += [_line(at(value, up[0]), at(value, up[-1])) + _label(at(value, up[0]), f"{value:.4g}", "middle") for value in across]
    steps = " ".join(f"{x:.1f},{y:.1f}" for x, y in (at(*points[place]) for place in tuned.front))
    parts.append(f'<polyline class="front" points="{steps}" fill="none" stroke="#369"/>')
    for place, trial in enumerate(tuned.second):
        parts.append(_dot(at(*points[place]), describe(trial.changes), place in tuned.front, place == tuned.chosen))
    parts.append(f'<text x="{(WIDE + LEFT) / 2:.0f}" y="{HIGH - 6}" text-anchor="middle">model calls per row</text>')
    parts.append(f'<text x="{LEFT}" y="11">{text(measure)}</text>')
    return f'<svg width="{WIDE}" height="{HIGH}" font-size="11" fill="#444">{"".join(parts)}</svg>'


def ticks(low: float, high: float) -> list[float]:
    """Evenly spaced round numbers, at least two, that cover `low` to `high`.

    Args:
        low: Smallest number shown.
        high: Largest number shown, at least `low`.
    """
    span = high - low or max(abs(high), 1.0)
    power = 10.0 ** math.floor(math.log10(span / TICKS))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor * TICKS >= span)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [number * step for number in range(first, max(last, first + 1) + 1)]


def _line(start: tuple[float, float], end: tuple[float, float]) -> str:
    """A line of the grid."""
    return f'<line x1="{start[0]:.1f}" y1="{start[1]:.1f}" x2="{end[0]:.1f}" y2="{end[1]:.1f}" stroke="#eee"/>'


def _label(at: tuple[float, float], content: str, anchor: str) -> str:
    """A number at an axis: left of it, or below it."""
    x, y = (at[0] - 6, at[1] + 4) if anchor == "end" else (at[0], at[1] + 16)
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{text(content)}</text>'


def _dot(at: tuple[float, float], name: str, on_front: bool, chosen: bool) -> str:
    """A trial, told when the pointer rests on it."""
    ring = f'<circle class="chosen" cx="{at[0]:.1f}" cy="{at[1]:.1f}" r="9" fill="none" stroke="#b00" stroke-width="2"/>' if chosen else ""
    colour = "#369" if on_front else "#bbb"
    return f'<g><title>{text(name)}</title><circle cx="{at[0]:.1f}" cy="{at[1]:.1f}" r="4" fill="{colour}"/>{ring}</g>'
