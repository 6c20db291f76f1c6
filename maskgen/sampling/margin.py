"""Largest margin first: keep the cells where the likeliest code is far ahead of the second."""

from dataclasses import dataclass

import torch

from maskgen.sampling.base import Decision, DrawFn, Sampler, State, StepFn, annealed, keep_surest
from maskgen.sampling.draw import Distribution, Fall, check_ranking, check_temperature, drawn_shares, scattered


@dataclass(frozen=True, kw_only=True)
class MarginSampler(Sampler):
    """Keeps the cells with the largest gap between the probabilities of their two likeliest codes, as many as the schedule says.

    A cell torn between two codes waits, however small the probability of all others. One model call per step, at most `steps`; nothing is
    revoked.

    Args:
        choice_temperature: Scale of the Gumbel noise on the gap, which lies in [0, 1], at the start. 0 is greedy.
        annealing: How the noise falls: "exact" is choice_temperature (1 - r) with r = (step + 1) / steps, "constant" no fall.
        distribution: What the gap is in: the "model" or what codes are "drawn" from, after temperature and cut.

    Source: top-k probability margin, arXiv:2502.06768; Dream's `topk_margin`, arXiv:2508.15487, which is `annealing="constant"` and
    `distribution="drawn"`.
    """

    choice_temperature: float = 0.0
    annealing: Fall = "exact"
    distribution: Distribution = "model"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_temperature("choice_temperature", self.choice_temperature)
        check_ranking(self.distribution, self.annealing)

    def start(self, state: State) -> StepFn:
        return self._step

    def _step(self, state: State, draw_cells: DrawFn) -> Decision:
        drawn = draw_cells(state.unknown)
        if self.distribution == "model":
            shares = drawn.logits.softmax(dim=-1, dtype=torch.float32)
        else:
            shares = drawn_shares(drawn.logits, self.temperature_at(state), self.cut())
        likeliest = shares.topk(min(2, shares.shape[-1]), dim=-1).values
        gaps = likeliest[:, 0] - likeliest[:, 1:].sum(dim=-1)  # a codebook of one code has no second
        noise = self.choice_temperature if self.annealing == "constant" else annealed(self.choice_temperature, state)
        return keep_surest(state, drawn, scattered(drawn.cells, gaps, 0.0), self.schedule, noise)
