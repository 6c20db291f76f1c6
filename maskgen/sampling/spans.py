"""MAGNeT's sampler: neighbouring cells are kept together, the most confident spans first."""

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional

from maskgen.masking.schedule import masked_after
from maskgen.sampling.base import Decision, DrawFn, Sampler, State, StepFn, annealed, ranked
from maskgen.sampling.draw import check_temperature, gumbel, row_noise


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
    score: Literal["max", "prod"],
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


@dataclass(frozen=True, kw_only=True)
class SpanSampler(Sampler):
    """Draws all masked cells and keeps whole spans of neighbours: those with the largest score + choice_temperature (1 - r) Gumbel noise.

    The schedule counts spans, of each row its own. Spans lie in the order of the cells: time for text and audio, reading order for images.

    Args:
        span: Cells of a span; a stretch of unknown cells that it does not divide ends with a shorter one.
        score: "max" takes the surest code of a span, "prod" all of its codes (by which a shorter span is surer).
        choice_temperature: Scale of the ranking's noise at the start; it anneals to 0 at the last step. 0, as in MAGNeT, is greedy.

    Raises:
        ValueError: If span is below 1, score has another name or choice_temperature is negative or not finite.

    Source: MAGNeT, arXiv:2401.04577. Differs: no frame is cut off where span does not divide the length; counts are those *after* a step;
    the temperature of the codes does not fall; overlapping spans (its `stride1`) are left out.
    """

    span: int = 3
    score: Literal["max", "prod"] = "max"
    choice_temperature: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.span < 1:
            raise ValueError(f"span must be at least 1, got {self.span}")
        if self.score not in ("max", "prod"):
            raise ValueError(f"score must be 'max' or 'prod', got {self.score!r}")
        check_temperature("choice_temperature", self.choice_temperature)

    def start(self, state: State) -> StepFn:
        number = span_numbers(state.target, self.span)
        total = torch.where(state.target, number + 1, 0).amax(dim=1)

        def step(now: State, draw_cells: DrawFn) -> Decision:
            unknown, drawn = now.unknown, draw_cells(now.unknown)
            spans = int(total.max())
            open_spans = span_scores(torch.zeros_like(drawn.logprobs), unknown, number, spans, "max") == 0
            scores = span_scores(drawn.logprobs, unknown, number, spans, self.score)
            noise = annealed(self.choice_temperature, now)
            if noise > 0:
                scores = scores + noise * row_noise(open_spans, now.generators, gumbel)
            place = ranked(scores.masked_fill(~open_spans, torch.inf))  # known spans last, after the noise
            kept = place >= masked_after(self.schedule, now.step, now.steps, total)[:, None]
            return Decision(drawn, unknown & kept.gather(1, number.clamp(min=0)))

        return step
