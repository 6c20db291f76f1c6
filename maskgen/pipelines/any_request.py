"""What an any-to-any call may be asked for, and from what."""

from collections.abc import Sequence
from typing import Any

from maskgen.processors.text import HOLE

TARGETS = ("text", "image", "audio")
DECODED = ("text", "transcript", "image", "audio")
"""Modalities that a call may decode on the way."""


def check_request(targets: Sequence[str], prompt: str | None, image: Any, audio: Any, source: str) -> None:
    """Refuse calls that cannot be meant.

    Raises:
        ValueError: If media are given that don't go together, nothing or something unknown is asked for, or the given is asked for.
    """
    wrong = [name for name in targets if name not in TARGETS]
    if wrong or len(set(targets)) != len(targets):
        raise ValueError(f"target must be one or several of {', '.join(TARGETS)}, each once, got {', '.join(targets)}")
    given = [name for name, medium in (("text", prompt), ("image", image), ("audio", audio)) if medium is not None]
    fills = list(targets) == ["text"] and prompt is not None and audio is None
    styled = given == ["text", "audio"] and list(targets) == ["image"]
    if len(given) != 1 and not fills and not styled:
        raise ValueError(
            f"give exactly one of prompt, image and audio, got {' and '.join(given) or 'none'}; "
            "for an image alone a prompt may add to audio, and a text with holes may stand with an image"
        )
    if given[0] in targets and given[0] != "audio" and not fills:
        raise ValueError(
            f"{given[0]} is given and asked for; a TextToImagePipeline edits images, and target text fills holes as in 'a [2] heart'"
        )
    if source == "audio" and (audio is None or "image" not in targets):
        raise ValueError('source="audio" is for drawing a recording: give audio and ask for an image')
    if fills and prompt is not None and not HOLE.search(prompt):
        raise ValueError(f"{prompt[:80]!r} has no hole to fill; write [3] where three codes are wanted")
