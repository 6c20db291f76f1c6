"""Whole grids of images out of a batch, and states back into it, for networks that see pictures and not rows of cells."""

import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor

from maskgen.tokens.batch import TokenBatch


def grid_of(batch: TokenBatch, index: int) -> tuple[int, int]:
    """Rows and columns of the one image that every row of a batch has.

    Args:
        batch: Rows.
        index: Number of the image modality.

    Raises:
        ValueError: If a row has no image, or they differ in size.
    """
    cells = batch.cells(index)
    counts = cells.sum(dim=1)
    sizes = batch.extent.masked_fill(~cells[..., None], 0).amax(dim=1)[:, 1:]
    if not len(batch) or bool((sizes != sizes[:1]).any()) or bool((counts != sizes.prod(dim=1)).any()) or not bool(counts.all()):
        found = ", ".join(
            f"{rows} x {columns} with {count} cells" for (rows, columns), count in zip(sizes.tolist(), counts.tolist(), strict=True)
        )
        raise ValueError(f"this model needs one whole image in every row, all of one size, got {found[:200]}; decode other sizes apart")
    rows, columns = sizes[0].tolist()
    return rows, columns


def grid_rows(batch: TokenBatch, index: int, grid: tuple[int, int]) -> Int[Tensor, "batch rows columns"]:
    """Ids of the first level of each row's image."""
    ids = batch.ids[..., 0][batch.cells(index)]
    return rearrange(ids, "(b h w) -> b h w", b=len(batch), h=grid[0])


def in_row_order(batch: TokenBatch, index: int, states: Float[Tensor, "batch cells dim"]) -> Float[Tensor, "batch length dim"]:
    """States of the image's cells where those stand in the rows; 0 elsewhere."""
    cells = batch.cells(index)
    found = torch.zeros(*cells.shape, states.shape[-1], dtype=states.dtype, device=states.device)
    found[cells] = states.flatten(0, 1)
    return found
