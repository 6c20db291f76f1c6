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
ANYWHERE = {"vs": "versus", "approx": "approximately", "ca": "circa", "cf": "compare", "viz": "namely", "al": "al", "ed": "edition"}
ANYWHERE |= {"fig": "figure", "Fig": "figure", "vol": "volume", "Vol": "volume", "pp": "pages", "dept": "department", "est": "established"}
MONTHS = dict(
    zip(
        ["Jan", "Feb", "Mar", "Apr", "Jun", "Jul", "Aug", "Sept", "Sep", "Oct", "Nov", "Dec"],
        ["January", "February", "March", "April", "June", "July", "August", "September", "September", "October", "November", "December"],
        strict=True,
    )
)
KEEPS_SENTENCE = frozenset((*PERSON_TITLES, *ANYWHERE, *MONTHS, "St", "Dr", "No", "Nos", "e.g", "i.e")) - {"al", "ed"}
"""Abbreviations whose period never ends a sentence."""

_FULL = PERSON_TITLES | AFTER_NAMES | {word: said for word, said in ANYWHERE.items() if word not in ("al", "ed", "ca")} | MONTHS
_KNOWN = re.compile(rf"\b({'|'.join(sorted(_FULL, key=len, reverse=True))})\.(?=(\s+[A-Z“(]|\s*$)?)")
_BARE_VERSUS = re.compile(r"\bvs\b\.?")
_ET_CETERA = re.compile(r"\b(?:etc|&c)\b(\.)?(?=(\s+[A-Z“]|\s*$)?)", re.IGNORECASE)
_INITIALS = re.compile(r"\b((?:[A-Za-z]\.){1,}[A-Za-z])\.(?=(\s+[A-Z][a-z]|\s*$)?)|\b((?:[A-Z]\.)+[A-Z])\b")
_INITIAL = re.compile(r"\b([A-Z])\.(?=\s+[A-Z])")
_DEGREE = re.compile(r"\bPh\.?\s?D\b\.?")


def expand_abbreviations(text: str) -> str:
    """The text with "Dr.", "etc.", "e.g.", "U.S." and similar abbreviations expanded; a period that also ends the sentence is kept."""
    text = re.sub(r"\be\.\s?g\.(,?)", r"for example\1", text)
    text = re.sub(r"\bi\.\s?e\.(,?)", r"that is\1", text)
    text = _DEGREE.sub("PHD", text)
    text = re.sub(r"\bNos?\.\s?(?=\d)", "number ", text)
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
    return _FULL[found[1]] + ("." if ends else "")


def _spelled(found: re.Match[str]) -> str:
    """Initials joined into one upper-case word."""
    letters = (found[1] or found[3]).replace(".", "").upper()
    return letters + ("." if found[2] is not None and not found[2].strip() else "")
