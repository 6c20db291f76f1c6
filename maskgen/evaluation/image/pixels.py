"""Pictures as tensors: the one size at which evaluators look."""

from collections.abc import Sequence

import numpy as np
import torch
from einops import rearrange
from jaxtyping import UInt8
from PIL import Image
from torch import Tensor

SIZE = 64


def to_rgb_bytes(pictures: Sequence[Image.Image], size: int = SIZE) -> UInt8[Tensor, "batch channels rows columns"]:
    """Pictures of any size as one tensor of RGB bytes.

    Every row set of an evaluation passes through here, so a model of 128 pixels is judged at the same size as the real pictures.

    Args:
        pictures: RGB pictures; others are converted.
        size: Rows and columns of the answer; a picture of another size is resampled (bicubic).

    Raises:
        ValueError: If there is no picture.
    """
    if not pictures:
        raise ValueError("found no picture, wanted at least one; check the split, the limit or the folder that was given")
    resized = [picture if picture.size == (size, size) else picture.resize((size, size), Image.Resampling.BICUBIC) for picture in pictures]
    stacked = np.stack([np.asarray(picture.convert("RGB"), dtype=np.uint8) for picture in resized])
    return rearrange(torch.from_numpy(stacked), "batch rows columns channels -> batch channels rows columns").contiguous()


def from_rgb_bytes(pixels: UInt8[Tensor, "batch channels rows columns"]) -> list[Image.Image]:
    """The RGB pictures of a tensor of bytes."""
    return [Image.fromarray(array) for array in rearrange(pixels, "batch channels rows columns -> batch rows columns channels").numpy()]
