"""Token batches: rows of cells with shared ids, coordinates and masks, which the model takes as input."""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

UNKNOWN = -1
"""Code of a cell that is to be generated."""

Codes = Tensor
"""Codes of one sample of one modality, Int `[level, *grid]`, local to its segments; UNKNOWN marks an unknown code.

Of a modality of kind features: vectors, Float `[width, n]`."""


@dataclass(frozen=True)
class TokenBatch:
    """A batch of rows of cells. A cell is one position of the sequence and holds the ids of all its levels.

    Args:
        ids: Shared ids; PAD at levels that a modality lacks, MASK where a code is unknown.
        modality: Number of each cell's modality, 0 for padding.
        coords: Position of a cell in its grid: (time, row, column).
        valid: False for padding and hidden cells, which are never attended to, masked or scored.
        document: Number of each cell's document; cells attend only to cells of the same document.
        extent: Size of each cell's grid along (time, row, column), 0 along an axis that the grid lacks and for padding.
        features: Vector of each cell, 0 in the columns of other modalities; None where the token space has no modality of kind features.
    """

    ids: Int[Tensor, "batch length level"]
    modality: Int[Tensor, "batch length"]
    coords: Int[Tensor, "batch length 3"]
    valid: Bool[Tensor, "batch length"]
    document: Int[Tensor, "batch length"]
    extent: Int[Tensor, "batch length 3"]
    features: Float[Tensor, "batch length width"] | None = None

    def __len__(self) -> int:
        return self.ids.shape[0]

    def map(self, function: Callable[[Tensor], Tensor]) -> "TokenBatch":
        """A batch with the function applied to each of its tensors."""
        return TokenBatch(**{name: function(field) for name, field in self.tensors().items()})

    def tensors(self) -> dict[str, Tensor]:
        """Its tensors by field; without `features` where there are none."""
        found = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return {name: tensor for name, tensor in found.items() if tensor is not None}

    def same_cells(self, other: "TokenBatch") -> bool:
        """Whether both batches are equal except for their ids."""
        ours, theirs = ({name: field for name, field in batch.tensors().items() if name != "ids"} for batch in (self, other))
        return ours.keys() == theirs.keys() and all(
            field is theirs[name] or torch.equal(field, theirs[name]) for name, field in ours.items()
        )

    def cells(self, modality_index: int) -> Bool[Tensor, "batch length"]:
        """Valid cells of one modality."""
        return self.valid & (self.modality == modality_index)

    def with_ids(self, ids: Int[Tensor, "batch length level"]) -> "TokenBatch":
        """The same cells with other ids."""
        return dataclasses.replace(self, ids=ids)

    def hide(self, cells: Bool[Tensor, "batch length"]) -> "TokenBatch":
        """The same batch with the given cells hidden: the null condition of training and of guidance."""
        return dataclasses.replace(self, valid=self.valid & ~cells)

    def rows(self, index: Int[Tensor, " rows"] | Bool[Tensor, " batch"] | slice) -> "TokenBatch":
        """The chosen rows, in that order."""
        return self.map(lambda field: field[index])

    def alone(self, row: int) -> "TokenBatch":
        """One row as a separate batch, without trailing padding."""
        return self.rows(slice(row, row + 1)).trimmed()

    def trimmed(self) -> "TokenBatch":
        """The same rows without the trailing padding that they all share."""
        length = int((self.modality != 0).sum(dim=1).max()) if len(self) else 0
        return self.map(lambda field: field[:, :length])

    def repeat(self, times: int) -> "TokenBatch":
        """Every row repeated `times` times, copies adjacent."""
        return self.rows(torch.arange(len(self), device=self.ids.device).repeat_interleave(times))

    def to(self, device: torch.device | str) -> "TokenBatch":
        """The same batch on another device."""
        return self.map(lambda field: field.to(device))


def condition_cells(batch: TokenBatch, modality_index: int) -> Bool[Tensor, "batch length"]:
    """Valid cells that are a condition for the given target modality: all cells of other modalities."""
    return batch.valid & (batch.modality != modality_index)


def padded_to(batch: TokenBatch, length: int) -> TokenBatch:
    """The batch with padding up to `length` cells; a batch that is as long already comes back as it is."""
    extra = length - batch.ids.shape[1]
    if extra <= 0:
        return batch
    return batch.map(lambda field: torch.cat([field, field.new_zeros(field.shape[0], extra, *field.shape[2:])], dim=1))


def stack(*batches: TokenBatch) -> TokenBatch:
    """One batch of the rows of all batches, padded to the longest."""
    length = max(batch.ids.shape[1] for batch in batches)
    padded = [padded_to(batch, length) for batch in batches]
    return TokenBatch(**{name: torch.cat([batch.tensors()[name] for batch in padded]) for name in padded[0].tensors()})
