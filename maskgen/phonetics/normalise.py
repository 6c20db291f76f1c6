"""Text to speakable words: numbers, money, times, abbreviations and signs become words; what cannot be spoken is told."""

import re
import unicodedata
from dataclasses import dataclass

from maskgen.phonetics.abbreviations import expand_abbreviations
from maskgen.phonetics.symbols import PUNCTUATION
from maskgen.phonetics.verbalise import verbalise

SPEAKABLE = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ'- " + PUNCTUATION)
BEFORE_FOLDING = {"²": " squared", "³": " cubed", "™": " trademark", "®": " registered", "©": " copyright ", "℃": " °C", "℉": " °F"}
FOLDED = {
    **dict.fromkeys("‘’‚‛ʼʹ′´`＇", "'"),
    **dict.fromkeys("„‟«»″", '"'),
    **dict.fromkeys("‐‑‒−﹣", "-"),
    **dict.fromkeys("–―⸺", "—"),
    **dict(zip("[]{}", "()()", strict=True)),
    **{"ß": "ss", "ẞ": "SS", "æ": "ae", "Æ": "Ae", "œ": "oe", "Œ": "Oe", "ø": "o", "Ø": "O", "ł": "l", "Ł": "L"},
    **{"đ": "d", "Đ": "D", "ð": "th", "Ð": "Th", "þ": "th", "Þ": "Th", "ı": "i", "⁄": "/"},
}
SIGNS = {
    "&": "and",
    "@": "at",
    "+": "plus",
    "=": "equals",
    "#": "number",
    "%": "percent",
    "°": "degrees",
    "×": "times",
    "÷": "divided by",
    "±": "plus or minus",
    "<": "less than",
    ">": "greater than",
    "~": "about",
    "$": "dollars",
    "£": "pounds",
    "€": "euros",
    "¥": "yen",
    "§": "section",
    "^": "to the power of",
}
SEPARATORS = frozenset("/_\\|\u00ad\u200b\u200c\u200d\u2060\ufeff")
"""Between words or invisible: a break, and nothing is missed when they are not spoken."""
ELISIONS = ("tis", "twas", "em", "cause", "til", "n", "d", "s", "ll", "m", "bout", "round", "neath", "cept")


@dataclass(frozen=True)
class NormalisedText:
    """What `normalise` gives.

    Args:
        text: Words of ASCII letters, apostrophes and hyphens, and punctuation of the alphabet; single spaces.
        left_out: Characters that are not spoken, each once, in the order of the text.
    """

    text: str
    left_out: list[str]


def normalise(text: str) -> NormalisedText:
    """Speakable words of any Unicode text.

    Numbers to 10^15, ordinals, decimals, years, money, percent, times, dates, fractions, common units, abbreviations and signs
    become words; accents are dropped. Every other character is told in `left_out`, except separators such as "/" and "_".
    """
    said = verbalise(expand_abbreviations(_quoted(_folded(text))))
    said = "".join(f" {SIGNS[sign]} " if sign in SIGNS else sign for sign in said)
    plain = "".join(mark for mark in unicodedata.normalize("NFD", said) if unicodedata.category(mark) != "Mn")
    left_out = [mark for mark in dict.fromkeys(plain) if mark not in SPEAKABLE and mark not in SEPARATORS and not mark.isspace()]
    return NormalisedText(_spaced("".join(mark if mark in SPEAKABLE else " " for mark in plain)), left_out)


def _folded(text: str) -> str:
    """NFKC, one kind of quotes and dashes, ASCII digits."""
    parted = "".join(f" {mark}" if unicodedata.category(mark) == "No" and mark not in BEFORE_FOLDING else mark for mark in text)
    kept = "".join(BEFORE_FOLDING.get(mark, mark) for mark in parted)
    folded = "".join(FOLDED.get(mark, mark) for mark in unicodedata.normalize("NFKC", kept))
    folded = "".join(str(unicodedata.decimal(mark)) if mark.isdecimal() else mark for mark in folded)
    folded = re.sub(r"(?<=\d)\s?—\s?(?=\d)", "-", folded)
    return re.sub(r"\s*(?:—|--+|\s-\s)\s*", " — ", folded)


def _quoted(text: str) -> str:
    """Straight quotes that open or close; apostrophes that are quotes."""
    text = re.sub(r"''", '"', text)
    text = re.sub(rf"(?<![\w'])'(?=\w)(?!(?:{'|'.join(ELISIONS)}|\d0s)\b)", "“", text, flags=re.IGNORECASE)
    text = re.sub(r"(“[^“”'\"]*)'(?!\w)", r"\1”", text)
    text = re.sub(r"(^|[\s(—])\"(?=\S)", r"\1“", text)
    return re.sub(r"(?<=[\w.,!?])“(?!\w)", "”", text.replace('"', "”"))


def _spaced(text: str) -> str:
    """Single spaces, none before punctuation that closes and none after what opens; hyphens and apostrophes only in words."""
    text = re.sub(r"(?<![A-Za-z])(?<![A-Za-z]')-+|-+(?![A-Za-z'])|(?<![A-Za-z])'+(?![A-Za-z])", " ", text)
    text = re.sub(r"([,;:])(?=[A-Za-z])", r"\1 ", text)
    text = re.sub(r"\s+([,.;:!?”)])", r"\1", re.sub(r"([“(])\s+", r"\1", text))
    return " ".join(text.split())
