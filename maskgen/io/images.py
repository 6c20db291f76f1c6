"""Reading untrusted image files, converting images to tensors and back, writing images and animations, and contact sheets."""

import io
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from maskgen.io.files import write_atomic
from maskgen.io.letterbox import on_white

LARGEST_PICTURE_PIXELS = 50_000_000


def read_picture(path: Path | str, max_pixels: int = LARGEST_PICTURE_PIXELS) -> Image.Image:
    """Read an image file as RGB, rotated by its EXIF tag, with transparency composited on white.

    The header is checked before any pixel is decoded.

    Args:
        path: File in any format that Pillow reads.
        max_pixels: Maximum number of pixels.

    Raises:
        ValueError: If the file is missing, not an image, truncated or too large.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"{path} does not exist or is no file; give a picture")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # max_pixels is lower and raises an error
            opened = Image.open(path)
        with opened:
            if opened.width * opened.height > max_pixels:
                raise ValueError(
                    f"{path} has {opened.width} x {opened.height} pixels, at most {max_pixels:,} are read; give a smaller picture"
                )
            opened.load()
            return on_white(ImageOps.exif_transpose(opened))
    except Image.DecompressionBombError as error:
        raise ValueError(f"{path} has too many pixels, at most {max_pixels:,} are read; give a smaller picture") from error
    except (UnidentifiedImageError, OSError, SyntaxError, EOFError) as error:
        raise ValueError(f"{path} is damaged or no picture ({error}); give a whole PNG, JPEG or WebP file") from error


def to_pixels(pictures: Sequence[Image.Image]) -> Float[Tensor, "batch 3 rows columns"]:
    """Convert images of one size to a float tensor in [0, 1]."""
    arrays = [np.asarray(picture.convert("RGB")) for picture in pictures]
    return torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2).float() / 255


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
