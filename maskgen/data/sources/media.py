"""Decoding of untrusted media for data builds: the readers of `maskgen.io`, captions, and the fitting of images."""

import re
import unicodedata
from typing import Literal

from PIL import Image

from maskgen.io.audio import Waveform, decode_audio, fit_audio
from maskgen.io.letterbox import letterbox
from maskgen.io.limits import BadMedia, MediaLimits, check_bytes
from maskgen.io.pictures import decode_image

__all__ = ["BadMedia", "MediaLimits", "Waveform", "decode_audio", "decode_image", "decode_text", "fit_audio", "fit_image"]

MAX_CROPS = 5
CORNER_SHARE = 0.8
"""Side of a corner crop divided by the short side of the image."""


def decode_text(content: bytes, limits: MediaLimits) -> list[str]:
    """Decode captions: every line with a visible character is one caption.

    Args:
        content: UTF-8, with or without a byte-order mark.
        limits: `max_characters` is checked on the bytes, before they are decoded, and on the text.

    Returns:
        NFC texts with single spaces, in the file's order.

    Raises:
        BadMedia: If the bytes are not UTF-8, contain control characters, are too long, or hold no caption.
    """
    check_bytes(content, limits)
    if len(content) > 4 * limits.max_characters + 3:  # four bytes a character and the mark
        raise BadMedia(f"{len(content)} bytes of text, at most {limits.max_characters} characters")
    try:
        text = unicodedata.normalize("NFC", content.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise BadMedia(f"no UTF-8 at byte {error.start}") from error
    if len(text) > limits.max_characters:
        raise BadMedia(f"{len(text)} characters, at most {limits.max_characters}")
    bad = next((letter for letter in text if unicodedata.category(letter) == "Cc" and letter not in "\t\r\n"), None)
    if bad is not None:
        raise BadMedia(f"control character U+{ord(bad):04X}")
    lines = [" ".join(line.split()) for line in re.split("[\r\n\u2028\u2029]", text)]
    captions = [line for line in lines if any(letter.isprintable() for letter in line.replace(" ", ""))]
    if not captions:
        raise BadMedia("no text")
    return captions


def fit_image(image: Image.Image, size: int, how: Literal["letterbox", "crop"], crops: int = 1) -> list[Image.Image]:
    """Square images of a given size from an image of any size, deterministic and without stretching.

    Args:
        image: RGB.
        size: Side of the result in pixels.
        how: "letterbox" shows the whole image on white; "crop" cuts windows.
        crops: Number of windows, 1 to `MAX_CROPS`: the centre; the two ends of a long image; corners of 0.8 of the short side.

    Returns:
        `crops` images of size x size.

    Raises:
        ValueError: If size or crops is out of range, or a letterbox is combined with several crops.
    """
    if size < 1 or not 1 <= crops <= MAX_CROPS:
        raise ValueError(f"size must be at least 1 and crops 1 to {MAX_CROPS}, got size={size}, crops={crops}")
    if how == "letterbox":
        if crops > 1:
            raise ValueError(f'a letterbox shows the whole picture, got crops={crops}; use how="crop" for several')
        return [_letterboxed(image, size)]
    windows = crop_windows(*image.size)[:crops]
    return [image.resize((size, size), Image.Resampling.LANCZOS, box=window) for window in windows]


def _letterboxed(image: Image.Image, size: int) -> Image.Image:
    """As `maskgen.io.letterbox.letterbox`, also for images whose short side would shrink to zero pixels."""
    longest = max(image.size)
    if min(image.size) * size >= longest:
        return letterbox(image, (size, size))
    width, height = (max(1, round(side * size / longest)) for side in image.size)
    return letterbox(image.resize((width, height), Image.Resampling.LANCZOS), (size, size))


def crop_windows(width: int, height: int) -> list[tuple[float, float, float, float]]:
    """Square windows (left, top, right, bottom) of an image that crops are cut from, the most informative first."""
    side, corner = min(width, height), CORNER_SHARE * min(width, height)
    places = [((width - side) / 2, (height - side) / 2, float(side))]
    if max(width, height) * CORNER_SHARE >= side:
        places += [(0.0, 0.0, float(side)), (float(width - side), float(height - side), float(side))]
    right, bottom = width - corner, height - corner
    places += [(0.0, 0.0, corner), (right, bottom, corner), (right, 0.0, corner), (0.0, bottom, corner)]
    return [(left, top, left + extent, top + extent) for left, top, extent in places]
