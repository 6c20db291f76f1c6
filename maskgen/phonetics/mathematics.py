"""Mathematical notation: powers, scientific notation, minus signs between operands and single Greek letters."""

import re
import unicodedata

from maskgen.phonetics.rules import Rules, apply_rules
from maskgen.phonetics.units import AREAS

SUPERSCRIPTS = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻", "0123456789+-")
MATH_SIGNS = {
    **{"≤": "less than or equal to", "≥": "greater than or equal to", "≠": "not equal to", "≈": "approximately", "∞": "infinity"},
    **{"√": "square root of", "∑": "sum of", "∫": "integral of", "∂": "partial", "∈": "in", "∴": "therefore", "⋅": "times", "·": "times"},
    **{"∼": "about", "≡": "identical to", "∝": "proportional to", "∅": "the empty set", "∪": "union", "∩": "intersection"},
}
"""Signs and their words; those that are also punctuation elsewhere, such as the middle dot, only between figures."""
ONLY_BETWEEN_FIGURES = "·"
POWERS = {"2": "squared", "3": "cubed"}

_OPERAND = r"(?:\d+(?:\.\d+)?|[A-Za-z]\b)"
_TERM = rf"-?{_OPERAND}(?:\s?[-+*/×÷^]\s?{_OPERAND}){{0,8}}"
_EQUATION = re.compile(rf"(?<![\w.-]){_TERM}\s?[=<>≤≥≈≠]\s?{_TERM}(?![\w-]|\.\d)")
_GREEK = r"\u0370-\u03ff\u1f00-\u1fff"
_LETTER = re.compile(rf"(?<![{_GREEK}])(?!μ[A-Za-z])(?!(?<=[\dkM])Ω|(?<=\d )Ω)[\u0391-\u03c9](?![{_GREEK}])")
"""A single Greek letter that is no part of a unit."""


def speak_mathematics(text: str) -> str:
    """The text with powers, scientific notation, operators in equations and single Greek letters in words or in plain signs."""
    text = _LETTER.sub(lambda found: f" {_letter_name(found[0])} ", text.replace("µ", "μ").replace("\u2126", "Ω"))
    text = _EQUATION.sub(lambda found: re.sub(r"\*", " times ", re.sub(r"(?<=\w)\s?-\s?(?=\w)", " minus ", found[0])), text)
    return apply_rules(text, RULES)


def _letter_name(letter: str) -> str:
    """Name of a Greek letter: "pi"."""
    return unicodedata.name(letter, "").replace("FINAL ", "").partition("LETTER ")[2].partition(" ")[0].lower().replace("lamda", "lambda")


def _power(found: re.Match[str]) -> str:
    """Words of an exponent: "squared", "cubed", "to the power of six"."""
    return POWERS.get(found[1]) or f"to the power of {_signed(found[1])}"


def _signed(exponent: str) -> str:
    """An exponent with its sign in words."""
    return re.sub(r"^[-−]", "minus ", exponent.lstrip("+"))


RULES: Rules = (
    (re.compile(rf"(?<![A-Za-z])({'|'.join(AREAS)})([²³])"), lambda found: f"{'sq' if found[2] == '²' else 'cu'} {found[1]}"),
    (re.compile(rf"(?<=\d)\s?({'|'.join(AREAS)})\^?([23])\b"), lambda found: f"{'sq' if found[2] == '2' else 'cu'} {found[1]}"),
    (re.compile(r"(?<=[\d)])([⁰¹²³⁴-⁹⁺⁻]+)"), lambda found: f"^{found[1].translate(SUPERSCRIPTS)}"),
    (re.compile(r"(?<=\b[A-Za-z])([⁰¹²³⁴-⁹⁺⁻]+)"), lambda found: f"^{found[1].translate(SUPERSCRIPTS)}"),
    (
        re.compile(r"(?<![\w.])(\d+(?:\.\d+)?)[eE]([-+−]?\d{1,3})(?![\w.]*\w)"),
        lambda found: f"{found[1]} times ten to the power of {_signed(found[2])}",
    ),
    (re.compile(r"(?<=[\w)])\s?\^\s?([-+−]?\d+)\b"), _power),
    (re.compile(r"(?<=\d)\s?\*\*\s?(?=\d)"), lambda _: "to the power of"),
    (re.compile(r"(?<=\d)\s?\*\s?(?=\d)"), lambda _: "times"),
    (re.compile(rf"(?<=\d)\s?[{ONLY_BETWEEN_FIGURES}]\s?(?=\d)"), lambda _: "times"),
    (re.compile(f"[{''.join(sign for sign in MATH_SIGNS if sign not in ONLY_BETWEEN_FIGURES)}]"), lambda found: MATH_SIGNS[found[0]]),
)
