"""Colour profiles: pixels of images with an embedded ICC profile become sRGB."""

import io
from collections.abc import Callable
from functools import lru_cache

import numpy as np
from PIL import Image, ImageCms

LARGEST_PROFILE_BYTES = 8 * 2**20
NEAR = 2
"""Largest difference, in steps of 8 bits, of a profile that counts as sRGB: rounding in such profiles is not applied to the pixels."""
INPUTS = {"RGB ": "RGB", "GRAY": "L", "CMYK": "CMYK"}
"""Colour space of a profile to the Pillow mode of its pixels."""
PROFILE_ERRORS = (ImageCms.PyCMSError, OSError, ValueError, TypeError, OverflowError, MemoryError)
Conversion = Callable[[Image.Image], Image.Image]


class BadProfile(ValueError):
    """Raised for a profile that is damaged, too large, or for other colours than the image has."""


def plain_rgb(colours: Image.Image) -> Image.Image:
    """RGB of an image of mode L, RGB or CMYK without a profile, which counts as sRGB; CMYK is (1 - c)(1 - k) and so on."""
    return colours.convert("RGB")


def srgb_conversion(profile: bytes | None, mode: str) -> Conversion:
    """How pixels become sRGB.

    Args:
        profile: ICC profile, or None.
        mode: L, RGB or CMYK, of the pixels. Grey pixels with an RGB profile are converted as RGB.

    Returns:
        A function from an image of that mode to RGB: the profile's perceptual rendering, or `plain_rgb` for profiles that are sRGB.

    Raises:
        BadProfile: If the profile cannot be used with such pixels.
    """
    return plain_rgb if profile is None else _conversion(profile, mode)


@lru_cache(maxsize=4)
def _conversion(profile: bytes, mode: str) -> Conversion:
    """As `srgb_conversion`; building a transform costs more than applying it to a small image."""
    if len(profile) > LARGEST_PROFILE_BYTES:
        raise BadProfile(f"a colour profile of {len(profile)} bytes, at most {LARGEST_PROFILE_BYTES}")
    try:
        opened = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        wanted = INPUTS.get(opened.profile.xcolor_space)
        if wanted is None or (wanted != mode and (wanted, mode) != ("RGB", "L")):
            raise BadProfile(f"a colour profile for {opened.profile.xcolor_space.strip()[:8]!r} and pixels of mode {mode}")
        srgb = ImageCms.createProfile("sRGB")
        flags = ImageCms.Flags.NOOPTIMIZE if wanted == "L" else ImageCms.Flags.NONE  # optimized, dark greys are off by up to 10 steps
        transform = ImageCms.buildTransform(opened, srgb, wanted, "RGB", ImageCms.Intent.PERCEPTUAL, flags)
        sample = _sample(wanted)
        found, plain = (np.asarray(one, np.int16) for one in (transform.apply(sample), plain_rgb(sample)))
    except PROFILE_ERRORS as error:
        raise error if isinstance(error, BadProfile) else BadProfile(f"a damaged colour profile ({error})") from error
    if np.abs(found - plain).max() <= NEAR:
        return plain_rgb

    if wanted == "L":
        tables = found.astype(np.uint8)[0].T.tolist()
        return lambda colours: Image.merge("RGB", [colours.point(table) for table in tables])

    def convert(colours: Image.Image) -> Image.Image:
        return transform.apply(colours if colours.mode == wanted else colours.convert(wanted))

    return convert


def _sample(mode: str) -> Image.Image:
    """Pixels over the whole range of a mode."""
    bands = len(mode) if mode != "L" else 1
    values = np.arange(256, dtype=np.uint8) if bands == 1 else np.linspace(0, 255, 17 if bands == 3 else 5).astype(np.uint8)
    grid = np.stack(np.meshgrid(*[values] * bands, indexing="ij"), axis=-1).reshape(1, -1, bands)
    return Image.fromarray(grid[..., 0]) if bands == 1 else Image.frombytes(mode, (grid.shape[1], 1), grid.tobytes())
