"""The moment sampler: choose the cells first, by what a draw there is worth, then draw codes at those alone."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from maskgen.sampling.base import Decision, DrawFn, Drawn, Sampler, State, StepFn, keep_surest
from maskgen.sampling.draw import check_temperature, draw, scattered
from maskgen.tokens.batch import UNKNOWN


@dataclass(frozen=True, kw_only=True)
class MomentSampler(Sampler):
    """Keeps the cells that come first by Gumbel-top-k on log sum_x p(x)^beta, then draws their codes from p^beta / sum.

    beta = 1 / temperature + 1 / choice_temperature, so 1 + 1 / choice_temperature at temperature 1. It has in the limit the joint
    distribution of cell and code of MaskGIT's sampler, whose ranking lowers the temperature of the codes without saying so; here it is
    said. One model call per step, at most `steps`; nothing is revoked.

    Args:
        choice_temperature: T above, the same at every step. 0 is greedy in both cells and codes; the larger, the nearer to cells at
            random with codes from p.

    Source: moment sampler, arXiv:2510.04525. Differs: a temperature t other than 1 gives the limit of MaskGIT's sampler at that
    temperature, whose weight of a cell is the sum of p^(1 / t) / sum(p^(1 / t)) * p^(1 / T); a cut of the codes counts for the codes alone.
    """

    choice_temperature: float = 4.5

    def __post_init__(self) -> None:
        super().__post_init__()
        check_temperature("choice_temperature", self.choice_temperature)

    def start(self, state: State) -> StepFn:
        return self._step

    def _step(self, state: State, draw_cells: DrawFn) -> Decision:
        asked = draw_cells(state.unknown)  # for its logits; its codes are not from p^beta and are not used
        temperature = self.temperature_at(state)
        worth = scattered(asked.cells, self._worth(asked.logits, temperature), 0.0)
        kept = keep_surest(state, asked, worth, self.schedule, self.choice_temperature).accept
        logits = asked.logits[kept[asked.cells]]
        rows, cooler = kept.nonzero()[:, 0], self._code_temperature(temperature)
        codes, logprobs = draw(logits, rows, state.generators, temperature=cooler, cut=self.cut())
        return Decision(Drawn(kept, scattered(kept, codes, UNKNOWN), scattered(kept, logprobs, 0.0).to(asked.logprobs.dtype), logits), kept)

    def _code_temperature(self, temperature: float) -> float:
        """1 / beta."""
        total = temperature + self.choice_temperature
        return temperature * self.choice_temperature / total if total > 0 else 0.0

    def _worth(self, logits: Float[Tensor, "cells size"], temperature: float) -> Float[Tensor, " cells"]:
        """T log sum_x q(x) p(x)^(1 / T), where q is p at the temperature of the codes; as T or the temperature goes to 0, max log p."""
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        logprobs = logits.log_softmax(dim=-1)
        if temperature == 0 or self.choice_temperature == 0:
            return logprobs.amax(dim=-1)
        tempered = (logits / temperature).log_softmax(dim=-1)
        return self.choice_temperature * (tempered + logprobs / self.choice_temperature).logsumexp(dim=-1)
