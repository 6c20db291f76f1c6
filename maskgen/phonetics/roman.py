"""Converts Roman numerals to words where the word before them calls for a number: "Chapter IV", "Henry VIII", "World War II"."""

import re

from maskgen.phonetics.numbers import cardinal, ordinal

VALUES = {"I": 1, "V": 5, "X": 10, "L": 50, "C": 100, "D": 500, "M": 1000}
_COUNTED = """
act apollo appendix article battlefield book bowl case chapter class clause division episode exhibit fantasy figure form
generation grade group lesson level lot mission movement olympiad paragraph part phase plate psalm quest question region
scene schedule season section sonata stage step superbowl supplement symphony table tier title type unit vatican verse version
volume war zone
"""
_RULERS = """
adolf albert alexander alfonso alphonse amenhotep andrew antiochus artaxerxes august augustus baldwin benedict boniface carlos
casimir catherine charles christian clement cleopatra conrad constantine cyrus darius david edward elizabeth eric eugene
ferdinand francis franz frederick friedrich george gregory gustav haakon harald heinrich henri henry innocent isabella ivan
james john joseph juan julius justin justinian karl konrad leo leopold louis ludwig manuel margrethe maria mary maximilian
mehmed michael murad napoleon nebuchadnezzar nicholas nikolaus olav oscar otto paul pedro peter philip philippe pius ptolemy
rainier rameses ramesses ramses richard robert rudolf selim sigismund sixtus stephen suleiman theodosius thutmose umberto urban
victoria vladimir wilhelm willem william xerxes
"""
_FUNCTION_WORDS = """
a an and as at but by for from had has have he her his i if in is it its my no nor not of on or our she so than that the their
then they this to was we were what when which who with you your
"""
COUNTED = frozenset(_COUNTED.split())
"""Words whose Roman numeral is a cardinal number, even a numeral of one letter."""
RULERS = frozenset(_RULERS.split())
"""Names whose Roman numeral is an ordinal number: "Henry the eighth"."""
TITLES = r"(?:King|Queen|Pope|Emperor|Empress|Tsar|Czar|Kaiser|Sultan|Pharaoh|Prince|Princess|Duke|Archduke)"
NO_NAMES = frozenset(_FUNCTION_WORDS.split())
"""Words that may have a capital letter, and after which letters are not a numeral."""

AFTER_FIRST = re.compile(
    r"\s*(?:$|[.;:!?)—]|,(?!\s+too\b))|\s+(?:of|was|is|and|began|begins|ended|ends|died|ruled|reigned|became|in|from|to|who|by|for|at|on)\b"
)
"""What follows "I" where it is a number: "World War I ended"."""

_NUMERAL = r"(?=[IVXLCDM])M{0,3}(?:CM|CD|D?C{0,3})(?:XC|XL|L?X{0,3})(?:IX|IV|V?I{0,3})(?<=[IVXLCDM])"
_TITLED = re.compile(rf"\b(?P<name>{TITLES}(?: [A-Z][a-z]+){{1,3}}) (?P<numeral>{_NUMERAL})(?P<own>'s)?\b(?!\.[A-Z]|['-])")
_CENTURY = re.compile(rf"\b(?P<numeral>(?=[IVX]{{2}}|[VX]){_NUMERAL})(?P<own>)(?=[ -](?:century|centuries|dynasty|arrondissement)\b)")
_AFTER_WORD = re.compile(rf"\b(?P<name>[A-Za-z][A-Za-z]+) (?P<numeral>{_NUMERAL})(?P<own>'s)?\b(?!\.[A-Z]|['-])")


def speak_roman(text: str) -> str:
    """The text with Roman numerals in words where their context is clear; "I", "mix", "CD" and "an IV drip" stay."""
    text = _CENTURY.sub(lambda found: ordinal(value(found["numeral"])), text)
    text = _TITLED.sub(_titled, text)
    return _AFTER_WORD.sub(_after_word, text)


def value(numeral: str) -> int:
    """The number that a Roman numeral stands for."""
    numbers = [VALUES[letter] for letter in numeral]
    return sum(-one if one < following else one for one, following in zip(numbers, [*numbers[1:], 0], strict=True))


def _after_word(found: re.Match[str]) -> str:
    """A word and the number after it, or both unchanged.

    "I" is also a word: it is read as a number only where that is clear. After a word of no known kind a numeral needs a capital letter
    before it and two or more of the letters I, V and X.
    """
    name, numeral, own = found["name"], found["numeral"], found["own"] or ""
    word, capital = name.lower(), name[0].isupper()
    single, after = len(numeral) == 1, found.string[found.end() :]
    if word in COUNTED and (capital or not single) and (set(numeral) <= set("IVXL") or len(numeral) > 2) and numeral != "L":
        opens = not re.search(r"\w[\s,]*$", found.string[: found.start()])
        unclear = numeral == "I" and (opens or name.isupper()) and not AFTER_FIRST.match(after)
        return found[0] if unclear else f"{name} {cardinal(value(numeral))}{own}"
    if word in RULERS and capital and (not single or numeral in "VX" or own or re.match(r"\s*\.?\s*$|[,;:!?)]|\s+of\b", after)):
        return f"{name} the {ordinal(value(numeral))}{own}"
    if capital and not single and set(numeral) <= set("IVX") and word not in NO_NAMES:
        return f"{name} {cardinal(value(numeral))}{own}"
    return found[0]


def _titled(found: re.Match[str]) -> str:
    """A title, a name and the ordinal number after them; "King Charles I know" stays."""
    if found["numeral"] == "I" and not found["own"] and not AFTER_FIRST.match(found.string[found.end() :]):
        return found[0]
    return f"{found['name']} the {ordinal(value(found['numeral']))}{found['own'] or ''}"
