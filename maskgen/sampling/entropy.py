"""Lowest entropy first: keep the cells whose distribution is the sharpest."""

from dataclasses import dataclass

import torch

from maskgen.sampling.base import Decision, DrawFn, Sampler, State, StepFn, annealed, keep_surest
from maskgen.sampling.draw import check_temperature, scattered


@dataclass(frozen=True, kw_only=True)
class EntropySampler(Sampler):
    """Keeps the cells with the lowest entropy of softmax(logits), in nats, as many as the schedule says.

    One model call per step, at most `steps`; nothing is revoked.

    Args:
        choice_temperature: Scale of the Gumbel noise on minus the entropy at the start; it anneals as choice_temperature (1 - r),
            r = (step + 1) / steps. 0 is greedy.

    Source: Dream's `entropy` ranking, arXiv:2508.15487. Differs: the entropy is taken before temperature and cut; its `alg_temp` is
    constant.
    """

    choice_temperature: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_temperature("choice_temperature", self.choice_temperature)

    def start(self, state: State) -> StepFn:
        return self._step

    def _step(self, state: State, draw_cells: DrawFn) -> Decision:
        drawn = draw_cells(state.unknown)
        entropies = torch.special.entr(drawn.logits.softmax(dim=-1, dtype=torch.float32)).sum(dim=-1)
        noise = annealed(self.choice_temperature, state)
        return keep_surest(state, drawn, scattered(drawn.cells, -entropies, 0.0), self.schedule, noise)
