"""Reading untrusted image files, converting images to tensors and back, writing images and animations, and contact sheets."""

import io
import logging
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from maskgen.io.edit_masks import decode_mask
from maskgen.io.files import write_atomic
from maskgen.io.limits import BadMedia, MediaLimits, Note
from maskgen.io.pictures import convert_image, decode_image

logger = logging.getLogger(__name__)
IMAGE_LIMITS = MediaLimits(max_bytes=2**29)
"""Limits of a single image, as the command line and Python calls read it."""


def read_picture(path: Path | str, limits: MediaLimits = IMAGE_LIMITS) -> Image.Image:
    """Read an image file as RGB in sRGB, turned upright, with transparency blended on white; see `decode_image`.

    Args:
        path: File of one of `IMAGE_FORMATS`.
        limits: Checked on the header, before a pixel is decoded.

    Raises:
        ValueError: If the file is missing, not an image, truncated or too large.
    """
    return _read(Path(path), limits, decode_image, "picture")


def read_mask(path: Path | str, limits: MediaLimits = IMAGE_LIMITS) -> Image.Image:
    """Read a mask file as an image of mode L: 255 where an image is regenerated, 0 elsewhere; see `maskgen.io.edit_masks`.

    Args:
        path: File of one of `IMAGE_FORMATS`.
        limits: Checked on the header, before a pixel is decoded.

    Raises:
        ValueError: If the file is missing, not an image, truncated or too large, or the mask is ambiguous.
    """
    return _read(Path(path), limits, decode_mask, "mask")


def _read(path: Path, limits: MediaLimits, decode: Callable[[bytes, MediaLimits, Note], Image.Image], what: str) -> Image.Image:
    """A file through one of the decoders."""
    if not path.is_file():
        raise ValueError(f"{path} does not exist or is no file; give a picture")
    if path.stat().st_size > limits.max_bytes:
        raise ValueError(f"{path} has {path.stat().st_size} bytes, at most {limits.max_bytes} are read; give a smaller picture")
    try:
        return decode(path.read_bytes(), limits, lambda remark: logger.warning("%s has %s", path, remark))
    except OSError as error:
        raise ValueError(f"{path} cannot be read ({error.strerror}); give a picture") from error
    except BadMedia as error:
        raise ValueError(f"{path} cannot be used as a {what}: {error}; give a whole PNG, JPEG or WebP file") from error


def to_pixels(pictures: Sequence[Image.Image]) -> Float[Tensor, "batch 3 rows columns"]:
    """Convert images of one size and any mode to a float tensor in [0, 1]; see `convert_image`."""
    arrays = [np.asarray(_plain(picture)) for picture in pictures]
    return torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2).float() / 255


def _plain(picture: Image.Image) -> Image.Image:
    """An RGB image; one without metadata is not converted."""
    return picture if picture.mode == "RGB" and not picture.info else convert_image(picture, IMAGE_LIMITS)


def to_pictures(pixels: Float[Tensor, "batch 3 rows columns"]) -> list[Image.Image]:
    """Convert a float tensor to images. Values outside [0, 1] are clipped."""
    arrays = (pixels.float().clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1).cpu().numpy()
    return [Image.fromarray(array) for array in arrays]


def write_picture(picture: Image.Image, path: Path | str) -> None:
    """Write an image atomically, in the format given by the file extension. An older file stays until the new one is complete.

    Raises:
        ValueError: If the extension is not a format that can be written.
        OSError: If it cannot be written, for example on a full disk.
    """
    kind, content = _format_of(Path(path)), io.BytesIO()
    picture.save(content, format=kind)
    write_atomic(Path(path), content.getvalue())


def write_animation(frames: Sequence[Image.Image], path: Path | str, durations_ms: Sequence[int]) -> None:
    """Write an endlessly repeating animation atomically, in the format given by the file extension (gif, webp, png).

    Args:
        frames: Images of one size.
        path: Output file.
        durations_ms: Display time of each frame.

    Raises:
        ValueError: If the extension is not a format that can be written.
        OSError: If it cannot be written.
    """
    kind, content = _format_of(Path(path)), io.BytesIO()
    frames[0].save(content, format=kind, save_all=True, append_images=list(frames[1:]), duration=list(durations_ms), loop=0)
    write_atomic(Path(path), content.getvalue())


def _format_of(path: Path) -> str:
    """Return Pillow's format name for a file extension.

    Raises:
        ValueError: If Pillow has no format for it.
    """
    kind = Image.registered_extensions().get(path.suffix.lower())
    if kind is None or kind not in Image.SAVE:
        raise ValueError(f"cannot write {path}: {path.suffix or 'no ending'} names no format of pictures; end its name in .png")
    return kind


def contact_sheet(pictures: Sequence[Image.Image], columns: int, gap: int = 4) -> Image.Image:
    """Arrange images of one size in a grid on white, row by row."""
    width, height = pictures[0].size
    rows = -(-len(pictures) // columns)
    sheet = Image.new("RGB", (columns * (width + gap) + gap, rows * (height + gap) + gap), "white")
    for place, picture in enumerate(pictures):
        sheet.paste(picture, (gap + place % columns * (width + gap), gap + place // columns * (height + gap)))
    return sheet
