"""Folders of shards without shards: what a training needs to know before it reads a row."""

from collections.abc import Mapping
from pathlib import Path

from maskgen.data.shards.manifest import Index, write_index
from maskgen.tokens.space import TokenSpace


def empty_shards(folder: Path, space: TokenSpace, fingerprints: Mapping[str, str] | None = None) -> str:
    """A folder of token shards with an index and no rows; made where it is missing."""
    folder.mkdir(parents=True, exist_ok=True)
    write_index(folder, Index(kind="tokens", shards=(), space=space.to_dict(), fingerprints=dict(fingerprints or {})))
    return str(folder)
