"""Images as requests: prompts and edits become known and blank cells; inpainting, outpainting and variation choose what is blank."""

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Int
from PIL import Image, ImageOps
from torch import Tensor

from maskgen.io.letterbox import letterbox
from maskgen.processors.base import Prepared, Processor
from maskgen.processors.media import as_image, as_mask
from maskgen.processors.text import prompt_codes
from maskgen.tokenizers.base import Tokenizer
from maskgen.tokenizers.image import ImageTokenizer
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


def with_blanks(codes: Codes, cells: Bool[Tensor, "rows columns"]) -> Codes:
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


def strength_cells(grid: tuple[int, int], strength: float, generator: torch.Generator) -> Bool[Tensor, "rows columns"]:
    """Random cells of a grid: ceil(strength x cells) of them, so 0 keeps the picture and 1 makes all of it anew.

    Raises:
        ValueError: If strength lies outside [0, 1].
    """
    if not 0.0 <= strength <= 1.0:
        raise ValueError(f"strength must lie in [0, 1], got {strength}")
    cells = grid[0] * grid[1]
    order: Int[Tensor, " cells"] = torch.randperm(cells, generator=generator)
    return (order < math.ceil(strength * cells - 1e-9)).reshape(grid)


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
            grid = (self.base.shape[1], self.base.shape[2])
            cells = strength_cells(grid, self.strength, torch.Generator().manual_seed(seed))
        return with_blanks(self.base, cells)

    def finish(self, made: Image.Image) -> Image.Image:
        """The decoded picture with the known pixels put back."""
        if self.mask is not None:
            return composite(self.picture, made, self.mask)
        return self.picture if self.strength == 0 else made


def make_edit(
    tokenizer: ImageTokenizer,
    image: Image.Image,
    mask: Image.Image | None,
    strength: float | None,
    outpaint: tuple[int, int, int, int] | None,
) -> Edit:
    """Codes and unknown cells of an edit; exactly one of the last three arguments is given.

    Raises:
        ValueError: If the mask has another size than the picture, or sizes do not fit the cells.
    """
    if mask is not None and mask.size != image.size:
        raise ValueError(
            f"the mask has {mask.width} x {mask.height} pixels, the picture {image.width} x {image.height}; give a mask of that size"
        )
    if image.size != tokenizer.size:
        logger.warning("the picture has %d x %d pixels and is letterboxed to %d x %d", *image.size, *tokenizer.size)
        image = letterbox(image, tokenizer.size)
        mask = None if mask is None else ImageOps.pad(mask.convert("L"), tokenizer.size, Image.Resampling.LANCZOS, color=0)
    if outpaint is not None:
        _require_fit(image, outpaint, tokenizer.pixels_per_cell)
        image, mask = canvas(image, *outpaint)
    base = tokenizer.encode([image])[0]
    if mask is None:
        assert strength is not None, "an edit without a mask is a variation and has a strength"
        strength_cells((1, 1), strength, torch.Generator())
        return Edit(image, base, None, None, strength)
    return Edit(image, base, mask, mask_cells(mask, tokenizer.pixels_per_cell))


def _require_fit(picture: Image.Image, sides: tuple[int, int, int, int], pixels_per_cell: int) -> None:
    """Refuse a canvas whose cells would fill the memory: attention grows with their square."""
    left, top, right, bottom = sides
    cells = (picture.width + left + right) * (picture.height + top + bottom) // pixels_per_cell**2
    if cells > MOST_CELLS:
        raise ValueError(f"the wider picture would have {cells:,} cells, at most {MOST_CELLS:,} are decoded; add fewer pixels")


@dataclass(frozen=True, kw_only=True)
class ImageRequest:
    """What an image model is asked for.

    Args:
        prompts: Captions; an empty one only with an image or in a model without text.
        seeds: One an output of each prompt.
        image: Image to edit, in any form that `as_image` takes.
        mask_image: White where the image is regenerated; as large as `image`.
        strength: Share of random cells that are regenerated, in [0, 1].
        outpaint: Pixels to add (left, top, right, bottom), multiples of the cell.
        negative_prompts: What guidance leads away from, one a prompt; None leads away from no condition at all.
        size: (width, height) in pixels of a new image; None takes the model's own.
    """

    prompts: Sequence[str]
    seeds: Sequence[Sequence[int]]
    image: Any = None
    mask_image: Any = None
    strength: float | None = None
    outpaint: Sequence[int] | None = None
    negative_prompts: Sequence[str] | None = None
    size: tuple[int, int] | None = None


@dataclass(frozen=True)
class PreparedImage(Prepared):
    """Rows of an image request, and the edit that they are."""

    edit: Edit | None = None


class ImageProcessor(Processor[ImageRequest, PreparedImage]):
    """Captions and edits to cells, decoded images to edited ones.

    Args:
        image: The model's image tokenizer.
        text: Its text tokenizer; None for a model without text.
    """

    def __init__(self, image: Tokenizer, text: Tokenizer | None) -> None:
        self.image, self.text = image, text

    def prepare(self, request: ImageRequest) -> PreparedImage:
        """Rows of known and blank cells; see `Processor.prepare`."""
        edit = self.edit(request)
        blank = {} if request.size is None else {"image": self._blank(request.size)}
        rows, negative = [], []
        for number, (prompt, seeds) in enumerate(zip(request.prompts, request.seeds, strict=True)):
            text = self.text_codes(prompt, allow_empty=edit is not None)
            against = None if request.negative_prompts is None else self.text_codes(request.negative_prompts[number], allow_empty=True)
            for seed in seeds:
                cells = blank if edit is None else {"image": edit.codes(seed)}
                rows.append({**text, **cells})
                negative.append({**against, **cells} if against is not None else {})
        flat = [seed for seeds in request.seeds for seed in seeds]
        return PreparedImage(rows, flat, None if request.negative_prompts is None else negative, edit)

    def finish(self, plan: PreparedImage, media: Sequence[Any]) -> list[Image.Image]:
        """The images, with the known pixels of an edit put back."""
        return list(media) if plan.edit is None else [plan.edit.finish(made) for made in media]

    def text_codes(self, text: str, allow_empty: bool = False) -> Mapping[str, Codes]:
        """Known cells of a caption; see `prompt_codes`.

        Raises:
            ValueError: If the caption is empty and must not be, is too long, or the model has no text.
        """
        if self.text is None:
            if text.strip():
                raise ValueError(f"this model draws without a text, got the prompt {text[:80]!r}; leave it out")
            return {}
        return prompt_codes(self.text, text, allow_empty)

    def edit(self, request: ImageRequest) -> Edit | None:
        """The edit that a request asks for.

        Raises:
            ValueError: If its arguments contradict each other or don't fit the image, or the tokenizer cannot edit.
        """
        options = {"mask_image": request.mask_image, "strength": request.strength, "outpaint": request.outpaint}
        asked = [name for name, value in options.items() if value is not None]
        if request.image is None:
            if asked:
                raise ValueError(f"{asked[0]} needs image, the image to edit")
            return None
        if len(asked) != 1:
            raise ValueError(f"an edit takes exactly one of mask_image, strength and outpaint, got {' and '.join(asked) or 'none'}")
        if request.size is not None:
            raise ValueError("width and height are for new images; an edit has the size of its image")
        if not isinstance(self.image, ImageTokenizer):
            raise ValueError(f"editing images needs the learned image tokenizer, this model has {type(self.image).__name__}")
        mask = None if request.mask_image is None else as_mask(request.mask_image)
        return make_edit(self.image, as_image(request.image), mask, request.strength, _sides(request.outpaint))

    def _blank(self, size: tuple[int, int]) -> Codes:
        """Blank cells of an image of a size in pixels."""
        per_cell = getattr(self.image, "pixels_per_cell", None)
        if per_cell is None:
            raise ValueError(f"width and height need a tokenizer that knows its pixels a cell, this model has {type(self.image).__name__}")
        columns, rows = (side / per_cell for side in size)
        if min(size) < 1 or rows % 1 or columns % 1 or rows * columns > MOST_CELLS:
            raise ValueError(
                f"width and height must be multiples of {per_cell} with at most {MOST_CELLS:,} cells of {per_cell} x {per_cell} pixels, "
                f"got {size[0]} x {size[1]}"
            )
        return torch.full((self.image.num_levels, int(rows), int(columns)), UNKNOWN)


def letterboxed(image: Any, tokenizer: Tokenizer) -> Image.Image:
    """An image in any form that `as_image` takes, letterboxed to the size that a tokenizer was trained on, if it has one."""
    size = getattr(tokenizer, "size", None)
    return as_image(image) if size is None else letterbox(as_image(image), tuple(size))


def _sides(outpaint: Any) -> tuple[int, int, int, int] | None:
    """Four whole numbers of pixels, or None."""
    if outpaint is None:
        return None
    if not isinstance(outpaint, (tuple, list)) or len(outpaint) != 4 or not all(isinstance(side, int) for side in outpaint):
        raise TypeError(f"outpaint must be four whole numbers of pixels (left, top, right, bottom), got {outpaint!r}")
    left, top, right, bottom = outpaint
    return left, top, right, bottom
