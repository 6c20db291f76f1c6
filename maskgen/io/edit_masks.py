"""The one reader of masks: from files or Pillow images of any mode to the pixels of an image that are regenerated.

The rule, in this order:

1. Transparency: where the visible pixels (opacity of at least half) all have one colour, what is painted is selected, whatever its colour.
   Where they are all grey, white ones are selected, and transparent ones are not. Other masks with transparency are refused. Opacity
   that is the same everywhere is ignored, unless all is transparent: then nothing is selected.
2. Two values, one of them 0, as in masks of 0 and 1 or of one label: what is not 0 is selected.
3. Otherwise grey of at least half is selected. A mask whose brightest value is darker is refused.

A colour profile is ignored, because a mask holds no colours; the EXIF orientation is applied as to the image.
"""

import numpy as np
from jaxtyping import Bool, Integer
from PIL import Image

from maskgen.io.limits import BadMedia, MediaLimits, Note, check_bytes, log_note
from maskgen.io.pictures import Opened, as_bad_media, colours_and_alpha, open_image, opened_image, turned

VISIBLE = 128
ONE_COLOUR = 16
"""Largest difference, in steps of 8 bits, of pixels that count as one colour, or as grey: soft strokes differ a little at their edges."""
NOTHING = "no selected pixel, so that nothing is regenerated"
PAINTED = "transparency, so that what is painted on it is regenerated"


def decode_mask(content: bytes, limits: MediaLimits, note: Note = log_note) -> Image.Image:
    """Decode a mask from a file of any format that `decode_image` reads.

    Args:
        content: The file's bytes.
        limits: Checked on the header, before a pixel is decoded.
        note: Takes remarks: transparency selects, nothing is selected.

    Returns:
        An image of mode L: 255 where the image is regenerated, 0 elsewhere.

    Raises:
        BadMedia: As `decode_image`, or if the mask has no bright part or is ambiguous.
    """
    check_bytes(content, limits)
    with as_bad_media(limits):
        return _mask(open_image(content, limits, note), note)


def convert_mask(picture: Image.Image, limits: MediaLimits, note: Note = log_note) -> Image.Image:
    """Convert a Pillow image of any mode as `decode_mask` does a file.

    Raises:
        BadMedia: As `decode_mask`.
    """
    with as_bad_media(limits):
        return _mask(opened_image(picture, limits), note)


def _mask(opened: Opened, note: Note) -> Image.Image:
    picture = opened.picture
    chosen = _chosen(picture, note)
    if not chosen.any():
        note(NOTHING)
    return turned(Image.fromarray(np.where(chosen, 255, 0).astype(np.uint8)), picture)


def _chosen(picture: Image.Image, note: Note) -> Bool[np.ndarray, "rows columns"]:
    """The selected pixels of a mask, as it is stored."""
    colours, alpha = colours_and_alpha(picture)
    if alpha is not None and len(set(alpha.getextrema())) > 1:
        note(PAINTED)
        return _painted(np.asarray(colours.convert("RGB")), np.asarray(alpha) >= VISIBLE)
    if alpha is not None and alpha.getextrema() == (0, 0):
        return np.zeros((picture.height, picture.width), bool)
    if picture.mode.startswith("I"):
        return _bright(np.asarray(picture), 65_535)
    return _bright(np.asarray(colours.convert("L")), 255)


def _painted(pixels: Integer[np.ndarray, "rows columns 3"], visible: Bool[np.ndarray, "rows columns"]) -> Bool[np.ndarray, "rows columns"]:
    """The selected pixels of a mask with transparency."""
    seen = pixels[visible].astype(np.int16)
    if not len(seen) or np.ptp(seen, axis=0).max() <= ONE_COLOUR:
        return visible
    if np.ptp(seen, axis=1).max() > ONE_COLOUR:
        raise BadMedia("both colours and transparency; paint in one colour on transparency, or in white on black")
    return _bright(np.where(visible, pixels[..., 0], 0), 255)


def _bright(values: Integer[np.ndarray, "rows columns"], full: int) -> Bool[np.ndarray, "rows columns"]:
    """The selected pixels of a mask without transparency."""
    brightest = int(values.max())
    if brightest > full // 2:
        return np.asarray(values > full // 2)
    if np.any((values != 0) & (values != brightest)) or (brightest > 1 and values.all()):
        raise BadMedia(f"no bright part: its brightest value is {brightest} of {full}; select with white, or with one value beside 0")
    return np.asarray(values != 0)
