"""Unpadding: removes hidden cells and packs the rows into fewer rows, as documents that don't attend to each other."""

from typing import NamedTuple

import torch
from jaxtyping import Int
from torch import Tensor

from maskgen.tokens.batch import TokenBatch


class Unpadded(NamedTuple):
    """A batch without its hidden cells.

    Args:
        batch: The new rows; each original row is one document.
        place: Row-major index in the new batch of every original cell; -1 where it was hidden.
    """

    batch: TokenBatch
    place: Int[Tensor, "batch length"]


def unpad(batch: TokenBatch, length: int, rows: int = 1) -> Unpadded:
    """Removes hidden cells and packs the rows into fewer, fuller rows.

    First-fit decreasing: rows are placed longest first, each into the first new row with room for it.

    Args:
        batch: Rows, one document each.
        length: Cells of a new row; if an original row has more, the next multiple of it.
        rows: The number of new rows is padded to a multiple of this. Fewer distinct shapes mean fewer recompilations of a compiled model.

    Raises:
        ValueError: If `length` or `rows` is not positive.
    """
    if min(length, rows) < 1:
        raise ValueError(f"unpad needs a positive length and number of rows, got {length} and {rows}")
    counts = batch.valid.sum(dim=1).tolist()
    length *= max(1, -(-max(counts, default=0) // length))
    fill: list[int] = []
    documents: list[int] = []
    start: list[tuple[int, int, int]] = [(0, 0, 0)] * len(counts)
    for row in sorted(range(len(counts)), key=lambda number: -counts[number]):
        home = next((place for place, used in enumerate(fill) if used + counts[row] <= length), len(fill))
        if home == len(fill):
            fill.append(0)
            documents.append(0)
        start[row] = home, fill[home], documents[home]
        fill[home], documents[home] = fill[home] + counts[row], documents[home] + 1
    height = -(-max(len(fill), 1) // rows) * rows
    return _laid_out(batch, torch.tensor(start, device=batch.ids.device).view(-1, 3), height, length)


def _laid_out(batch: TokenBatch, start: Int[Tensor, "batch 3"], height: int, length: int) -> Unpadded:
    """The new rows, from the new row, first cell and document of each original row."""
    rank = batch.valid.long().cumsum(dim=1) - 1
    place = torch.where(batch.valid, (start[:, 0] * length + start[:, 1])[:, None] + rank, -1)
    to = place[batch.valid]
    parts = {}
    for name, old in batch.tensors().items():
        new = old.new_zeros(height * length, *old.shape[2:])
        new[to] = start[:, 2:].expand_as(batch.valid)[batch.valid] if name == "document" else old[batch.valid]
        parts[name] = new.view(height, length, *old.shape[2:])
    return Unpadded(TokenBatch(**parts), place)
