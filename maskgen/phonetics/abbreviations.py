"""Expands abbreviations to words."""

import re

PERSON_TITLES = {
    **{"Mr": "mister", "Mrs": "missus", "Ms": "miz", "Messrs": "messers", "Prof": "professor", "Gen": "general", "Col": "colonel"},
    **{"Capt": "captain", "Lt": "lieutenant", "Sgt": "sergeant", "Rev": "reverend", "Hon": "honorable", "Gov": "governor"},
    **{"Sen": "senator", "Rep": "representative", "Pres": "president", "Mt": "mount", "Ft": "fort", "Fr": "father"},
}
"""Titles that precede a name; the period after them doesn't end a sentence."""
AFTER_NAMES = {"Jr": "junior", "Sr": "senior", "Inc": "incorporated", "Ltd": "limited", "Co": "company", "Corp": "corporation"}
AFTER_NAMES |= {"Bros": "brothers", "Ave": "avenue", "Blvd": "boulevard", "Rd": "road", "Esq": "esquire", "Dept": "department"}
AFTER_NAMES |= {"Ln": "lane", "Hwy": "highway", "Pkwy": "parkway", "Sq": "square", "Univ": "university", "Assn": "association"}
ANYWHERE = {"vs": "versus", "approx": "approximately", "ca": "circa", "cf": "compare", "viz": "namely", "al": "al", "ed": "edition"}
ANYWHERE |= {"fig": "figure", "Fig": "figure", "vol": "volume", "Vol": "volume", "pp": "pages", "dept": "department", "est": "established"}
ANYWHERE |= {"misc": "miscellaneous", "govt": "government", "max": "maximum", "avg": "average", "tel": "telephone", "feat": "featuring"}
BEFORE_NUMBERS = {
    **{"no": "number", "nos": "numbers", "p": "page", "pp": "pages", "ext": "extension", "apt": "apartment", "ste": "suite", "c": "circa"},
    **{
        "ca": "circa",
        "ch": "chapter",
        "sec": "section",
        "art": "article",
        "eq": "equation",
        "ver": "version",
        "rm": "room",
        "bldg": "building",
    },
}
"""Abbreviations that are expanded before a number only."""
STREETS = {
    **{"St": "street", "Ave": "avenue", "Rd": "road", "Blvd": "boulevard", "Dr": "drive", "Ln": "lane", "Ct": "court", "Pl": "place"},
    **{"Sq": "square", "Hwy": "highway", "Pkwy": "parkway", "Ter": "terrace", "Cir": "circle"},
}
"""Abbreviations after a house number and a name, with or without a period."""
DAYS = {
    **{
        "Mon": "Monday",
        "Tue": "Tuesday",
        "Tues": "Tuesday",
        "Wed": "Wednesday",
        "Thu": "Thursday",
        "Thur": "Thursday",
        "Thurs": "Thursday",
    },
    **{"Fri": "Friday", "Sat": "Saturday", "Sun": "Sunday"},
}
MONTHS = dict(
    zip(
        ["Jan", "Feb", "Mar", "Apr", "Jun", "Jul", "Aug", "Sept", "Sep", "Oct", "Nov", "Dec"],
        ["January", "February", "March", "April", "June", "July", "August", "September", "September", "October", "November", "December"],
        strict=True,
    )
)
KEEPS_SENTENCE = frozenset((*PERSON_TITLES, *ANYWHERE, *MONTHS, "St", "Dr", "No", "Nos", "e.g", "i.e", "p", "c", "ext", "Apt")) - {
    "al",
    "ed",
    "max",
}
"""Abbreviations whose period never ends a sentence."""

_FULL = PERSON_TITLES | AFTER_NAMES | {word: said for word, said in ANYWHERE.items() if word not in ("al", "ed", "ca")} | MONTHS
_FULL |= {day: said for day, said in DAYS.items() if day not in ("Sat", "Sun")}
_KNOWN = re.compile(rf"\b({'|'.join(sorted(_FULL, key=len, reverse=True))})\.(?=(\s+[A-Z“(]|\s*$)?)")
_BARE_VERSUS = re.compile(r"\bvs\b\.?")
_ET_CETERA = re.compile(r"(?<!slash )\b(?:etc|&c)\b(\.)?(?=(\s+[A-Z“]|\s*$)?)", re.IGNORECASE)
_INITIALS = re.compile(r"\b((?:[A-Za-z]\.){1,}[A-Za-z])\.(?=(\s+[A-Z][a-z]|\s*$)?)|\b((?:[A-Z]\.)+[A-Z])\b")
_INITIAL = re.compile(r"\b([A-Z])\.(?=\s+[A-Z])")
_BEFORE_NUMBERS = re.compile(rf"(?<![\w.])({'|'.join(sorted(BEFORE_NUMBERS, key=len, reverse=True))})\.\s?(?=\d)", re.IGNORECASE)
_DATED = rf"{'|'.join(sorted(DAYS | MONTHS, key=len, reverse=True))}"
_DATE_RANGE = re.compile(rf"\b({_DATED})\.?\s?[-—]\s?({_DATED})\b\.?(?=(\s+[A-Z]|\s*$)?)")
_DAY_IN_DATE = re.compile(rf"\b({'|'.join(DAYS)})\b\.?(?=,? (?:(?:{_DATED})\b|{'|'.join(MONTHS.values())}|May|\d))")
_MONTH_IN_DATE = re.compile(rf"\b({'|'.join(MONTHS)})\b(?!\.)(?= \d)|(?<=\d )({'|'.join(MONTHS)})\b(?!\.)")
_STREET = re.compile(
    rf"(\b\d+[A-Za-z]? (?:(?:[A-Z][\w']*|\d+(?:st|nd|rd|th))\.? ){{1,3}})({'|'.join(STREETS)})\b(?:\.(?=(\s+[A-Z][a-z]+ [a-z]|\s*$)?))?"
)
_DEGREE = re.compile(r"\bPh\.?\s?D\b\.?")


def expand_abbreviations(text: str) -> str:
    """The text with "Dr.", "etc.", "e.g.", "U.S." and similar abbreviations expanded; a period that also ends the sentence is kept."""
    text = re.sub(r"\be\.\s?g\.(,?)", r"for example\1", text)
    text = re.sub(r"\bi\.\s?e\.(,?)", r"that is\1", text)
    text = _DEGREE.sub("PHD", text)
    text = _BEFORE_NUMBERS.sub(lambda found: f"{BEFORE_NUMBERS[found[1].lower()]} ", text)
    text = re.sub(r"\bet al\.(?=\s+[a-z(])", "et al", text)
    text = re.sub(r"(?<=\d(?:st|nd|rd|th) )Fl\.(?!\s*$)", "floor", text)
    text = _DATE_RANGE.sub(lambda found: f"{_dated(found[1])} to {_dated(found[2])}", text)
    text = _DAY_IN_DATE.sub(lambda found: DAYS[found[1]], text)
    text = _MONTH_IN_DATE.sub(lambda found: MONTHS[found[1] or found[2]], text)
    text = _STREET.sub(lambda found: f"{found[1]}{STREETS[found[2]]}{'.' if found[3] is not None else ''}", text)
    text = re.sub(r"\bSt\.(?=\s?[A-Z])(?<!\w St\.)|\bSt\.(?=\s+[A-Z][a-z]+)", "Saint", text)
    text = re.sub(r"\bSt\.(?=\s|$|,)", "street", text)
    text = re.sub(r"\bDr\.(?=\s*[A-Z])", "doctor", text)
    text = re.sub(r"(?<=[a-z] )Dr\.(?=\s|$|,)", "drive", text)
    text = re.sub(r"\bDr\.", "doctor", text)
    text = _ET_CETERA.sub(lambda found: "et cetera" + ("." if found[1] and found[2] is not None else ""), text)
    text = _BARE_VERSUS.sub("versus", text)
    text = _KNOWN.sub(_full, text)
    text = _INITIALS.sub(_spelled, text)
    return _INITIAL.sub(r"\1", text)


def _full(found: re.Match[str]) -> str:
    """The expanded word; a company or street abbreviation at the end of a sentence keeps its period."""
    ends = found[2] is not None and (found[1] in AFTER_NAMES or not found[2].strip())
    joined = found.string[found.end() : found.end() + 1].isalpha()
    return _FULL[found[1]] + ("." if ends else " " if joined else "")


def _dated(name: str) -> str:
    """The full name of a day or month."""
    return DAYS.get(name) or MONTHS[name]


def _spelled(found: re.Match[str]) -> str:
    """Initials joined into one upper-case word."""
    letters = (found[1] or found[3]).replace(".", "").upper()
    return letters + ("." if found[2] is not None and not found[2].strip() else "")
