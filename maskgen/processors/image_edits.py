"""Edits of images as choices of cells: masks, variations and wider canvases decide which codes of a picture are made anew."""

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Int
from PIL import Image, ImageOps
from torch import Tensor

from maskgen.io.letterbox import letterbox
from maskgen.tokenizers.base import Tokenizer
from maskgen.tokenizers.image_geometry import image_size, pixels_per_cell
from maskgen.tokens.batch import UNKNOWN, Codes

logger = logging.getLogger(__name__)
MOST_CELLS = 4096
"""Cells of the largest canvas that is decoded."""


def mask_cells(mask: Image.Image, pixels_per_cell: int, grow: int = 0) -> Bool[Tensor, "rows columns"]:
    """Cells that a pixel mask touches: a cell is unknown if any of its pixels is.

    Args:
        mask: White (128 and above) where the picture is to be made anew.
        pixels_per_cell: Pixels a side that one cell stands for; both sides of the mask must be multiples.
        grow: Rings of further cells around, for a smoother seam.

    Raises:
        ValueError: If the mask's sides are no multiples, or `grow` is negative.
    """
    if mask.width % pixels_per_cell or mask.height % pixels_per_cell:
        raise ValueError(f"the mask has {mask.width} x {mask.height} pixels; both sides must be multiples of {pixels_per_cell}")
    if grow < 0:
        raise ValueError(f"grow counts rings of cells and must be at least 0, got {grow}")
    pixels = torch.from_numpy(np.asarray(mask.convert("L")).copy()) >= 128
    touched = torch.nn.functional.max_pool2d(pixels[None].float(), pixels_per_cell)
    if grow:
        touched = torch.nn.functional.max_pool2d(touched, 2 * grow + 1, stride=1, padding=grow)
    return touched[0].bool()


def with_blanks(codes: Codes, cells: Bool[Tensor, "*grid"]) -> Codes:
    """The same codes with the chosen cells unknown on all levels."""
    return torch.where(cells, UNKNOWN, codes)


def composite(original: Image.Image, made: Image.Image, mask: Image.Image) -> Image.Image:
    """Pixels of `made` where the mask is white, of `original` elsewhere, exactly."""
    return Image.composite(made, original, mask.convert("L").point(lambda value: 255 if value >= 128 else 0))


def canvas(picture: Image.Image, left: int, top: int, right: int, bottom: int) -> tuple[Image.Image, Image.Image]:
    """A larger white canvas with the picture on it, and the mask of what is new.

    Args:
        picture: RGB.
        left: Pixels to add on the left, at least 0; the others alike.
        top: Above.
        right: On the right.
        bottom: Below.

    Raises:
        ValueError: If a side is negative or nothing is added.
    """
    sides = (left, top, right, bottom)
    if min(sides) < 0 or not any(sides):
        raise ValueError(f"outpainting adds pixels at one side at least and takes none away, got left, top, right, bottom = {sides}")
    size = (picture.width + left + right, picture.height + top + bottom)
    wider = Image.new("RGB", size, "white")
    wider.paste(picture, (left, top))
    new = Image.new("L", size, 255)
    new.paste(0, (left, top, left + picture.width, top + picture.height))
    return wider, new


def strength_cells(grid: Sequence[int], strength: float, generator: torch.Generator) -> Bool[Tensor, "*grid"]:
    """Random cells of a grid: ceil(strength x cells) of them, so 0 keeps the picture and 1 makes all of it anew.

    Raises:
        ValueError: If strength lies outside [0, 1].
    """
    if not 0.0 <= strength <= 1.0:
        raise ValueError(f"strength must lie in [0, 1], got {strength}")
    cells = math.prod(grid)
    order: Int[Tensor, " cells"] = torch.randperm(cells, generator=generator)
    return (order < math.ceil(strength * cells - 1e-9)).reshape(tuple(grid))


@dataclass(frozen=True)
class Edit:
    """A picture to edit, its codes and what of it is new.

    Args:
        picture: The picture at the model's size.
        base: Its codes.
        mask: White where pixels are new; None for a variation, which has no pixel rule.
        cells: Unknown cells; None where they depend on the seed.
        strength: Share of cells to draw by seed, where `cells` is None.
    """

    picture: Image.Image
    base: Codes
    mask: Image.Image | None
    cells: Tensor | None
    strength: float = 0.0

    def codes(self, seed: int) -> Codes:
        """Codes with the unknown cells blank."""
        cells = self.cells
        if cells is None:
            cells = strength_cells(self.base.shape[1:], self.strength, torch.Generator().manual_seed(seed))
        return with_blanks(self.base, cells)

    def finish(self, made: Image.Image) -> Image.Image:
        """The decoded picture with the known pixels put back."""
        if self.mask is not None:
            return composite(self.picture, made, self.mask)
        return self.picture if self.strength == 0 else made


def make_edit(
    tokenizer: Tokenizer,
    image: Image.Image,
    mask: Image.Image | None,
    strength: float | None,
    outpaint: tuple[int, int, int, int] | None,
    grid: Sequence[int] | None = None,
) -> Edit:
    """Codes and unknown cells of an edit; exactly one of mask, strength and outpaint is given.

    The picture is edited at the size of the model's grid, else at the tokenizer's own size, else as it is.

    Args:
        tokenizer: Any image tokenizer. A mask and outpainting need cells in rows and columns; a variation takes any grid.
        image: RGB.
        mask: White where the picture is made anew; as large as it.
        strength: Share of random cells that are made anew.
        outpaint: Pixels to add (left, top, right, bottom).
        grid: Code grid of the model.

    Raises:
        ValueError: If the mask has another size than the picture, sizes do not fit the cells, or there are no rows and columns of cells.
    """
    side = 1 if strength is not None else pixels_per_cell(tokenizer)
    if mask is not None and mask.size != image.size:
        raise ValueError(
            f"the mask has {mask.width} x {mask.height} pixels, the picture {image.width} x {image.height}; give a mask of that size"
        )
    size = image_size(tokenizer, grid) or image.size
    if image.size != size:
        logger.warning("the picture has %d x %d pixels and is letterboxed to %d x %d", *image.size, *size)
        image = letterbox(image, size)
        mask = None if mask is None else ImageOps.pad(mask.convert("L"), size, Image.Resampling.LANCZOS, color=0)
    if outpaint is not None:
        _require_fit(image, outpaint, side)
        image, mask = canvas(image, *outpaint)
    base = tokenizer.encode([image])[0]
    if mask is None:
        assert strength is not None, "an edit without a mask is a variation and has a strength"
        strength_cells((1, 1), strength, torch.Generator())
        return Edit(image, base, None, None, strength)
    return Edit(image, base, mask, mask_cells(mask, side))


def _require_fit(picture: Image.Image, sides: tuple[int, int, int, int], pixels_per_cell: int) -> None:
    """Refuse a canvas whose cells would fill the memory: attention grows with their square."""
    left, top, right, bottom = sides
    cells = (picture.width + left + right) * (picture.height + top + bottom) // pixels_per_cell**2
    if cells > MOST_CELLS:
        raise ValueError(f"the wider picture would have {cells:,} cells, at most {MOST_CELLS:,} are decoded; add fewer pixels")
