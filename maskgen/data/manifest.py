"""The index beside a folder of shards: what lies there, how many, with which sha256, and which tokenizers made it."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from maskgen.bundle import write_atomic

FORMAT = "maskgen-shards"
VERSION = 1


@dataclass(frozen=True, kw_only=True)
class ShardEntry:
    """One shard: file name, split, number of samples and sha256 of its bytes."""

    name: str
    split: str
    count: int
    sha256: str


@dataclass(frozen=True, kw_only=True)
class Index:
    """Contents of index.json.

    Args:
        kind: "raw" (media) or "tokens".
        shards: The shards, in reading order.
        space: `TokenSpace.to_dict()` of token shards.
        fingerprints: Modality name to the fingerprint of the tokenizer that made its codes.
        about: Free facts such as the picture size.
    """

    kind: str
    shards: tuple[ShardEntry, ...]
    space: Mapping[str, Any] | None = None
    fingerprints: Mapping[str, str] = field(default_factory=dict)
    about: Mapping[str, Any] = field(default_factory=dict)

    def of(self, split: str) -> list[ShardEntry]:
        """Shards of one split.

        Raises:
            ValueError: If the index has no such split.
        """
        found = [entry for entry in self.shards if entry.split == split]
        if not found:
            raise ValueError(f"no shards of split {split!r}; the index holds {sorted(self.counts)}")
        return found

    @property
    def counts(self) -> dict[str, int]:
        """Samples per split."""
        names = dict.fromkeys(entry.split for entry in self.shards)
        return {split: sum(entry.count for entry in self.shards if entry.split == split) for split in names}


def write_index(folder: Path, index: Index, name: str = "index.json") -> None:
    """Writes the index beside the shards, last of all: a folder without it is unfinished."""
    folder.mkdir(parents=True, exist_ok=True)
    plain = {"format": FORMAT, "version": VERSION, "counts": index.counts, **asdict(index)}
    write_atomic(folder / name, (json.dumps(plain, indent=1, sort_keys=True) + "\n").encode())


def read_index(folder: Path, name: str = "index.json") -> Index:
    """Reads the index beside the shards.

    Raises:
        ValueError: If it is missing, no JSON, or of another format or version.
    """
    path = folder / name
    if not path.is_file():
        raise ValueError(f"{path} does not exist, so {folder} holds no finished shards; build it with maskgen data")
    try:
        plain = json.loads(path.read_text(encoding="utf-8"))
        if (plain["format"], plain["version"]) != (FORMAT, VERSION):
            raise ValueError(f"{path} is {plain['format']} version {plain['version']}, wanted {FORMAT} version {VERSION}; build it again")
        shards = tuple(ShardEntry(**entry) for entry in plain["shards"])
        return Index(**{name: plain[name] for name in ("kind", "space", "fingerprints", "about")}, shards=shards)
    except (KeyError, TypeError, json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is damaged ({error}); build it again") from error
