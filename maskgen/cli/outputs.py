"""Where generated media are written, and what is printed about them."""

import argparse
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL import Image

    from maskgen.io.audio import Waveform

TEXT_ENDINGS = (".txt", ".json")
IMAGE_ENDINGS = (".png", ".webp", ".jpg", ".jpeg")
AUDIO_ENDINGS = (".wav", ".flac", ".ogg", ".mp3")
LARGEST_SCALE = 32


def check_writable(path: Path, endings: tuple[str, ...]) -> None:
    """Refuse an output that cannot be written, before any work is done.

    Raises:
        ValueError: If its name has another ending, or its folder is missing or closed.
    """
    if path.suffix.lower() not in endings:
        raise ValueError(f"cannot write {path}: its name must end in {' or '.join(endings)}")
    folder = path.parent
    if path.is_dir() or not folder.is_dir() or not os.access(path if path.exists() else folder, os.W_OK):
        raise ValueError(f"cannot write {path}: give a file name in an existing folder that you may write to")


def add_outputs(parser: argparse.ArgumentParser, what: str) -> None:
    """Seed and number of outputs."""
    parser.add_argument("--seed", type=int, default=0, help="output i of a prompt has seed + i (default: %(default)s)")
    parser.add_argument("--num-outputs", type=int, default=1, metavar="N", help=f"{what} (default: %(default)s)")


def add_scale(parser: argparse.ArgumentParser) -> None:
    """How much written images are enlarged."""
    parser.add_argument("--scale", type=int, default=1, help="enlarge written images by this factor (default: %(default)s)")


def check_scale(scale: int) -> None:
    """Refuse a factor out of range."""
    if not 1 <= scale <= LARGEST_SCALE:
        raise ValueError(f"--scale must lie in 1 to {LARGEST_SCALE}, got {scale}")


def enlarged(image: "Image.Image", factor: int) -> "Image.Image":
    """An image with its sides multiplied."""
    from PIL import Image

    return image if factor == 1 else image.resize((image.width * factor, image.height * factor), Image.Resampling.LANCZOS)


def numbered(path: Path, count: int) -> list[Path]:
    """A name for each of several outputs: clip-0.wav, clip-1.wav; the name itself for a single one."""
    return [path] if count == 1 else [path.with_stem(f"{path.stem}-{number}") for number in range(count)]


def write_images(images: "Sequence[Image.Image]", path: Path, columns: int) -> str:
    """Write one image, or a contact sheet with the single ones next to it, and return what was written."""
    from maskgen.io.images import contact_sheet, write_picture

    if len(images) == 1:
        write_picture(images[0], path)
        return f"wrote {path} ({images[0].width} x {images[0].height}"
    for name, image in zip(numbered(path, len(images)), images, strict=True):
        write_picture(image, name)
    write_picture(contact_sheet(images, columns), path)
    return f"wrote {path} and {len(images)} images next to it ("


def write_audio(waves: "Sequence[Waveform]", path: Path) -> list[str]:
    """Write a file for each waveform and return what was written, a line each."""
    lines = []
    for name, wave in zip(numbered(path, len(waves)), waves, strict=True):
        wave.save(name)
        lines.append(f"wrote {name} ({wave.seconds:.2f} s at {wave.sample_rate_hz} Hz")
    return lines
