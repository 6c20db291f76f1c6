"""Pictures laid on white; needs Pillow alone, so that building data starts without torch."""

import numpy as np
from PIL import Image, ImageOps


def on_white(picture: Image.Image) -> Image.Image:
    """RGB picture with transparency laid on white; 16-bit grey is scaled, where Pillow's own conversion would clip it."""
    if picture.mode.startswith("I"):
        picture = Image.fromarray((np.asarray(picture).clip(0, 65535) // 257).astype(np.uint8))
    if "A" in picture.getbands() or "transparency" in picture.info:
        picture = picture.convert("RGBA")
        white = Image.new("RGBA", picture.size, "white")
        picture = Image.alpha_composite(white, picture)
    return picture.convert("RGB")


def letterbox(picture: Image.Image, size: tuple[int, int]) -> Image.Image:
    """The whole picture, never stretched, centred on white.

    Args:
        picture: RGB.
        size: (width, height) wanted.
    """
    if picture.size == size:
        return picture
    return ImageOps.pad(picture, size, Image.Resampling.LANCZOS, color="white")
