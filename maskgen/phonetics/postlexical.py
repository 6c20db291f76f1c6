"""Postlexical rules: weak forms, forms before vowels and at the end of a clause, and stress of compounds."""

import itertools
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from maskgen.phonetics.symbols import STRESS, VOWELS

WORD = re.compile(r"'?[A-Za-z][A-Za-z'-]*")
Forms = Mapping[str, Mapping[str, str]]
"""Word in lower case (with "^" before it where it is written with a capital) to its forms by context."""

ANY, AT_END, BEFORE_VOWEL, BEFORE_TO, AFTER_DETERMINER, AFTER_VERBAL = "any", "end", "vowel", "to", "determiner", "verbal"
DETERMINERS = frozenset(
    [
        "the",
        "a",
        "an",
        "this",
        "that",
        "these",
        "those",
        "my",
        "your",
        "his",
        "her",
        "its",
        "our",
        "their",
        "some",
        "any",
        "no",
        "every",
        "each",
        "of",
        "in",
        "by",
        "with",
        "for",
        "from",
        "on",
        "at",
        "new",
    ]
)
VERBALS = frozenset(
    [
        "to",
        "will",
        "would",
        "can",
        "could",
        "shall",
        "should",
        "must",
        "may",
        "might",
        "do",
        "does",
        "did",
        "not",
        "don't",
        "didn't",
        "i",
        "you",
        "we",
        "they",
        "who",
    ]
)


@dataclass(frozen=True)
class WordPlace:
    """A word and its position in speakable text.

    Args:
        word: The word as written.
        start: Index of its first character.
        end: Index after its last character.
        before: The word before it, "" at the start of a clause.
        joined: Whether another word follows without punctuation.
    """

    word: str
    start: int
    end: int
    before: str
    joined: bool


def places(spoken: str) -> list[WordPlace]:
    """The words of speakable text in order."""
    found = list(WORD.finditer(spoken))
    gaps = [spoken[word.end() : following.start()] for word, following in itertools.pairwise(found)]
    joined = [False, *(gap == " " for gap in gaps), False]
    return [
        WordPlace(word.group(), word.start(), word.end(), found[number - 1].group() if joined[number] else "", joined[number + 1])
        for number, word in enumerate(found)
    ]


def contexts(before: str, following: str) -> tuple[str, ...]:
    """Contexts of a word, the most specific first.

    Args:
        before: Word before it, "" at the start of a clause.
        following: Phonemes of the next word, "" at the end of a clause.
    """
    vowel = BEFORE_VOWEL if following.lstrip(STRESS)[:1] in VOWELS else ""
    after = AT_END if not following else BEFORE_TO if following in ("tə", "tʊ", "tu") else vowel
    word = before.lower()
    left = AFTER_DETERMINER if word in DETERMINERS else AFTER_VERBAL if word in VERBALS else ""
    return tuple(context for context in (after, left, ANY) if context)


def form_key(word: str) -> str:
    """Key of a word in a table of forms."""
    return f"^{word.lower()}" if word[:1].isupper() else word


def in_context(word: str, found: str, forms: Forms, before: str, following: str) -> str:
    """Phonemes of a word in context: from the table, else from the lexicon; a weak word with a capital gets a secondary stress."""
    table = forms.get(form_key(word), {})
    sound = next((table[context] for context in contexts(before, following) if context in table), found)
    if word[:1].isupper() and ANY not in table and not any(mark in sound for mark in STRESS):
        return lightly_stressed(sound)
    return sound


def lightly_stressed(sounds: str) -> str:
    """The same phonemes with a secondary stress before the first vowel."""
    vowel = next((place for place, sound in enumerate(sounds) if sound in VOWELS), None)
    return sounds if vowel is None else f"{sounds[:vowel]}ˌ{sounds[vowel:]}"


def spread_stress(parts: Sequence[str]) -> str:
    """Phonemes of a compound as one word; in a compound of two parts the first keeps only a secondary stress."""
    first = parts[0].replace("ˈ", "ˌ") if len(parts) == 2 and "ˈ" in parts[1] else parts[0] if parts else ""
    return first + "".join(parts[1:])


Sighting = tuple[str, str, str, str, str]
"""The word, our phonemes without a table, the teacher's phonemes, the word before, and the teacher's phonemes of the next word."""


def learn_forms(seen: Iterable[Sighting], least: int = 3) -> dict[str, dict[str, str]]:
    """Builds the table of forms: the most frequent form per word and context, where it differs from the default.

    Args:
        seen: Words observed in running text.
        least: Fewest observations of a form in a context.
    """
    counts: dict[str, dict[str, Counter[str]]] = defaultdict(lambda: defaultdict(Counter))
    plain: dict[str, str] = {}
    for word, ours, theirs, before, following in seen:
        plain[form_key(word)] = ours
        found = contexts(before, following)
        for context in (BEFORE_TO, ANY) if BEFORE_TO in found else found:  # "I used to" says nothing about "I used it"
            counts[form_key(word)][context][theirs] += 1
    tables = {key: _table(plain[key], table, least) for key, table in counts.items()}
    return {key: table for key, table in sorted(tables.items()) if table}


def _table(plain: str, found: Mapping[str, Counter[str]], least: int) -> dict[str, str]:
    """Forms of one word by context."""
    best = {context: max(sorted(forms), key=forms.__getitem__) for context, forms in found.items()}
    usual = best[ANY] if found[ANY][best[ANY]] >= least else plain
    table = {ANY: usual} if usual != plain else {}
    for context, form in best.items():
        if context != ANY and form != usual and found[context][form] >= least:
            table[context] = form
    return table
