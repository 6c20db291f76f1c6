"""The first-hitting sampler of masked diffusion: one cell of a row per model call, in random order."""

from dataclasses import dataclass

import torch

from maskgen.sampling.base import Decision, DrawFn, Sampler, State, StepFn, ranked
from maskgen.sampling.draw import gumbel, row_noise


@dataclass(frozen=True, kw_only=True)
class FirstHittingSampler(Sampler):
    """Unmasks one uniformly random cell of each row per model call; the distribution of masked diffusion in continuous time, without
    discretization.

    Of n masked cells the next to unmask is any of them with the same chance, at a mask ratio that falls from r to r u^(1 / n). A model
    without time input does not see the ratio, so only the order is drawn, a permutation a row.
    One call per cell: a row with no more cells than `steps` ends after as many calls as it has cells, whatever
    the other rows do. A row with more takes ceil(cells / steps) per call, which share logits: that is the parallel form, an approximation.
    `schedule` is not read. Nothing is revoked.

    Source: first-hitting sampler, arXiv:2409.02908. Differs: rows of any counts in one batch.
    """

    def start(self, state: State) -> StepFn:
        chance = row_noise(state.target, state.generators, gumbel)
        place = ranked(chance.masked_fill(~state.target, torch.inf))
        a_pass = (state.total + state.steps - 1) // state.steps

        def step(now: State, draw_cells: DrawFn) -> Decision:
            chosen = now.unknown & (place < (a_pass * (now.step + 1))[:, None])
            return Decision(draw_cells(chosen), chosen)

        return step
