"""MaskGIT's sampler: draw every masked cell, keep those with the most confident codes."""

from dataclasses import dataclass
from typing import Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from maskgen.sampling.base import Decision, DrawFn, Drawn, Sampler, State, StepFn, annealed, keep_surest
from maskgen.sampling.draw import allowed_mass, check_temperature, cooled, scattered, share_of_drawn

Ranking = Literal["probability", "logit", "drawn", "share"]
Annealing = Literal["exact", "linear", "amused", "constant", "softened", "lagged"]
AMUSED_END = 0.01
"""Noise scale of aMUSEd's last step."""


@dataclass(frozen=True, kw_only=True)
class ConfidenceSampler(Sampler):
    """Keeps the cells with the largest log p(code) + scale * Gumbel noise; the scale falls over the steps.

    One model call per step, at most `steps`; nothing is revoked.

    Args:
        choice_temperature: Scale of the ranking's noise at the start. 0 is greedy, but for "amused", which then rises to its end of 0.01.
        annealing: Scale of the noise at step k of N. "exact": choice_temperature (1 - (k + 1) / N). "linear": a straight line from
            choice_temperature at the first step to 0 at the last. "amused": such a line to 0.01, as AmusedScheduler given one number.
            "constant": choice_temperature throughout. "softened": as `cooling`. "lagged": choice_temperature (1 - k / N).
        ranking: What the noise is added to: the "probability" of the drawn code (its logarithm), or its "logit" alone, as TiTok and MaskGen
            do, so that a cell with large logits counts as sure. Without a logarithm: "drawn" is the probability that the code was drawn
            with, after temperature and cut, as Dream's `maskgit_plus`; "share" is its share of the probability of the codes that may be
            drawn, before temperature, as MaskGCT.
        level_penalty: What a cell loses in the ranking for each level above it, where levels are decoded together (`groups`): coarse
            levels come first, as in OmniVoice (k2-fsa). 0 ranks all levels alike.

    Source: MaskGIT, arXiv:2202.04200; aMUSEd, arXiv:2401.01808; TiTok, arXiv:2406.07550; Dream, arXiv:2508.15487. Differs: exact counts per
    row, from the cells that were unknown at the start.
    """

    choice_temperature: float = 4.5
    annealing: Annealing = "exact"
    ranking: Ranking = "probability"
    level_penalty: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_temperature("choice_temperature", self.choice_temperature)
        if self.annealing not in get_args(Annealing):
            raise ValueError(f"annealing must be {', '.join(get_args(Annealing))}, got {self.annealing!r}")
        if self.ranking not in get_args(Ranking):
            raise ValueError(f"ranking must be {', '.join(get_args(Ranking))}, got {self.ranking!r}")
        check_temperature("level_penalty", self.level_penalty)

    def start(self, state: State) -> StepFn:
        return self._step

    def _step(self, state: State, draw_cells: DrawFn) -> Decision:
        drawn = draw_cells(state.unknown)
        scores = self._scores(state, drawn)
        level = torch.arange(scores.shape[1], device=scores.device) % state.levels
        return keep_surest(state, drawn, scores - self.level_penalty * level, self.schedule, self._noise(state))

    def _scores(self, state: State, drawn: Drawn) -> Float[Tensor, "batch length"]:
        """What the noise is added to; 0 where nothing was drawn."""
        if self.ranking == "probability":
            return drawn.logprobs
        codes = drawn.codes[drawn.cells]
        if self.ranking == "drawn":
            found = share_of_drawn(drawn.logits, codes, self.temperature_at(state), self.cut())
        else:
            found = drawn.logits.float().gather(-1, codes[:, None])[:, 0]
        if self.ranking == "share":
            found = (found - allowed_mass(drawn.logits, self.temperature_at(state), self.cut())).exp()
        return scattered(drawn.cells, found, 0.0)

    def _noise(self, state: State) -> float:
        """Scale of the Gumbel noise at this step."""
        if self.annealing == "exact":
            return annealed(self.choice_temperature, state)
        if self.annealing == "softened":
            return self.choice_temperature * cooled(state.step, state.steps, "softened")
        if self.annealing in ("constant", "lagged"):
            return self.choice_temperature * (1 if self.annealing == "constant" else 1 - state.step / state.steps)
        end = AMUSED_END if self.annealing == "amused" else 0.0
        done = state.step / max(state.steps - 1, 1)
        return self.choice_temperature * (1 - done) + end * done
