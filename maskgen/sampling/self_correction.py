"""Self-correction: fill everything early, then spend the rest of the steps on replacing codes that the model now finds unlikely."""

import dataclasses
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from maskgen.sampling.base import Decision, DrawFn, Drawn, Sampler, State, StepFn, annealed, in_order, keep_surest, ranked
from maskgen.sampling.draw import draw, gumbel, row_noise, scattered
from maskgen.tokens.batch import UNKNOWN


@dataclass(frozen=True, kw_only=True)
class SelfCorrectionSampler(Sampler):
    """Fills the target in the first share of the steps; each later step replaces the codes that another code beats by most.

    A correction asks the model for all cells of the filled target, draws a code for each and takes the drawn code where it is likelier than
    the one that stands, largest gain in log-probability first. At `correction_temperature` 0 a row without a gain is finished: nothing
    changes in it any more and it is not asked about again.

    The model sees the code that it judges. One that was trained on masks alone has never learned what to say there, so expect
    little of self-correction in such models; it is meant for those that also learned from wrong codes.

    Cost: at most `steps` model calls, the corrections among them. May revoke: never to MASK, but it may replace every code of the target.

    Args:
        fill: Order of the first steps: "confidence" (MaskGIT) or "random".
        fill_share: Share of the steps, rounded, that fill; at least one step. 1 leaves none for corrections.
        choice_temperature: Scale of the ranking's noise in the confidence sampler, at the start.
        cells_per_step: Codes that one correction may replace, at least 1; with more than one they may disagree with each other.
        correction_temperature: Divides the logits of the corrections; 0 takes the likeliest code.

    Source: GIDD, arXiv:2503.04482: after sampling, each step draws a code for every position at a low temperature (0.1), and the drawn code
    that differs from the standing one and has the largest probability is written (one a step), be it likelier than that or not; it ends
    when nothing was written or when the share of codes that are the model's likeliest has not grown for 32 steps. Differs: ranked by the
    gain over the standing code, and without a gain nothing is written; by default no randomness; a fixed budget of steps in place of
    patience; target cells only.
    """

    fill: Literal["confidence", "random"] = "confidence"
    fill_share: float = 0.5
    choice_temperature: float = 4.5
    cells_per_step: int = 1
    correction_temperature: float = 0.0
    revokes: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.fill not in ("confidence", "random"):
            raise ValueError(f"fill must be confidence or random, got {self.fill!r}")
        if not 0 < self.fill_share <= 1:
            raise ValueError(f"fill_share must lie in (0, 1], got {self.fill_share}")
        if self.cells_per_step < 1:
            raise ValueError(f"cells_per_step must be at least 1, got {self.cells_per_step}")
        for name in ("choice_temperature", "correction_temperature"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise ValueError(f"{name} must be a finite number of at least 0, got {getattr(self, name)}")

    def start(self, state: State) -> StepFn:
        filling = max(1, round(self.fill_share * state.steps))
        fill = self._confidence if self.fill == "confidence" else in_order(row_noise(state.target, state.generators, gumbel), self.schedule)
        open_rows = torch.ones(len(state.batch), dtype=torch.bool, device=state.target.device)

        def step(now: State, draw_cells: DrawFn) -> Decision:
            nonlocal open_rows
            if now.step < filling:
                return fill(dataclasses.replace(now, steps=filling), draw_cells)
            decision = self._correct(now, draw_cells(now.target & open_rows[:, None]))
            if self.correction_temperature == 0:
                open_rows = decision.accept.any(dim=1)
            return decision

        return step

    def _confidence(self, state: State, draw_cells: DrawFn) -> Decision:
        drawn = draw_cells(state.unknown)
        return keep_surest(state, drawn, drawn.logprobs, self.schedule, annealed(self.choice_temperature, state))

    def _correct(self, state: State, asked: Drawn) -> Decision:
        """Accepts, of the cells asked about, those whose new code gains most over the standing one."""
        if not bool(asked.cells.any()):
            return Decision(asked, asked.cells)
        drawn, gain = self._redrawn(state, asked)
        better = gain > 0
        place = ranked((-gain).masked_fill(~better, torch.inf))
        return Decision(drawn, better & (place < self.cells_per_step))

    def _redrawn(self, state: State, asked: Drawn) -> tuple[Drawn, Float[Tensor, "batch length"]]:
        """Codes at the temperature of corrections, and how much log-probability each gains; 0 where it is the code that stands."""
        logits = asked.logits.to(torch.promote_types(asked.logits.dtype, torch.float32))
        rows, standing = asked.cells.nonzero()[:, 0], state.codes[asked.cells]
        codes, logprobs = draw(logits, rows, state.generators, temperature=self.correction_temperature, cut=self.cut())
        new, old = (logits.gather(-1, choice[:, None]).squeeze(-1) for choice in (codes, standing))
        scores = scattered(asked.cells, logprobs, 0.0).to(state.logprobs.dtype)
        drawn = dataclasses.replace(asked, codes=scattered(asked.cells, codes, UNKNOWN), logprobs=scores)
        return drawn, scattered(asked.cells, new - old, 0.0)
