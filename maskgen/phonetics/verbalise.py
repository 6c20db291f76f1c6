"""Converts numeric expressions to words: money, times, dates, units, ordinals, years and other numbers."""

import re
from collections.abc import Callable

from maskgen.phonetics.numbers import cardinal, decimal, digits, fraction, ordinal, plural_of, year

NUMBER = r"(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?"
SCALE = r"thousand|million|billion|trillion"
MONTH_NAMES = ["January", "February", "March", "April", "May", "June", "July", "August", "September", "October", "November", "December"]
MONTH = "|".join(MONTH_NAMES)
CURRENCIES = {
    "$": ("dollar", "dollars", "cent", "cents"),
    "£": ("pound", "pounds", "penny", "pence"),
    "€": ("euro", "euros", "cent", "cents"),
    "¥": ("yen", "yen", "sen", "sen"),
}
SHORT_SCALES = {"k": "thousand", "m": "million", "bn": "billion", "tn": "trillion"}
UNITS = {
    **{"km": "kilometer", "cm": "centimeter", "mm": "millimeter", "kg": "kilogram", "mg": "milligram", "g": "gram", "m": "meter"},
    **{"ml": "milliliter", "ft": "foot", "lb": "pound", "lbs": "pound", "oz": "ounce", "mph": "mile per hour"},
    **{"km/h": "kilometer per hour", "kHz": "kilohertz", "MHz": "megahertz", "GHz": "gigahertz", "Hz": "hertz", "kW": "kilowatt"},
    **{"GB": "gigabyte", "MB": "megabyte", "KB": "kilobyte", "TB": "terabyte", "ms": "millisecond", "min": "minute", "hrs": "hour"},
    **{"°C": "degree Celsius", "°F": "degree Fahrenheit", "°": "degree"},
}
UNIT = "|".join(sorted(map(re.escape, UNITS), key=len, reverse=True))


def verbalise(text: str) -> str:
    """The text with every number in words; a number that touches letters becomes a separate word."""
    for pattern, say in RULES:
        text = pattern.sub(lambda found, say=say: f" {say(found)} ", text)  # type: ignore[misc]
    return text


def _money(found: re.Match[str]) -> str:
    """Words of money: "$9.99", "£5", "€3.2 billion", "$5m"."""
    one, many, cent, cents = CURRENCIES[found["sign"]]
    minus, amount = "minus " if found["minus"] else "", found["amount"].replace(",", "")
    scale = found["scale"] and SHORT_SCALES.get(found["scale"].lower(), found["scale"])
    whole, _, part = amount.partition(".")
    if scale or len(part) not in (0, 2) or len(whole) > 15:
        return f"{minus}{decimal(amount)} {scale or ''} {many}"
    said = [f"{cardinal(int(whole))} {one if int(whole) == 1 else many}"] if int(whole) or not int(part or 0) else []
    said += [f"{cardinal(int(part))} {cent if int(part) == 1 else cents}"] if int(part or 0) else []
    return minus + " and ".join(said)


def _time(found: re.Match[str]) -> str:
    """Words of a time: "7:30 pm", "10:00", "3:05"."""
    hour, minute = int(found["hour"]), int(found["minute"])
    half = f" {found['half'][0].upper()}M" if found["half"] else ""
    if hour > 24 or minute > 59:
        return f"{cardinal(hour)} {cardinal(minute)}{half}"
    said = f" {'oh ' if minute < 10 else ''}{cardinal(minute)}" if minute else "" if half else " o'clock" if 0 < hour < 13 else " hundred"
    return f"{cardinal(hour)}{said}{half}"


def _month_first(found: re.Match[str]) -> str:
    """Words of a written date: "March 3, 2024"."""
    day = int(found["day"])
    said = ordinal(day) if 1 <= day <= 31 else cardinal(day)
    return f"{found['month']} {said}" + (f", {year(int(found['year']))}" if found["year"] else "")


def _numbered_date(found: re.Match[str]) -> str:
    """Words of a numeric date: "2024-03-05" or "12/25/2024" (month first, as in American English); not a date if out of range."""
    month, day = int(found["month"]), int(found["day"])
    if not (1 <= month <= 12 and 1 <= day <= 31):
        return " ".join(decimal(part) for part in re.split(r"\D", found[0]))
    return f"{MONTH_NAMES[month - 1]} {ordinal(day)}, {year(int(found['year']))}"


def _unit(found: re.Match[str]) -> str:
    """Words of a quantity with its unit: "10km", "1 lb"."""
    head, space, tail = UNITS[found["unit"]].partition(" ")
    several = found["amount"] != "1" and not head.endswith("hertz")
    plural = {"foot": "feet"}.get(head, f"{head}s") if several else head
    return f"{decimal(found['amount'])} {plural}{space}{tail}"


def _fraction(found: re.Match[str]) -> str:
    """Words of a fraction: "1/2", "2 3/4"; a denominator of zero makes it no fraction."""
    whole = f"{cardinal(int(found['whole']))} and " if found["whole"] else ""
    said = fraction(int(found["top"]), int(found["bottom"]))
    return whole + (f"a {said.removeprefix('one ')}" if whole and said.startswith("one ") else said)


def _phone(found: re.Match[str]) -> str:
    """Words of the digits one by one, with a comma between groups."""
    return ", ".join(digits(group) for group in re.findall(r"\d+", found[0]))


def _decade(found: re.Match[str]) -> str:
    """Words of a decade: "1990s", "'90s"."""
    number = int(found["decade"])
    return plural_of(year(number) if number >= 1000 else cardinal(number))


def _several_points(found: re.Match[str]) -> str:
    """Words of a version number such as "1.2.3"."""
    return " point ".join(decimal(part) for part in found[0].split("."))


RULES: tuple[tuple[re.Pattern[str], Callable[[re.Match[str]], str]], ...] = (
    (re.compile(rf"(?P<minus>(?<!\w)-)?(?P<sign>[$£€¥])\s?(?P<amount>{NUMBER})(?:\s?(?P<scale>{SCALE}|bn|tn|[kKmM])\b)?"), _money),
    (re.compile(r"\b(?P<year>\d{4})-(?P<month>\d\d)-(?P<day>\d\d)\b"), _numbered_date),
    (re.compile(r"\b(?P<month>\d\d?)/(?P<day>\d\d?)/(?P<year>[12]\d{3})\b"), _numbered_date),
    (re.compile(rf"\b(?P<month>{MONTH})\s(?P<day>\d\d?)(?!\d|[:%/]|\.\d)(?:st|nd|rd|th)?\b(?:,?\s(?P<year>[12]\d{{3}})\b)?"), _month_first),
    (re.compile(r"\b(?P<hour>\d\d?):(?P<minute>\d\d)(?:\s?(?P<half>[aApP]\.?[mM]\b\.?))?(?!\d)"), _time),
    (re.compile(r"\b(?P<hour>\d\d?)(?P<minute>)\s?(?P<half>[aApP]\.?[mM]\b)"), lambda found: f"{decimal(found[1])} {found[3][0].upper()}M"),
    (re.compile(r"\(?\b\d{3}\)?[- ]\d{3}-\d{4}\b|\b\d{3}-\d{4}\b"), _phone),
    (re.compile(r"(?<![\d/])(?:(?P<whole>\d{1,15})\s+)?\b(?P<top>\d{1,3})/(?P<bottom>\d{1,3})\b(?!/)"), _fraction),
    (
        re.compile(r"\b(\d{1,3}(?:,\d{3}){1,4}|\d{1,15})(?:st|nd|rd|th)\b", re.IGNORECASE),
        lambda found: ordinal(int(found[1].replace(",", ""))),
    ),
    (re.compile(r"(?:\B')?\b(?P<decade>\d{1,3}0)(?:'?s)\b"), _decade),
    (re.compile(rf"(?<![\d.,])(?P<amount>{NUMBER})\s?(?P<unit>{UNIT})(?![\w/])"), _unit),
    (re.compile(r"\b\d+(?:\.\d+){2,}\b"), _several_points),
    (re.compile(r"(?<=\d)\s?-\s?(?=\d)"), lambda _: "to"),
    (re.compile(r"(?<![\w.])-(?=\.?\d)"), lambda _: "minus"),
    (re.compile(r"(?<![\w.,])(10[1-9]\d|1[1-9]\d\d|20\d\d)(?![\w%]|[.,]\d)"), lambda found: year(int(found[1]))),
    (re.compile(rf"{NUMBER}|(?<!\w)\.\d+"), lambda found: decimal(found[0])),
)
