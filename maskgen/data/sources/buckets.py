"""Aspect-ratio buckets: images keep their shape instead of being cut to squares; sizes of about equal area share a build."""

import math
from collections.abc import Sequence
from typing import NamedTuple

from PIL import Image

Size = tuple[int, int]
"""Width and height in pixels."""
MOST_BUCKETS = 256


class Fitted(NamedTuple):
    """An image at the size of a build, and what was cut away for it.

    Args:
        image: RGB.
        left: Pixels of the scaled image that lie left of it.
        top: Pixels of the scaled image that lie above it.
    """

    image: Image.Image
    left: int
    top: int


def bucket_sizes(size: int, multiple: int, max_ratio: float) -> tuple[Size, ...]:
    """Sizes of about `size` x `size` pixels: for every width the largest height within that area, and the same with sides exchanged.

    Args:
        size: Side of the square of the same area.
        multiple: Pixels that both sides are multiples of, such as those of a tokenizer's cell.
        max_ratio: Largest ratio of the longer to the shorter side.

    Returns:
        (width, height), wide ones first.

    Raises:
        ValueError: If the square is no multiple of `multiple`, the ratio is below 1, or there are too many sizes.

    Source: the buckets of NovelAI and SDXL (arXiv:2307.01952, appendix I).
    """
    if multiple < 1 or size % multiple or max_ratio < 1:
        raise ValueError(
            f"buckets need a size that is a multiple of `multiple`, and max_ratio of at least 1, got {size}, {multiple} and {max_ratio}"
        )
    found: set[Size] = set()
    for short in range(multiple, size + 1, multiple):
        long = size**2 // short // multiple * multiple
        if long <= max_ratio * short:
            found |= {(long, short), (short, long)}
    if len(found) > MOST_BUCKETS:
        raise ValueError(f"{len(found)} buckets are more than {MOST_BUCKETS}; give a larger multiple or a smaller max_ratio")
    return tuple(sorted(found, key=lambda pair: (-pair[0] / pair[1], -pair[0])))


def best_bucket(width: int, height: int, buckets: Sequence[Size]) -> Size:
    """The bucket that cuts away the smallest share of an image; of several such the one of the largest area, then the first."""

    def kept(bucket: Size) -> float:
        one, other = width * bucket[1], height * bucket[0]
        return min(one, other) / max(one, other)

    return max(buckets, key=lambda bucket: (round(kept(bucket), 12), bucket[0] * bucket[1]))


def fit_bucket(image: Image.Image, buckets: Sequence[Size]) -> Fitted:
    """The centre of an image at the size of its best bucket, scaled without stretching.

    Args:
        image: RGB of any size.
        buckets: Sizes to choose from.
    """
    width, height = best_bucket(*image.size, buckets)
    scale = max(width / image.width, height / image.height)
    inner = width / scale, height / scale
    left, top = (image.width - inner[0]) / 2, (image.height - inner[1]) / 2
    box = (max(0.0, left), max(0.0, top), min(float(image.width), left + inner[0]), min(float(image.height), top + inner[1]))
    scaled = image.resize((width, height), Image.Resampling.LANCZOS, box=box)
    return Fitted(scaled, math.floor(left * scale + 0.5), math.floor(top * scale + 0.5))
