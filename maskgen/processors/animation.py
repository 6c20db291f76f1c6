"""A decode as a film: one frame a step."""

from collections.abc import Iterator, Sequence
from functools import partial

import torch
from PIL import Image

from maskgen.sampling.base import Trajectory
from maskgen.tokenizers.base import Tokenizer
from maskgen.tokens.batch import UNKNOWN, Codes

UNSEEN = (200, 200, 200)
"""Colour of unknown cells."""


def decode_frames(tokenizer: Tokenizer, final: Codes, trajectories: Sequence[Trajectory], picture: Image.Image) -> list[Image.Image]:
    """Frames of one row's decode: unknown cells are grey; the last frame is the finished image.

    Args:
        tokenizer: The model's image tokenizer.
        final: Finished codes of the first row [level, row, column].
        trajectories: What each step did, in the order of decoding; the first row of each is shown.
        picture: The finished image.

    Raises:
        ValueError: If the tokenizer isn't for images.
    """
    if tokenizer.kind != "image":
        raise ValueError(f"an animation shows images, and {type(tokenizer).__name__} is for {tokenizer.kind}; give an image tokenizer")
    show = getattr(tokenizer, "preview", None) or partial(preview, tokenizer)
    return [*(show(codes) for codes in partial_codes(final, trajectories)), picture]


def preview(tokenizer: Tokenizer, codes: Codes) -> Image.Image:
    """A partly known grid of any image tokenizer as an image: cells unknown at the coarsest level are grey, finer unknown codes count as 0.

    Grids without rows and columns have no places in the image; it is grey while nothing is known.
    """
    picture: Image.Image = tokenizer.decode([codes.clamp(min=0)])[0]
    known = codes[0] != UNKNOWN
    seen = known if known.ndim == 2 else known.any().reshape(1, 1)
    shown = Image.fromarray(seen.to(torch.uint8).mul(255).numpy()).resize(picture.size, Image.Resampling.NEAREST)
    return Image.composite(picture, Image.new("RGB", picture.size, UNSEEN), shown)


def partial_codes(final: Codes, trajectories: Sequence[Trajectory]) -> Iterator[Codes]:
    """Codes of the first row after every step, UNKNOWN where nothing was decided yet."""
    level = 0
    for trajectory in trajectories:
        if level == len(final):
            return
        cells = trajectory.codes[-1, 0] != UNKNOWN
        depth = int(cells.sum()) // final[0].numel()  # levels that were decoded together: of each cell they stand behind one another
        for step in range(len(trajectory.codes)):
            codes = final.clone()
            codes[level : level + depth] = trajectory.codes[step, 0][cells].reshape(*final.shape[1:], depth).movedim(-1, 0)
            codes[level + depth :] = UNKNOWN
            yield codes
        level += depth
