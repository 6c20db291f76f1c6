"""Images as tensors, at the size that the evaluators use."""

from collections.abc import Sequence

import numpy as np
import torch
from einops import rearrange
from jaxtyping import UInt8
from PIL import Image
from torch import Tensor

SIZE = 64


def to_rgb_bytes(images: Sequence[Image.Image], size: int = SIZE) -> UInt8[Tensor, "batch channels rows columns"]:
    """Images of any size as one tensor of RGB bytes.

    Every row set is resized here, so a model of 128 pixels is judged at the same size as the real images.

    Args:
        images: RGB images; others are converted.
        size: Rows and columns of the answer; an image of another size is resampled (bicubic).

    Raises:
        ValueError: If there is no image.
    """
    if not images:
        raise ValueError("found no picture, wanted at least one; check the split, the limit or the folder that was given")
    resized = [image if image.size == (size, size) else image.resize((size, size), Image.Resampling.BICUBIC) for image in images]
    stacked = np.stack([np.asarray(image.convert("RGB"), dtype=np.uint8) for image in resized])
    return rearrange(torch.from_numpy(stacked), "batch rows columns channels -> batch channels rows columns").contiguous()


def from_rgb_bytes(pixels: UInt8[Tensor, "batch channels rows columns"]) -> list[Image.Image]:
    """The RGB images of a tensor of bytes."""
    return [Image.fromarray(array) for array in rearrange(pixels, "batch channels rows columns -> batch rows columns channels").numpy()]
