"""MaskGIT's order: draw every masked cell, keep those the model is surest of."""

from dataclasses import dataclass

import torch

from maskgen.draw import gumbel, row_noise
from maskgen.sampling.base import Decision, DrawFn, Sampler, State, StepFn, ranked
from maskgen.schedule import masked_after


@dataclass(frozen=True, kw_only=True)
class ConfidenceSampler(Sampler):
    """Keeps the cells with the largest log p(code) + choice_temperature (1 - r) Gumbel noise, r = (step + 1) / steps.

    Args:
        choice_temperature: Randomness of the order at the start; it anneals to 0 at the last step. 0 is greedy.

    Source: MaskGIT, arXiv:2202.04200. Differs: exact counts per row, from the cells that were unknown at the start.
    """

    choice_temperature: float = 4.5

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.choice_temperature < float("inf"):
            raise ValueError(f"choice_temperature must be a finite number of at least 0, got {self.choice_temperature}")

    def start(self, state: State) -> StepFn:
        return self._step

    def _step(self, state: State, draw_cells: DrawFn) -> Decision:
        unknown = state.unknown
        drawn = draw_cells(unknown)
        noise_scale = self.choice_temperature * (1 - (state.step + 1) / state.steps)
        confidence = drawn.logprobs.double()
        if noise_scale > 0:
            confidence = confidence + noise_scale * row_noise(unknown, state.generators, gumbel)
        place = ranked(confidence.masked_fill(~unknown, torch.inf))  # known cells last, after the noise
        masked = masked_after(self.schedule, state.step, state.steps, state.total)
        return Decision(drawn, unknown & (place >= masked[:, None]))
