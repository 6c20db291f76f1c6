"""Cells of image grids merged into blocks before a transformer's trunk and restored after it, so that the trunk sees fewer positions."""

from dataclasses import dataclass, replace

import torch
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from maskgen.tokens.batch import TokenBatch


@dataclass(frozen=True)
class Blocks:
    """Positions of the trunk and the cells of each.

    Args:
        batch: One position a block and one for each other cell, with the fields of its first cell; valid where one of its cells is. The
            ids are those of the first cells and mean nothing.
        first: Index of the first cell of each position.
        members: Index of every cell of each position, in reading order.
        present: Whether there is such a cell and it is valid.
        merged: Whether the position is a block.
        place: Position of every cell.
        slot: Number of every cell in its block; 0 for other cells.
    """

    batch: TokenBatch
    first: Int[Tensor, "batch positions"]
    members: Int[Tensor, "batch positions slots"]
    present: Bool[Tensor, "batch positions slots"]
    merged: Bool[Tensor, "batch positions"]
    place: Int[Tensor, "batch length"]
    slot: Int[Tensor, "batch length"]


def blocks_of(batch: TokenBatch, side: int) -> Blocks:
    """Blocks of side x side neighbouring cells of every grid with rows and columns; smaller ones at its right and lower border.

    Cells of a block belong to one document, modality, time and grid. Texts, audio and padding keep a position for each cell.

    Args:
        batch: Rows of cells; the cells of a grid stand in reading order, as `pack` puts them.
        side: Cells a side of a block.

    Raises:
        ValueError: If cells of a grid are missing in a row (hidden ones are there).
    """
    (rows, length), device = batch.valid.shape, batch.valid.device
    row, column, extent = batch.coords[..., 1], batch.coords[..., 2], batch.extent
    grid = (batch.modality != 0) & (extent[..., 1] > 0) & (extent[..., 2] > 0)
    slot = torch.where(grid, row % side * side + column % side, 0)
    here = torch.arange(length, device=device).expand(rows, length)
    first = torch.where(grid, here - row % side * extent[..., 2] - column % side, here)
    whole = (first >= 0) & (_at(batch.document, first) == batch.document) & (_at(batch.modality, first) == batch.modality)
    if not bool((whole & (_at(row, first) == row - row % side * grid) & (_at(column, first) == column - column % side * grid)).all()):
        raise ValueError("compress merges cells of whole grids, and a row has parts of one; give all cells of each image")
    leads = first == here
    counts = leads.sum(dim=1)
    positions = int(counts.max()) if rows else 0
    order = (~leads).to(torch.uint8).argsort(dim=1, stable=True)[:, :positions]
    filled = torch.arange(positions, device=device) < counts[:, None]
    place = _at(leads.cumsum(dim=1) - 1, first)
    members = here.new_zeros(rows, positions * side * side)
    present = torch.zeros_like(members, dtype=torch.bool)
    target = place * side * side + slot
    members.scatter_(1, target, here)
    present.scatter_(1, target, batch.valid)
    split = {"positions": positions, "slots": side * side}
    members, present = (rearrange(one, "b (positions slots) -> b positions slots", **split) for one in (members, present))
    small = TokenBatch(*(_at(getattr(batch, name), order) for name in ("ids", "modality", "coords", "valid", "document", "extent")))
    small = replace(small, valid=present.any(dim=2), document=small.document * filled, modality=small.modality * filled)
    return Blocks(small, order, members, present, _at(grid, order) & filled, place, slot)


def _at(field: Tensor, index: Int[Tensor, "batch positions"]) -> Tensor:
    """Entries [batch positions ...] of a field [batch length ...]."""
    index = index.clamp(min=0)
    return field.take_along_dim(index.reshape(*index.shape, *[1] * (field.ndim - 2)), dim=1)


class CellCompression(nn.Module):
    """Merges blocks of cells by one linear layer, and restores each cell by another, added to what it was before.

    At the start a block is the mean of its cells, and each cell gets all that its block becomes. Invalid cells add nothing.

    Args:
        dim: Width of the residual stream.
        side: Cells a side of a block.

    Source: the compression layers of Meissonic, arXiv:2410.08261, and the long skips of U-ViT, arXiv:2209.12152. Differs: linear layers
    in place of convolutions, so that packed rows, hidden cells and grids of odd sides are exact.
    """

    def __init__(self, dim: int, side: int) -> None:
        super().__init__()
        self.side = side
        slots = side * side
        self.merge = nn.Linear(slots * dim, dim, bias=False)
        self.split = nn.Linear(dim, slots * dim, bias=False)
        with torch.no_grad():  # by constants alone, which `maskgen.networks.deferred` can repeat
            self.merge.weight.zero_()
            self.split.weight.zero_()
            for one, other in zip(torch.split(self.merge.weight, dim, 1), torch.split(self.split.weight, dim, 0), strict=True):
                one.diagonal().fill_(1 / slots)
                other.diagonal().fill_(1.0)

    def merged(self, x: Float[Tensor, "batch length dim"], blocks: Blocks) -> Float[Tensor, "batch positions dim"]:
        """Input of the trunk."""
        cells = _at(x, blocks.members.flatten(1)) * blocks.present.flatten(1)[..., None]
        joined = rearrange(cells, "b (positions slots) dim -> b positions (slots dim)", slots=self.side**2)
        return torch.where(blocks.merged[..., None], self.merge(joined), _at(x, blocks.first))

    def restored(
        self, x: Float[Tensor, "batch length dim"], trunk: Float[Tensor, "batch positions dim"], blocks: Blocks
    ) -> Float[Tensor, "batch length dim"]:
        """Hidden states of all cells: of a block's cells `x` and their share of the trunk's output, of other cells that output."""
        shares = rearrange(self.split(trunk), "b positions (slots dim) -> b (positions slots) dim", slots=self.side**2)
        merged = _at(blocks.merged, blocks.place)[..., None]
        return torch.where(merged, x + _at(shares, blocks.place * self.side**2 + blocks.slot), _at(trunk, blocks.place))


def check_compress(compress: int, blind_condition: bool) -> None:
    """Refuse settings of a network that can't be.

    Raises:
        ValueError: If a side is out of range, or the condition is kept between calls, which reads the blocks of a network one by one.
    """
    if not 1 <= compress <= 8 or (compress > 1 and blind_condition):
        raise ValueError(f"compress must lie in [1, 8], and be 1 with blind_condition, got {compress}")


def refuse_blocks(compression: CellCompression | None) -> None:
    """Refuse to run the layers of a network one by one where they don't see one position a cell.

    Raises:
        ValueError: If the network merges cells.
    """
    if compression is not None:
        raise ValueError(
            f"the model merges cells (compress={compression.side}), so its layers can't be run one by one; leave refresh, merge, "
            "attention maps and features of inner layers, which do so"
        )
