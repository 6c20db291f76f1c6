"""Items that a source gives to a build: a key, handles on undecoded parts, attributes, a split and an identity."""

import hashlib
import json
import math
import re
import unicodedata
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from maskgen.data.sources.handles import InlinePart, MediaPart
from maskgen.io.limits import BadMedia

KEY = re.compile(r"[a-z0-9][a-z0-9_-]*")
SPLIT = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
LONGEST_SLUG = 64
HASH_DIGITS = 8
PART_NAMES = ("text", "image", "audio")
TEXT_FIELDS = ("captions", "caption", "texts", "text")
"""Fields of a JSON object whose texts are all captions of the sample."""
OTHER_TEXT_FIELDS = ("transcription", "transcript", "sentence", "prompt")
"""Fields that are read where all of `TEXT_FIELDS` are empty: the first one that holds a text. The others stay attributes."""
LINE_BREAKS = re.compile("[\r\n\u2028\u2029]+")
LARGEST_RECORD_BYTES = 2**20
LARGEST_NUMBER: Mapping[type, float] = {int: 2**63, float: math.inf}
Attribute = str | int | float


@dataclass(frozen=True, kw_only=True)
class Item:
    """One sample of a source, undecoded.

    Args:
        key: Unique in its source. Matches `KEY`, so it has no dot and is a safe file name.
        parts: Handles by modality: at least one of "text", "image", "audio".
        attributes: Metadata.
        split: Split given by the source; None lets the build decide.
        identity: ASCII text that changes when the content of the input changes, and not with its place or times.
    """

    key: str
    parts: Mapping[str, MediaPart]
    attributes: Mapping[str, Attribute] = field(default_factory=dict)
    split: str | None = None
    identity: str

    def __post_init__(self) -> None:
        assert KEY.fullmatch(self.key), f"key {self.key!r} does not match {KEY.pattern}"
        assert self.parts, f"item {self.key} has no parts"
        assert set(self.parts) <= set(PART_NAMES), f"parts {sorted(self.parts)} must be among {PART_NAMES}"


class Source(ABC):
    """A source of items.

    Args:
        weight: Sampling weight in training, relative to the other sources.
    """

    weight: float

    @abstractmethod
    def items(self) -> Iterator[Item]:
        """Every item, always in the same order, without decoding media.

        Raises:
            ValueError: If the source as a whole cannot be used. Errors of single items are raised when their parts are read.
        """


class Keys:
    """Unique keys for names; the same names in the same order give the same keys."""

    def __init__(self) -> None:
        self._given: set[str] = set()

    def of(self, name: str) -> str:
        """The key of a name: the name itself if it is a valid key, otherwise a slug and a short hash of the name.

        Args:
            name: Any text, such as a path without its ending.

        Returns:
            A new key; a repeated name gets another hash.
        """
        slug = slug_of(name)
        key, turn = slug, 0
        while key in self._given or (key == slug and slug != name):
            digest = hashlib.sha256(f"{name}\0{turn}".encode(errors="surrogatepass")).hexdigest()
            key, turn = f"{slug}-{digest[:HASH_DIGITS]}", turn + 1
        self._given.add(key)
        return key


def slug_of(name: str) -> str:
    """Lower-case ASCII letters, digits, "-" and "_" of a name, at most `LONGEST_SLUG`; accents are dropped, everything else becomes "-"."""
    plain = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode().lower()
    return re.sub(r"[^a-z0-9_-]+", "-", plain).lstrip("-_")[:LONGEST_SLUG] or "item"


@dataclass(frozen=True, kw_only=True)
class SampleRecord:
    """Metadata of a sample, from a JSON object.

    Args:
        texts: Captions, from the fields `TEXT_FIELDS` and `OTHER_TEXT_FIELDS`.
        attributes: Its other strings and numbers; true and false are 1 and 0, and NaN is a missing value.
        split: Its "split".
    """

    texts: Sequence[str] = ()
    attributes: Mapping[str, Attribute] = field(default_factory=dict)
    split: str | None = None


def parse_object(content: bytes) -> dict[str, Any]:
    """Parse a JSON object.

    Raises:
        BadMedia: If the bytes are not UTF-8, not JSON, nested too deeply, or not an object.
    """
    try:
        value = json.loads(content.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise BadMedia(f"bad JSON ({str(error)[:120]})") from error
    if not isinstance(value, dict):
        raise BadMedia(f"bad JSON (wanted an object, found {type(value).__name__})")
    return value


def sample_record(fields: Mapping[str, Any]) -> SampleRecord:
    """The metadata of a sample from its JSON object; lists and objects other than the captions are ignored.

    Raises:
        BadMedia: If a field that is used has a wrong type.
    """
    found = {name: texts_of(fields[name], name) for name in TEXT_FIELDS if name in fields}
    if not any(found.values()):
        others = {name: texts_of(fields[name], name) for name in OTHER_TEXT_FIELDS if isinstance(fields.get(name), str | list)}
        found |= dict(list({name: texts for name, texts in others.items() if texts}.items())[:1])
    rest = {name: value for name, value in fields.items() if name not in found and name != "split" and not is_missing(value)}
    plain = {name: attribute_of(value, name) for name, value in rest.items() if isinstance(value, str | int | float)}
    texts = list(dict.fromkeys(text for texts in found.values() for text in texts))
    return SampleRecord(texts=texts, attributes=plain, split=checked_split(fields.get("split")))


def is_missing(value: object) -> bool:
    """Whether a value stands for a missing one: None, or NaN, which pandas and json.dumps write for it."""
    return value is None or (isinstance(value, float) and math.isnan(value))


def texts_of(value: object, name: str) -> list[str]:
    """Captions in a field or cell: a string, a list of strings, or a missing value; empty texts are left out.

    Raises:
        BadMedia: If it is anything else.
    """
    texts: list[Any] = [text for text in (value if isinstance(value, list) else [value]) if not is_missing(text)]
    for text in texts:
        if not isinstance(text, str):
            raise BadMedia(f"{name} holds {type(text).__name__}, wanted a text or a list of texts")
    return [text for text in texts if text.strip()]


def checked_split(value: object) -> str | None:
    """Check the name of a split, which becomes part of a file name.

    Raises:
        BadMedia: If it has other characters than letters, digits, "-" and "_".
    """
    if isinstance(value, str) and SPLIT.fullmatch(value):
        return value
    if is_missing(value):
        return None
    raise BadMedia(f"split is {str(value)[:40]!r}, wanted letters, digits, - and _")


def text_part(texts: Sequence[str]) -> InlinePart:
    """Texts, each on a line of its own: a line break inside of a text becomes a space. Invalid characters are left to the decoder."""
    return InlinePart("\n".join(LINE_BREAKS.sub(" ", text) for text in texts).encode("utf-8", "surrogatepass"))


def attribute_of(value: object, name: str) -> Attribute:
    """Check an attribute: a string or a finite number.

    Raises:
        BadMedia: If it is anything else.
    """
    if isinstance(value, bool):
        return int(value)
    if isinstance(value, str) or (isinstance(value, int | float) and abs(value) < LARGEST_NUMBER[type(value)]):
        return value
    raise BadMedia(f"attribute {name[:40]!r} is {str(value)[:40]!r}, wanted a text or a number of 64 bits")


def identity_of(*facts: object) -> str:
    """A hash over facts: texts and numbers, alone or in sequences."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
