"""The Halton sampler: cells spread evenly over the grid, independent of the logits."""

from dataclasses import dataclass
from functools import lru_cache

import torch
from jaxtyping import Float, Int
from torch import Tensor

from maskgen.masking.counts import whole_ceil
from maskgen.masking.schedule import Arccos, MaskSchedule
from maskgen.sampling.base import Sampler, State, StepFn, in_order

BASES = (2, 3, 5)
AXES = (1, 2, 0)
"""Axes of `coords` in the order in which they take a base: row, column, time."""


def radical_cells(points: Int[Tensor, " points"], base: int, size: int) -> Int[Tensor, " points"]:
    """floor(size * van der Corput(point)) in whole numbers: the digits of the point mirrored behind the comma.

    Args:
        points: Numbers of the sequence, from 1.
        base: A prime.
        size: Cells along the axis.
    """
    mirrored, scale, rest = torch.zeros_like(points), 1, points
    while bool(rest.any()):
        mirrored, scale, rest = mirrored * base + rest % base, scale * base, rest // base
    return mirrored * size // scale


@lru_cache(maxsize=64)
def halton_order(grid: tuple[int, ...]) -> Int[Tensor, " cells"]:
    """Cells of a grid, as numbers in reading order, in the order in which the Halton sequence first meets them.

    Args:
        grid: One to three sizes; the axes take the bases 2, 3 and 5.

    Returns:
        Every cell once. The tensor is cached: do not edit it.

    Source: Halton-MaskGIT, arXiv:2503.17076. Differs: whole numbers, any grid, as many points as it takes (the reference stops at 10 000).
    """
    cells = 1
    for size in grid:
        cells *= size
    met = torch.zeros(0, dtype=torch.long)
    points = 4 * cells
    while len(met) < cells:
        numbers = torch.arange(1, points + 1)
        place = torch.zeros_like(numbers)
        for base, size in zip(BASES, grid, strict=False):
            place = place * size + radical_cells(numbers, base, size)
        first = torch.full((cells,), points).scatter_reduce(0, place, numbers - 1, "amin")
        met = first.argsort(stable=True)[: int((first < points).sum())]
        points *= 2
    return met


def _places(coords: Int[Tensor, "cells 3"], shift_of: torch.Generator | None) -> Float[Tensor, " cells"]:
    """Place of each cell in the order of its own grid, whose shape the coordinates give; rolled if a generator is given."""
    local = coords.cpu() - coords.cpu().amin(dim=0)
    extents = (local.amax(dim=0) + 1).tolist()
    axes = [axis for axis in AXES if extents[axis] > 1] or [AXES[0]]
    order = halton_order(tuple(extents[axis] for axis in axes))
    number = torch.zeros(len(local), dtype=torch.long)
    for axis in axes:
        number = number * extents[axis] + local[:, axis]
    place = order.argsort()[number]
    if shift_of is not None:
        place = (place - int(torch.randint(len(order), (), generator=shift_of, device=shift_of.device))) % len(order)
    return place.double().to(coords.device)


@dataclass(frozen=True, kw_only=True)
class HaltonSampler(Sampler):
    """Reveals cells in a low-discrepancy order: base 2 down the rows, 3 along the columns; base 2 along time for text and audio;
    for levels that are decoded together, base 2 over the levels and 3 along time.

    The shape of each row's grid comes from its coordinates; the order is filtered to the unknown cells and the counts are theirs.
    Counts follow the paper: the share *revealed* is rounded down.

    Args:
        roll: Start each row's order at a random place of it, drawn from the row's generator: diversity among samples.

    Source: Halton-MaskGIT, arXiv:2503.17076. Differs: known cells are skipped (the original has no editing).
    """

    schedule: MaskSchedule = Arccos()  # noqa: RUF009 (frozen)
    roll: bool = False

    def start(self, state: State) -> StepFn:
        cells = state.batch.cells(state.segment.index)
        scores = torch.zeros(cells.shape, dtype=torch.float64, device=cells.device)
        for row in state.target.any(dim=1).nonzero()[:, 0].tolist():
            scores[row, cells[row]] = _places(state.batch.coords[row][cells[row]], state.generators[row] if self.roll else None)
        return in_order(scores, self.schedule, whole_ceil)
