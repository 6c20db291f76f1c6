"""As many cells as may be drawn together: the sharpest ones, while their entropies sum to little."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from maskgen.sampling.base import Decision, DrawFn, Sampler, State, StepFn
from maskgen.sampling.draw import scattered


def entropy_before(entropies: Float[Tensor, "batch length"]) -> Float[Tensor, "batch length"]:
    """Sum of all entropies of the row that come before each one in ascending order; ties go by position.

    It is the sum of the k lowest less the largest of them, which bounds what the k cells know of each other.

    Args:
        entropies: At least 0; +inf for cells that take no part.
    """
    ascending, order = entropies.sort(dim=1, stable=True)
    before = torch.nn.functional.pad(ascending.cumsum(dim=1)[:, :-1], (1, 0))
    return torch.zeros_like(before).scatter(1, order, before)


@dataclass(frozen=True, kw_only=True)
class EntropyBoundSampler(Sampler):
    """Keeps the k cells of lowest entropy, k the largest with (sum of their entropies) - (largest of them) <= bound: at least one.

    As many model calls as it takes, from 1 to `steps`; the last step keeps all that is left. `schedule` is not read. Nothing is revoked.

    Args:
        bound: In nats, at least 0. 0 keeps one cell a step, and all that are certain; the larger, the fewer steps.

    Source: EB-Sampler, arXiv:2505.24857. Differs: a bound on the steps; entropies are taken before temperature and cut.
    """

    bound: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.bound < float("inf"):
            raise ValueError(f"bound must be a finite number of at least 0, got {self.bound}")

    def start(self, state: State) -> StepFn:
        return self._step

    def _step(self, state: State, draw_cells: DrawFn) -> Decision:
        drawn = draw_cells(state.unknown)
        if state.step + 1 == state.steps:
            return Decision(drawn, state.unknown)
        entropies = torch.special.entr(drawn.logits.softmax(dim=-1, dtype=torch.float32)).sum(dim=-1)
        before = entropy_before(scattered(drawn.cells, entropies.double(), torch.inf))
        return Decision(drawn, state.unknown & (before <= self.bound))
