"""Images as requests: prompts and edits become known and blank cells."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image

from maskgen.io.letterbox import letterbox
from maskgen.processors.base import Prepared, Processor
from maskgen.processors.image_edits import MOST_CELLS, Edit, make_edit
from maskgen.processors.media import as_image, as_mask
from maskgen.processors.text import told_codes
from maskgen.tokenizers.base import Tokenizer
from maskgen.tokenizers.image_geometry import image_size, pixels_per_cell
from maskgen.tokens.batch import UNKNOWN, Codes
from maskgen.tokens.micro import NAME as MICRO


@dataclass(frozen=True, kw_only=True)
class ImageRequest:
    """What an image model is asked for.

    Args:
        prompts: Captions; an empty one only with an image, with a label, without any condition, or in a model without text.
        seeds: One an output of each prompt.
        image: Image to edit, in any form that `as_image` takes.
        mask_image: White where the image is regenerated; as large as `image`.
        strength: Share of random cells that are regenerated, in [0, 1].
        outpaint: Pixels to add (left, top, right, bottom), multiples of the cell.
        negative_prompts: What guidance leads away from, one a prompt; None leads away from no condition at all.
        size: (width, height) in pixels of a new image; None takes the model's own.
        labels: Known cells of a label, one a prompt; see `maskgen.processors.labels.label_codes`. None is no label.
        unconditional: Whether images are drawn without any condition.
        micro: Micro-conditions as known cells; None leaves the model its defaults.
    """

    prompts: Sequence[str]
    seeds: Sequence[Sequence[int]]
    image: Any = None
    mask_image: Any = None
    strength: float | None = None
    outpaint: Sequence[int] | None = None
    negative_prompts: Sequence[str] | None = None
    size: tuple[int, int] | None = None
    labels: Sequence[Mapping[str, Codes]] | None = None
    unconditional: bool = False
    micro: Codes | None = None


@dataclass(frozen=True)
class PreparedImage(Prepared):
    """Rows of an image request, and the edit that they are."""

    edit: Edit | None = None


class ImageProcessor(Processor[ImageRequest, PreparedImage]):
    """Captions and edits to cells, decoded images to edited ones.

    Args:
        image: The model's image tokenizer.
        readers: Its text tokenizer, called "text", and its frozen text encoders; none for a model without text.
        grid: The model's code grid of an image; None takes the tokenizer's own size.
    """

    def __init__(self, image: Tokenizer, readers: Mapping[str, Tokenizer], grid: Sequence[int] | None = None) -> None:
        self.image, self.readers, self.grid = image, readers, grid

    def prepare(self, request: ImageRequest) -> PreparedImage:
        """Rows of known and blank cells; see `Processor.prepare`."""
        edit, free = self.edit(request), request.labels is not None or request.unconditional
        blank = {} if request.size is None else {"image": self._blank(request.size)}
        micro = {} if request.micro is None else {MICRO: request.micro}
        rows, negative = [], []
        for number, (prompt, seeds) in enumerate(zip(request.prompts, request.seeds, strict=True)):
            text = {**self.text_codes(prompt, edit is not None or free), **(request.labels[number] if request.labels else {})}
            against = None if request.negative_prompts is None else self.text_codes(request.negative_prompts[number], allow_empty=True)
            for seed in seeds:
                cells = blank if edit is None else {"image": edit.codes(seed)}
                rows.append({**text, **micro, **cells})
                negative.append({**against, **micro, **cells} if against is not None else {})
        flat = [seed for seeds in request.seeds for seed in seeds]
        return PreparedImage(rows, flat, None if request.negative_prompts is None else negative, edit)

    def finish(self, plan: PreparedImage, media: Sequence[Any]) -> list[Image.Image]:
        """The images, with the known pixels of an edit put back."""
        return list(media) if plan.edit is None else [plan.edit.finish(made) for made in media]

    def text_codes(self, text: str, allow_empty: bool = False) -> Mapping[str, Codes]:
        """Known cells of a caption; see `told_codes`.

        Raises:
            ValueError: If the caption is empty and must not be, is too long, or the model has no text.
        """
        return told_codes(self.readers, text, allow_empty)

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
        mask = None if request.mask_image is None else as_mask(request.mask_image)
        return make_edit(self.image, as_image(request.image), mask, request.strength, _sides(request.outpaint), self.grid)

    def _blank(self, size: tuple[int, int]) -> Codes:
        """Blank cells of an image of a size in pixels."""
        per_cell = pixels_per_cell(self.image)
        columns, rows = (side / per_cell for side in size)
        if min(size) < 1 or rows % 1 or columns % 1 or rows * columns > MOST_CELLS:
            raise ValueError(
                f"width and height must be multiples of {per_cell} with at most {MOST_CELLS:,} cells of {per_cell} x {per_cell} pixels, "
                f"got {size[0]} x {size[1]}"
            )
        return torch.full((self.image.num_levels, int(rows), int(columns)), UNKNOWN)


def letterboxed(image: Any, tokenizer: Tokenizer, grid: Sequence[int] | None = None) -> Image.Image:
    """An image in any form that `as_image` takes, letterboxed to the size of the model's grid, or else to the tokenizer's own size."""
    size = image_size(tokenizer, grid)
    return as_image(image) if size is None else letterbox(as_image(image), size)


def _sides(outpaint: Any) -> tuple[int, int, int, int] | None:
    """Four whole numbers of pixels, or None."""
    if outpaint is None:
        return None
    if not isinstance(outpaint, (tuple, list)) or len(outpaint) != 4 or not all(isinstance(side, int) for side in outpaint):
        raise TypeError(f"outpaint must be four whole numbers of pixels (left, top, right, bottom), got {outpaint!r}")
    left, top, right, bottom = outpaint
    return left, top, right, bottom
