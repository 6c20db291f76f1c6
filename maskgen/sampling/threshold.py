"""As many cells as the model is sure of: all above a probability at once."""

from dataclasses import dataclass

import torch

from maskgen.sampling.base import Decision, DrawFn, Sampler, State, StepFn, ranked
from maskgen.sampling.draw import scattered


@dataclass(frozen=True, kw_only=True)
class ThresholdSampler(Sampler):
    """Keeps every cell whose likeliest code has more than a given probability, and at least the surest cell of each row.

    As many model calls as it takes, from 1 to `steps`; the last step keeps all that is left. `schedule` is not read. Nothing is revoked.

    Args:
        threshold: Probability under softmax(logits), in [0, 1]. 0 keeps all at once, 1 one cell a step.

    Source: Fast-dLLM, arXiv:2505.22618. Differs: a bound on the steps; the whole target at once instead of blocks; the code is drawn as
    everywhere (temperature 0 takes the likeliest, as there).
    """

    threshold: float = 0.9

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.threshold <= 1:
            raise ValueError(f"threshold must lie in [0, 1], got {self.threshold}")

    def start(self, state: State) -> StepFn:
        return self._step

    def _step(self, state: State, draw_cells: DrawFn) -> Decision:
        drawn = draw_cells(state.unknown)
        if state.step + 1 == state.steps:
            return Decision(drawn, state.unknown)
        likeliest = drawn.logits.softmax(dim=-1, dtype=torch.float32).amax(dim=-1)
        sure = scattered(drawn.cells, likeliest, -torch.inf)
        return Decision(drawn, state.unknown & ((sure > self.threshold) | (ranked(-sure) == 0)))
