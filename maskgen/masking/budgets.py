"""Random token budgets: how many cells of each modality are visible in a row and how many the model must predict."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch


@dataclass(frozen=True, kw_only=True)
class Budget:
    """Draws how many visible and how many predicted cells each modality of a row gets.

    Args:
        seen: Fewest and most visible cells.
        asked: Fewest and most cells to predict.
        alphas: Concentrations of symmetric Dirichlet distributions, one of which is chosen uniformly at random; a small concentration
            gives most cells to one modality.

    Raises:
        ValueError: If a range is empty or a concentration is not positive.

    Source: 4M, arXiv:2312.06647. Differs: all other cells are hidden; sequences are masked cell by cell, without sentinels.
    """

    seen: tuple[int, int] = (0, 128)
    asked: tuple[int, int] = (16, 128)
    alphas: tuple[float, ...] = (0.01, 0.1, 1.0, 10.0)

    def __post_init__(self) -> None:
        if not 0 <= self.seen[0] <= self.seen[1] or not 1 <= self.asked[0] <= self.asked[1] or min(self.alphas, default=0) <= 0:
            raise ValueError(
                f"a budget needs ranges of cells (asked from 1 on) and positive alphas, got seen={self.seen}, asked={self.asked}, "
                f"alphas={self.alphas}"
            )


def shared_out(totals: Sequence[int], budget: Budget, generator: torch.Generator) -> tuple[list[int], list[int]]:
    """Numbers of visible cells and of cells to predict, per modality; at least one cell is to be predicted."""
    seen = _shares(list(totals), _between(budget.seen, generator), budget, generator)
    left = [total - count for total, count in zip(totals, seen, strict=True)]
    if not sum(left):
        largest = max(range(len(totals)), key=totals.__getitem__)
        seen[largest], left[largest] = seen[largest] - 1, 1
    return seen, _shares(left, max(1, _between(budget.asked, generator)), budget, generator)


def _between(limits: tuple[int, int], generator: torch.Generator) -> int:
    """A random integer in a range that includes both ends."""
    return int(torch.randint(limits[0], limits[1] + 1, (), generator=generator))


def _shares(room: Sequence[int], count: int, budget: Budget, generator: torch.Generator) -> list[int]:
    """`count` cells split by a Dirichlet draw, each modality up to its capacity; the excess goes where there is capacity left."""
    alpha = budget.alphas[_between((0, len(budget.alphas) - 1), generator)]
    gammas = torch._standard_gamma(torch.full((len(room),), alpha, dtype=torch.float64), generator=generator).clamp(min=1e-300)
    left, taken = min(count, sum(room)), [0] * len(room)
    while left:
        open_ = [number for number in range(len(room)) if taken[number] < room[number]]
        share = gammas[open_] / gammas[open_].sum()
        given = [min(int(part * left), room[number] - taken[number]) for number, part in zip(open_, share.tolist(), strict=True)]
        if not sum(given):
            given[int(share.argmax())] = 1
        for number, cells in zip(open_, given, strict=True):
            taken[number] += cells
        left -= sum(given)
    return taken
