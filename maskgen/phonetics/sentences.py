"""Splits long text into sentences short enough for a speech model."""

import re
from collections.abc import Callable, Iterable

from maskgen.phonetics.abbreviations import KEEPS_SENTENCE
from maskgen.phonetics.markup import tag_spans

_END = re.compile(r"[.!?…]+[\"'”’)\]]*\s+|\n\s*\n|[。！？]")
_CLAUSE = re.compile(r"(?<=[,;:—)])\s+")
LONGEST_ENDING = 40
_LAST_WORD = re.compile(r"([A-Za-z.]*[A-Za-z])\.[\"'”’)\]]*\s*$")


def split_sentences(text: str, length: Callable[[str], int], longest: int) -> list[str]:
    """Splits a text into sentences, in order; joined, they equal the text except for white space.

    Args:
        text: Any text.
        length: Returns the number of phonemes of a piece of text; a piece with 0 is joined to its neighbour.
        longest: Most phonemes per sentence; a longer one is split at clause punctuation, then at spaces. A word is never split.

    Returns:
        The sentences; empty if nothing can be spoken.
    """
    pieces = (piece for sentence in _at_ends(text) for piece in _shortened(sentence, length, longest))
    return _spoken(pieces, length)


def _at_ends(text: str) -> Iterable[str]:
    """Pieces of a text, split at the ends of sentences."""
    start = 0
    tags = tag_spans(text)
    for found in _END.finditer(text):
        if any(first < found.start() < last for first, last in tags):
            continue
        if _ends(text[start : found.end()], text[found.end() : found.end() + 1], found.group()):
            yield text[start : found.end()].strip()
            start = found.end()
    yield text[start:].strip()


def _ends(sentence: str, following: str, mark: str) -> bool:
    """Whether a sentence ends here: not before a lower-case letter, after a title or after an initial."""
    if "\n\n" in re.sub(r"[^\S\n]", "", mark):
        return True
    word = _LAST_WORD.search(sentence[-LONGEST_ENDING:])
    if following.islower() or word is None:
        return not following.islower()
    return word[1] not in KEEPS_SENTENCE and not (len(word[1]) == 1 and word[1].isupper() and word[1] != "I")


def _shortened(sentence: str, length: Callable[[str], int], longest: int) -> list[str]:
    """Pieces of a sentence; the whole sentence if it is short enough."""
    if length(sentence) <= longest:
        return [sentence]
    parts = _CLAUSE.split(sentence)
    if len(parts) > 1:
        return [piece for group in _grouped(parts, length, longest) for piece in _shortened_words(group, length, longest)]
    return _shortened_words(sentence, length, longest)


def _shortened_words(sentence: str, length: Callable[[str], int], longest: int) -> list[str]:
    """Pieces of a sentence that is too long, split at spaces."""
    return [sentence] if length(sentence) <= longest else _grouped(sentence.split(), length, longest)


def _grouped(parts: Iterable[str], length: Callable[[str], int], longest: int) -> list[str]:
    """Consecutive parts joined with spaces while they fit."""
    groups: list[str] = []
    filled = 0
    for part in parts:
        size = length(part) + 1
        if groups and filled + size <= longest:
            groups[-1] += f" {part}"
            filled += size
        else:
            groups.append(part)
            filled = size
    return groups


def _spoken(pieces: Iterable[str], length: Callable[[str], int]) -> list[str]:
    """Speakable pieces; the others are joined to the previous piece, or at the start to the next."""
    found: list[str] = []
    waiting = ""
    for piece in filter(None, pieces):
        piece = f"{waiting} {piece}".strip()
        waiting = ""
        if length(piece):
            found.append(piece)
        elif found:
            found[-1] += f" {piece}"
        else:
            waiting = piece
    return found
