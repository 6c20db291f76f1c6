"""Exact numbers of masked cells after each step of a decode, from a mask schedule."""

from collections.abc import Callable
from functools import lru_cache

import torch
from jaxtyping import Float, Int
from torch import Tensor

from maskgen.masking.schedule import MaskSchedule

ROUNDING_SLACK = 1e-8
"""Counts closer than this to an integer are rounded to it: float64 gives 1.9999999999999998 where the schedule is exactly 2."""


def whole_floor(count: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Largest integer not above `count`."""
    return torch.floor(count + ROUNDING_SLACK)


def whole_ceil(count: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Smallest integer not below `count`."""
    return torch.ceil(count - ROUNDING_SLACK)


def masked_after(
    schedule: MaskSchedule,
    step: int,
    steps: int,
    total: Int[Tensor, " batch"],
    rounding: Callable[[Tensor], Tensor] = whole_floor,
) -> Int[Tensor, " batch"]:
    """Number of cells of each row still masked after a step.

    Every step decodes at least one cell until none is left, so a row with fewer cells than steps ends early. A schedule with `rest_first`
    decodes n // steps cells at every step and one more at each of the first n % steps, whatever the rounding. One with `by_step` decodes at
    every step its share of the cells rounded up (or to the `nearest`), as long as there are any, and all that is left at the last. One with
    `of_rest` decodes the share 1 - ratio(after) / ratio(before) of what is left, rounded down.

    Args:
        schedule: Mask schedule.
        step: Index of the step, from 0.
        steps: Total number of steps.
        total: Masked cells of each row at the start.
        rounding: `whole_floor` rounds the masked count down (MaskGIT), `whole_ceil` up (Halton: floor of the *revealed* count).

    Returns:
        Counts that decrease from step to step and end at 0. A step outside [0, steps) raises a ValueError.

    Source: MaskGIT, arXiv:2202.04200. Differs: the reference keeps at least one cell masked until the end and then fills all; here the last
    count is 0.
    """
    if not 0 <= step < steps:
        raise ValueError(f"step must lie in [0, steps), got step {step} of {steps}")
    if schedule.rest_first:
        return total - (step + 1) * (total // steps) - (total % steps).clamp(max=step + 1)
    if schedule.of_rest:
        return total.new_tensor([_rests(schedule, steps, cells)[step] for cells in total.tolist()])
    progress = torch.arange(step + 2, dtype=torch.float64, device=total.device) / steps
    if schedule.by_step:
        shares = -schedule(progress).diff()
        whole = torch.round if schedule.nearest else whole_ceil
        shown = whole(shares[:, None] * total).sum(dim=0).to(total.dtype)
        return total - (total if step == steps - 1 else torch.minimum(shown, total))
    wanted = rounding(schedule(progress)[:, None] * total).to(total.dtype)
    steps_since = torch.arange(step + 1, -1, -1, device=total.device)[:, None]
    return (wanted - steps_since).amin(dim=0).clamp(min=0).to(total.dtype)


@lru_cache(maxsize=1024)
def _rests(schedule: MaskSchedule, steps: int, total: int) -> tuple[int, ...]:
    """Cells left after every step that decodes its share of the rest."""
    shares = schedule(torch.arange(steps + 1, dtype=torch.float64) / steps)
    left = [total]
    for kept in (shares[1:] / shares[:-1]).tolist():
        left.append(left[-1] - int(left[-1] * (1 - kept)))
    return tuple(left[1:])
