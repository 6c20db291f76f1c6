"""Places of cells in their document, as a pretrained backbone counts them."""

from typing import Literal

import torch
from jaxtyping import Int
from torch import Tensor
from torch.nn import functional

from maskgen.tokens.batch import TokenBatch

TEXT = 1
"""Number of the modality that the backbone was pretrained on: the first of the space."""


def cell_before(batch: TokenBatch) -> Int[Tensor, "batch length"]:
    """Index of the last visible cell before each text cell in its document; the first text cell and all other cells get their own index.

    Invisible cells are skipped: their hidden states hold information that no cell may see.
    """
    order = torch.arange(batch.valid.shape[1], device=batch.valid.device)
    same = batch.document[:, :, None] == batch.document[:, None, :]
    before = same & batch.valid[:, None, :] & (order[None, :] < order[:, None])
    found = (before * (order + 1)).amax(dim=2) - 1
    return torch.where((batch.modality == TEXT) & (found >= 0), found, order)


def places_in_row(batch: TokenBatch, grid_places: Literal["row", "shared"]) -> Int[Tensor, "batch length"]:
    """Position of each cell in its document, from 0; padding gets 0. Hidden cells keep their positions.

    Args:
        batch: Rows of cells.
        grid_places: "shared" gives neighbouring cells of the same non-text modality one position.
    """
    modality, document = batch.modality, batch.document
    opens = modality != 0
    if grid_places == "shared":
        same = (modality[:, 1:] == modality[:, :-1]) & (document[:, 1:] == document[:, :-1])
        opens = opens & ~functional.pad(same & (modality[:, 1:] != TEXT), (1, 0))
    together = (document[:, :, None] == document[:, None, :]).tril()
    return ((together & opens[:, None, :]).sum(dim=2) - 1).clamp(min=0) * (modality != 0)
