"""Micro-conditions: what an image model is told of a picture apart from its prompt, as cells of a modality of their own."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from maskgen.tokens.batch import Codes, TokenBatch
from maskgen.tokens.space import MASK, Modality, TokenSpace

NAME = "micro"
LARGEST = 16_383
"""Largest number that a cell holds: pixels, or hundredths of an aesthetic score."""
MICRO = Modality(name=NAME, kind="attribute", num_levels=1, codebook_size=LARGEST + 1)
"""Five cells: width, height, two crop coordinates, and the aesthetic score in hundredths."""


@dataclass(frozen=True, kw_only=True)
class MicroConditions:
    """What the model is told of every picture, apart from its prompt.

    Args:
        width: Pixels of the original picture.
        height: Pixels of the original picture.
        crop: Where a training picture was cut out of a larger one; (0, 0) asks for whole objects.
        aesthetic: Score that LAION's classifier would give, 0 to 10.

    Raises:
        ValueError: If a number is out of range.

    Source: SDXL, arXiv:2307.01952.
    """

    width: int
    height: int
    crop: tuple[int, int] = (0, 0)
    aesthetic: float = 6.0

    def __post_init__(self) -> None:
        sizes = (self.width, self.height, *self.crop)
        if len(sizes) != 4 or not all(0 <= size <= LARGEST for size in sizes) or not 0 <= self.aesthetic <= LARGEST / 100:
            raise ValueError(
                f"original_size and crop are pairs of pixels up to {LARGEST} and aesthetic_score lies in 0 to 10, "
                f"got {self.width} x {self.height}, {tuple(self.crop)} and {self.aesthetic}"
            )

    def repeated(self, rows: int) -> Float[Tensor, "rows 5"]:
        """The numbers in the model's order, once a row."""
        return torch.tensor([[self.width, self.height, *self.crop, self.aesthetic]], dtype=torch.float32).expand(rows, -1)

    def codes(self) -> Codes:
        """The numbers as known cells, [1, 5]; the score is rounded to hundredths."""
        return torch.tensor([[self.width, self.height, *self.crop, round(100 * self.aesthetic)]])


def micro_conditions(batch: TokenBatch, space: TokenSpace, default: MicroConditions) -> Float[Tensor, "batch 5"]:
    """The micro-conditions of each row; rows without cells for them, or with masked ones, have the default.

    They are no condition that guidance leads away from: hidden cells count too, so that both views of guidance are told the same.

    Args:
        batch: Rows.
        space: Their token space, with or without the modality `micro`.
        default: For rows that have none.
    """
    found = default.repeated(len(batch)).to(batch.ids.device).clone()
    if NAME not in [one.name for one in space.modalities]:
        return found
    segment = space.of(NAME)[0]
    cells = (batch.modality == segment.index) & (batch.ids[..., 0] != MASK)
    told = cells.sum(dim=1) == 5
    ids: Int[Tensor, "rows 5"] = batch.ids[..., 0][cells & told[:, None]].view(-1, 5) - segment.offset
    numbers = ids.float()
    numbers[:, 4] /= 100
    found[told] = numbers
    return found


def told_conditions(
    size: tuple[int, int], original_size: Sequence[int] | None, crop: Sequence[int] | None, aesthetic_score: float | None
) -> MicroConditions:
    """Micro-conditions of a call.

    Args:
        size: (width, height) of the generated picture, the default of `original_size`.
        original_size: (width, height) of the picture that the model is asked to imitate.
        crop: Top left corner of a crop out of it.
        aesthetic_score: 0 to 10.

    Raises:
        ValueError: If one is out of range.
        TypeError: If one is no pair of whole numbers.
    """
    for name, pair in (("original_size", original_size), ("crop", crop)):
        if pair is not None and (
            not isinstance(pair, Sequence) or isinstance(pair, str) or len(pair) != 2 or not all(isinstance(one, int) for one in pair)
        ):
            raise TypeError(f"{name} must be two whole numbers of pixels, got {pair!r}")
    width, height = original_size or size
    score = 6.0 if aesthetic_score is None else float(aesthetic_score)
    return MicroConditions(width=width, height=height, crop=(0, 0) if crop is None else (crop[0], crop[1]), aesthetic=score)


def micro_codes(
    size: tuple[int, int], original_size: Sequence[int] | None, crop: Sequence[int] | None, aesthetic_score: float | None
) -> Codes:
    """Micro-conditions of a call as known cells of a published model; see `told_conditions`."""
    return told_conditions(size, original_size, crop, aesthetic_score).codes()
