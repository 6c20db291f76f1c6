"""Training masks: which cells of a batch the model must guess, and what it may see."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from maskgen.batch import UNKNOWN, TokenBatch, condition_cells
from maskgen.schedule import MaskSchedule
from maskgen.space import MASK, Segment


@dataclass(frozen=True)
class Masked:
    """A batch ready for one training step.

    Args:
        batch: What the model sees.
        cells: Cells whose code at the row's level is to be guessed.
        codes: True codes of those cells, local to the segment; UNKNOWN elsewhere.
        level: Level that each row learns.
        rate: Share of the target that is masked at that level, as drawn.
        dropped: Rows whose condition is hidden.
    """

    batch: TokenBatch
    cells: Bool[Tensor, "batch length"]
    codes: Int[Tensor, "batch length"]
    level: Int[Tensor, " batch"]
    rate: Float[Tensor, " batch"]
    dropped: Bool[Tensor, " batch"]


def draw_rates(batch: int, schedule: MaskSchedule, generator: torch.Generator) -> Float[Tensor, " batch"]:
    """One mask rate a row: the schedule at stratified uniform draws, so that a batch covers all rates.

    Source: antithetic draws as in MDLM, arXiv:2406.07524.
    """
    strata = (torch.randperm(batch, generator=generator) + torch.rand(batch, generator=generator)) / batch
    return schedule(strata)


def random_cells(
    target: Bool[Tensor, "batch length"], rate: Float[Tensor, " batch"], generator: torch.Generator
) -> Bool[Tensor, "batch length"]:
    """Exactly ceil(rate x target cells) random cells of each row's target, at least one where there is any."""
    total = target.sum(dim=1)
    wanted = torch.minimum((rate.to(total.device) * total).ceil().long().clamp(min=1), total)
    order = torch.rand(target.shape, generator=generator).to(target.device).masked_fill(~target, torch.inf)
    return (order.argsort(dim=1).argsort(dim=1) < wanted[:, None]) & target


def mask_level(
    batch: TokenBatch, segments: Sequence[Segment], level: Int[Tensor, " batch"], cells: Bool[Tensor, "batch length"]
) -> tuple[TokenBatch, Int[Tensor, "batch length"]]:
    """Hide the chosen cells at each row's level and every target cell at finer levels; coarser levels stay clean.

    Args:
        batch: Clean rows.
        segments: Segments of the target modality, coarse to fine.
        level: Level of each row.
        cells: Cells hidden at that level.

    Returns:
        The masked batch, and the true codes at the chosen cells (UNKNOWN elsewhere).

    Source: SoundStorm, arXiv:2305.09636; DESIGN: one level at a time, finer levels MASK.
    """
    target = batch.cells(segments[0].index)
    ids, codes = batch.ids.clone(), torch.full_like(batch.modality, UNKNOWN)
    for segment in segments:
        here = (level == segment.level)[:, None] & cells
        finer = (level < segment.level)[:, None] & target
        column = batch.ids[..., segment.level]
        codes = torch.where(here, column - segment.offset, codes)
        ids[..., segment.level] = torch.where(here | finer, MASK, column)
    return batch.with_ids(ids), codes


def draw_masks(
    batch: TokenBatch,
    segments: Sequence[Segment],
    schedule: MaskSchedule,
    level_weights: Sequence[float],
    drop_condition: float,
    generator: torch.Generator,
) -> Masked:
    """Draw level, rate, cells and condition dropout for every row of a batch.

    A dropped condition is hidden, cell by cell: the very null condition that guidance uses.

    Args:
        batch: Clean rows.
        segments: Segments of the target modality, coarse to fine.
        schedule: Mask law; the rate is its value at a uniform draw.
        level_weights: How often each level is learned, any scale.
        drop_condition: Probability that a row's condition is hidden.
        generator: CPU generator that decides everything.

    Raises:
        ValueError: If there is not one weight a level, or the probability lies outside [0, 1].
    """
    if len(level_weights) != len(segments):
        raise ValueError(f"the target has {len(segments)} levels, got {len(level_weights)} level_weights; give one a level")
    if not 0.0 <= drop_condition <= 1.0:
        raise ValueError(f"drop_condition is a probability, got {drop_condition}")
    device, rows = batch.ids.device, len(batch)
    level = torch.multinomial(torch.tensor(level_weights, dtype=torch.float64), rows, replacement=True, generator=generator).to(device)
    rate = draw_rates(rows, schedule, generator).to(device)
    cells = random_cells(batch.cells(segments[0].index), rate, generator)
    dropped = (torch.rand(rows, generator=generator) < drop_condition).to(device)
    seen, codes = mask_level(batch, segments, level, cells)
    seen = seen.hide(condition_cells(batch, segments[0].index) & dropped[:, None])
    return Masked(seen, cells, codes, level, rate, dropped)
