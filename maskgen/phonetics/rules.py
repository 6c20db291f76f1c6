"""Applies tables of rewriting rules: a pattern, and a function that returns the words for a match."""

import re
from collections.abc import Callable, Iterable

QUOTE = '"'
Rules = tuple[tuple[re.Pattern[str], Callable[[re.Match[str]], str]], ...]


def apply_rules(text: str, rules: Iterable[tuple[re.Pattern[str], Callable[[re.Match[str]], str]]]) -> str:
    """The text after each rule in turn; words that replace a match are set apart by single spaces, but not from quotation marks."""
    for pattern, say in rules:
        text, count = pattern.subn(lambda found, say=say: _set_apart(found, say(found)), text)  # type: ignore[misc]
        text = re.sub(r"  +", " ", text) if count else text
    return text


def _set_apart(found: re.Match[str], words: str) -> str:
    """Words with a space on each side where no straight quotation mark stands."""
    before, after = found.string[max(0, found.start() - 1) : found.start()], found.string[found.end() : found.end() + 1]
    return f"{'' if before == QUOTE else ' '}{words}{'' if after == QUOTE else ' '}"
