"""Training masks: which cells of a batch the model must predict, and which it sees."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields

import torch
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor

from maskgen.masking.schedule import MaskSchedule
from maskgen.tokens.batch import UNKNOWN, TokenBatch, condition_cells
from maskgen.tokens.space import MASK, Segment


@dataclass(frozen=True)
class Masked:
    """A masked batch for one training step.

    Args:
        batch: What the model sees.
        cells: Cells and levels whose code the model must predict; in each row, levels of one group only.
        codes: True codes of these, local to the segment; UNKNOWN elsewhere.
        level: First level of the group that each row is trained on.
        total: Cells times levels of that group that can be masked.
        rate: Mask rate as drawn.
        dropped: Rows whose condition is hidden.
    """

    batch: TokenBatch
    cells: Bool[Tensor, "batch length level"]
    codes: Int[Tensor, "batch length level"]
    level: Int[Tensor, " batch"]
    total: Int[Tensor, " batch"]
    rate: Float[Tensor, " batch"]
    dropped: Bool[Tensor, " batch"]

    def rows(self, index: Bool[Tensor, " batch"] | slice) -> "Masked":
        """The chosen rows."""
        return Masked(self.batch.rows(index), *(getattr(self, one.name)[index] for one in fields(self)[1:]))


def draw_rates(batch: int, schedule: MaskSchedule, generator: torch.Generator) -> Float[Tensor, " batch"]:
    """One mask rate per row: the schedule at stratified uniform draws, so that a batch covers all rates.

    Source: antithetic draws as in MDLM, arXiv:2406.07524.
    """
    strata = (torch.randperm(batch, generator=generator) + torch.rand(batch, generator=generator)) / batch
    return schedule(strata)


def random_cells(
    target: Bool[Tensor, "batch length"], rate: Float[Tensor, " batch"], generator: torch.Generator, span: int = 1
) -> Bool[Tensor, "batch length"]:
    """Random cells of each row's target, at least one where there is any.

    Args:
        target: Cells to choose from.
        rate: Share of them to choose. With a span of 1, exactly ceil(rate x target cells) are chosen.
        generator: CPU generator.
        span: Length of a span. Above 1, the number of spans, which may overlap, is such that they cover this share on average.

    Raises:
        ValueError: If span is below 1.

    Source: spans of MAGNeT, arXiv:2401.04577. Differs: a span that reaches the end of the target continues at its beginning, so the
    mean share is exact and every cell is chosen equally often.
    """
    if span < 1:
        raise ValueError(f"span must be at least 1, got {span}")
    total = target.sum(dim=1)
    rate = rate.to(total.device)
    wanted = span_starts(total, rate, span) if span > 1 else torch.minimum((rate * total).ceil().long().clamp(min=1), total)
    order = torch.rand(target.shape, generator=generator).to(target.device).masked_fill(~target, torch.inf)
    chosen = (order.argsort(dim=1).argsort(dim=1) < wanted[:, None]) & target
    return chosen if span == 1 else _run_on(chosen, target, span)


def span_starts(total: Int[Tensor, " batch"], rate: Float[Tensor, " batch"], span: int) -> Int[Tensor, " batch"]:
    """Number of spans that covers the share of a row's cells nearest to `rate` on average; at least one if the row has cells.

    n starts out of T, without replacement, leave C(T - span, n) / C(T, n) of the cells uncovered.

    Args:
        total: Cells of each row, T.
        rate: Share to cover.
        span: Length of a span.
    """
    starts = torch.arange(1, max(int(total.max()), 1) + 1, device=total.device)
    cells, left = total.double()[:, None], torch.ones(len(total), len(starts), dtype=torch.float64, device=total.device)
    for cell in range(span):
        left *= (cells - starts - cell).clamp(min=0) / (cells - cell).clamp(min=1)
    return torch.minimum((1 - left - rate[:, None]).abs().argmin(dim=1) + 1, total)


def _run_on(starts: Bool[Tensor, "batch length"], target: Bool[Tensor, "batch length"], span: int) -> Bool[Tensor, "batch length"]:
    """The cells of all spans, from their first cells; a span wraps around the end of the target."""
    total, rank = target.sum(dim=1, keepdim=True).clamp(min=1), target.long().cumsum(dim=1) - 1
    by_rank = starts.gather(1, (~target).long().argsort(dim=1, stable=True))
    covered = torch.zeros_like(starts)
    for back in range(span):
        covered |= by_rank.gather(1, (rank - back) % total)
    return covered & target


def draw_spans(
    target: Bool[Tensor, "batch length"], prompt_share: float, infill_share: float, generator: torch.Generator
) -> Bool[Tensor, "batch length"]:
    """Draws the part of each row's target to regenerate; the rest is context, clean at every level.

    A share of the rows keeps a prompt, the first 10 to 50 % of its cells; another share keeps both ends around a gap of 20 to 70 %; all
    others keep nothing. At least one cell is always regenerated.

    Args:
        target: Cells of the target modality, in temporal order.
        prompt_share: Share of the rows that keep a prompt.
        infill_share: Share of the rows that keep both ends of the target.
        generator: CPU generator.

    Source: prompts as in SoundStorm, arXiv:2305.09636, and MaskGCT, arXiv:2409.00750; gaps as in Voicebox, arXiv:2306.15687.
    """
    kind, extent, place = (torch.rand(len(target), generator=generator).to(target.device) for _ in range(3))
    total, rank = target.sum(dim=1), target.long().cumsum(dim=1) - 1
    prompt, gap = kind < prompt_share, (kind >= prompt_share) & (kind < prompt_share + infill_share)
    length = torch.where(prompt, 0.5 + 0.4 * extent, torch.where(gap, 0.2 + 0.5 * extent, 1.0))
    cells = (length * total).ceil().long().clamp(min=1)
    start = torch.where(gap, (place * (total - cells + 1)).long(), total - cells)
    return target & (rank >= start[:, None]) & (rank < (start + cells)[:, None])


def drop_modalities(batch: TokenBatch, shares: Mapping[int, float], generator: torch.Generator) -> TokenBatch:
    """Hides each of the given modalities in a random share of the rows.

    Args:
        batch: Rows.
        shares: Number of a modality to the share of rows in which it is hidden.
        generator: CPU generator.
    """
    for index, share in shares.items():
        rows = (torch.rand(len(batch), generator=generator) < share).to(batch.modality.device)
        batch = batch.hide((batch.modality == index) & rows[:, None])
    return batch


def outside(batch: TokenBatch, target: Bool[Tensor, "batch length"], modalities: Sequence[int]) -> Bool[Tensor, "batch length"]:
    """Cells of the given modalities whose time lies before the first or after the last cell of the target."""
    time = batch.coords[..., 0]
    first = time.masked_fill(~target, torch.iinfo(torch.long).max).amin(dim=1, keepdim=True)
    last = time.masked_fill(~target, -1).amax(dim=1, keepdim=True)
    chosen = torch.isin(batch.modality, torch.tensor(list(modalities), device=batch.modality.device))
    return chosen & ((time < first) | (time > last))


def mask_group(
    batch: TokenBatch,
    segments: Sequence[Segment],
    last: Int[Tensor, " batch"],
    cells: Bool[Tensor, "batch length level"],
    target: Bool[Tensor, "batch length"],
) -> tuple[TokenBatch, Int[Tensor, "batch length level"]]:
    """Masks the chosen cells at the levels of each row's group and every target cell at finer levels; coarser levels stay clean.

    Args:
        batch: Clean rows.
        segments: Segments of the target modality, coarse to fine.
        last: Finest level of each row's group.
        cells: Cells and levels that are masked inside the groups.
        target: Cells that are regenerated; all others stay clean at every level.

    Returns:
        The masked batch, and the true codes where the model must predict one (UNKNOWN elsewhere).

    Source: SoundStorm, arXiv:2305.09636, one level at a time; groups of levels as in G-MLM, arXiv:2401.01099 (our reading of its abstract).
    """
    ids, codes = batch.ids.clone(), torch.full(cells.shape, UNKNOWN, dtype=batch.ids.dtype, device=batch.ids.device)
    for segment in segments:
        here, finer = cells[..., segment.level], (last < segment.level)[:, None] & target
        column = batch.ids[..., segment.level]
        codes[..., segment.level] = torch.where(here, column - segment.offset, UNKNOWN)
        ids[..., segment.level] = torch.where(here | finer, MASK, column)
    return batch.with_ids(ids), codes


def level_groups(groups: Sequence[Sequence[int]] | None, num_levels: int) -> list[list[int]]:
    """Groups of levels that are trained and decoded together; each level alone if None.

    Raises:
        ValueError: If the groups don't list every level once, in order.
    """
    found = [[level] for level in range(num_levels)] if groups is None else [list(group) for group in groups]
    if [level for group in found for level in group] != list(range(num_levels)) or not all(found):
        raise ValueError(f"groups {found} must hold the levels 0 to {num_levels - 1} in order, each once, for example [[0], [1, 2]]")
    return found


def checked_weights(level_weights: Sequence[float] | None, num_levels: int) -> tuple[float, ...]:
    """The weight of each level (or group) in training; all alike if None.

    Raises:
        ValueError: If there isn't one weight per level, one is negative or no number, or none is above 0.
    """
    weights = tuple([1.0] * num_levels if level_weights is None else level_weights)
    if len(weights) != num_levels:
        raise ValueError(f"the target has {num_levels} levels or groups of them, got {len(weights)} level_weights; give one each")
    if not all(0.0 <= weight < math.inf for weight in weights) or not any(weights):
        raise ValueError(f"level_weights are numbers of at least 0, one of them above 0, got {list(weights)}")
    return weights


def check_shares(drop_condition: float, prompt_share: float = 0.0, infill_share: float = 0.0) -> None:
    """Refuse shares of the rows that can't be met.

    Raises:
        ValueError: If one lies outside [0, 1], or prompts and infills together take more than all rows.
    """
    if not 0.0 <= drop_condition <= 1.0:
        raise ValueError(f"drop_condition is a probability, got {drop_condition}")
    if not (prompt_share >= 0 and infill_share >= 0 and prompt_share + infill_share <= 1):
        raise ValueError(f"prompt_share and infill_share are shares of one batch, got {prompt_share} and {infill_share}")


def level_windows(windows: Sequence[int] | None, groups: Sequence[Sequence[int]]) -> list[int] | None:
    """Window of each level (see `maskgen.networks.visibility.nearby`), from one per group of levels; None stays None.

    Raises:
        ValueError: If there isn't one window per group, or one is negative.
    """
    if windows is None:
        return None
    if len(windows) != len(groups) or min(windows) < 0:
        raise ValueError(f"the target has {len(groups)} levels or groups of them, got windows {list(windows)}; give each one, at least 0")
    return [window for window, group in zip(windows, groups, strict=True) for _ in group]


def _random_pairs(
    pairs: Bool[Tensor, "batch length level"], rate: Float[Tensor, " batch"], generator: torch.Generator, span: int
) -> Bool[Tensor, "batch length level"]:
    """Random pairs of cell and level; a span covers neighbouring cells of one level."""
    if span == 1:
        return random_cells(pairs.flatten(1), rate, generator).view_as(pairs)
    by_level = random_cells(rearrange(pairs, "b l k -> b (k l)"), rate, generator, span)
    return rearrange(by_level, "b (k l) -> b l k", l=pairs.shape[1])


def draw_masks(
    batch: TokenBatch,
    segments: Sequence[Segment],
    schedule: MaskSchedule,
    level_weights: Sequence[float],
    drop_condition: float,
    generator: torch.Generator,
    prompt_share: float = 0.0,
    infill_share: float = 0.0,
    timed: Sequence[int] = (),
    groups: Sequence[Sequence[int]] | None = None,
    span: int = 1,
) -> Masked:
    """Masks a batch for training: draws the group of levels, mask rate, cells and condition dropout of every row.

    All cells of a dropped condition are hidden, which is also the null condition of guidance.

    Args:
        batch: Clean rows.
        segments: Segments of the target modality, coarse to fine.
        schedule: Mask schedule; the rate is its value at a uniform draw.
        level_weights: Relative frequency with which each level (or group, if there are groups) is trained; any scale.
        drop_condition: Probability that a row's condition is hidden.
        generator: CPU generator of all random draws.
        prompt_share: Share of rows that keep a prompt of the target, see `draw_spans`.
        infill_share: Share of rows that keep both ends of the target.
        timed: Modalities whose cells are aligned in time with the target: in half of the rows that keep a context, their cells in that
            context are hidden, because an audio prompt may come without a transcript.
        groups: Levels that are masked and trained together, jointly over cells and levels; each level alone if None.
        span: Neighbouring cells of one level that are masked together, see `random_cells`; the rate is then met only on average.

    Raises:
        ValueError: If span is below 1, there isn't one weight per group, or a probability lies outside [0, 1].
    """
    together = level_groups(groups, len(segments))
    checked_weights(level_weights, len(together))
    check_shares(drop_condition, prompt_share, infill_share)
    device, rows = batch.ids.device, len(batch)
    drawn = torch.multinomial(torch.tensor(level_weights, dtype=torch.float64), rows, replacement=True, generator=generator).to(device)
    rate = draw_rates(rows, schedule, generator).to(device)
    target = batch.cells(segments[0].index)
    if prompt_share or infill_share:
        target = draw_spans(target, prompt_share, infill_share, generator)
    member = torch.tensor([[level in group for level in range(len(segments))] for group in together], device=device)[drawn]
    pairs = target[..., None] & member[:, None]
    cells = _random_pairs(pairs, rate, generator, span)
    dropped = (torch.rand(rows, generator=generator) < drop_condition).to(device)
    first, last = (torch.tensor([group[end] for group in together], device=device)[drawn] for end in (0, -1))
    seen, codes = mask_group(batch, segments, last, cells, target)
    seen = seen.hide(condition_cells(batch, segments[0].index) & dropped[:, None])
    if timed and (prompt_share or infill_share):
        unsaid = (torch.rand(rows, generator=generator) < 0.5).to(device)
        seen = seen.hide(outside(batch, target, timed) & unsaid[:, None])
    return Masked(seen, cells, codes, first, pairs.sum(dim=(1, 2)), rate, dropped)
