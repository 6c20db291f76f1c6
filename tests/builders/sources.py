"""Files for sources of samples, and what a source makes of them."""

import pickle
from collections.abc import Mapping
from pathlib import Path

import pytest

from maskgen.data.sources.items import Item, Source
from maskgen.data.sources.media import decode_text
from maskgen.io.limits import BadMedia, MediaLimits

LIMIT = 2**20


def write(root: Path, files: Mapping[str, bytes | str]) -> Path:
    """The files in a folder, with the folders between."""
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    return root


def listed(source: Source) -> dict[str, Item]:
    """The items by key, after a check that a second listing is the same and that they can be pickled."""
    items = list(source.items())
    found = {item.key: item for item in items}
    assert len(found) == len(items), "a key comes twice"
    assert [(i.key, i.identity) for i in items] == [(i.key, i.identity) for i in source.items()], "another order or identity"
    assert all(item.identity.isascii() for item in items)
    assert pickle.loads(pickle.dumps(items)) == items
    return found


def captions(item: Item) -> list[str]:
    """The texts of an item."""
    return decode_text(item.parts["text"].read(LIMIT), MediaLimits())


def bad(item: Item, part: str) -> str:
    """The error of a part that cannot be read."""
    with pytest.raises(BadMedia) as caught:
        item.parts[part].read(LIMIT)
    return str(caught.value)
