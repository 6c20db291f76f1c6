"""Index and manifest of a folder of shards: `index.json`, written last, and `manifest.jsonl`, one line per finished shard."""

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from maskgen.io.files import write_atomic
from maskgen.io.names import file_name

FORMAT = "maskgen-shards"
VERSION = 1
INDEX_FILE = "index.json"
MANIFEST_FILE = "manifest.jsonl"
LATE_KEYS = {"plan", "files", "sha256"}
"""Keys that an index of maskgen 0.1 lacks."""


@dataclass(frozen=True, kw_only=True)
class ShardEntry:
    """One shard of an index.

    Args:
        name: File name.
        split: Split of all its samples.
        count: Number of samples.
        sha256: Hash of its bytes.
        bytes: Its size; None in an index of maskgen 0.1.
        tokens: Number of codes per modality, for token shards.
        sources: Number of samples per source of the recipe.

    Raises:
        ValueError: If the name is not that of a plain file.
    """

    name: str
    split: str
    count: int
    sha256: str
    bytes: int | None = None
    tokens: Mapping[str, int] = field(default_factory=dict)
    sources: Mapping[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        file_name(self.name, "a shard's entry")


def _entry(plain: Mapping[str, Any]) -> ShardEntry:
    """An entry from JSON.

    Raises:
        TypeError: If a field is missing, unknown or of another type.
    """
    texts, counts = (plain.get("split"), plain.get("sha256")), (plain.get("count"), plain.get("bytes") or 0)
    if not all(isinstance(text, str) for text in texts) or not all(map(_is_count, counts)):
        raise TypeError(f"the entry of {plain.get('name')} has a split, count, sha256 or bytes of another type")
    if not all(_are_counts(plain.get(name, {})) for name in ("tokens", "sources")):
        raise TypeError(f"the entry of {plain.get('name')} has tokens or sources that are no counts")
    return ShardEntry(**plain)


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _are_counts(values: object) -> bool:
    return isinstance(values, Mapping) and all(map(_is_count, values.values()))


@dataclass(frozen=True, kw_only=True)
class Held:
    """Samples of one source that hold the same media.

    Args:
        source: Name of the source.
        kinds: What they hold, of "text", "image" and "audio", in this order.
        count: Number of samples.
        first: Keys of the first ones.
    """

    source: str
    kinds: tuple[str, ...]
    count: int
    first: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class ManifestLine:
    """Record of one finished shard.

    Args:
        entry: The shard's entry for the index.
        rejects: (key, reason) of each sample that was left out, sorted by key.
        resampled: Number of samples whose audio was resampled.
        notes: Remark of the decoders to the number of samples.
        fingerprints: Modality name to the fingerprint of the tokenizer.
        version: Version of maskgen that wrote it.
        plan: Hash of the plan it belongs to.
        held: What its samples hold, by source; empty where an older manifest doesn't say.
        buckets: Size of each bucket, such as "320 x 192", to the number of images; empty in builds without buckets.
    """

    entry: ShardEntry
    rejects: tuple[tuple[str, str], ...]
    resampled: int
    fingerprints: Mapping[str, str]
    version: str
    plan: str
    held: tuple[Held, ...] = ()
    notes: Mapping[str, int] = field(default_factory=dict)
    buckets: Mapping[str, int] = field(default_factory=dict)

    def to_json(self) -> str:
        """One line of JSON, without the line break."""
        plain = {name: value for name, value in asdict(self).items() if name != "buckets" or value}
        rejects = [{"key": key, "reason": reason} for key, reason in self.rejects]
        return json.dumps({**plain.pop("entry"), **plain, "rejects": rejects}, sort_keys=True, ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str) -> "ManifestLine":
        """Parse a line written by `to_json`.

        Raises:
            ValueError: If the line is incomplete or not a line of a manifest.
        """
        try:
            plain = json.loads(text)
            entry = _entry({name: plain.pop(name) for name in ShardEntry.__dataclass_fields__})
            rejects = tuple((row["key"], row["reason"]) for row in plain.pop("rejects"))
            if not all(_are_counts(plain.get(name, {})) for name in ("notes", "buckets")):
                raise TypeError("notes or buckets are no counts")
            held = tuple(
                Held(source=one["source"], kinds=tuple(one["kinds"]), count=int(one["count"]), first=tuple(one["first"]))
                for one in plain.pop("held", ())
            )
            return cls(entry=entry, rejects=rejects, held=held, **plain)
        except (KeyError, TypeError, AttributeError, RecursionError, json.JSONDecodeError) as error:
            raise ValueError(f"no line of {MANIFEST_FILE}: {text[:60]!r}") from error


@dataclass(frozen=True, kw_only=True)
class Index:
    """Contents of index.json.

    Args:
        kind: "raw" (media) or "tokens".
        shards: The shards, in reading order.
        space: `TokenSpace.to_dict()` of token shards.
        fingerprints: Modality name to the fingerprint of the tokenizer that made its codes.
        about: Free facts, such as the image size, the sources and their weights.
        plan: Hash of the plan that was built; empty if the shards were not written by the build engine.
        files: Further files of the folder (manifest, rejects, plan) with their sha256.

    Raises:
        ValueError: If a name is not that of a plain file.
    """

    kind: str
    shards: tuple[ShardEntry, ...]
    space: Mapping[str, Any] | None = None
    fingerprints: Mapping[str, str] = field(default_factory=dict)
    about: Mapping[str, Any] = field(default_factory=dict)
    plan: str = ""
    files: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in self.files:
            file_name(name, "an index")

    def of(self, split: str) -> list[ShardEntry]:
        """Shards of one split.

        Raises:
            ValueError: If the index has no such split.
        """
        entries = [entry for entry in self.shards if entry.split == split]
        if not entries:
            raise ValueError(f"no shards of split {split!r}; the index holds {sorted(self.counts)}")
        return entries

    @property
    def counts(self) -> dict[str, int]:
        """Samples per split."""
        names = dict.fromkeys(entry.split for entry in self.shards)
        return {split: sum(entry.count for entry in self.shards if entry.split == split) for split in names}


def index_bytes(index: Index) -> bytes:
    """The bytes of index.json, including a hash over all other fields."""
    plain = {"format": FORMAT, "version": VERSION, "counts": index.counts, **asdict(index)}
    return _json_bytes({**plain, "sha256": _seal(plain)})


def _json_bytes(plain: Mapping[str, Any]) -> bytes:
    return (json.dumps(plain, indent=1, sort_keys=True) + "\n").encode()


def _seal(plain: Mapping[str, Any]) -> str:
    """Hash over everything in an index except the hash itself."""
    return hashlib.sha256(_json_bytes({name: value for name, value in plain.items() if name != "sha256"})).hexdigest()


def write_index(folder: Path, index: Index) -> None:
    """Write index.json. It is written last: a folder without it is unfinished."""
    folder.mkdir(parents=True, exist_ok=True)
    write_atomic(folder / INDEX_FILE, index_bytes(index))


def read_index(folder: Path) -> Index:
    """Read index.json of a folder of shards.

    Raises:
        ValueError: If it is missing, not JSON, of another format or version, does not match its hash, or names a file that is not in
            the folder.
    """
    path = folder / INDEX_FILE
    if not path.is_file():
        raise ValueError(f"{path} does not exist, so {folder} holds no finished shards; build it with maskgen data")
    try:
        plain = json.loads(path.read_text(encoding="utf-8"))
        if (plain["format"], plain["version"]) != (FORMAT, VERSION):
            raise ValueError(f"{path} is {plain['format']} version {plain['version']}, wanted {FORMAT} version {VERSION}; build it again")
        _check_seal(path, plain)
        if not isinstance(files := plain.get("files", {}), dict):
            raise TypeError("files is no object")
        for name in [*(entry["name"] for entry in plain["shards"]), *files]:
            file_name(name, str(path))
        names = [name for name in Index.__dataclass_fields__ if name != "shards" and (name in plain or name not in LATE_KEYS)]
        return Index(**{name: plain[name] for name in names}, shards=tuple(_entry(entry) for entry in plain["shards"]))
    except (KeyError, TypeError, json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"{path} is damaged ({error}); build it again") from error


def _check_seal(path: Path, plain: Mapping[str, Any]) -> None:
    """Check an index against the hash in it.

    Raises:
        ValueError: If it does not match its hash, or has an unknown key.
    """
    known = {"format", "version", "counts", *Index.__dataclass_fields__}
    late = LATE_KEYS & set(plain)
    if set(plain) - LATE_KEYS != known - LATE_KEYS or (late and (late != LATE_KEYS or plain["sha256"] != _seal(plain))):
        raise ValueError(f"{path} is damaged: its content does not give the sha256 that stands in it; build it again")


def is_sealed(folder: Path) -> bool:
    """Whether the index contains its own hash; indexes of maskgen 0.1 don't."""
    return "sha256" in json.loads((folder / INDEX_FILE).read_text(encoding="utf-8"))


def manifest_bytes(lines: Iterable[ManifestLine]) -> bytes:
    """The bytes of a manifest, sorted by shard name."""
    ordered = sorted(lines, key=lambda line: line.entry.name)
    return "".join(f"{line.to_json()}\n" for line in ordered).encode()


def append_manifest(folder: Path, line: ManifestLine) -> None:
    """Append the line of a finished shard and flush it to disk, so that it survives a power failure."""
    number = os.open(folder / MANIFEST_FILE, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        os.write(number, f"{line.to_json()}\n".encode())
        os.fsync(number)
    finally:
        os.close(number)


def read_manifest(folder: Path) -> Iterator[ManifestLine]:
    """Complete lines of the manifest; incomplete or damaged ones are skipped."""
    path = folder / MANIFEST_FILE
    content = path.read_bytes() if path.is_file() else b""
    for line in content.split(b"\n"):
        try:
            yield ManifestLine.from_json(line.decode("utf-8"))
        except ValueError:  # the shard is built again
            continue
