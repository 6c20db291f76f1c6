"""Chosen cells of each row, gathered side by side: a pass over a few cells is a pass over a shorter batch."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Int
from torch import Tensor


@dataclass(frozen=True)
class Slots:
    """Where the chosen cells of each row stand. A row with fewer than the fullest one has empty slots at its end.

    Args:
        index: Cell of each slot, no cell twice; an empty slot names a cell that was not chosen.
        filled: False for an empty slot.
    """

    index: Int[Tensor, "batch slots"]
    filled: Bool[Tensor, "batch slots"]

    @classmethod
    def of(cls, chosen: Bool[Tensor, "batch length"]) -> "Slots":
        """The chosen cells, in the order in which they stand in the row."""
        width = int(chosen.sum(dim=1).max()) if len(chosen) else 0
        index = chosen.byte().argsort(dim=1, descending=True, stable=True)[:, :width]
        return cls(index, chosen.gather(1, index))

    def _at(self, values: Tensor, dim: int) -> Tensor:
        """The index with axes of size 1 wherever `values` has others than batch and `dim`."""
        shape = [1] * values.ndim
        shape[0], shape[dim] = self.index.shape
        return self.index.reshape(shape)

    def take(self, values: Tensor, dim: int = 1) -> Tensor:
        """What lies in the slots' cells: `[batch ... length ...]` to `[batch ... slots ...]`; `dim` is the axis of the cells."""
        return torch.take_along_dim(values, self._at(values, dim), dim)

    def put(self, values: Tensor, into: Tensor, dim: int = 1) -> None:
        """Write `[batch ... slots ...]` to the slots' cells, in place; empty slots change nothing."""
        at = self._at(values, dim)
        if not bool(self.filled.all()):
            kept = self.filled.reshape(at.shape)
            values = torch.where(kept, values, torch.take_along_dim(into, at, dim))
        into.scatter_(dim, at.expand_as(values), values)

    def visible(self, seen: Bool[Tensor, "batch 1 length length"] | None) -> Bool[Tensor, "batch 1 slots slots"] | None:
        """Who attends to whom among the slots alone; nobody sees an empty slot but itself. None is everybody, there and here."""
        if seen is None and bool(self.filled.all()):
            return None
        itself = torch.eye(self.index.shape[1], dtype=torch.bool, device=self.index.device)
        if seen is None:
            return (self.filled[:, None, :] | itself)[:, None]
        return self.take(self.take(seen, dim=2), dim=3) & (self.filled[:, None, None, :] | itself)
