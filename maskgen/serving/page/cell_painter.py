"""A picture with the grid of the model's cells over it: a person marks those that are made anew, by pointer, finger or keys."""

from typing import Any

import gradio as gr
import numpy as np
from PIL import Image

from maskgen.serving.media import base64_text, image_bytes

NO_PICTURE: dict[str, Any] = {"image": "", "rows": 0, "columns": 0, "cells": "", "at": 0}
"""Value of a painter without a picture."""
TEMPLATE = """
${value.cells ? `<div class="mg-paint" role="group" aria-label="Cells of the picture: mark those that are made anew"
  style="--columns:${value.columns};aspect-ratio:${value.columns}/${value.rows};background-image:url(${value.image})">
  ${[...value.cells].map((mark, i) => `<button type="button" data-cell="${i}" tabindex="${i === value.at ? 0 : -1}"
    aria-pressed="${mark === "1"}"
    aria-label="Row ${Math.floor(i / value.columns) + 1}, column ${i % value.columns + 1}"></button>`).join("")}
</div>
<p class="mg-hint">${[...value.cells].filter(mark => mark === "1").length} of ${value.cells.length} cells are made anew.
Drag to mark; arrow keys and space work too.</p>`
: `<p class="mg-hint">Upload a picture, or draw the example; then mark on it what is made anew.</p>`}
"""
SCRIPT = """
let mark = null;
const at = event => document.elementFromPoint(event.clientX, event.clientY)?.closest("button[data-cell]");
const put = (place, on) => {
  const cells = [...props.value.cells];
  cells[place] = on;
  props.value = {...props.value, cells: cells.join(""), at: place};
};
element.addEventListener("pointerdown", event => {
  const cell = event.target.closest("button[data-cell]");
  if (!cell) return;
  event.preventDefault();
  const place = Number(cell.dataset.cell);
  mark = props.value.cells[place] === "1" ? "0" : "1";
  put(place, mark);
  cell.focus();
});
element.addEventListener("pointermove", event => {
  const cell = mark === null ? null : at(event);
  if (cell && element.contains(cell) && props.value.cells[cell.dataset.cell] !== mark) put(Number(cell.dataset.cell), mark);
});
window.addEventListener("pointerup", () => { mark = null; });
window.addEventListener("pointercancel", () => { mark = null; });
element.addEventListener("keydown", event => {
  const cell = event.target.closest("button[data-cell]");
  if (!cell) return;
  const {columns, cells} = props.value, place = Number(cell.dataset.cell), column = place % columns;
  const steps = {ArrowLeft: column ? -1 : 0, ArrowRight: column < columns - 1 ? 1 : 0, ArrowUp: -columns, ArrowDown: columns};
  if (event.key === " " || event.key === "Enter") {
    event.preventDefault();
    put(place, cells[place] === "1" ? "0" : "1");
  } else if (event.key in steps) {
    event.preventDefault();
    const next = place + steps[event.key];
    if (next < 0 || next >= cells.length) return;
    props.value = {...props.value, at: next};
    element.querySelector(`button[data-cell="${next}"]`).focus();
  }
});
"""


def cell_painter() -> gr.HTML:
    """The component; its value holds the picture, the grid, and a 0 or 1 for each cell."""
    return gr.HTML(NO_PICTURE, html_template=TEMPLATE, js_on_load=SCRIPT, label="Mask", apply_default_css=False)


def painter_value(picture: Image.Image, rows: int, columns: int) -> dict[str, Any]:
    """A picture at the model's size without a mark on it."""
    image = f"data:image/png;base64,{base64_text(image_bytes(picture, 'png'))}"
    return {"image": image, "rows": rows, "columns": columns, "cells": "0" * (rows * columns), "at": 0}


def painted_mask(value: Any, size: tuple[int, int], rows: int, columns: int) -> Image.Image:
    """The marked cells as a mask: white where they are.

    Args:
        value: Of the component, as a browser sent it.
        size: (width, height) of the picture at the model's size.
        rows: Rows of cells.
        columns: Columns of cells.

    Raises:
        ValueError: If it is of another grid, or no cell is marked.
    """
    cells = value.get("cells") if isinstance(value, dict) else None
    if not isinstance(cells, str) or len(cells) != rows * columns or set(cells) - {"0", "1"}:
        raise ValueError("the mask is of another picture or model; upload the picture again")
    if "1" not in cells:
        raise ValueError("no cell is marked, so nothing would be made anew; drag over the picture first")
    marks = np.array([mark == "1" for mark in cells]).reshape(rows, columns)
    return Image.fromarray(np.where(marks, 255, 0).astype(np.uint8)).resize(size, Image.Resampling.NEAREST)
