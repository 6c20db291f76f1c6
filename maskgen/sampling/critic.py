"""Token-Critic's sampler: draw every masked cell, then a trained critic decides which cells stay, earlier ones included."""

from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import torch

from maskgen.masking.counts import masked_after
from maskgen.sampling.base import Decision, DrawFn, Sampler, State, StepFn, annealed, ranked
from maskgen.sampling.draw import check_temperature, gumbel, row_noise
from maskgen.tokens.functions import ScoreFn


@dataclass(frozen=True, kw_only=True)
class CriticSampler(Sampler):
    """Each step draws all masked cells, has all cells of the target judged, keeps the best as the schedule says and masks the rest again.

    A cell's rank is -critic + choice_temperature (1 - r) Gumbel noise, r = (step + 1) / steps.

    Cost: `steps` calls of the generator and, at every step but the last, one of the critic. May revoke: every cell of the target,
    at any step but the last.

    Args:
        critic: Judge of a filled batch, as `maskgen.networks.critic.critic_scores` gives it; without one the decode does not start.
        choice_temperature: Scale of the ranking's noise at the start, in units of the critic's logit; it anneals to 0 at the last step.

    Source: Token-Critic, arXiv:2209.04439. Differs: Gumbel noise, as in our confidence sampler; a public re-implementation adds uniform
    noise, (U - 0.5) times a scale times the share of steps left. The last step keeps everything and so asks no critic.
    """

    critic: ScoreFn | None = None
    choice_temperature: float = 1.0
    revokes: ClassVar[bool] = True
    needs: ClassVar[tuple[str, ...]] = ("critic",)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_temperature("choice_temperature", self.choice_temperature)

    def start(self, state: State) -> StepFn:
        if self.critic is None:
            raise ValueError(
                "the critic sampler needs a trained critic; put one into the folder critic of the model "
                "(configs/critic_emoji64.yaml trains one), or give critic=critic_scores(load_critic(FOLDER))"
            )
        return partial(self._step, self.critic)

    def _step(self, critic: ScoreFn, state: State, draw_cells: DrawFn) -> Decision:
        drawn, unknown = draw_cells(state.unknown), state.unknown
        masked = masked_after(self.schedule, state.step, state.steps, state.total)
        judged = state.target & (masked > 0)[:, None]  # a full row stays full: it is not ranked any more
        if not bool(judged.any()):
            return Decision(drawn, unknown)
        fake = critic(state.filled(torch.where(unknown, drawn.codes, state.codes)), state.segment).double()
        if not bool(fake[judged].isfinite().all()):
            raise FloatingPointError(f"scores of the critic are not finite at step {state.step} of {state.steps}")
        noise = annealed(self.choice_temperature, state)
        doubt = fake - noise * row_noise(judged, state.generators, gumbel) if noise > 0 else fake
        keep = ranked((-doubt).masked_fill(~state.target, torch.inf)) >= masked[:, None]
        return Decision(drawn, unknown & keep, state.target & ~unknown & ~keep)
