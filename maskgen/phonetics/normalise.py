"""Normalises text to speakable words: expands numbers, money, times, abbreviations and symbols, and reports what can't be spoken."""

import re
import unicodedata
from dataclasses import dataclass

from maskgen.phonetics.abbreviations import expand_abbreviations
from maskgen.phonetics.addresses import speak_addresses
from maskgen.phonetics.markup import without_markup
from maskgen.phonetics.mathematics import speak_mathematics
from maskgen.phonetics.roman import speak_roman
from maskgen.phonetics.symbols import PUNCTUATION
from maskgen.phonetics.units import CURRENCIES
from maskgen.phonetics.verbalise import speak_inches, verbalise

SPEAKABLE = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ'- " + PUNCTUATION)
BEFORE_FOLDING = {
    "²": " squared",
    "³": " cubed",
    "™": " trademark",
    "®": " registered",
    "©": " copyright ",
    "℃": " °C",
    "℉": " °F",
    "º": "°",
}
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
    "‰": "per mille",
    "¢": "cents",
    **{sign: currency.many for sign, currency in CURRENCIES.items()},
    "§": "section",
    "^": "to the power of",
}
SEPARATORS = frozenset("/_\\|\u00ad\u200b\u200c\u200d\u2060\ufeff")
"""Separators and invisible characters: they become a space and are not reported as left out."""
ELISIONS = ("tis", "twas", "em", "cause", "til", "n", "d", "s", "ll", "m", "bout", "round", "neath", "cept")


@dataclass(frozen=True)
class NormalisedText:
    """Result of `normalise`.

    Args:
        text: Words of ASCII letters, apostrophes and hyphens, and the punctuation of the phoneme alphabet, with single spaces.
        left_out: What is not spoken, each once: first pieces of markup, such as tags, then characters in the order of the text.
    """

    text: str
    left_out: list[str]


def normalise(text: str) -> NormalisedText:
    """Converts any Unicode text to speakable words.

    Numbers to 10^15, quantities, money, times, dates, ranges, addresses, Roman numerals, common abbreviations, signs and mathematical
    notation become words; accents are dropped. `left_out` lists markup and every other character, except separators such as "/" and "_".
    """
    content, markup = without_markup(text)
    folded = speak_inches(_folded(speak_mathematics(speak_addresses(content))))
    said = verbalise(expand_abbreviations(speak_roman(_quoted(folded))))
    said = "".join(f" {SIGNS[sign]} " if sign in SIGNS else sign for sign in said)
    plain = "".join(mark for mark in unicodedata.normalize("NFD", said) if unicodedata.category(mark) != "Mn")
    left_out = [mark for mark in plain if mark not in SPEAKABLE and mark not in SEPARATORS and not mark.isspace()]
    spoken = _spaced("".join(mark if mark in SPEAKABLE else " " for mark in plain))
    return NormalisedText(spoken, list(dict.fromkeys([*markup, *left_out])))


def _folded(text: str) -> str:
    """The text in NFKC form, with uniform quotes and dashes and ASCII digits."""
    parted = "".join(f" {mark}" if unicodedata.category(mark) == "No" and mark not in BEFORE_FOLDING else mark for mark in text)
    kept = "".join(BEFORE_FOLDING.get(mark, mark) for mark in parted)
    folded = "".join(FOLDED.get(mark, mark) for mark in unicodedata.normalize("NFKC", kept))
    folded = "".join(str(unicodedata.decimal(mark)) if mark.isdecimal() else mark for mark in folded)
    folded = re.sub(r"(\d%?|\d\s?[aApP]\.?[mM]\.?)(?:\s?—\s?|\s-\s)(?=[\d$£€])", r"\1-", folded)
    return re.sub(r"\s*(?:—|--+|\s-\s)\s*", " — ", folded)


def _quoted(text: str) -> str:
    """The text with straight quotes, and apostrophes used as quotes, turned into opening and closing quotes."""
    text = re.sub(r"''", '"', text)
    text = re.sub(rf"(?<![\w'])'(?=\w)(?!(?:{'|'.join(ELISIONS)}|\d0s)\b)", "“", text, flags=re.IGNORECASE)
    text = re.sub(r"(“[^“”'\"]*)'(?!\w)", r"\1”", text)
    text = re.sub(r"(^|[\s(—])\"(?=\S)", r"\1“", text)
    return re.sub(r"(?<=[\w.,!?])“(?!\w)", "”", text.replace('"', "”"))


def _spaced(text: str) -> str:
    """The text with single spaces, none before closing or after opening punctuation; hyphens and apostrophes only inside words."""
    text = re.sub(r"(?<![A-Za-z])(?<![A-Za-z]')-+|-+(?![A-Za-z'])|(?<![A-Za-z])'+(?![A-Za-z])", " ", text)
    text = re.sub(r"([,;:])(?=[A-Za-z])", r"\1 ", text)
    text = re.sub(r"\s+([,.;:!?”)])", r"\1", re.sub(r"([“(])\s+", r"\1", text))
    return " ".join(text.split())
