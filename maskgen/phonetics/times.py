"""Rules for times, durations, dates, years and decades."""

import re

from maskgen.phonetics.numbers import cardinal, decimal, digits, ordinal, plural_of, year
from maskgen.phonetics.rules import Rules

MONTH_NAMES = ["January", "February", "March", "April", "May", "June", "July", "August", "September", "October", "November", "December"]
MONTH = rf"{'|'.join(MONTH_NAMES)}|(?i:{'|'.join(month for month in MONTH_NAMES if month not in ('March', 'May'))})"
"""A month in any case; "may" and "march" are also verbs and need the capital letter."""
SCRIPTURE = (
    "Genesis|Exodus|Leviticus|Numbers|Deuteronomy|Joshua|Judges|Ruth|Samuel|Kings|Chronicles|Ezra|Nehemiah|Esther|Job|Psalms?|Proverbs"
    "|Ecclesiastes|Isaiah|Jeremiah|Lamentations|Ezekiel|Daniel|Hosea|Joel|Amos|Obadiah|Jonah|Micah|Nahum|Habakkuk|Zephaniah|Haggai"
    "|Zechariah|Malachi|Matthew|Mark|Luke|John|Acts|Romans|Corinthians|Galatians|Ephesians|Philippians|Colossians|Thessalonians|Timothy"
    "|Titus|Philemon|Hebrews|James|Peter|Jude|Revelation|Surah|Quran"
)
OWNERS = r"(?:the|his|her|their|my|your|our|its|early|mid|late|swinging|roaring)[ -]"
ERAS = "music|style|styles|fashion|rock|pop|hits?|era|disco|kids?|movies?|films?|party|retro|vibes?|hair"
"""Nouns after "80s" that show that it is a decade."""
BEFORE_DATES = r"(?i:on|by|until|since|before|after|from|dated)"


def _time(found: re.Match[str]) -> str:
    """Words of a time: "7:30 pm", "10:00", "3:05", "10:30:45"."""
    hour, minute = int(found["hour"]), int(found["minute"])
    half = f" {found['half'][0].upper()}M" if found["half"] else ""
    if hour > 24 or minute > 59:
        return f"{cardinal(hour)} {cardinal(minute)}{half}"
    if found["second"]:
        return f"{cardinal(hour)} {_two_digits(minute)} {_two_digits(int(found['second']))}{half}"
    if found["part"]:
        return f"{cardinal(hour)} {_two_digits(minute)} point {digits(found['part'])}{half}"
    said = f" {_two_digits(minute)}" if minute else "" if half else " o'clock" if 0 < hour < 13 else " hundred"
    return f"{cardinal(hour)}{said}{half}"


def _two_digits(number: int) -> str:
    """Minutes or seconds after an hour: "oh five", "forty", "zero zero"."""
    return cardinal(number) if number > 9 else f"oh {cardinal(number)}" if number else "zero zero"


def _duration(found: re.Match[str]) -> str:
    """Words of a duration of two or more parts: "1h 30m", "2h15m", "3m 20s"."""
    names = {"hours": "hour", "minutes": "minute", "seconds": "second"}
    parts = [(amount, name) for group, name in names.items() if (amount := found.groupdict().get(group))]
    return " ".join(f"{decimal(amount)} {name}{'' if amount == '1' else 's'}" for amount, name in parts)


def _month_first(found: re.Match[str]) -> str:
    """Words of a written date: "March 3, 2024", "May 3-5"."""
    day = int(found["day"])
    said = ordinal(day) if 1 <= day <= 31 else cardinal(day)
    said += f" to {ordinal(int(found['last']))}" if found["last"] else ""
    return f"{found['month']} {said}" + (f", {year(int(found['year']))}" if found["year"] else "")


def _day_first(found: re.Match[str]) -> str:
    """Words of a date with the day first: "4 July 1776", "on 15 August"; unchanged without a year or a preposition, and for no such day."""
    day, before = int(found["day"]), found["before"] or ""
    article = "" if before == "the " else "the "
    if not 1 <= day <= 31 or not (found["year"] or (before and (article or found["th"]))):
        return found[0]
    return f"{before}{article}{ordinal(day)} of {found['month']}" + (f", {year(int(found['year']))}" if found["year"] else "")


def _numbered_date(found: re.Match[str]) -> str:
    """Words of a numeric date: "2024-03-05", "12/25/2024" (month first, as in American English) or "31.12.2020" (day first).

    A first number over 12 is the day. Years of two digits are those from 1950 to 2049.
    """
    month, day = int(found["month"]), int(found["day"])
    if 12 < month <= 31 and day <= 12 and "." not in found[0]:
        month, day = day, month
    full_year = int(found["year"]) if len(found["year"]) == 4 else 1900 + (int(found["year"]) - 50) % 100 + 50
    if not (1 <= month <= 12 and 1 <= day <= 31):
        return " ".join(decimal(part) for part in re.split(r"\D", found[0]))
    return f"{MONTH_NAMES[month - 1]} {ordinal(day)}, {year(full_year)}"


def _short_date(found: re.Match[str]) -> str:
    """Words of a month and a day after a preposition: "on 12/25"; unchanged if there is no such day."""
    month, day = int(found["month"]), int(found["day"])
    dated = 1 <= month <= 12 and 1 <= day <= 31
    return f"{found['before']}{MONTH_NAMES[month - 1]} {ordinal(day)}" if dated else found[0]


def _season(found: re.Match[str]) -> str:
    """Words of two years in a row: "2023/24"; unchanged otherwise."""
    first, second = int(found[1]), int(found[2])
    return f"{year(first)} {_two_digits(second)}" if (first + 1) % 100 == second else found[0]


def _decade(found: re.Match[str]) -> str:
    """Words of a decade: "1990s", "'90s", "in her 30s"."""
    number = int(found["decade"])
    return plural_of(year(number) if number >= 1000 else cardinal(number))


def _decades(found: re.Match[str]) -> str:
    """Words of decades after a word such as "the": "the 60s and 70s"."""
    return found[1] + re.sub(r"(\d0)'?s", lambda one: plural_of(cardinal(int(one[1]))), found[2])


DATES: Rules = (
    (re.compile(r"\b(?P<year>[12]\d{3})(?P<sign>[-/])(?P<month>\d\d?)(?P=sign)(?P<day>\d\d?)\b(?![-/])"), _numbered_date),
    (re.compile(r"(?<![\d/])(?P<month>\d\d?)/(?P<day>\d\d?)/(?P<year>[12]\d{3}|\d\d)\b(?!/)"), _numbered_date),
    (re.compile(r"(?<![\d-])(?P<month>\d\d?)-(?P<day>\d\d?)-(?P<year>[12]\d{3})\b(?!-)"), _numbered_date),
    (re.compile(r"(?<![\d.])(?P<day>\d\d?)\.(?P<month>\d\d?)\.(?P<year>[12]\d{3})\b(?!\.\d)"), _numbered_date),
    (re.compile(r"(?<![\d/])(2\d{3}|1\d{3})/(\d\d)(?![\d/])"), _season),
    (re.compile(rf"\b(?P<before>{BEFORE_DATES} )(?P<month>\d\d?)/(?P<day>\d\d?)\b(?![/\d]| of\b)"), _short_date),
    (
        re.compile(
            rf"\b(?P<month>{MONTH})\s(?P<day>\d\d?)(?:-(?P<last>\d\d?)(?!\d|[:%/]|\.\d))?(?!\d|[:%/]|-\d|\.\d)(?:st|nd|rd|th)?\b"
            r"(?:,?\s(?P<year>[12]\d{3})\b)?"
        ),
        _month_first,
    ),
    (
        re.compile(
            rf"(?:\b(?P<before>(?:the|{BEFORE_DATES}) ))?(?<![\d.,$£€:/-])\b(?P<day>\d\d?)(?P<th>st|nd|rd|th)?\s(?P<month>{MONTH})\b"
            r"(?:,?\s(?P<year>[12]\d{3})\b)?"
        ),
        _day_first,
    ),
)
HALF = r"(?P<half>[aApP][mM]\b|[aApP]\.\s?[mM]\b(?:\.(?!\s*$))?)"
TIMES: Rules = (
    (
        re.compile(rf"\b(?P<book>{SCRIPTURE})\s(?P<chapter>\d{{1,3}}):(?P<verse>\d{{1,3}})\b"),
        lambda found: f"{found['book']} {cardinal(int(found['chapter']))} {cardinal(int(found['verse']))}",
    ),
    (re.compile(r"(?<=\d):(?=\d(?!\d))"), lambda _: "to"),
    (
        re.compile(r"(?P<before>\b(?:ratio|scale|odds|proportions?|aspect)\b(?: \w+){0,2} \d+):(?=\d)"),
        lambda found: f"{found['before']} to",
    ),
    (
        re.compile(rf"\b(?P<hour>\d\d?):(?P<minute>\d\d)(?::(?P<second>\d\d)|\.(?P<part>\d+))?(?:\s?{HALF})?(?!\d)"),
        _time,
    ),
    (re.compile(rf"\b(?P<hour>\d\d?)\s?{HALF}"), lambda found: f"{decimal(found['hour'])} {found['half'][0].upper()}M"),
    (
        re.compile(
            r"\b(?P<hours>\d+)\s?(?:h|hrs?)\s?(?P<minutes>\d+)(?:\s?(?:m|mins?)(?:\s?(?P<seconds>\d+)\s?(?:s|secs?))?\b|(?<=h\d\d)(?!\w))"
        ),
        _duration,
    ),
    (re.compile(r"\b(?P<minutes>\d+)\s?(?:m|mins?)\s?(?P<seconds>\d+)\s?(?:s|secs?)\b"), _duration),
)
DECADES: Rules = (
    (re.compile(rf"(\b{OWNERS}|\b\d{{3}}0'?s (?:to|and|or) )(\d0'?s\b(?:(?:,| and| or| to|-) ?'?\d0'?s\b)*)", re.IGNORECASE), _decades),
    (re.compile(rf"(?:\B'|(?=\d0'?s (?:{ERAS})\b))(?P<decade>\d0)'?s\b"), _decade),
    (re.compile(r"\b(?P<decade>\d{2,3}0(?='?s)|\d0(?='s))'?s\b"), _decade),
)
