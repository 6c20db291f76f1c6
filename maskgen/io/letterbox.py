"""Compositing and letterboxing images on white. Needs only Pillow, so that dataset builds start without importing torch."""

import numpy as np
from PIL import Image, ImageOps


def on_white(picture: Image.Image) -> Image.Image:
    """Convert an image to RGB with transparency composited on white. 16-bit grey is scaled; Pillow's own conversion would clip it."""
    if picture.mode.startswith("I"):
        picture = Image.fromarray((np.asarray(picture).clip(0, 65535) // 257).astype(np.uint8))
    if "A" in picture.getbands() or "transparency" in picture.info:
        picture = picture.convert("RGBA")
        white = Image.new("RGBA", picture.size, "white")
        picture = Image.alpha_composite(white, picture)
    return picture.convert("RGB")


def letterbox(picture: Image.Image, size: tuple[int, int]) -> Image.Image:
    """Fit the whole image into a size, centred on white, keeping its aspect ratio.

    Args:
        picture: RGB image.
        size: (width, height) of the result.
    """
    if picture.size == size:
        return picture
    return ImageOps.pad(picture, size, Image.Resampling.LANCZOS, color="white")
