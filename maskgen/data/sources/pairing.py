"""Groups files into items by their names; used by folders and tars."""

import hashlib
import logging
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

from maskgen.data.sources.handles import BadPart, JoinedPart, MediaPart
from maskgen.data.sources.items import LARGEST_RECORD_BYTES, Item, identity_of, sample_record, text_part
from maskgen.io.limits import BadMedia

logger = logging.getLogger(__name__)

PICTURE_ENDINGS = ("png", "jpg", "jpeg", "webp", "gif", "bmp", "tif", "tiff")
SOUND_ENDINGS = ("wav", "flac", "mp3", "ogg")
ENDINGS: Mapping[str, str] = {
    **dict.fromkeys(PICTURE_ENDINGS, "image"),
    **dict.fromkeys(SOUND_ENDINGS, "audio"),
    "txt": "text",
    "json": "record",
}
"""File ending to the kind of its content; files with other endings are never opened."""
Member = tuple[str, MediaPart]
"""Ending and handle."""


def paired(key: str, members: Sequence[Member], identity: str) -> Item | None:
    """An item from the files of one stem.

    Args:
        key: The item's key.
        members: Endings from `ENDINGS` with their handles.
        identity: The item's identity; the JSON's content is added to it.

    Returns:
        None if there is only a JSON object without texts.
    """
    parts: dict[str, MediaPart] = {}
    for ending, part in members:
        kind = ENDINGS[ending]
        parts[kind] = BadPart(f"two files are its {kind}, wanted one") if kind in parts else part
    record = parts.pop("record", None)
    if record is None:
        return Item(key=key, parts=parts, identity=identity)
    try:
        content = record.read(LARGEST_RECORD_BYTES)
        meta = sample_record(content)
    except BadMedia as error:
        return Item(key=key, parts=dict.fromkeys(parts or ["text"], BadPart(f"its JSON: {error}")), identity=identity)
    if meta.texts:
        said = text_part(meta.texts)
        parts["text"] = JoinedPart((parts["text"], said)) if "text" in parts else said
    identity = identity_of(identity, hashlib.sha256(content).hexdigest())
    return Item(key=key, parts=parts, attributes=meta.attributes, split=meta.split, identity=identity) if parts else None


def listed(name: object, items: Iterator[Item | None], ignored: Counter[str]) -> Iterator[Item]:
    """The items; logs at the end what was ignored, and raises if there is no item."""
    count = 0
    for item in items:
        if item is None:
            ignored["json without texts or media"] += 1
        else:
            count += 1
            yield item
    if ignored:
        kinds = ", ".join(f"{number} x {kind!r}" for kind, number in ignored.most_common(8))
        logger.warning("%s: %d entries were ignored (%s)", name, ignored.total(), kinds)
    if not count:
        raise ValueError(f"{name} holds no samples, wanted files ending in {', '.join(ENDINGS)}; check the path")
