"""Mask schedules: the share of cells still masked as a function of progress; `maskgen.masking.counts` has the exact counts."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, overload

import torch
from jaxtyping import Float
from torch import Tensor


class MaskSchedule(ABC):
    """Base class of mask schedules: gives the mask rate in training (at a random u) and the masked share at a decoding step.

    Every schedule decreases from 1 at progress 0 to 0 at progress 1.
    """

    rest_first: ClassVar[bool] = False
    """Whether steps that do not divide the cells decode what is left over first; see `masked_after`."""
    by_step: ClassVar[bool] = False
    """Whether every step's own share of the cells is rounded up, instead of what is left after it; see `masked_after`."""
    of_rest: ClassVar[bool] = False
    """Whether every step's share is one of the cells that are left, rounded down; see `masked_after`."""
    nearest: ClassVar[bool] = False
    """Whether shares `by_step` are rounded to the nearest whole number instead of up."""

    @abstractmethod
    def ratio(self, progress: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """Value of the schedule at validated progress; the caller clamps rounding errors to [0, 1]."""

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
    """cos(pi r / 2): decreases slowly at first, so few cells are decoded while there is little context.

    Source: MaskGIT, arXiv:2202.04200.
    """

    def ratio(self, progress: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        return torch.cos(progress * (math.pi / 2))


@dataclass(frozen=True)
class Arccos(MaskSchedule):
    """(2 / pi) arccos(r): decreases faster than cosine early and leaves more cells to the last steps.

    Source: Halton-MaskGIT, arXiv:2503.17076; also TiTok and MaskBit.
    """

    def ratio(self, progress: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        return torch.arccos(progress) * (2 / math.pi)


@dataclass(frozen=True)
class ArccosFloat32(MaskSchedule):
    """`Arccos` with the rounding of Halton-MaskGIT's own code, which computes 1 - arccos(r) / (pi / 2) in float32.

    Where the exact share is a third, as at 16 of 32 steps, the count of a grid of 24 x 24 then differs by one cell from that of `Arccos`.

    Source: valeoai/Halton-MaskGIT.
    """

    def ratio(self, progress: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        shown = 1 - torch.arccos(progress.cpu().float()) / (math.pi * 0.5)
        return (1 - shown.double()).to(progress)


@dataclass(frozen=True)
class Linear(MaskSchedule):
    """1 - r: the same number of cells at every step; the schedule of masked diffusion language models."""

    def ratio(self, progress: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        return 1 - progress


@dataclass(frozen=True)
class Even(MaskSchedule):
    """1 - r with whole numbers: n // steps cells at every step, and one more at each of the first n % steps, so with few cells one by one.

    Source: LLaDA, arXiv:2502.09992 (`get_num_transfer_tokens` of its sampler).
    """

    rest_first: ClassVar[bool] = True

    def ratio(self, progress: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        return 1 - progress


@dataclass(frozen=True)
class ShareOfRest(MaskSchedule):
    """1 - 0.999 r, and 0 at r = 1; every step decodes its share of the cells that are left, rounded down, and the last all.

    A step may decode no cell, and what rounding leaves falls to the last steps.

    Source: Dream, arXiv:2508.15487. Differs: counts are a row's own; there every row of a batch takes those of the mean row.
    """

    of_rest: ClassVar[bool] = True

    def ratio(self, progress: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        return torch.where(progress < 1, 1 - 0.999 * progress, torch.zeros_like(progress))


class RaisedCosine(MaskSchedule):
    """(1 + cos(pi r)) / 2 by step: few cells in the first and the last steps, most of them in the middle.

    Every step's share is rounded to the nearest whole number, which may be 0; the last step decodes what is left.

    Source: 4M, arXiv:2312.06647 (`cosine_schedule` of its code).
    """

    by_step: ClassVar[bool] = True
    nearest: ClassVar[bool] = True

    def ratio(self, progress: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        return (1 + torch.cos(progress * math.pi)) / 2


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
    """-log(r) / log(length): most cells are decoded in the first steps. Everything stays masked until r = 1 / length.

    Args:
        length: Cells that the schedule is defined for, at least 2: a constant, so that training and decoding agree for rows of any length.

    Source: MaskGIT's reference code. Differs: length is a constant here; there it is the length of the current batch.
    """

    length: int = 256

    def __post_init__(self) -> None:
        _check_length(self.length)

    def ratio(self, progress: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        return -torch.log(progress) / math.log(self.length)


@dataclass(frozen=True)
class Exp(MaskSchedule):
    """(1 - length ** (r - 1)) / (1 - 1 / length): nearly all cells are decoded in the last steps.

    Args:
        length: Number of cells the schedule is defined for, at least 2; see `Log`.

    Source: MaskGIT's reference code. Differs: divided by 1 - 1 / length, so that progress 0 masks every cell instead of all but one.
    """

    length: int = 256

    def __post_init__(self) -> None:
        _check_length(self.length)

    def ratio(self, progress: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        return -torch.expm1((progress - 1) * math.log(self.length)) / (1 - 1 / self.length)


@dataclass(frozen=True)
class TruncatedGaussian(MaskSchedule):
    """Mask rates of a Gaussian truncated to [`low`, 1]: the value at progress p is exceeded with probability p.

    Use it for training: a uniform draw gives a rate of the truncated Gaussian, never below `low`, the share that a decode would leave to
    the last step.

    Args:
        mean: Mean of the Gaussian before truncation.
        std: Standard deviation of the Gaussian before truncation, above 0.
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


Laws = dict[str, Callable[[], MaskSchedule]]
MASK_SCHEDULES: Laws = {
    "cosine": Cosine,
    "arccos": Arccos,
    "arccosfloat32": ArccosFloat32,
    "linear": Linear,
    "even": Even,
    "raisedcosine": RaisedCosine,
    "power": Power,
    "log": Log,
    "exp": Exp,
    "truncatedgaussian": TruncatedGaussian,
    "shareofrest": ShareOfRest,
}


def schedule_by_name(name: str) -> MaskSchedule:
    """Mask schedule by name with its default options, for the command line; an unknown name raises a ValueError that lists the names."""
    if name not in MASK_SCHEDULES:
        raise ValueError(f"no mask schedule is called {name!r}; choose one of {', '.join(MASK_SCHEDULES)}")
    return MASK_SCHEDULES[name]()
