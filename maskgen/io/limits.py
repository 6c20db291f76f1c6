"""Size limits of media samples, and the error for a sample that cannot be used."""

import logging
from collections.abc import Callable
from dataclasses import dataclass

logger = logging.getLogger(__name__)
Note = Callable[[str], None]
"""Takes a remark about a sample that can be used, such as "a damaged colour profile, which is ignored": what the sample has and what was
done. The wording is the same for every sample, so that remarks can be counted."""
PILLOW_PIXELS = 89_478_485
"""Maximum pixels of an image: the limit at which Pillow warns. maskgen raises an error instead."""


class BadMedia(ValueError):
    """Raised for a sample that cannot be used. The message states the reason in one short sentence."""


@dataclass(frozen=True, kw_only=True)
class MediaLimits:
    """Size limits of one sample, checked before it is decoded.

    Args:
        max_bytes: Maximum size of a file, tar member or table cell.
        max_pixels: Maximum pixels of an image.
        min_side: Minimum length of the shorter side of an image, in pixels.
        max_seconds: Maximum duration of audio.
        min_sample_rate_hz: Minimum sample rate of audio.
        max_sample_rate_hz: Maximum sample rate of audio.
        max_channels: Maximum audio channels.
        max_characters: Maximum characters of a text, summed over all its alternatives.

    Raises:
        ValueError: If a limit is not positive, the rates are out of order or max_pixels is above what Pillow opens without a warning.
    """

    max_bytes: int = 64 * 2**20
    max_pixels: int = 50_000_000
    min_side: int = 1
    max_seconds: float = 60.0
    min_sample_rate_hz: int = 4000
    max_sample_rate_hz: int = 192_000
    max_channels: int = 8
    max_characters: int = 10_000

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not value > 0:
                raise ValueError(f"{name} must be above 0, got {value}")
        if self.min_sample_rate_hz > self.max_sample_rate_hz:
            raise ValueError(f"min_sample_rate_hz {self.min_sample_rate_hz} is above max_sample_rate_hz {self.max_sample_rate_hz}")
        if self.max_pixels > PILLOW_PIXELS:
            raise ValueError(f"max_pixels must be at most {PILLOW_PIXELS} (Pillow's own limit), got {self.max_pixels}")


def check_bytes(content: bytes, limits: MediaLimits) -> None:
    """Raise if the content is empty or longer than `max_bytes`."""
    if len(content) > limits.max_bytes:
        raise BadMedia(f"{len(content)} bytes, at most {limits.max_bytes}")
    if not content:
        raise BadMedia("empty file")


def log_note(remark: str) -> None:
    """Log a remark about a sample as a warning."""
    logger.warning("a sample has %s", remark)
