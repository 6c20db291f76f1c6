"""How well a masked model knows held-out text: the negative evidence bound a token, its perplexity and how far both may be off."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional

from maskgen.masking.schedule import MaskSchedule
from maskgen.tokens.batch import TokenBatch
from maskgen.tokens.functions import LogitsFn
from maskgen.tokens.space import MASK, Segment

RATE_BUCKETS = 4
"""The mean loss is also given per quarter of the mask rate."""
NORMAL_95 = 1.96
"""Standard errors on either side that hold 95 % of a normal distribution."""
Behind = Literal["cut", "scored"]


@dataclass(frozen=True)
class RowBounds:
    """Estimates of the bound of each row, one a mask.

    Args:
        draws: Nats of the row, estimated from one mask each; their mean is the estimate of the row. The second half of the columns are
            the partners of the first half.
        share: Share of the row's cells that the mask hides.
        tokens: Tokens of the row, up to and with its first end code.
    """

    draws: Float[Tensor, "batch draw"]
    share: Float[Tensor, "batch draw"]
    tokens: Int[Tensor, " batch"]

    @property
    def nats(self) -> Float[Tensor, " batch"]:
        """Estimate of each row."""
        return self.draws.mean(dim=1)

    @property
    def pairs(self) -> Float[Tensor, "batch pair"]:
        """Estimates from a mask and its partner."""
        half = self.draws.shape[1] // 2
        return (self.draws[:, :half] + self.draws[:, half:]) / 2


@dataclass(frozen=True, kw_only=True)
class TextBound:
    """The bound over all texts.

    Args:
        nats_per_token: Negative evidence bound over tokens: the model's negative log-likelihood is at most this, up to `monte_carlo_error`.
        perplexity: exp of it, an upper bound of the model's perplexity.
        interval: 95 % confidence interval of nats_per_token over texts and masks.
        perplexity_interval: exp of it.
        monte_carlo_error: Standard error of nats_per_token by the masks alone, on these very texts.
        nats_by_rate: Mean cross-entropy of a masked cell where up to 1/4, 2/4, 3/4 and all of the cells are masked; None without any.
        tokens: Tokens counted: those of a text up to and with its first end code.
        texts: Rows.
        masks: Masks a row.
    """

    nats_per_token: float
    perplexity: float
    interval: tuple[float, float]
    perplexity_interval: tuple[float, float]
    monte_carlo_error: float
    nats_by_rate: tuple[float | None, ...]
    tokens: int
    texts: int
    masks: int

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return asdict(self)


def scored_cells(batch: TokenBatch, segment: Segment, end: int | None) -> Bool[Tensor, "batch length"]:
    """Cells of a text up to and with its first end code; all of them where there is none.

    Args:
        batch: Clean rows, one text each.
        segment: The level of the text.
        end: `Modality.end`, a code local to the segment.
    """
    target = batch.cells(segment.index)
    if end is None:
        return target
    ended = target & (batch.ids[..., segment.level] == segment.offset + end)
    return target & (ended.long().cumsum(dim=1) - ended.long() == 0)


def paired_counts(total: Int[Tensor, " batch"], masks: int, generator: torch.Generator) -> Int[Tensor, "batch draw"]:
    """Cells to hide in each mask of a row: one count a stratum of the rate, and the mirrored count as its partner.

    Every column by itself is uniform in its stratum, all of them together are uniform over 1 .. total.

    Args:
        total: Cells of each row.
        masks: Even; half of them are drawn, half mirrored.
        generator: CPU generator.
    """
    half = masks // 2
    place = torch.arange(half, dtype=torch.float64) + torch.rand(len(total), half, dtype=torch.float64, generator=generator)
    cells = total[:, None].cpu()
    drawn = torch.minimum((cells * place / masks).ceil().long().clamp(min=1), cells.clamp(min=1))
    return torch.cat([drawn, cells + 1 - drawn], dim=1).to(total.device)


@torch.no_grad()
def row_bounds(
    logits_fn: LogitsFn, batch: TokenBatch, segment: Segment, generator: torch.Generator, masks: int = 16, end: int | None = None,
    behind: Behind = "cut",
) -> RowBounds:  # fmt: skip
    """Negative evidence bound of each row under an absorbing process, whatever its schedule.

    A row of n cells has NELBO = sum over k = 1 .. n of E[mean cross-entropy over the k masked cells], the masked set uniform. So a mask of
    exactly k cells, k uniform, estimates it by n times the mean cross-entropy, with weights that are never large. Rates are stratified,
    and each mask has a partner: the mirrored rate on the other end of the same random order, so that a pair asks about every cell.

    Args:
        logits_fn: The model, through `maskgen.decoding.logits.model_logits`.
        batch: Clean rows, one text each; cells of other modalities are the condition and stay visible.
        segment: The level that is scored; the modality has one level.
        generator: CPU generator.
        masks: Masks a row, even and at least 4.
        end: Code that ends a text; what stands behind the first one is not counted as tokens.
        behind: What becomes of the cells behind the first end code. "cut": they do not exist, and the bound is that of a text whose length
            is known. "scored": they are masked and their loss is counted too, so the bound covers how the model fills a canvas.

    Raises:
        ValueError: If `masks` is odd or below 4, or a row has no cell to score.

    Source: arXiv:2110.02037 (order-agnostic form), MDLM, arXiv:2406.07524, MD4, arXiv:2406.04329: all are this integral over the mask
    rate. Differs: exact counts, strata and partners in place of a time drawn per row, for less variance.
    """
    counted = scored_cells(batch, segment, end)
    if behind == "cut":
        batch = batch.hide(batch.cells(segment.index) & ~counted)
    target = batch.cells(segment.index)
    if masks < 4 or masks % 2:
        raise ValueError(f"masks must be even and at least 4 (pairs, and an error bar from them), got {masks}")
    if not bool(target.any(dim=1).all()):
        raise ValueError(f"row {int((~target.any(dim=1)).nonzero()[0, 0])} has no cell of {segment.modality} to score; leave it out")
    total, counts = target.sum(dim=1), paired_counts(target.sum(dim=1), masks, generator)
    draws = torch.zeros(len(batch), masks, dtype=torch.float64)
    for pair in range(masks // 2):
        noise = torch.rand(target.shape, generator=generator).to(target.device)
        place = noise.masked_fill(~target, torch.inf).argsort(dim=1).argsort(dim=1)
        last = total[:, None] - counts[:, masks // 2 + pair : masks // 2 + pair + 1]
        for column, hidden in ((pair, place < counts[:, pair : pair + 1]), (masks // 2 + pair, place >= last)):
            summed = summed_losses(logits_fn, batch, segment, hidden & target)
            draws[:, column] = summed * total.cpu() / counts[:, column].cpu()
    return RowBounds(draws, counts.cpu() / total[:, None].cpu().double(), counted.sum(dim=1).cpu())


def summed_losses(
    logits_fn: LogitsFn, batch: TokenBatch, segment: Segment, hidden: Bool[Tensor, "batch length"]
) -> Float[Tensor, " batch"]:
    """Cross-entropy of the hidden cells given all others, summed a row, in float64 on the CPU."""
    column, ids = batch.ids[..., segment.level], batch.ids.clone()
    ids[..., segment.level] = column.masked_fill(hidden, MASK)
    rows, found = hidden.nonzero()[:, 0], torch.zeros(len(batch), dtype=torch.float64)
    if not len(rows):
        return found
    logits = logits_fn(batch.with_ids(ids), hidden, segment, 0.0)
    loss = functional.cross_entropy(
        logits.to(torch.promote_types(logits.dtype, torch.float32)), column[hidden] - segment.offset, reduction="none"
    )
    return found.index_add(0, rows.cpu(), loss.double().cpu())


@torch.no_grad()
def schedule_bounds(
    logits_fn: LogitsFn, batch: TokenBatch, segment: Segment, generator: torch.Generator, schedule: MaskSchedule, masks: int = 16
) -> RowBounds:
    """The same bound by the estimator of training: a time a mask, every cell masked alone at the schedule's rate, weighed by its speed.

    For comparison with published numbers; `row_bounds` has less variance. The linear law is MDLM's 1 / t, the cosine law MD4's
    (pi / 2) tan(pi (1 - t) / 2).

    Args:
        logits_fn: The model.
        batch: Clean rows.
        segment: The level that is scored.
        generator: CPU generator.
        schedule: Mask law.
        masks: Masks a row, even; times are stratified.

    Source: MDLM, arXiv:2406.07524; MD4, arXiv:2406.04329.
    """
    target = batch.cells(segment.index)
    draws = torch.zeros(len(batch), masks, dtype=torch.float64)
    time = (torch.arange(masks) + torch.rand(len(batch), masks, dtype=torch.float64, generator=generator)) / masks
    rate, weight = schedule(time), falling_speed(schedule, time)
    for column in range(masks):
        tossed = torch.rand(target.shape, dtype=torch.float64, generator=generator).to(target.device)
        hidden = target & (tossed < rate[:, column : column + 1].to(target.device))
        draws[:, column] = weight[:, column] * summed_losses(logits_fn, batch, segment, hidden)
    return RowBounds(draws, rate, target.sum(dim=1).cpu())


def falling_speed(schedule: MaskSchedule, time: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Weight of a masked cell's loss at each time in the bound of a schedule: -(d rate / d time) / rate."""
    with torch.enable_grad():
        moving = time.detach().clone().requires_grad_()
        rate = schedule(moving)
        (slope,) = torch.autograd.grad(rate.sum(), moving)
    return -slope / rate.detach()


def text_bound(rows: Sequence[RowBounds]) -> TextBound:
    """One bound from those of all batches.

    Raises:
        ValueError: If there are fewer than two rows: no interval then.
    """
    nats, tokens = (torch.cat([getattr(part, name).double() for part in rows]) for name in ("nats", "tokens"))
    if len(nats) < 2:
        raise ValueError(f"an interval needs at least 2 texts, got {len(nats)}")
    total = float(tokens.sum())
    mean = float(nats.sum()) / total
    error = math.sqrt(float((nats - mean * tokens).square().sum()) * len(nats) / (len(nats) - 1)) / total
    by_masks = sum(float(part.pairs.var(dim=1).sum()) / part.pairs.shape[1] for part in rows)
    low, high = mean - NORMAL_95 * error, mean + NORMAL_95 * error
    return TextBound(
        nats_per_token=mean,
        perplexity=math.exp(mean),
        interval=(low, high),
        perplexity_interval=(math.exp(low), math.exp(high)),
        monte_carlo_error=math.sqrt(by_masks) / total,
        nats_by_rate=_by_rate(rows),
        tokens=int(total),
        texts=len(nats),
        masks=rows[0].draws.shape[1],
    )


def _by_rate(rows: Sequence[RowBounds]) -> tuple[float | None, ...]:
    """Mean loss of a masked cell in each quarter of the rate, rows weighed by their tokens."""
    share, draws = (torch.cat([getattr(part, name).flatten() for part in rows]) for name in ("share", "draws"))
    tokens = torch.cat([part.tokens[:, None].expand_as(part.draws).flatten() for part in rows])
    bucket = (share * RATE_BUCKETS).ceil().long().clamp(1, RATE_BUCKETS) - 1
    found = []
    for number in range(RATE_BUCKETS):
        here = bucket == number
        found.append(float(draws[here].sum() / tokens[here].sum()) if bool(here.any()) else None)
    return tuple(found)
