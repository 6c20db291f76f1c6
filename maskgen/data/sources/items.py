"""What a source hands to a build: items with a key, handles on their undecoded parts, attributes, a split and an identity."""

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
TEXT_FIELDS = ("captions", "text")
LARGEST_RECORD_BYTES = 2**20
LARGEST_NUMBER: Mapping[type, float] = {int: 2**63, float: math.inf}
Attribute = str | int | float


@dataclass(frozen=True, kw_only=True)
class Item:
    """One sample of a source, undecoded.

    Args:
        key: Unique in its source; matches `KEY`, so it holds no dot and is a safe file name.
        parts: Handles by modality: at least one of "text", "image", "audio".
        attributes: Facts beside the media.
        split: Split that the source puts it in; None leaves that to the build.
        identity: ASCII text that changes when the input changes, as far as that can be known without decoding.
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
    """Where items come from.

    Args:
        weight: Share of draws in training, relative to the other sources.
    """

    weight: float

    @abstractmethod
    def items(self) -> Iterator[Item]:
        """Every item, always in the same order; no media is decoded.

        Raises:
            ValueError: If the source as a whole cannot be used; what is wrong with one item is said when its part is read.
        """


class Keys:
    """Hands out each key once; the same names in the same order give the same keys."""

    def __init__(self) -> None:
        self._given: set[str] = set()

    def of(self, name: str) -> str:
        """A name that is a key already stays; any other becomes a slug and a short hash of the name.

        Args:
            name: Any text, such as a path without its ending.

        Returns:
            A key that was not handed out before; a repeated name gets another hash.
        """
        slug = slug_of(name)
        key, turn = slug, 0
        while key in self._given or (key == slug and slug != name):
            digest = hashlib.sha256(f"{name}\0{turn}".encode(errors="surrogatepass")).hexdigest()
            key, turn = f"{slug}-{digest[:HASH_DIGITS]}", turn + 1
        self._given.add(key)
        return key


def slug_of(name: str) -> str:
    """Lower-case ASCII letters, digits, "-" and "_" of a name, at most `LONGEST_SLUG`; accents are dropped, all else becomes "-"."""
    plain = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode().lower()
    return re.sub(r"[^a-z0-9_-]+", "-", plain).lstrip("-_")[:LONGEST_SLUG] or "item"


@dataclass(frozen=True, kw_only=True)
class Record:
    """What a JSON object says beside the media.

    Args:
        texts: Alternatives of its "captions" and "text".
        attributes: Its other texts and numbers; true and false are 1 and 0.
        split: Its "split".
    """

    texts: Sequence[str] = ()
    attributes: Mapping[str, Attribute] = field(default_factory=dict)
    split: str | None = None


def parse_object(content: bytes) -> dict[str, Any]:
    """A JSON object.

    Raises:
        BadMedia: If the bytes are no UTF-8 or no JSON, nest too deep, or are no object.
    """
    try:
        value = json.loads(content.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise BadMedia(f"bad JSON ({str(error)[:120]})") from error
    if not isinstance(value, dict):
        raise BadMedia(f"bad JSON (wanted an object, found {type(value).__name__})")
    return value


def record_of(content: bytes) -> Record:
    """Sorts the fields of a JSON object; lists and objects other than the captions are left out.

    Raises:
        BadMedia: If it is no JSON object, or a field that is used has another type.
    """
    fields = parse_object(content)
    texts = [text for name in TEXT_FIELDS for text in texts_of(fields.pop(name, None), name)]
    split = checked_split(fields.pop("split", None))
    plain = {name: attribute_of(value, name) for name, value in fields.items() if isinstance(value, str | int | float)}
    return Record(texts=texts, attributes=plain, split=split)


def texts_of(value: object, name: str) -> list[str]:
    """Alternatives of a field or cell: a text, a list of texts, or nothing.

    Raises:
        BadMedia: If it is anything else.
    """
    texts: list[Any] = value if isinstance(value, list) else [] if value is None else [value]
    for text in texts:
        if not isinstance(text, str):
            raise BadMedia(f"{name} holds {type(text).__name__}, wanted a text or a list of texts")
    return texts


def checked_split(value: object) -> str | None:
    """The name of a split, which becomes part of a file name.

    Raises:
        BadMedia: If it is not of letters, digits, "-" and "_".
    """
    if value is None or (isinstance(value, str) and SPLIT.fullmatch(value)):
        return value
    raise BadMedia(f"split is {str(value)[:40]!r}, wanted letters, digits, - and _")


def text_part(texts: Sequence[str]) -> InlinePart:
    """Texts as lines; broken characters pass through, for the decoder to refuse."""
    return InlinePart("\n".join(texts).encode("utf-8", "surrogatepass"))


def attribute_of(value: object, name: str) -> Attribute:
    """A text or finite number.

    Raises:
        BadMedia: If it is anything else.
    """
    if isinstance(value, bool):
        return int(value)
    if isinstance(value, str) or (isinstance(value, int | float) and abs(value) < LARGEST_NUMBER[type(value)]):
        return value
    raise BadMedia(f"attribute {name[:40]!r} is {str(value)[:40]!r}, wanted a text or a number of 64 bits")


def identity_of(*facts: object) -> str:
    """Facts as ASCII JSON, whatever characters file names hold."""
    return json.dumps(facts, sort_keys=True)
