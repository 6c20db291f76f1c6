"""A mask schedule run at another pace: few cells at first and many later, or the other way round."""

import math
from dataclasses import dataclass
from typing import ClassVar

from jaxtyping import Float
from torch import Tensor

from maskgen.masking.schedule import Linear, MaskSchedule


@dataclass(frozen=True)
class Shifted(MaskSchedule):
    """A schedule whose progress r becomes s r / (1 + (s - 1) r): below 1 it starts slowly, above 1 fast; 1 changes nothing.

    Every step decodes its own share of the cells, rounded up.

    Args:
        schedule: What is shifted.
        shift: s, larger than 0.

    Source: flow matching at high resolution, arXiv:2403.03206; for masked decoding OmniVoice (k2-fsa), which shifts the linear schedule by
    0.1. Differs: shares are computed in float64, so a share that is a whole number of cells is not rounded up to the next one.
    """

    schedule: MaskSchedule = Linear()  # noqa: RUF009 (frozen)
    shift: float = 0.1
    by_step: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not 0 < self.shift < math.inf:
            raise ValueError(f"shift must be a positive number, got {self.shift}")

    def ratio(self, progress: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        return self.schedule((self.shift * progress / (1 + (self.shift - 1) * progress)).clamp(0, 1))
