"""The ancestral sampler of masked diffusion: every masked cell tosses its own coin at every step."""

import dataclasses
import math
from dataclasses import dataclass
from typing import Literal

from maskgen.masking.schedule import Linear, MaskSchedule
from maskgen.sampling.base import Decision, DrawFn, Drawn, Sampler, State, StepFn
from maskgen.sampling.draw import row_noise, scattered, uniform
from maskgen.tokens.batch import UNKNOWN


@dataclass(frozen=True, kw_only=True)
class AncestralSampler(Sampler):
    """Unmasks each masked cell with probability (alpha_s - alpha_t) / (1 - alpha_t), alone of all others; the last step takes the rest.

    alpha is the share that is visible, 1 - schedule. Cells are chosen before codes, so logits are asked for at the cells of the step only.
    At most `steps` model calls, one per step; a step that chooses nothing costs none. Nothing is revoked.

    Args:
        schedule: Share masked over time. The default is the linear schedule of MDLM and MD4.
        grid: Times of the steps. "uniform": k / N. "cosine": 1 - cos(pi k / 2N), so that fewer cells are fixed early; with the linear
            schedule that is the cosine schedule on the uniform grid.
        until: Time at which chance ends, counted from 1 at the start down to 0. Above 0 the last step takes the likeliest code of each cell
            that is left, and the steps before it reach that time, as MDLM does with 1e-5. 0 draws the codes of the last step too.

    Source: MDLM, arXiv:2406.07524; MD4, arXiv:2406.04329 (its cosine grid). Differs: unless `until` says otherwise, times end at exactly
    0, without their epsilon.
    """

    schedule: MaskSchedule = Linear()  # noqa: RUF009 (frozen)
    grid: Literal["uniform", "cosine"] = "uniform"
    until: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.grid not in ("uniform", "cosine"):
            raise ValueError(f"grid must be uniform or cosine, got {self.grid!r}")
        if not 0 <= self.until < 1:
            raise ValueError(f"until is a time and must lie in [0, 1), got {self.until}")

    def start(self, state: State) -> StepFn:
        return self._step

    def _step(self, state: State, draw_cells: DrawFn) -> Decision:
        if self.until > 0 and state.step + 1 == state.steps:
            return Decision(_likeliest(draw_cells(state.unknown)), state.unknown)
        tossed = row_noise(state.unknown, state.generators, uniform)
        chosen = state.unknown & (tossed < self._share(state))
        return Decision(draw_cells(chosen), chosen)

    def _share(self, state: State) -> float:
        """Probability that a masked cell is unmasked at this step."""
        if state.step + 1 == state.steps:
            return 1.0
        random_steps = state.steps - (self.until > 0)
        before, after = (self.schedule(self._time(step / random_steps)) for step in (state.step, state.step + 1))
        return 1 - after / before

    def _time(self, done: float) -> float:
        """Progress of the schedule after that share of the random steps."""
        return (1 - self.until) * (done if self.grid == "uniform" else 1 - math.cos(0.5 * math.pi * done))


def _likeliest(drawn: Drawn) -> Drawn:
    """The same cells with their likeliest codes."""
    logprobs, codes = drawn.logits.float().log_softmax(dim=-1).max(dim=-1)
    return dataclasses.replace(
        drawn, codes=scattered(drawn.cells, codes, UNKNOWN), logprobs=scattered(drawn.cells, logprobs.to(drawn.logprobs.dtype), 0.0)
    )
