"""Guidance: how far the logits go past the conditional ones, over a decode, and the arithmetic of it."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

Scale = float | Tensor
"""One number for the whole batch, or one a row."""


class GuidanceSchedule(ABC):
    """Guidance over a decode: logits = uncond + scale * (cond - uncond); 1 is off and costs nothing."""

    @abstractmethod
    def scale(self, progress: float, masked: Float[Tensor, " batch"] | None = None) -> float | Float[Tensor, " batch"]:
        """Scale of one step.

        Args:
            progress: Steps done before it over steps in all, k / N.
            masked: Share of each row's cells of the level that are masked before it, in [0, 1]; known cells count as not masked. None
                stands for 1 - progress in every row.

        Returns:
            One number for all rows, or one a row if `masked` was given and the schedule reads it.
        """


def _check_scale(guidance_scale: float) -> None:
    if not 0 <= guidance_scale < math.inf:
        raise ValueError(f"guidance_scale must be a finite number of at least 0 (1 is off), got {guidance_scale}")


@dataclass(frozen=True)
class ConstantGuidance(GuidanceSchedule):
    """The same scale at every step."""

    guidance_scale: float = 1.0

    def __post_init__(self) -> None:
        _check_scale(self.guidance_scale)

    def scale(self, progress: float, masked: Float[Tensor, " batch"] | None = None) -> float:
        return self.guidance_scale


@dataclass(frozen=True)
class LinearGuidance(GuidanceSchedule):
    """From 1 at the first step straight up to the scale.

    Args:
        guidance_scale: Scale at the end of the ramp.
        reached_at: Progress at which the ramp ends: 1.0 gives 1 + (g - 1) k / N, (N - 1) / N gives 1 + (g - 1) k / (N - 1).

    Source: Muse, arXiv:2301.00704; valeoai/Halton-MaskGIT's confidence sampler.
    """

    guidance_scale: float = 1.0
    reached_at: float = 1.0

    def __post_init__(self) -> None:
        _check_scale(self.guidance_scale)
        if not 0 < self.reached_at <= 1:
            raise ValueError(f"reached_at must lie in (0, 1], got {self.reached_at}")

    def scale(self, progress: float, masked: Float[Tensor, " batch"] | None = None) -> float:
        return 1 + (self.guidance_scale - 1) * min(progress / self.reached_at, 1.0)


@dataclass(frozen=True)
class CosineGuidance(GuidanceSchedule):
    """1 + (g - 1) (1 - cos(pi progress ** power)) / 2: off while the layout forms, full at the end.

    Args:
        power: Larger starts later; TiTok uses 3. The scale itself is reached at progress 1.

    Source: TiTok's power-cosine, arXiv:2406.07550.
    """

    guidance_scale: float = 1.0
    power: float = 3.0

    def __post_init__(self) -> None:
        _check_scale(self.guidance_scale)
        if not 0 < self.power < math.inf:
            raise ValueError(f"power must be a positive number, got {self.power}")

    def scale(self, progress: float, masked: Float[Tensor, " batch"] | None = None) -> float:
        return 1 + (self.guidance_scale - 1) * (1 - math.cos(math.pi * progress**self.power)) / 2


@dataclass(frozen=True)
class IntervalGuidance(GuidanceSchedule):
    """The scale while start <= progress < stop, elsewhere 1, where the second pass is skipped.

    Args:
        guidance_scale: Scale inside the interval.
        start: First progress that is guided.
        stop: First progress that no longer is.

    Source: eMIGM, arXiv:2503.07197, whose time t runs from 1 to 0: low < t <= high is start = 1 - high, stop = 1 - low here.
    """

    guidance_scale: float
    start: float
    stop: float

    def __post_init__(self) -> None:
        _check_scale(self.guidance_scale)
        if not 0 <= self.start < self.stop <= 1:
            raise ValueError(f"an interval needs 0 <= start < stop <= 1, got start {self.start} and stop {self.stop}")

    def scale(self, progress: float, masked: Float[Tensor, " batch"] | None = None) -> float:
        return self.guidance_scale if self.start <= progress < self.stop else 1.0


@dataclass(frozen=True)
class MaskRateGuidance(GuidanceSchedule):
    """1 + (g - 1) (L - masked) / L for each row: guided by as much of the row as is known, whatever the step.

    A row that is edited, with most of its L cells known, is guided from its first step on; a blank one starts at 1.

    Source: MAR, arXiv:2406.11838 (also MaskGen-KL). Differs: cells masked before the step, there those still masked after it, and per row.
    """

    guidance_scale: float = 1.0

    def __post_init__(self) -> None:
        _check_scale(self.guidance_scale)

    def scale(self, progress: float, masked: Float[Tensor, " batch"] | None = None) -> float | Float[Tensor, " batch"]:
        return 1 + (self.guidance_scale - 1) * (progress if masked is None else 1 - masked)


@dataclass(frozen=True)
class AheadGuidance(GuidanceSchedule):
    """From near 2 up to the scale at the last step, by the progress after each step: 2 + (g - 2) f((k + 1) / N).

    Args:
        guidance_scale: g; below 2 it is the scale of every step.
        steps: N.
        shape: f(r) is r for "linear" and (1 - cos(pi r)) / 2 for "cosine".

    Source: MaskGen, arXiv:2501.07730, whose code writes c + s (c - u), so g = 1 + s.
    """

    guidance_scale: float = 1.0
    steps: int = 12
    shape: Literal["linear", "cosine"] = "cosine"

    def __post_init__(self) -> None:
        _check_scale(self.guidance_scale)
        if self.steps < 1 or self.shape not in ("linear", "cosine"):
            raise ValueError(f"steps must be at least 1 and shape linear or cosine, got {self.steps} and {self.shape!r}")

    def scale(self, progress: float, masked: Float[Tensor, " batch"] | None = None) -> float:
        after = min(progress + 1 / self.steps, 1.0)
        first = min(2.0, self.guidance_scale)
        return first + (self.guidance_scale - first) * (after if self.shape == "linear" else (1 - math.cos(math.pi * after)) / 2)


@dataclass(frozen=True)
class FallingGuidance(GuidanceSchedule):
    """From the scale at the first step down to 1 at the last: 1 + (g - 1) cos(pi k / (2 (N - 1))); a single step has the scale itself.

    The condition decides the layout, and the last step costs no unconditional pass.

    Args:
        guidance_scale: g.
        steps: N.

    Source: MAGNeT, arXiv:2401.04577 (annealed guidance), which mixes by the share that is masked before a step. Differs: the last step
    is exactly unguided; there float32 leaves 4e-8 of it.
    """

    guidance_scale: float = 1.0
    steps: int = 12

    def __post_init__(self) -> None:
        _check_scale(self.guidance_scale)
        if self.steps < 1:
            raise ValueError(f"steps must be at least 1, got {self.steps}")

    def scale(self, progress: float, masked: Float[Tensor, " batch"] | None = None) -> float:
        left = 1 - min(round(progress * self.steps) / max(self.steps - 1, 1), 1.0)
        return 1 + (self.guidance_scale - 1) * math.sin(0.5 * math.pi * left)


FALLING = "falling"
"""Name of `FallingGuidance` in settings."""
AHEAD: dict[str, Literal["linear", "cosine"]] = {"linear_ahead": "linear", "cosine_ahead": "cosine"}
"""Names of `AheadGuidance` in settings to its shapes."""
GuidanceLaws = dict[str, Callable[[float], GuidanceSchedule]]
GUIDANCE_SCHEDULES: GuidanceLaws = {
    "constant": ConstantGuidance,
    "linear": LinearGuidance,
    "cosine": CosineGuidance,
    "mask_rate": MaskRateGuidance,
}


def guidance_by_name(name: str, guidance_scale: float, steps: int = 12) -> GuidanceSchedule:
    """The guidance schedule of that name at that scale, for a decode of so many steps; an interval has no default ends and is an object."""
    if name in AHEAD:
        return AheadGuidance(guidance_scale, steps, AHEAD[name])
    if name == FALLING:
        return FallingGuidance(guidance_scale, steps)
    if name not in GUIDANCE_SCHEDULES:
        raise ValueError(f"no guidance schedule is called {name!r}; choose one of {', '.join([*GUIDANCE_SCHEDULES, *AHEAD, FALLING])}")
    return GUIDANCE_SCHEDULES[name](guidance_scale)


def is_off(scale: Scale) -> bool:
    """Whether no cell is guided, so that the unconditional pass can be left out."""
    return bool((scale == 1).all()) if isinstance(scale, Tensor) else scale == 1


def mixed(
    conditional: Float[Tensor, "cells size"], unconditional: Float[Tensor, "cells size"], scale: float | Float[Tensor, "cells 1"]
) -> Float[Tensor, "cells size"]:
    """u + scale (c - u), in float32 at least: a scale of 8 multiplies the rounding of bfloat16 by 8.

    A cell whose own scale is 1 gets c itself and not u + (c - u), which rounds: it equals its row alone, where that pass is left out.
    """
    base = unconditional.to(torch.promote_types(unconditional.dtype, torch.float32))
    found = (conditional - base).mul_(scale).add_(base)
    return torch.where(scale == 1, conditional.to(found.dtype), found) if isinstance(scale, Tensor) else found


def check_rescale(rescale: float) -> None:
    """Raises ValueError if the share of `rescale_guided` is none."""
    if not 0 <= rescale <= 1:
        raise ValueError(f"rescale must lie in [0, 1] (0 is off), got {rescale}")


def rescale_guided(
    guided: Float[Tensor, "cells size"], conditional: Float[Tensor, "cells size"], rows: Int[Tensor, " cells"], rescale: float
) -> Float[Tensor, "cells size"]:
    """rescale * l std(c) / std(l) + (1 - rescale) l: guided logits brought back towards the spread of the conditional ones.

    Args:
        guided: l.
        conditional: c.
        rows: Row of each cell, ascending. Each row has its own std, over all logits of its chosen cells.
        rescale: Share of the correction, in [0, 1]; at 0 `guided` itself is returned.

    Source: arXiv:2305.08891. Differs: MaskGCT takes the std over the batch, so that a row depends on its neighbours.
    """
    if rescale == 0 or not len(rows):
        return guided
    counts = [count for count in torch.bincount(rows).tolist() if count]
    pairs = zip(torch.split(guided, counts), torch.split(conditional.to(guided.dtype), counts), strict=True)
    return torch.cat([own * (1 + rescale * (_spread_ratio(wanted, own) - 1)) for own, wanted in pairs])


def _spread_ratio(conditional: Float[Tensor, "cells size"], guided: Float[Tensor, "cells size"]) -> Float[Tensor, ""]:
    """std(c) / std(l) of one row; 1 where l is constant and no factor could spread it."""
    spread = guided.std(correction=0)
    return torch.where(spread > 0, conditional.std(correction=0) / spread, 1.0)
