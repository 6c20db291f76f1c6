"""Frequency adaptive sampling: codes in one group of cells are kept for good, in the other they may be taken back."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from maskgen.masking.counts import masked_after
from maskgen.sampling.base import Decision, DrawFn, Drawn, Sampler, State, StepFn, annealed, ranked
from maskgen.sampling.draw import check_temperature, gumbel, row_noise
from maskgen.tokens.batch import TokenBatch
from maskgen.tokens.functions import GroupFn, ScoreFn


@dataclass(frozen=True, kw_only=True)
class FrequencySampler(Sampler):
    """Each step draws all masked cells, groups the cells of the filled row, and keeps the surest of the target as the schedule says.

    A cell that is accepted while it belongs to the persistent group is never masked again; the others stand for selection at every step.
    They are ranked by the critic where there is one, else by the log-probability of their code when it was drawn, plus
    choice_temperature (1 - r) Gumbel noise, r = (step + 1) / steps.

    Cost: `steps` calls of the generator; at every step but the last one call of the grouping (attention maps) and, if given, one of the
    critic. May revoke: cells that were accepted outside the persistent group, at any step but the last.

    Args:
        grouping: Which cells are persistent, as `networks.attention_maps.low_attention` gives it; without one the decode does not start.
        critic: Judge of a filled batch, as `networks.critic.critic_scores` gives it; a pipeline gives that in the model's folder `critic`.
            None ranks by the model's confidence.
        choice_temperature: Scale of the ranking's noise at the start; it anneals to 0 at the last step.

    Source: FAS of arXiv:2304.01515, our reading of its abstract ("to each group of tokens divided according to the self-attention maps"):
    the paper's body was not at hand beyond the opening of its method section, which sets fixed against revocable selection. Which group is
    which, how the maps are averaged and where they are split is ours.
    """

    grouping: GroupFn | None = None
    critic: ScoreFn | None = None
    choice_temperature: float = 1.0
    revokes: ClassVar[bool] = True
    needs: ClassVar[tuple[str, ...]] = ("grouping",)
    takes: ClassVar[tuple[str, ...]] = ("critic",)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_temperature("choice_temperature", self.choice_temperature)

    def start(self, state: State) -> StepFn:
        if self.grouping is None:
            raise ValueError(
                "the frequency sampler needs groups of cells; give grouping=low_attention(MODEL), see maskgen.networks.attention_maps"
            )
        grouping, settled = self.grouping, torch.zeros_like(state.target)

        def step(now: State, draw_cells: DrawFn) -> Decision:
            nonlocal settled
            drawn, unknown = draw_cells(now.unknown), now.unknown
            masked = masked_after(self.schedule, now.step, now.steps, now.total)
            judged = now.target & ~settled & (masked > 0)[:, None]  # a full row stays full: it is not ranked any more
            if not bool(judged.any()):
                return Decision(drawn, unknown)
            filled = now.filled(torch.where(unknown, drawn.codes, now.codes))
            sure = self._sureness(now, drawn, filled, judged).masked_fill(~now.target | settled, torch.inf)
            keep = ranked(sure) >= masked[:, None]
            settled = settled | (now.target & keep & grouping(filled, now.segment))
            return Decision(drawn, unknown & keep, now.target & ~unknown & ~keep)

        return step

    def _sureness(self, state: State, drawn: Drawn, filled: TokenBatch, judged: Tensor) -> Float[Tensor, "batch length"]:
        """The larger, the sooner a cell is kept; noise at the judged cells only."""
        if self.critic is None:
            sure = torch.where(state.unknown, drawn.logprobs, state.logprobs).double()
        else:
            sure = -self.critic(filled, state.segment).double()
        if not bool(sure[judged].isfinite().all()):
            raise FloatingPointError(f"scores of the critic are not finite at step {state.step} of {state.steps}")
        noise = annealed(self.choice_temperature, state)
        return sure + noise * row_noise(judged, state.generators, gumbel) if noise > 0 else sure
