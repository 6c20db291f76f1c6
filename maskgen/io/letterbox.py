"""Letterboxing images on white. Needs only Pillow, so that dataset builds start without importing torch."""

from PIL import Image, ImageOps


def letterbox(picture: Image.Image, size: tuple[int, int]) -> Image.Image:
    """Fit the whole image into a size, centred on white, keeping its aspect ratio.

    Args:
        picture: RGB image.
        size: (width, height) of the result.
    """
    if picture.size == size:
        return picture
    return ImageOps.pad(picture, size, Image.Resampling.LANCZOS, color="white")
