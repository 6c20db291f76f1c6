"""How a build brings images to size: squares or buckets, and what is noted of each for micro-conditions."""

from collections.abc import Mapping
from typing import Any

from PIL import Image

from maskgen.data.build.recipe import ImageRecipe
from maskgen.data.sources.buckets import fit_bucket
from maskgen.data.sources.media import crop_windows, fit_image

BUCKET = "bucket"
"""Entry of a sample's JSON: its bucket, such as "320 x 192"."""
CROP_CORNER = ("crop_left", "crop_top")
ORIGINAL_SIZE = ("original_width", "original_height")
"""Entries of a sample's JSON for micro-conditions; a source that has them itself, as img2dataset's folders, is believed."""


def fitted_images(image: Image.Image, how: ImageRecipe) -> list[tuple[Image.Image, dict[str, Any]]]:
    """Images of a recipe's size from an image of any size, each with the entries of its JSON.

    Args:
        image: RGB.
        how: The recipe's settings.

    Returns:
        One image, or one a crop. Only builds with buckets or `micro` note anything.
    """
    original = dict(zip(ORIGINAL_SIZE, image.size, strict=True))
    if how.fit == "bucket":
        fitted = fit_bucket(image, how.sizes)
        corner = dict(zip(CROP_CORNER, (fitted.left, fitted.top), strict=True))
        return [(fitted.image, {**original, **corner, BUCKET: f"{fitted.image.width} x {fitted.image.height}"})]
    images = fit_image(image, how.size, how.fit, how.crops)
    if not how.micro:
        return [(one, {}) for one in images]
    windows = crop_windows(*image.size)[: how.crops] if how.fit == "crop" else [(0.0, 0.0, float(how.size), float(how.size))]
    scaled = [[round(place * how.size / (window[2] - window[0])) for place in window[:2]] for window in windows]
    return [(one, {**original, **dict(zip(CROP_CORNER, corner, strict=True))}) for one, corner in zip(images, scaled, strict=True)]


def with_facts(meta: Mapping[str, Any], facts: Mapping[str, Any]) -> dict[str, Any]:
    """A sample's JSON with what fitting noted; the size of the original is the source's, where it gives it as whole numbers."""
    known = all(isinstance(meta.get(name), int) and meta[name] > 0 for name in ORIGINAL_SIZE)
    return {**meta, **{name: value for name, value in facts.items() if not (known and name in ORIGINAL_SIZE)}}
