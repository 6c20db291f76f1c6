"""Groups files into items by their names; used by folders and tars."""

import logging
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from maskgen.data.sources.handles import BadPart, JoinedPart, MediaPart, OneTextPart, digest_of
from maskgen.data.sources.items import (
    LARGEST_RECORD_BYTES,
    Attribute,
    Item,
    SampleRecord,
    identity_of,
    parse_object,
    sample_record,
    text_part,
)
from maskgen.io.formats import AUDIO_ENDINGS, IMAGE_ENDINGS
from maskgen.io.limits import BadMedia

logger = logging.getLogger(__name__)

ENDINGS: Mapping[str, str] = {
    **dict.fromkeys(IMAGE_ENDINGS, "image"),
    **dict.fromkeys(AUDIO_ENDINGS, "audio"),
    "txt": "text",
    "json": "record",
}
"""File ending to the kind of its content; files with other endings are never opened."""


@dataclass(frozen=True)
class SampleFile:
    """A file of a sample: its ending, one of `ENDINGS`, its full name, and a handle on it."""

    ending: str
    name: str
    part: MediaPart


@dataclass(frozen=True)
class FileGroup:
    """Files that belong together.

    Args:
        stem: Path without the ending.
        members: The files.
        rows: What a metadata table says about them: an object each, or the reason why a row cannot be read.
    """

    stem: str
    members: Sequence[SampleFile]
    rows: Sequence[Mapping[str, Any] | BadMedia] = field(default=())

    @property
    def kinds(self) -> frozenset[str]:
        """Kinds of content among the members."""
        return frozenset(ENDINGS[member.ending] for member in self.members)


def folded(name: str) -> str:
    """A name without differences that file systems ignore: case and the Unicode form of accents."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).lower())


def joined_groups(groups: Sequence[FileGroup]) -> Iterator[FileGroup]:
    """Groups with those joined that are parts of one sample, in the order of their first part.

    Groups are parts of one sample if their stems are equal, or differ only as in `folded`, and no kind of content is in two of them. If
    one is, stems that differ are different samples, and equal stems are
    - samples of their own if all of them hold the same kinds;
    - one sample with too many files otherwise, which `paired` refuses.
    """
    for alike in _alike(groups, folded):
        if _is_disjoint(alike):
            yield _merged(alike)
            continue
        for same in _alike(alike, str):
            yield from same if len({group.kinds for group in same}) == 1 else [_merged(same)]


def _alike(groups: Sequence[FileGroup], name_of: Callable[[str], str]) -> list[list[FileGroup]]:
    found: dict[str, list[FileGroup]] = {}
    for group in groups:
        found.setdefault(name_of(group.stem), []).append(group)
    return list(found.values())


def _is_disjoint(groups: Sequence[FileGroup]) -> bool:
    """Whether no kind of content is in two groups."""
    return sum(len(group.kinds) for group in groups) == len(frozenset[str]().union(*(group.kinds for group in groups)))


def _merged(groups: Sequence[FileGroup]) -> FileGroup:
    first, *others = groups
    members = [member for group in groups for member in group.members]
    return replace(first, members=members, rows=[row for group in groups for row in group.rows]) if others else first


def paired(key: str, group: FileGroup) -> Item | None:
    """An item from the files of one sample.

    A .txt beside a recording is one text, whatever its lines; otherwise every line is a caption.

    Args:
        key: The item's key.
        group: Its files.

    Returns:
        None if there is only a JSON object without texts.
    """
    facts = [(member.ending, digest_of(member.part)) for member in group.members]
    identity = identity_of(facts, [str(row) if isinstance(row, BadMedia) else identity_of(row) for row in group.rows])
    parts: dict[str, MediaPart] = {}
    for member in group.members:
        kind = ENDINGS[member.ending]
        parts[kind] = BadPart(f"two files are its {kind}, wanted one") if kind in parts else member.part
    record = parts.pop("record", None)
    try:
        meta = _record([*([] if record is None else [parse_object(record.read(LARGEST_RECORD_BYTES))]), *group.rows])
    except BadMedia as error:
        what = "JSON" if not group.rows else "JSON or row of metadata"
        return Item(key=key, parts=dict.fromkeys(parts or ["text"], BadPart(f"its {what}: {error}")), identity=identity)
    if "text" in parts and "audio" in parts:
        parts["text"] = OneTextPart(parts["text"])
    if meta.texts:
        said = text_part(meta.texts)
        parts["text"] = JoinedPart((parts["text"], said)) if "text" in parts else said
    return Item(key=key, parts=parts, attributes=meta.attributes, split=meta.split, identity=identity) if parts else None


def _record(objects: Sequence[Mapping[str, Any] | BadMedia]) -> SampleRecord:
    """One record from several objects.

    Raises:
        BadMedia: If one is bad, or two of them differ in a value.
    """
    texts: dict[str, None] = {}
    attributes: dict[str, Attribute] = {}
    splits: set[str] = set()
    for one in objects:
        if isinstance(one, BadMedia):
            raise one
        found = sample_record(one)
        texts |= dict.fromkeys(found.texts)
        splits |= {found.split} if found.split else set()
        for name, value in found.attributes.items():
            if attributes.setdefault(name, value) != value:
                raise BadMedia(f"{name[:40]!r} is {str(attributes[name])[:40]!r} and {str(value)[:40]!r}")
    if len(splits) > 1:
        raise BadMedia(f"split is {' and '.join(sorted(splits))}")
    return SampleRecord(texts=list(texts), attributes=attributes, split=next(iter(splits), None))


def listed(name: object, items: Iterator[Item | None], ignored: Counter[str]) -> Iterator[Item]:
    """The items; logs at the end what was ignored, and raises if there is no item."""
    count = 0
    for item in items:
        if item is None:
            ignored["json without texts or media"] += 1
        else:
            count += 1
            yield item
    ignored = +ignored
    if ignored:
        kinds = ", ".join(f"{number} x {kind!r}" for kind, number in ignored.most_common(8))
        logger.warning("%s: %d entries were ignored (%s)", name, ignored.total(), kinds)
    if not count:
        advice = "tars are read by a recipe with kind: webdataset" if ignored[".tar"] else "check the path"
        raise ValueError(f"{name} holds no samples, wanted files ending in {', '.join(ENDINGS)}; {advice}")
