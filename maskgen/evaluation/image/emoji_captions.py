"""Judge of the emoji corpus: which parts of a caption (subject, skin tone, style) a model got right."""

import re
from collections.abc import Sequence
from typing import NamedTuple

from maskgen.data.corpora.emoji_captions import TONES

_TONE = f"(?:{'|'.join(tone for tone in TONES if tone)})"
_CAPTION = re.compile(rf"(?P<subject>.*?)(?: (?:with|and) (?P<tone>{_TONE}(?: and {_TONE})?) skin)?(?:, (?P<style>\w+) style)?")


class CaptionParts(NamedTuple):
    """Parts of a caption of the corpus."""

    subject: str
    tone: str | None
    style: str | None


def parts_of(caption: str) -> CaptionParts:
    """Subject, skin tone and style of a caption; a part that is not in it is None."""
    match = _CAPTION.fullmatch(caption.strip().lower())
    return CaptionParts(caption.strip().lower(), None, None) if match is None else CaptionParts(**match.groupdict())


def caption_scores(wanted: Sequence[str], made: Sequence[str]) -> dict[str, float | int | None]:
    """Share of captions with the right parts.

    Args:
        wanted: The images' own captions.
        made: Captions that a model generated for them.

    Returns:
        Shares in [0, 1]: `exact`, `subject`, `tone` (of images with one; None without any), `style`, `subject_and_tone`; and `rows`.
    """
    pairs = [(parts_of(left), parts_of(right)) for left, right in zip(wanted, made, strict=True)]
    toned = [(left, right) for left, right in pairs if left.tone is not None]

    def share(hits: Sequence[bool]) -> float | None:
        return sum(hits) / len(hits) if hits else None

    return {
        "rows": len(pairs),
        "exact": share([left == right for left, right in pairs]),
        "subject": share([left.subject == right.subject for left, right in pairs]),
        "tone": share([left.tone == right.tone for left, right in toned]),
        "style": share([left.style == right.style for left, right in pairs]),
        "subject_and_tone": share([left[:2] == right[:2] for left, right in pairs]),
    }
