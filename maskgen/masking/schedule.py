"""Mask schedules: the share of cells still masked as a function of progress, and exact counts from it."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import overload

import torch
from jaxtyping import Float, Int
from torch import Tensor

ROUNDING_SLACK = 1e-8
"""Counts closer than this to a whole number are that number: float64 leaves 1.9999999999999998 where the schedule says 2."""


class MaskSchedule(ABC):
    """A mask schedule: one object gives the training rate of a random u and the decoding count at a step.

    Every schedule is 1 at progress 0, falls, and is 0 at progress 1.
    """

    @abstractmethod
    def ratio(self, progress: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """The schedule on checked progress; the caller clips what rounding leaves outside [0, 1]."""

    @overload
    def __call__(self, progress: float) -> float: ...
    @overload
    def __call__(self, progress: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]: ...
    def __call__(self, progress: float | Float[Tensor, "*shape"]) -> float | Float[Tensor, "*shape"]:
        """Share of the target still masked when `progress` of the steps are done.

        Args:
            progress: Steps done over steps in all, in [0, 1]: a float, or a tensor of any shape (a training draw).

        Returns:
            Mask ratio in [0, 1], of the type, shape and dtype of `progress`.

        Raises:
            ValueError: If progress lies outside [0, 1].
        """
        if not isinstance(progress, Tensor):
            return float(self(torch.tensor(progress, dtype=torch.float64)))
        if not bool(((progress >= 0) & (progress <= 1)).all()):
            raise ValueError(f"progress must lie in [0, 1], got {progress.tolist()}")
        return self.ratio(progress).clamp(0, 1)  # cos(pi / 2) is -4e-8 in float32


@dataclass(frozen=True)
class Cosine(MaskSchedule):
    """cos(pi r / 2): falls slowly at first, so few cells are fixed while the model knows least.

    Source: MaskGIT, arXiv:2202.04200.
    """

    def ratio(self, progress: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        return torch.cos(progress * (math.pi / 2))


@dataclass(frozen=True)
class Arccos(MaskSchedule):
    """(2 / pi) arccos(r): drops faster than cosine early and keeps more for the last steps.

    Source: Halton-MaskGIT, arXiv:2503.17076; also TiTok and MaskBit.
    """

    def ratio(self, progress: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        return torch.arccos(progress) * (2 / math.pi)


@dataclass(frozen=True)
class Linear(MaskSchedule):
    """1 - r: the same number of cells at every step; the schedule of masked diffusion language models."""

    def ratio(self, progress: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        return 1 - progress


@dataclass(frozen=True)
class Power(MaskSchedule):
    """1 - r ** exponent: above 1 concave like cosine, below 1 convex.

    Args:
        exponent: Larger than 0; 2 is MaskGIT's "square", 3 its "cubic".

    Source: MaskGIT, arXiv:2202.04200.
    """

    exponent: float = 2.0

    def __post_init__(self) -> None:
        if not 0 < self.exponent < math.inf:
            raise ValueError(f"exponent must be a positive number, got {self.exponent}")

    def ratio(self, progress: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        return 1 - progress**self.exponent


def _check_length(length: int) -> None:
    if length < 2:
        raise ValueError(f"length must be at least 2, got {length}")


@dataclass(frozen=True)
class Log(MaskSchedule):
    """-log(r) / log(length): most cells are fixed at once. Everything stays masked until r = 1 / length.

    Args:
        length: Cells for which the schedule is drawn, at least 2. It belongs to the schedule, not to the row at hand, so that one object
            means the same in training and decoding, for rows of any size.

    Source: MaskGIT's reference code. Differs: length is fixed here, there it is that of the batch at hand.
    """

    length: int = 256

    def __post_init__(self) -> None:
        _check_length(self.length)

    def ratio(self, progress: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        return -torch.log(progress) / math.log(self.length)


@dataclass(frozen=True)
class Exp(MaskSchedule):
    """(1 - length ** (r - 1)) / (1 - 1 / length): nearly all cells are fixed in the last steps.

    Args:
        length: Cells for which the schedule is drawn, at least 2; see `Log`.

    Source: MaskGIT's reference code. Differs: divided by 1 - 1 / length, so that progress 0 masks everything and not all but one cell.
    """

    length: int = 256

    def __post_init__(self) -> None:
        _check_length(self.length)

    def ratio(self, progress: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        return -torch.expm1((progress - 1) * math.log(self.length)) / (1 - 1 / self.length)


@dataclass(frozen=True)
class TruncatedGaussian(MaskSchedule):
    """The mask rates of a Gaussian between `low` and 1, the largest first: at progress p the rate above which a share p of it lies.

    A schedule for training: a uniform draw gives a rate of the truncated Gaussian, never below `low`. Decoding by it leaves a share of
    `low` to the last step, where it falls to 0 at once, for at progress 1 nothing may be masked; decode by another schedule, such as
    cosine.

    Args:
        mean: Of the Gaussian before it is cut.
        std: Of the Gaussian before it is cut, above 0.
        low: Smallest rate, in [0, 1).

    Source: MAGE, arXiv:2211.09117 (mean 0.55, standard deviation 0.25, from 0.5 to 1).
    """

    mean: float = 0.55
    std: float = 0.25
    low: float = 0.5

    def __post_init__(self) -> None:
        if not (0 <= self.low < 1 and 0 < self.std < math.inf and math.isfinite(self.mean)):
            raise ValueError(f"std must be above 0 and low must be in [0, 1), got mean {self.mean}, std {self.std}, low {self.low}")

    def ratio(self, progress: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        below, upto = (0.5 * math.erfc((self.mean - edge) / (self.std * math.sqrt(2))) for edge in (self.low, 1.0))
        shares = upto - progress.double() * (upto - below)
        rates = (self.mean + self.std * torch.special.ndtri(shares)).clamp(self.low, 1.0)
        rates = torch.where(progress == 0, 1.0, torch.where(progress == 1, 0.0, rates))
        return rates.to(progress.dtype)


def whole_floor(count: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Largest whole number not above `count`."""
    return torch.floor(count + ROUNDING_SLACK)


def whole_ceil(count: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Smallest whole number not below `count`."""
    return torch.ceil(count - ROUNDING_SLACK)


def masked_after(
    schedule: MaskSchedule,
    step: int,
    steps: int,
    total: Int[Tensor, " batch"],
    rounding: Callable[[Tensor], Tensor] = whole_floor,
) -> Int[Tensor, " batch"]:
    """Cells of each row still masked after a step.

    Every step takes at least one cell until the row has none, so a row with fewer cells than steps ends early.

    Args:
        schedule: Mask schedule.
        step: Number of the step, from 0.
        steps: Steps in all.
        total: Cells of each row that were unknown at the start.
        rounding: `whole_floor` rounds the masked count down (MaskGIT), `whole_ceil` up (Halton: floor of the *revealed* count).

    Returns:
        Counts that fall from step to step and end at 0. A step that is not one of the steps is a ValueError.

    Source: MaskGIT, arXiv:2202.04200. Differs: the reference keeps one cell masked to the end and then writes all; here that is the 0.
    """
    if not 0 <= step < steps:
        raise ValueError(f"step must lie in [0, steps), got step {step} of {steps}")
    progress = torch.arange(step + 2, dtype=torch.float64, device=total.device) / steps
    wanted = rounding(schedule(progress)[:, None] * total).to(total.dtype)
    steps_since = torch.arange(step + 1, -1, -1, device=total.device)[:, None]
    return (wanted - steps_since).amin(dim=0).clamp(min=0).to(total.dtype)


Laws = dict[str, Callable[[], MaskSchedule]]
MASK_SCHEDULES: Laws = {
    "cosine": Cosine,
    "arccos": Arccos,
    "linear": Linear,
    "power": Power,
    "log": Log,
    "exp": Exp,
    "truncatedgaussian": TruncatedGaussian,
}


def schedule_by_name(name: str) -> MaskSchedule:
    """The mask schedule of that name with its default options, for the command line; a ValueError lists the names."""
    if name not in MASK_SCHEDULES:
        raise ValueError(f"no mask schedule is called {name!r}; choose one of {', '.join(MASK_SCHEDULES)}")
    return MASK_SCHEDULES[name]()
