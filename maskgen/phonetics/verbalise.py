"""Converts numeric expressions to words: money, times, dates, units, ordinals, years and other numbers."""

import re

from maskgen.phonetics.numbers import cardinal, decimal, digits, fraction, ordinal, year
from maskgen.phonetics.rules import Rules, apply_rules
from maskgen.phonetics.times import DATES, DECADES, TIMES
from maskgen.phonetics.units import (
    AMOUNT,
    CENTS,
    CODE_BEFORE,
    KELVIN,
    MONEY,
    MONEY_AFTER,
    NUMBER,
    QUANTITY,
    SCALES,
    UNIT,
    UNITS,
    money,
    plural_unit,
    quantity,
)

FIXED = {
    **{"24/7": "twenty four seven", "9/11": "nine eleven", "50/50": "fifty fifty", "w/o": "without", "w/": "with", "C#": "C sharp"},
    **{
        "401(k)": "four oh one K",
        "401k": "four oh one K",
        "F#": "F sharp",
        "C++": "C plus plus",
        "b/c": "because",
        "n/a": "NA",
        "N/A": "NA",
    },
}
"""Expressions that are said in a way of their own."""
_FIXED = re.compile(rf"(?<![\w/])(?:{'|'.join(map(re.escape, FIXED))})(?![\w/])")
MEASURES = ("wide", "long", "tall", "high", "deep", "thick", "across", "by")
"""Words after a length in inches that take the plural; before other nouns it is singular: "a 27 inch screen"."""


def verbalise(text: str) -> str:
    """The text with every number in words; a number that touches letters becomes a separate word."""
    text = _FIXED.sub(lambda found: FIXED[found[0]], text)
    return apply_rules(text, RULES) if re.search(r"\d", text) else text


def speak_inches(text: str) -> str:
    """The text with feet and inches in words: 5'10", a 27" screen. Call this while quotation marks are still straight."""
    text = re.sub(
        r"(?<![\w'])(\d{1,3})'\s?(\d{1,2})(?:\"|'')(?!\w)",
        lambda found: f" {cardinal(int(found[1]))} {'foot' if found[1] == '1' else 'feet'} {cardinal(int(found[2]))} ",
        text,
    )
    lengths: list[str] = []
    text = re.sub(
        r"(?:(?<![\w.\"])|(?<=\"[x×]))((?:\d+ )?\d+(?:\.\d+|/\d+)?)\"(?=\s?[x×]|\s([a-z]+)|[.,;]?\s*$|[,;)])",
        lambda found: _inches(found, lengths),
        text,
    )
    return re.sub(r"(?<=\binches)\s?[x×]\s?(?=\d)", " by ", text)


def _inches(found: re.Match[str], lengths: list[str]) -> str:
    """A length in inches, added to `lengths`; unchanged if the mark closes a quotation."""
    if (found.string[: found.start()].count('"') - len(lengths)) % 2:
        return found[0]
    lengths.append(found[1])
    plural = found[1] != "1" and (not found[2] or found[2] in MEASURES)
    return f"{found[1]} {'inches' if plural else 'inch'}"


def _fraction(found: re.Match[str]) -> str:
    """Words of a fraction, with its unit if there is one: "1/2", "2 3/4 lbs"; a denominator of zero makes it no fraction."""
    whole = f"{cardinal(int(found['whole']))} and " if found["whole"] else ""
    said = fraction(int(found["top"]), int(found["bottom"]))
    said = whole + (f"a {said.removeprefix('one ')}" if whole and found["top"] == "1" else said)
    unit = UNITS[found["unit"]] if found["unit"] else ""
    return f"{said} {plural_unit(unit) if whole and unit else unit}"


def _digit_groups(found: re.Match[str]) -> str:
    """Words of the digits one by one, with a comma between groups; groups of one and two digits only are said as numbers."""
    groups = re.findall(r"\d+|X$", found["groups"])
    short = all(len(group) < 3 for group in groups)
    said = ", ".join(cardinal(int(group)) if short and group[0] != "0" else digits(group) if group != "X" else "X" for group in groups)
    return f"plus {said}" if found["groups"].startswith("+") else said


def _version(found: re.Match[str]) -> str:
    """Words of a version number after "v": "v2.0.1"."""
    return "version " + " point ".join(decimal(part) for part in found[1].split("."))


def _several_points(found: re.Match[str]) -> str:
    """Words of a version number such as "1.2.3"."""
    return " point ".join(decimal(part) for part in found[0].split("."))


_GROUPS = (
    r"\b\d{4}(?:[ -]\d{4}){3}\b|\(?\b\d{3}\)?[- ]?\d{3}-\d{4}\b|\b\d{3}-\d{4}\b|\b\d{3}\.\d{3}\.\d{4}\b|\b0\d{2,4} \d{3,4}(?: \d{3,4})?\b"
    r"|\+\d{1,3}(?:[ .-]?\(?\d{1,4}\)?){2,6}|\b\d{1,20}(?:-\d{1,20}){2,12}(?:-X)?\b"
)
SPECIAL: Rules = (
    (re.compile(r"(?<![\d.,])([1-9]\d{0,2}(?: \d{3}){2,})(?![\d]|[.,]\d)"), lambda found: decimal(found[1].replace(" ", ""))),
    (re.compile(rf"(?<![\w-])(?P<groups>{_GROUPS})(?![\w-])"), _digit_groups),
    (
        re.compile(r"\b(?P<verb>[Cc]all|[Dd]ial|[Rr]ing|[Pp]hone) (?P<number>\d{3})\b(?![.,]?\d)"),
        lambda found: f"{found[1]} {digits(found[2])}",
    ),
    (re.compile(r"\b(?P<state>[A-Z]{2}),? (?P<code>\d{5}(?:-\d{4})?)\b"), lambda found: f"{found['state']} {digits(found['code'])}"),
    (re.compile(r"(?:\b[Vv]ersion )?\b[vV](\d+(?:\.\d+)+|(?<=v)\d+(?!\w))"), _version),
)
"""Groups of digits that are no quantities; they go first."""
SIGNS_AND_RANGES: Rules = (
    (
        re.compile(r"(?<=\d)(?P<end>[€£¢]?)\s?-\s?(?=[$£€₹]\d)|(?<=\d)(?P<mark>[€£¢])\s?-\s?(?=\d)"),
        lambda found: f"{found[1] or found[2] or ''} to",
    ),
    (re.compile(r"(?<![\w.)%°-])-(?=\s?[$£€¥₹]\s?\.?\d)"), lambda _: "minus"),
    (re.compile(r"(?P<sign>[$£€¥₹])-(?=\.?\d)"), lambda found: f"minus {found['sign']}"),
    (MONEY, money),
    (CODE_BEFORE, money),
    (MONEY_AFTER, money),
    (CENTS, lambda found: f"{decimal(found[1])} cent{'' if found[1] == '1' else 's'}"),
    (
        re.compile(rf"(?<![\w.])(?P<first>\d[\d,.:/]{{0,15}}(?:%|\s?[aApP]\.?[mM]\.?|{UNIT})?)\s?-\s?(?=\.?\d)(?!\d+-\w)"),
        lambda found: f"{found[1]} to",
    ),
    (re.compile(r"(?<![\w.])-(?=\.?\d)"), lambda _: "minus"),
)
QUANTITIES: Rules = (
    (re.compile(rf"(?<=\d)\s?×\s?(?=[\d.]+\s?(?:{UNIT})(?![\w]))|(?<=\d)(?<!\b0)\s?x\s?(?=\d)|(?<=[a-z])\s[x×]\s(?=\d)"), lambda _: "by"),
    (QUANTITY, quantity),
    (KELVIN, lambda found: f"{decimal(found['amount'])} kelvin"),
    (
        re.compile(rf"(?<![\w.,])(?P<number>{AMOUNT})\s?in\.(?=\s*[a-z×(,;)])"),
        lambda found: f"{decimal(found['number'])} inch{'' if found['number'] == '1' else 'es'}",
    ),
    (
        re.compile(r"(?P<feet>\b(?:feet|foot)\s+)(?P<number>\d+)\s?in\b\.?(?!\s+(?:the|a|an|\d))"),
        lambda found: f"{found['feet']}{cardinal(int(found['number']))} inch{'' if found['number'] == '1' else 'es'}",
    ),
    (
        re.compile(rf"(?<![\w.,])(?P<amount>{AMOUNT})\s?(?P<scale>(?<! )k|bn|tn|(?<! )M|(?<=\.\d)B)\b"),
        lambda found: f"{decimal(found[1])} {SCALES[found[2]]}",
    ),
)
NUMBERS: Rules = (
    (re.compile(r"(?<![\d.])\d+(?:\.\d+){2,}\b"), _several_points),
    (re.compile(r"(?<![\w.,])(10[1-9]\d|1[1-9]\d\d|20\d\d)(?![\w%]|[.,]\d)"), lambda found: year(int(found[1]))),
    (re.compile(rf"{NUMBER}|(?<![\w.])\.\d+"), lambda found: decimal(found[0])),
)
RULES: Rules = (
    *DATES,
    *SPECIAL,
    *SIGNS_AND_RANGES,
    *TIMES,
    (
        re.compile(
            rf"(?<![\d/])(?:(?P<whole>\d{{1,15}})\s+)?\b(?P<top>\d{{1,3}})/(?P<bottom>\d{{1,3}})\b(?!/)(?:\s?(?P<unit>{UNIT})(?![\w/]))?"
        ),
        _fraction,
    ),
    (
        re.compile(r"\b(\d{1,3}(?:,\d{3}){1,4}|\d{1,15})(?:st|nd|rd|th)\b", re.IGNORECASE),
        lambda found: ordinal(int(found[1].replace(",", ""))),
    ),
    *DECADES,
    *QUANTITIES,
    *NUMBERS,
)
