"""The one reader of images: from untrusted bytes or from Pillow images of any mode to upright RGB in sRGB. Needs only Pillow and NumPy."""

import io
import re
import struct
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError

from maskgen.io.colour import BadProfile, srgb_conversion
from maskgen.io.formats import IMAGE_FORMATS
from maskgen.io.limits import BadMedia, MediaLimits, Note, check_bytes, log_note
from maskgen.io.png import SIGNATURE, png_parts

LONGEST_SIDE = 65_535
SCAN_PIXELS_PER_PIXEL = 20
"""Maximum number of scans of a progressive JPEG with `max_pixels`; smaller images may have more."""
SLOW_DECODERS = ("ppm", "ppm_plain")
SLOW_PIXELS = 2**22
"""Maximum pixels of an image whose decoder is written in Python: PPM as text, or of a range other than 255 and 65535."""
BAND_ROWS = 256
PICTURE_ERRORS = (OSError, SyntaxError, ValueError, EOFError, struct.error, TypeError, LookupError, OverflowError, RuntimeError)
"""Errors of Pillow's format plugins on damaged bytes: the first three and the last (AVIF) from our fuzz test, the others from reports on
damaged metadata."""
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
GREY_MODES = ("1", "L", "LA", "La")
COLOUR_MODES = ("P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "HSV")
DEEP_MODES = ("I", "I;16", "I;16L", "I;16B", "I;16N", "F")
FIRST_FRAME = "several frames or pages, of which the first is used"
NO_PROFILE = "a colour profile that is damaged or for other colours, which is ignored"


@dataclass(frozen=True)
class Opened:
    """A decoded Pillow image that is not converted yet.

    Args:
        picture: Of any mode, with its metadata.
        profile: ICC profile; None if there is none, empty if it is damaged.
    """

    picture: Image.Image
    profile: bytes | None


def decode_image(content: bytes, limits: MediaLimits, note: Note = log_note) -> Image.Image:
    """Decode an image to upright RGB in sRGB, without metadata. Transparency is blended on white, animations give their first frame.

    Args:
        content: A file of one of `IMAGE_FORMATS`.
        limits: Checked on the header, before a pixel is decoded.
        note: Takes remarks: of several frames the first is used, a damaged colour profile is ignored.

    Returns:
        An image of mode RGB. Pixels with an ICC profile are converted to sRGB by it; 16-bit grey is scaled, floating point in [0, 1] too.

    Raises:
        BadMedia: If the bytes are of another format, damaged, truncated, over a limit, or have pixels of unknown range.
    """
    with as_bad_media(limits):
        return upright_rgb(open_image(content, limits, note), note)


def convert_image(picture: Image.Image, limits: MediaLimits, note: Note = log_note) -> Image.Image:
    """Convert a Pillow image of any mode as `decode_image` does a file, its EXIF orientation and ICC profile included.

    Raises:
        BadMedia: If it is a damaged file that is only decoded now, over a limit, or has pixels of unknown range.
    """
    with as_bad_media(limits):
        return upright_rgb(opened_image(picture, limits), note)


@contextmanager
def as_bad_media(limits: MediaLimits) -> Iterator[None]:
    """Turn Pillow's errors on damaged images into `BadMedia`."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # damaged metadata; it is not used
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            yield
    except BadMedia:
        raise
    except (UnidentifiedImageError, Image.DecompressionBombWarning, Image.DecompressionBombError, MemoryError) as error:
        if isinstance(error, UnidentifiedImageError):
            raise BadMedia(f"damaged header or none of {', '.join(IMAGE_FORMATS)}") from error
        counted = re.search(r"\d+ pixels", str(error))  # in Pillow's words
        raise BadMedia(f"{counted[0] if counted else 'too many pixels'}, at most {limits.max_pixels}") from error
    except PICTURE_ERRORS as error:
        raise BadMedia(f"damaged picture ({' '.join(str(error).split())[:120]})") from error


def open_image(content: bytes, limits: MediaLimits, note: Note = log_note) -> Opened:
    """Decode the pixels of a file, to be called inside `as_bad_media`.

    Raises:
        BadMedia: As `decode_image`.
    """
    check_bytes(content, limits)
    profile, png = None, content.startswith(SIGNATURE)
    if png:
        content, profile = png_parts(content)
    with Image.open(io.BytesIO(content), formats=list(IMAGE_FORMATS)) as picture:
        check_header(picture, limits)
        _check_content(picture, content, limits)
        if picture.format == "ICO":
            content = _icon(picture, content, limits)
            if content.startswith(SIGNATURE):
                return open_image(content, limits, note)
        if picture.format != "MPO" and _is_animated(picture):  # MPO: a preview or a second view
            note(FIRST_FRAME)
        fragments = picture.format in ("JPEG", "MPO") and "icc_profile" in picture.info
        picture.load()
        _check_size(picture, limits)  # a later frame or tile may have enlarged it
        if not png:
            profile = picture.info.get("icc_profile") or (b"" if fragments else None)
        return Opened(picture, profile)


def opened_image(picture: Image.Image, limits: MediaLimits) -> Opened:
    """A caller's Pillow image, decoded if it is still a file; to be called inside `as_bad_media`."""
    check_header(picture, limits)
    picture.load()
    return Opened(picture, picture.info.get("icc_profile"))


def check_header(picture: Image.Image, limits: MediaLimits) -> None:
    """Refuse images by their size and mode, before a pixel is decoded.

    Raises:
        BadMedia: If a limit is exceeded, or the range of the pixels is unknown.
    """
    _check_size(picture, limits)
    if min(picture.size) < limits.min_side:
        raise BadMedia(f"{picture.width} x {picture.height} pixels, at least {limits.min_side} a side")
    if picture.mode not in GREY_MODES + COLOUR_MODES + DEEP_MODES:
        raise BadMedia(f"pixels of mode {picture.mode}, whose range is unknown")


def _check_size(picture: Image.Image, limits: MediaLimits) -> None:
    width, height = picture.size
    if width * height > limits.max_pixels or max(width, height) > LONGEST_SIDE:
        raise BadMedia(f"{width} x {height} pixels, at most {limits.max_pixels} and {LONGEST_SIDE} a side")


def _check_content(picture: Image.Image, content: bytes, limits: MediaLimits) -> None:
    """Refuse images that would be slow to decode, by their header."""
    width, height = picture.size
    if content[:2] == b"\xff\xd8" and content.count(b"\xff\xda") * width * height > SCAN_PIXELS_PER_PIXEL * limits.max_pixels:
        raise BadMedia(f"{content.count(bytes([255, 218]))} passes over {width} x {height} pixels, too slow to decode")
    if width * height > SLOW_PIXELS and any(tile[0] in SLOW_DECODERS for tile in getattr(picture, "tile", ())):
        raise BadMedia(f"{width} x {height} pixels as text or of an uncommon range, at most {SLOW_PIXELS}")
    tags = getattr(picture, "tag_v2", {})
    tile = tags.get(ExifTags.Base.TileWidth, 1) * tags.get(ExifTags.Base.TileLength, 1)
    if tile > limits.max_pixels:
        raise BadMedia(f"tiles of {tile} pixels, at most {limits.max_pixels}")


def _icon(picture: Image.Image, content: bytes, limits: MediaLimits) -> bytes:
    """The largest image of an icon, which has a header of its own."""
    icon = picture.ico  # type: ignore[attr-defined]
    entry = icon.entry[icon.getentryindex(picture.size)]
    found = content[entry.offset : entry.offset + entry.size]
    if not found.startswith(SIGNATURE):
        width, height = struct.unpack_from("<ii", found, 4)
        if abs(width * height) // 2 > limits.max_pixels:
            raise BadMedia(f"{width} x {height // 2} pixels, at most {limits.max_pixels}")
    return found


def _is_animated(picture: Image.Image) -> bool:
    """Whether there is a second frame or page; a damaged one counts as none."""
    try:
        return bool(getattr(picture, "is_animated", False))
    except PICTURE_ERRORS:
        picture.seek(0)
        return False


def upright_rgb(opened: Opened, note: Note = log_note) -> Image.Image:
    """The image as RGB in sRGB on white, turned upright; to be called inside `as_bad_media`.

    It is converted in bands: a conversion of the whole image would need four times its memory.

    Raises:
        BadMedia: If floating-point pixels lie outside [0, 1], or 32-bit pixels outside 16 bits.
    """
    picture = opened.picture
    mode = "L" if picture.mode in GREY_MODES + DEEP_MODES else "CMYK" if picture.mode == "CMYK" else "RGB"
    try:
        convert = srgb_conversion(opened.profile, mode)
    except BadProfile:
        note(NO_PROFILE)
        convert = srgb_conversion(None, mode)
    flat = Image.new("RGB", picture.size)
    for top in range(0, picture.height, BAND_ROWS):
        band = picture.crop((0, top, picture.width, min(top + BAND_ROWS, picture.height)))
        colours, alpha = colours_and_alpha(band)
        rgb = convert(colours)
        if alpha is not None:
            rgb.putalpha(alpha)
            rgb = Image.alpha_composite(Image.new("RGBA", rgb.size, "white"), rgb)
        flat.paste(rgb.convert("RGB"), (0, top))
    return turned(flat, picture)


def turned(picture: Image.Image, stored: Image.Image) -> Image.Image:
    """An image, turned upright by the EXIF orientation of the image that it was made from."""
    turn = TURNS.get(stored.getexif().get(ExifTags.Base.Orientation, 1))
    return picture if turn is None else picture.transpose(turn)


def colours_and_alpha(picture: Image.Image) -> tuple[Image.Image, Image.Image | None]:
    """Pixels of mode L, RGB or CMYK, and the opacity (L) where an image has any.

    Raises:
        BadMedia: If floating-point pixels lie outside [0, 1], or 32-bit pixels outside 16 bits.
    """
    if picture.mode in DEEP_MODES:
        return _eight_bits(picture)
    if "A" in picture.getbands() or "a" in picture.getbands() or "transparency" in picture.info:
        wide = picture.convert("LA" if picture.mode in GREY_MODES else "RGBA")
        return wide.convert("L" if wide.mode == "LA" else "RGB"), wide.getchannel("A")
    if picture.mode in ("L", "RGB", "CMYK"):
        return picture, None
    return picture.convert("L" if picture.mode in GREY_MODES else "RGB"), None


def _eight_bits(picture: Image.Image) -> tuple[Image.Image, Image.Image | None]:
    """Grey of 16 bits or floating point in 8 bits, and the opacity where one value is transparent."""
    values = np.asarray(picture)
    if picture.mode == "F":
        if not (np.isfinite(values).all() and values.min() >= 0 and values.max() <= 1):
            raise BadMedia("floating-point pixels outside 0 to 1, whose range is unknown")
        return Image.fromarray(np.rint(values * 255).astype(np.uint8)), None
    if np.any(values != values.astype(np.uint16)):
        raise BadMedia("32-bit pixels beyond 16 bits, whose range is unknown")
    key = picture.info.get("transparency")
    alpha = Image.fromarray(np.where(values == key, 0, 255).astype(np.uint8)) if isinstance(key, int) else None
    return Image.fromarray((values // 257).astype(np.uint8)), alpha
