"""MAGNeT's sampler: neighbouring cells are kept together, the most confident spans first."""

from dataclasses import dataclass
from typing import Literal, get_args

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional

from maskgen.masking.counts import masked_after
from maskgen.masking.schedule import MaskSchedule
from maskgen.sampling.base import Decision, DrawFn, Drawn, Sampler, State, StepFn, annealed, ranked
from maskgen.sampling.draw import check_temperature, gumbel, row_noise, scattered

Score = Literal["max", "prod"]
Arrangement = Literal["nonoverlap", "stride1"]
Counts = Literal["after", "before"]
Ranking = Literal["plain", "tempered"]
FIXED_SCORE = -1e4
"""Doubt of a cell that is known, in spans that overlap: any unknown cell is less sure."""


def span_numbers(target: Bool[Tensor, "batch length"], span: int) -> Int[Tensor, "batch length"]:
    """Number of the span of each target cell in its row, from 0; means nothing elsewhere.

    Every stretch of neighbouring target cells is cut into spans from its beginning; what is left at its end is a shorter one.

    Args:
        target: Cells that are cut into spans.
        span: Cells of a whole span.
    """
    place = torch.arange(target.shape[1], device=target.device).expand(target.shape)
    first = target & ~functional.pad(target, (1, 0))[:, :-1]
    since = place - place.where(first, 0).cummax(dim=1).values
    return (target & (since % span == 0)).long().cumsum(dim=1) - 1


def span_scores(
    logprobs: Float[Tensor, "batch length"],
    cells: Bool[Tensor, "batch length"],
    number: Int[Tensor, "batch length"],
    spans: int,
    score: Score,
) -> Float[Tensor, "batch span"]:
    """How sure the model is of each span, in float64: the larger, the surer. -inf ("max") or 0 ("prod") where a span has none of the cells.

    Args:
        logprobs: Log-probabilities of the drawn codes.
        cells: Cells that count.
        number: Span of each cell.
        spans: Columns of the answer.
        score: "max" is the largest log p of the span, which ranks as MAGNeT's 1 - max p; "prod" is the sum of log p.
    """
    least, reduce = (-torch.inf, "amax") if score == "max" else (0.0, "sum")
    values = logprobs.double().masked_fill(~cells, least)
    return values.new_full((len(cells), spans), least).scatter_reduce(1, number.clamp(min=0), values, reduce)


def masked_before(schedule: MaskSchedule, step: int, steps: int, total: Int[Tensor, " batch"]) -> Int[Tensor, " batch"]:
    """Spans of each row that are masked after a step, where the schedule says what is masked before the next one.

    At least one span is left to the last step, which leaves none.

    Args:
        schedule: Mask schedule; it is read at (step + 1) / (steps - 1), in float32 as in the reference.
        step: Index of the step, from 0.
        steps: Total number of steps.
        total: Spans of each row that were masked at the start.

    Source: MAGNeT's code. There cos(pi / 3) is a little below a half, so of an even number of spans one less than the half is masked.
    """
    if step == steps - 1:
        return torch.zeros_like(total)
    share = schedule(torch.linspace(0, 1, steps)[step + 1])
    return (share.to(total.device) * total).to(total.dtype).clamp(min=1)


def overlapping_spans(doubts: Float[Tensor, " cells"], stretch: Int[Tensor, " cells"], span: int, wanted: int) -> Bool[Tensor, " cells"]:
    """Cells of the spans that the model doubts most, of all spans at any place, as many that about `wanted` cells are covered.

    Args:
        doubts: -log p of each cell.
        stretch: Number of the stretch of neighbours that each cell belongs to; no span leaves its stretch.
        span: Cells of a span; a shorter stretch is one span.
        wanted: Number of cells.

    Source: MAGNeT's code (`stride1`), with its bisection, which may end next to the closest number.
    """
    cells = torch.arange(len(doubts), device=doubts.device)
    last = (stretch[:, None] == stretch[None]).long().mul(cells).amax(dim=1)
    first = functional.pad(stretch.diff() != 0, (1, 0), value=True)
    starts = cells[(cells + span - 1 <= last) | first]
    inside = (cells >= starts[:, None]) & (cells <= torch.minimum(starts + span - 1, last[starts])[:, None])
    order = (inside * doubts).sum(dim=1).argsort(descending=True, stable=True)
    wanted = max(wanted, span)
    least, most = wanted // span, wanted - span + 1
    middle = round(0.5 * (least + most))
    covered = inside[order[:middle]].any(dim=0)
    while least < middle < most:
        covered = inside[order[:middle]].any(dim=0)
        least, most = (least, middle) if int(covered.sum()) > wanted else (middle, most)
        middle = round(0.5 * (least + most))
    return covered


@dataclass(frozen=True, kw_only=True)
class SpanSampler(Sampler):
    """Draws all masked cells and keeps whole spans of neighbours: those with the largest score + choice_temperature (1 - r) Gumbel noise.

    The schedule counts spans, of each row its own. Spans lie in the order of the cells: time for text and audio, reading order for images.

    Args:
        span: Cells of a span; a stretch of unknown cells that it does not divide ends with a shorter one.
        score: "max" takes the surest code of a span, "prod" all of its codes (by which a shorter span is surer).
        choice_temperature: Scale of the ranking's noise at the start; it anneals to 0 at the last step. 0, as in MAGNeT, is greedy.
        arrangement: "nonoverlap" cuts the cells into spans; "stride1" takes spans at any place, by "prod", and the schedule counts cells.
        counts: Whether the schedule says what is masked "after" a step, or "before" the next one as in MAGNeT; see `masked_before`.
        ranking: Whether codes are judged by their "plain" probability or by that at the temperature of the step, "tempered" as in MAGNeT.

    Raises:
        ValueError: If span is below 1, an option has another name, choice_temperature is negative or not finite, or spans that overlap are
            to be ranked with noise.

    Source: MAGNeT, arXiv:2401.04577; `maskgen.interop.magnet.magnet_settings` are its own options. Differs: no frame is cut off where span
    does not divide the length; spans that overlap never take a fixed code back.
    """

    span: int = 3
    score: Score = "max"
    choice_temperature: float = 0.0
    arrangement: Arrangement = "nonoverlap"
    counts: Counts = "after"
    ranking: Ranking = "plain"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.span < 1:
            raise ValueError(f"span must be at least 1, got {self.span}")
        for name, kind in (("score", Score), ("arrangement", Arrangement), ("counts", Counts), ("ranking", Ranking)):
            if getattr(self, name) not in get_args(kind):
                raise ValueError(f"{name} must be {' or '.join(map(repr, get_args(kind)))}, got {getattr(self, name)!r}")
        check_temperature("choice_temperature", self.choice_temperature)
        if self.arrangement == "stride1" and self.choice_temperature > 0:
            raise ValueError("spans that overlap are ranked without noise; set choice_temperature to 0, or arrangement to 'nonoverlap'")

    def start(self, state: State) -> StepFn:
        return self._overlapping() if self.arrangement == "stride1" else self._apart(state)

    def _apart(self, state: State) -> StepFn:
        """Steps that keep spans of a fixed division."""
        number = span_numbers(state.target, self.span)
        total = torch.where(state.target, number + 1, 0).amax(dim=1)

        def step(now: State, draw_cells: DrawFn) -> Decision:
            unknown, drawn = now.unknown, draw_cells(now.unknown)
            spans, logprobs = int(total.max()), self._judged(drawn, now)
            open_spans = span_scores(torch.zeros_like(logprobs), unknown, number, spans, "max") == 0
            scores = span_scores(logprobs, unknown, number, spans, self.score)
            noise = annealed(self.choice_temperature, now)
            if noise > 0:
                scores = scores + noise * row_noise(open_spans, now.generators, gumbel)
            place = ranked(scores.masked_fill(~open_spans, torch.inf))  # known spans last, after the noise
            kept = place >= self._masked(now, total)[:, None]
            return Decision(drawn, unknown & kept.gather(1, number.clamp(min=0)))

        return step

    def _overlapping(self) -> StepFn:
        """Steps that keep what the most doubtful spans of any place leave."""

        def step(now: State, draw_cells: DrawFn) -> Decision:
            unknown, drawn = now.unknown, draw_cells(now.unknown)
            doubts = (-self._judged(drawn, now)).masked_fill(~unknown, FIXED_SCORE)
            accept, wanted = unknown.clone(), self._masked(now, now.total).tolist()
            for row, count in enumerate(wanted):
                cells = now.target[row].nonzero()[:, 0]
                if count and len(cells):
                    stretch = functional.pad((cells.diff() > 1).long().cumsum(dim=0), (1, 0))
                    accept[row, cells] &= ~overlapping_spans(doubts[row, cells], stretch, self.span, count)
            return Decision(drawn, accept)

        return step

    def _masked(self, now: State, total: Int[Tensor, " batch"]) -> Int[Tensor, " batch"]:
        """Spans or cells of each row that stay masked after the step."""
        count = masked_before if self.counts == "before" else masked_after
        return count(self.schedule, now.step, now.steps, total)

    def _judged(self, drawn: Drawn, now: State) -> Float[Tensor, "batch length"]:
        """Log-probabilities by which codes are ranked."""
        temperature = self.temperature_at(now)
        if self.ranking == "plain" or temperature == 0:
            return drawn.logprobs
        codes = drawn.codes[drawn.cells][:, None]
        found = (drawn.logits.float() / temperature).log_softmax(dim=-1).gather(1, codes)[:, 0]
        return scattered(drawn.cells, found, 0.0)
