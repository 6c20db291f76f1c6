"""Removes markup from text: SSML and HTML tags, entities and Markdown; returns what it removed."""

import html
import re

_INLINE_NAMES = "a abbr b big code del em emphasis i ins kbd mark phoneme prosody q s say-as small span strong sub sup tt u var w"
INLINE = frozenset(_INLINE_NAMES.split())
"""Tags that may stand inside a word: they leave no space."""

_ATTRIBUTE = r"""\s+[\w:-]+\s*=\s*(?:"[^"<>]*"|'[^'<>]*'|[^\s"'<>]+)"""
_TAG = re.compile(rf"<!--.*?-->|<\?[^<>]*\?>|<![A-Za-z][^<>]*>|</?(?P<name>[A-Za-z][\w:-]*)(?:{_ATTRIBUTE})*\s*/?>", re.DOTALL)
_ADDRESS_IN_ANGLES = re.compile(r"<((?:https?://|mailto:|[\w.+-]+@)[^<>\s]+)>")
_ENTITY = re.compile(r"&(?:#\d{1,7}|#[xX][0-9a-fA-F]{1,6}|[A-Za-z]\w{1,31});")

_MARKDOWN: tuple[tuple[re.Pattern[str], str], ...] = (
    (re.compile(r"^[ \t]*(?P<mark>#{1,6})[ \t]+(?P<kept>(?=\S))", re.MULTILINE), r"\g<kept>"),
    (re.compile(r"^[ \t]*(?P<mark>>)[ \t]+(?P<kept>(?=[A-Za-z\"'“*_]))", re.MULTILINE), r"\g<kept>"),
    (re.compile(r"^[ \t]*(?P<mark>\+)[ \t]+(?P<kept>(?=[A-Za-z]))", re.MULTILINE), r"\g<kept>"),
    (re.compile(r"^[ \t]*(?P<mark>```)[\w+-]*[ \t]*(?P<kept>)$", re.MULTILINE), r"\g<kept>"),
    (re.compile(r"!?\[(?P<kept>[^\[\]\n]+)\](?P<link>\([^()\s]+\))"), r"\g<kept>"),
    (re.compile(r"(?<![`\w])(?P<mark>`{1,2})(?=[^`\s])(?P<kept>[^`\n]+)(?P=mark)(?!`)"), r"\g<kept>"),
    (re.compile(r"(?<![~\w])(?P<mark>~~)(?=\S)(?P<kept>[^~\n]+)~~(?![~\w])"), r"\g<kept>"),
)
"""Markdown marks: what is removed is in the groups `mark` and `link`, what stays in `kept`. Asterisks are left to the normaliser."""


def without_markup(text: str) -> tuple[str, list[str]]:
    """Removes tags, comments and Markdown marks, and replaces entities by their characters.

    A tag isn't obeyed: "<break time='1s'/>" makes no pause. It is reported instead.

    Returns:
        The text, and each removed piece of markup in the order of its kind and of the text, repeats included.
    """
    removed: list[str] = []
    text = _ADDRESS_IN_ANGLES.sub(r"\1", text)
    text = _TAG.sub(lambda found: _gap(found, removed), text)
    text = _ENTITY.sub(lambda found: html.unescape(found[0]), text)
    for pattern, kept in _MARKDOWN:
        removed += [found[name] for found in pattern.finditer(text) for name in pattern.groupindex if name != "kept" and found[name]]
        text = pattern.sub(kept, text)
    return text, removed


def tag_spans(text: str) -> list[tuple[int, int]]:
    """Start and end of each tag and comment of a text."""
    return [found.span() for found in _TAG.finditer(text)]


def _gap(tag: re.Match[str], removed: list[str]) -> str:
    """What stands where a tag was: nothing for an inline tag, else a space."""
    removed.append(tag[0])
    return "" if tag["name"] and tag["name"].lower() in INLINE else " "
