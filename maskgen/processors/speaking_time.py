"""How long a text takes to speak, by its characters alone: for voices that speak any language and have no phonemes."""

import bisect
import unicodedata

SCRIPTS = (
    *(
        (0x058F, 1.0),
        (0x08FF, 1.5),
        (0x0DFF, 1.8),
        (0x0EFF, 1.5),
        (0x109F, 1.8),
        (0x10FF, 1.0),
        (0x11FF, 2.5),
        (0x139F, 3.0),
        (0x177F, 1.0),
    ),
    *(
        (0x17FF, 1.8),
        (0x18FF, 1.0),
        (0x1C7F, 1.8),
        (0x1CBF, 1.0),
        (0x1CFF, 1.8),
        (0x1EFF, 1.0),
        (0x30FF, 2.2),
        (0x312F, 3.0),
        (0x318F, 2.5),
    ),
    *(
        (0xA4CF, 3.0),
        (0xA7FF, 1.0),
        (0xA82F, 1.8),
        (0xA87F, 1.0),
        (0xA95F, 1.8),
        (0xA97F, 2.5),
        (0xAAFF, 1.8),
        (0xAB2F, 3.0),
        (0xABBF, 1.0),
    ),
    *((0xABFF, 1.8), (0xD7AF, 2.5), (0xFAFF, 3.0), (0xFDFF, 1.5), (0xFE6F, 1.0), (0xFEFF, 1.5), (0x20000, 1.0), (0x10FFFF, 3.0)),
)
"""Last code point of a stretch of scripts, to the time of one character beside that of a Latin letter."""
KINDS = {"M": 0.0, "P": 0.5, "S": 0.5, "Z": 0.2, "N": 3.5}
"""Time of characters of no script: marks, punctuation, symbols, spaces, digits."""
TATWEEL = "\u0640"
SAMPLE, SAMPLE_S = "Nice to meet you.", 1.0
"""A text and how long it takes, where no recording gives the pace."""
SHORT_S = 2.0
"""Texts that would take less are given more time than their share: their pauses and their first sounds do not shrink."""


def weight(text: str) -> float:
    """Time of a text in Latin letters."""
    return sum(_character(one) for one in text)


def speaking_seconds(text: str, said: str = SAMPLE, said_s: float = SAMPLE_S) -> float:
    """How long a text takes at the pace of another one; under `SHORT_S` it grows with the cube root of its share.

    Args:
        text: What is to be spoken.
        said: What was spoken.
        said_s: How long that took.

    Source: OmniVoice (k2-fsa); its numbers, in seconds.
    """
    if not weight(said):
        said, said_s = SAMPLE, SAMPLE_S
    found = weight(text) * said_s / weight(said)
    return SHORT_S * (found / SHORT_S) ** (1 / 3) if found < SHORT_S else found


def _character(one: str) -> float:
    """Time of one character."""
    if one == TATWEEL:
        return 0.0
    kind = KINDS.get(unicodedata.category(one)[0])
    return kind if kind is not None else SCRIPTS[bisect.bisect_left(SCRIPTS, (ord(one), 0.0))][1]
