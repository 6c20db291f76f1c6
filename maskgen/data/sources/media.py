"""Decoding of untrusted media: headers and limits are checked before a pixel or sample is decoded, and every error has a reason."""

import io
import re
import struct
import unicodedata
import warnings
from typing import Literal

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError

from maskgen.io.audio import Waveform, decode_audio, fit_audio
from maskgen.io.letterbox import letterbox, on_white
from maskgen.io.limits import BadMedia, MediaLimits, check_bytes

__all__ = ["BadMedia", "MediaLimits", "Waveform", "decode_audio", "decode_image", "decode_text", "fit_audio", "fit_image"]

PICTURE_FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")
LONGEST_SIDE = 65_535
SCAN_PIXELS_PER_PIXEL = 20
"""Maximum number of scans of a progressive JPEG with `max_pixels`; smaller images may have more."""
BAND_ROWS = 256
MAX_CROPS = 5
CORNER_SHARE = 0.8
"""Side of a corner crop divided by the short side of the image."""
PILLOW_ERRORS = (OSError, SyntaxError, ValueError, EOFError, struct.error, TypeError, LookupError, OverflowError)
"""Errors of Pillow's format plugins on damaged bytes: the first three from our fuzz test, the others from reports on damaged metadata."""
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""EXIF orientation to the transposition that sets the image upright."""


def decode_image(content: bytes, limits: MediaLimits) -> Image.Image:
    """Decode an image to upright RGB without metadata; transparency is blended on white, and animations give their first frame.

    Args:
        content: A PNG, JPEG, WebP, GIF, BMP or TIFF file.
        limits: Checked on the header, before a pixel is decoded.

    Returns:
        An image of mode RGB. 16-bit grey is scaled to 8 bits, CMYK and palettes are converted.

    Raises:
        BadMedia: If the bytes are of another format, damaged, truncated, over a limit, or have pixels of unknown range (float, 32 bits).
    """
    check_bytes(content, limits)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # damaged metadata; it is not used
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            return _decode_image(content, limits)
    except BadMedia:
        raise
    except (UnidentifiedImageError, Image.DecompressionBombWarning, Image.DecompressionBombError, MemoryError) as error:
        bomb = not isinstance(error, UnidentifiedImageError)
        reason = f"too many pixels, at most {limits.max_pixels}" if bomb else f"damaged header or none of {', '.join(PICTURE_FORMATS)}"
        raise BadMedia(reason) from error
    except PILLOW_ERRORS as error:
        raise BadMedia(f"damaged picture ({' '.join(str(error).split())[:120]})") from error


def _decode_image(content: bytes, limits: MediaLimits) -> Image.Image:
    with Image.open(io.BytesIO(content), formats=PICTURE_FORMATS) as picture:
        _check_picture_header(picture, content, limits)
        if picture.format == "PNG":
            with Image.open(io.BytesIO(content), formats=["PNG"]) as checked:
                checked.verify()  # the checksum of every chunk, which load() skips
        picture.load()
        if picture.width * picture.height > limits.max_pixels:  # a later frame or tile may have enlarged it
            raise BadMedia(f"{picture.width} x {picture.height} pixels, at most {limits.max_pixels}")
        if picture.mode == "I" and np.any(np.asarray(picture) != np.asarray(picture).astype(np.uint16)):
            raise BadMedia("32-bit pixels beyond 16 bits, whose range is unknown")
        turn = TURNS.get(picture.getexif().get(ExifTags.Base.Orientation, 1))
        flat = _flat(picture)
    return flat if turn is None else flat.transpose(turn)


def _check_picture_header(picture: Image.Image, content: bytes, limits: MediaLimits) -> None:
    """Refuse images by their header."""
    width, height = picture.size
    if width * height > limits.max_pixels or max(width, height) > LONGEST_SIDE:
        raise BadMedia(f"{width} x {height} pixels, at most {limits.max_pixels} and {LONGEST_SIDE} a side")
    if min(width, height) < limits.min_side:
        raise BadMedia(f"{width} x {height} pixels, at least {limits.min_side} a side")
    if picture.mode.startswith(("F", "LAB")):
        raise BadMedia(f"pixels of mode {picture.mode}, whose range is unknown")
    if content[:2] == b"\xff\xd8" and content.count(b"\xff\xda") * width * height > SCAN_PIXELS_PER_PIXEL * limits.max_pixels:
        raise BadMedia(f"{content.count(bytes([255, 218]))} passes over {width} x {height} pixels, too slow to decode")
    tags = getattr(picture, "tag_v2", {})
    tile = tags.get(ExifTags.Base.TileWidth, 1) * tags.get(ExifTags.Base.TileLength, 1)
    if tile > limits.max_pixels:
        raise BadMedia(f"tiles of {tile} pixels, at most {limits.max_pixels}")


def _flat(picture: Image.Image) -> Image.Image:
    """An RGB copy on white, converted in bands: a conversion of the whole image would need four times its memory."""
    flat = Image.new("RGB", picture.size)
    for top in range(0, picture.height, BAND_ROWS):
        flat.paste(on_white(picture.crop((0, top, picture.width, min(top + BAND_ROWS, picture.height)))), (0, top))
    return flat


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
    windows = _windows(*image.size)[:crops]
    return [image.resize((size, size), Image.Resampling.LANCZOS, box=window) for window in windows]


def _letterboxed(image: Image.Image, size: int) -> Image.Image:
    """As `maskgen.io.letterbox.letterbox`, also for images whose short side would shrink to zero pixels."""
    longest = max(image.size)
    if min(image.size) * size >= longest:
        return letterbox(image, (size, size))
    width, height = (max(1, round(side * size / longest)) for side in image.size)
    return letterbox(image.resize((width, height), Image.Resampling.LANCZOS), (size, size))


def _windows(width: int, height: int) -> list[tuple[float, float, float, float]]:
    """Square windows (left, top, right, bottom), the most informative first."""
    side, corner = min(width, height), CORNER_SHARE * min(width, height)
    places = [((width - side) / 2, (height - side) / 2, float(side))]
    if max(width, height) * CORNER_SHARE >= side:
        places += [(0.0, 0.0, float(side)), (float(width - side), float(height - side), float(side))]
    right, bottom = width - corner, height - corner
    places += [(0.0, 0.0, corner), (right, bottom, corner), (right, 0.0, corner), (0.0, bottom, corner)]
    return [(left, top, left + extent, top + extent) for left, top, extent in places]
