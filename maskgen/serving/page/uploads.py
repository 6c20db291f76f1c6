"""Files that a person uploads to the page, through the same checks as uploads to the server."""

from pathlib import Path

from PIL import Image

from maskgen.io.audio import Waveform
from maskgen.serving.limits import ServeLimits
from maskgen.serving.media import picture_from, recording_from


def uploaded_picture(path: str | None, limits: ServeLimits, name: str = "the picture") -> Image.Image:
    """An uploaded picture as upright RGB.

    Args:
        path: Of the page's own folder; nothing else reaches a tab.
        limits: Of the server.
        name: What it is, for errors.

    Raises:
        ValueError: If there is none, or it cannot be used; says why.
    """
    return picture_from(_content(path, limits, name), limits.media, name)


def uploaded_recording(path: str | None, limits: ServeLimits, name: str = "the recording") -> Waveform:
    """An uploaded recording at its own rate.

    Args:
        path: As of `uploaded_picture`.
        limits: Of the server.
        name: What it is, for errors.

    Raises:
        ValueError: If there is none, or it cannot be used; says why.
    """
    return recording_from(_content(path, limits, name), limits.media, name)


def _content(path: str | None, limits: ServeLimits, name: str) -> bytes:
    """The bytes of a file."""
    if not path:
        raise ValueError(f"{name} is missing; upload or record one")
    if Path(path).stat().st_size > limits.max_body_bytes:
        raise ValueError(f"{name} has more than {limits.max_body_bytes} bytes; give a smaller file")
    return Path(path).read_bytes()
