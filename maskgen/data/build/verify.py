"""Checks a folder of shards for damage: the index's own hash, the other files, every shard's size, and optionally every byte."""

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from maskgen.data.build.engine import SIDECARS
from maskgen.data.shards.codes import code_fault, index_space
from maskgen.data.shards.format import Sample, check_shard, read_shard
from maskgen.data.shards.manifest import INDEX_FILE, MANIFEST_FILE, Index, ShardEntry, index_bytes, is_sealed, read_index, read_manifest
from maskgen.data.shards.vectors import num_cells
from maskgen.tokens.space import Modality


@dataclass(frozen=True)
class Verification:
    """Result of a check.

    Args:
        index: The index; None if it cannot be read.
        damages: One sentence each.
        strays: Files and folders that are not in the index.
        notes: Checks that were not possible.
    """

    index: Index | None
    damages: tuple[str, ...]
    strays: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def verify(folder: Path, full: bool = False, report: Callable[[int], None] | None = None) -> Verification:
    """Check a folder of shards.

    Args:
        folder: Shards with index.json.
        full: Read every byte and check the sha256 of each shard, every sample, counts, keys and codes. All keys are held in memory.
        report: Called with the number of samples of each checked shard.

    Returns:
        All damages, not only the first.
    """
    try:
        index = read_index(folder)
    except ValueError as error:
        return Verification(None, (str(error),))
    sealed = is_sealed(folder)
    damages = [*_index_damages(folder, index, sealed), *_sidecar_damages(folder, index), *_manifest_damages(folder, index)]
    keys: dict[str, str] = {}
    modalities: dict[str, Modality] | None = None
    try:
        modalities = {one.name: one for one in index_space(index, folder).modalities} if index.kind == "tokens" else None
    except ValueError as error:
        damages.append(str(error))
    for entry in index.shards:
        damages += _full_damages(folder, entry, keys, modalities) if full else _quick_damages(folder, entry)
        if report is not None:
            report(entry.count)
    notes = () if sealed else (f"{folder / INDEX_FILE} is of maskgen 0.1 and holds no hash of itself, so damage of it may pass",)
    return Verification(index, tuple(damages), tuple(_strays(folder, index)), notes)


def _index_damages(folder: Path, index: Index, sealed: bool) -> Iterator[str]:
    """An index that is not in canonical form; a split or name that contradicts the shards."""
    if sealed and index_bytes(index) != (folder / INDEX_FILE).read_bytes():
        yield f"{folder / INDEX_FILE} is not as maskgen wrote it; build it again"
    names = [entry.name for entry in index.shards]
    for name in sorted({name for name in names if names.count(name) > 1}) if len(set(names)) < len(names) else ():
        yield f"{folder / INDEX_FILE} names {name} twice; build it again"


def _sidecar_damages(folder: Path, index: Index) -> Iterator[str]:
    """Other files of the folder that are missing or differ."""
    for name, wanted in index.files.items():
        path = folder / name
        if not path.is_file():
            yield f"{path} is in the index but not on disk; build it again"
        elif hashlib.sha256(path.read_bytes()).hexdigest() != wanted:
            yield f"{path} has another sha256 than the index says: damaged or replaced; build it again"


def _manifest_damages(folder: Path, index: Index) -> Iterator[str]:
    """Shards whose manifest line and index entry differ."""
    if MANIFEST_FILE not in index.files:
        return
    lines = {line.entry.name: line for line in read_manifest(folder)}
    for entry in index.shards:
        line = lines.pop(entry.name, None)
        if line is None or line.entry != entry or line.plan != index.plan:
            yield f"{folder / MANIFEST_FILE} does not say of {entry.name} what the index says; build it again"
    for name in sorted(lines):
        yield f"{folder / MANIFEST_FILE} has {name}, the index does not; build it again"


def _quick_damages(folder: Path, entry: ShardEntry) -> Iterator[str]:
    """Shards that are missing or have another size."""
    path = folder / entry.name
    if not path.is_file():
        yield f"{path} is in the index but not on disk; build it again"
    elif entry.bytes is not None and path.stat().st_size != entry.bytes:
        yield f"{path} has {path.stat().st_size} bytes, the index says {entry.bytes}: damaged or replaced; build it again"


def _full_damages(folder: Path, entry: ShardEntry, keys: dict[str, str], modalities: Mapping[str, Modality] | None) -> Iterator[str]:
    """Shards whose bytes, samples, codes or count differ from the index, or that repeat a key of another shard."""
    shard_keys: list[str] = []
    faults: dict[str, list[str]] = {}
    tokens: Counter[str] = Counter()
    try:
        check_shard(folder, entry)
        for key, sample in read_shard(folder / entry.name):
            shard_keys.append(key)
            for fault in _sample_faults(sample, modalities, tokens):
                faults.setdefault(fault, []).append(key)
    except ValueError as error:
        yield str(error)
        return
    if len(shard_keys) != entry.count:
        yield f"{folder / entry.name} holds {len(shard_keys)} samples, the index says {entry.count}; build it again"
    for fault, found in faults.items():
        more = f" and {len(found) - 1} other samples" if len(found) > 1 else ""
        yield f"{folder / entry.name}: {fault} (sample {found[0]}{more}); build it again"
    if not faults and entry.tokens and {name: count for name, count in entry.tokens.items() if count} != +tokens:
        yield f"{folder / entry.name} holds {dict(sorted(tokens.items()))} tokens, the index says {dict(entry.tokens)}; build it again"
    for key in shard_keys:
        if keys.setdefault(key, entry.name) != entry.name:
            yield f"{folder / entry.name} repeats the key {key} of {keys[key]}; build it again"


def _sample_faults(sample: Sample, modalities: Mapping[str, Modality] | None, tokens: Counter[str]) -> Iterator[str]:
    """What is wrong with one sample's json and codes; counts the codes. Raw shards have no modalities and hold no codes."""
    if "json" in sample and not isinstance(sample["json"], dict):
        yield f"json holds {type(sample['json']).__name__}, wanted an object"
    for field, array in sample.items():
        name, _, ending = field.rpartition(".")
        if ending != "npy" or modalities is None:
            continue
        if name not in modalities:
            yield f"{field} is of no modality of the index, which has {', '.join(modalities) or 'none'}"
        elif fault := code_fault(array, modalities[name]):
            yield f"{field} {fault}"
        else:
            tokens[name] += num_cells(array, modalities[name].kind)


def _strays(folder: Path, index: Index) -> Iterator[str]:
    """Files in the folder that do not belong to the build."""
    known = {INDEX_FILE, *SIDECARS, *(entry.name for entry in index.shards)}
    for path in sorted(folder.iterdir()):
        if path.name not in known:
            yield f"{path.name}/" if path.is_dir() else path.name
