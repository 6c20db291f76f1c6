"""Limits of the HTTP server: what one request may send and ask for."""

from collections.abc import Sequence
from dataclasses import dataclass

from maskgen.io.limits import MediaLimits


@dataclass(frozen=True, kw_only=True)
class ServeLimits:
    """What the server accepts; the number of requests that decode and wait is limited by each engine (`EngineLimits`).

    Args:
        max_requests: Requests whose body is read, that wait or that are answered, of all models together.
        max_body_bytes: Size of a request's body.
        max_bodies_bytes: Size of the bodies of all requests together.
        body_timeout_s: Time in which a body must have arrived.
        send_timeout_s: Time in which a client must take each part of its answer.
        header_timeout_s: Time in which the head of a request must have arrived.
        max_pixels: Pixels of an uploaded image.
        max_audio_s: Duration of an uploaded recording.
        max_speech_s: Duration of speech that a request may ask for.
        max_characters: Characters of each text of a request.
        max_steps: Decode steps of a level.
        max_outputs: Outputs of a request.
        max_candidates: Captions or transcripts that are decoded to choose one.
        max_cells: Cells of one modality whose codes a request gives.
        max_previews: Previews of one decode.

    Raises:
        ValueError: If a limit is not positive.
    """

    max_requests: int = 256
    max_body_bytes: int = 32 * 2**20
    max_bodies_bytes: int = 256 * 2**20
    body_timeout_s: float = 30.0
    send_timeout_s: float = 60.0
    header_timeout_s: float = 10.0
    max_pixels: int = 2**24
    max_audio_s: float = 30.0
    max_speech_s: float = 60.0
    max_characters: int = 5_000
    max_steps: int = 256
    max_outputs: int = 16
    max_candidates: int = 16
    max_cells: int = 4096
    max_previews: int = 16

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not value > 0:
                raise ValueError(f"{name} must be above 0, got {value}")

    @property
    def media(self) -> MediaLimits:
        """Limits of one uploaded file, as the readers of data builds take them."""
        return MediaLimits(
            max_bytes=self.max_body_bytes,
            max_pixels=self.max_pixels,
            max_seconds=self.max_audio_s,
            max_characters=self.max_characters,
        )

    def check_number(self, name: str, value: int | float | Sequence[int] | None, limit: int | float) -> None:
        """Refuse a number, or one of several, above a limit.

        Raises:
            ValueError: Names the field, its value and the limit.
        """
        for one in value if isinstance(value, Sequence) else [value]:
            if one is not None and one > limit:
                raise ValueError(f"{name} is {one:g}, this server takes at most {limit:g}; ask for less")

    def check_text(self, name: str, text: str | None) -> None:
        """Refuse a text that is too long.

        Raises:
            ValueError: Names the field, its length and the limit.
        """
        if text is not None and len(text) > self.max_characters:
            raise ValueError(f"{name} has {len(text)} characters, this server takes at most {self.max_characters}; send it in parts")
