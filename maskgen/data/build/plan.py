"""The plan of a build: which sample goes into which shard, and a hash over everything that the bytes depend on."""

import dataclasses
import hashlib
import json
import logging
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy
import PIL

from maskgen.data.build.job import Origin, ShardJob, ShardOutput
from maskgen.data.build.readers import RESERVED, ItemOrigin, MediaSettings, RawShardOrigin, crop_key
from maskgen.data.build.recipe import DEFAULT_SPLIT, Recipe
from maskgen.data.shards.manifest import read_index
from maskgen.data.sources.folder import read_sources
from maskgen.data.sources.items import Item
from maskgen.io.names import file_name
from maskgen.version import __version__

logger = logging.getLogger(__name__)
PLAN_FORMAT = 2
"""Incremented when the same plan would give other bytes."""
NOT_IN_THE_BYTES = ("root", "max_bad", "tokenizers")
"""Keys of a recipe that may change between two runs of one build; tokenizers are compared by fingerprint."""
Named = tuple[Item, str]
"""An item and the name of its source."""


@dataclass(frozen=True)
class PlannedShard:
    """A planned shard.

    Args:
        name: File name.
        split: Split of its samples.
        origin: Origin of its samples.
        samples: Number of samples, including bad ones.
        identity: Changes when the content of the input changes.

    Raises:
        ValueError: If the name, which begins with the split's, is not that of a plain file.
    """

    name: str
    split: str
    origin: Origin
    samples: int
    identity: str

    def __post_init__(self) -> None:
        file_name(self.name, f"the plan of split {self.split[:40]!r}")


@dataclass(frozen=True)
class Plan:
    """A planned build.

    Args:
        shards: Its shards.
        output: Writer of the samples.
        facts: Settings and software that the bytes depend on.
        about: Free facts for the index.
        max_bad: Maximum share of bad samples.
    """

    shards: tuple[PlannedShard, ...]
    output: ShardOutput
    facts: Mapping[str, Any]
    about: Mapping[str, Any]
    max_bad: float = 0.0

    @property
    def samples(self) -> int:
        """Number of planned samples, including bad ones."""
        return sum(shard.samples for shard in self.shards)

    @cached_property
    def hash(self) -> str:
        """sha256 over everything that the bytes depend on."""
        shards = [[shard.name, shard.split, shard.identity] for shard in self.shards]
        return _sha256(json.dumps([self.facts, self.about, shards], sort_keys=True, default=str))

    @property
    def identities(self) -> dict[str, str]:
        """Name of each shard to a hash over everything that its bytes depend on besides the facts."""
        return {shard.name: _sha256(json.dumps([shard.split, shard.identity])) for shard in self.shards}

    def jobs(self, folder: Path) -> Iterator[ShardJob]:
        """One job per shard."""
        for shard in self.shards:
            yield ShardJob(folder=folder, name=shard.name, split=shard.split, origin=shard.origin, output=self.output, plan=self.hash)


def plan_recipe(recipe: Recipe, output: ShardOutput) -> Plan:
    """List the sources of a recipe and distribute their samples over shards, without decoding media.

    Args:
        recipe: The recipe.
        output: Writer of the samples.

    Returns:
        The plan; it is the same for the same recipe and inputs in any location.

    Raises:
        ValueError: If a source cannot be listed, or images or audio have no settings in the recipe.
    """
    names = _source_names(recipe.sources)
    sources = read_sources([{key: value for key, value in spec.items() if key != "name"} for spec in recipe.sources], recipe.root)
    items = list(_named_items([source.items() for source in sources], names))
    _check_settings(recipe, items, output)
    settings = MediaSettings(recipe.image, recipe.audio, recipe.limits)
    plain = {name: value for name, value in dataclasses.asdict(recipe).items() if name not in NOT_IN_THE_BYTES}
    plain["image"] = None if recipe.image is None else recipe.image.to_dict()
    about = {
        "name": recipe.name,
        "image": plain["image"],
        "audio": plain["audio"],
        "sources": {name: {"weight": source.weight} for name, source in zip(names, sources, strict=True)},
    }
    shards = tuple(_shards(items, recipe, settings))
    return Plan(shards, output, {**_software(output), "recipe": plain}, about, recipe.max_bad)


def plan_tokens(raw_folder: Path, output: ShardOutput) -> Plan:
    """Plan one token shard for each raw shard, with the same name.

    Args:
        raw_folder: Raw shards with index.json.
        output: Writer of the samples.

    Raises:
        ValueError: If the folder holds no raw shards.
    """
    raw = read_index(raw_folder)
    if raw.kind != "raw":
        raise ValueError(f"{raw_folder} holds {raw.kind} shards, wanted raw; build them: maskgen data build")
    shards = tuple(
        PlannedShard(entry.name, entry.split, RawShardOrigin(raw_folder.resolve(), entry), entry.count, entry.sha256)
        for entry in raw.shards
    )
    about = {**raw.about, "raw_sha256": {entry.name: entry.sha256 for entry in raw.shards}}
    return Plan(shards, output, _software(output), about)


def _software(output: ShardOutput) -> dict[str, Any]:
    """Software versions that every build depends on; another Pillow may compress or scale images differently."""
    return {
        "format": PLAN_FORMAT,
        "kind": output.kind,
        "fingerprints": dict(output.fingerprints),
        "output": dict(output.facts),
        "versions": {"maskgen": __version__, "numpy": numpy.__version__, "pillow": PIL.__version__},
    }


def _source_names(specs: Sequence[Mapping[str, Any]]) -> list[str]:
    """One name per source: its own, or the last part of its path; numbered if it is taken."""
    names: list[str] = []
    for spec in specs:
        name = str(spec.get("name") or Path(str(spec.get("path", spec.get("kind", "source")))).stem)
        names.append(name if name not in names else f"{name}-{len(names) + 1}")
    return names


def _named_items(listings: Sequence[Iterator[Item]], names: Sequence[str]) -> Iterator[Named]:
    """Every item with the name of its source; if several sources have the same key, the first keeps it and the others get a hash."""
    given: set[str] = set()
    for listing, name in zip(listings, names, strict=True):
        for item in listing:
            key = item.key if item.key not in given else f"{item.key}-{_sha256(f'{name}:{item.key}')[:8]}"
            if key in given:
                raise ValueError(f"the key {key!r} comes twice in source {name}; rename one of its samples")
            given.add(key)
            yield (item if key == item.key else dataclasses.replace(item, key=key)), name


def _check_settings(recipe: Recipe, items: Sequence[Named], output: ShardOutput) -> None:
    """Refuse media without settings, and log which media are not written.

    Raises:
        ValueError: If images or audio have no settings.
    """
    counts = Counter(kind for item, _ in items for kind in item.parts)
    for kind, settings, example in (("image", recipe.image, "{size: 64}"), ("audio", recipe.audio, "{sample_rate_hz: 16000}")):
        if counts[kind] and kind in output.kinds and settings is None:
            raise ValueError(f"the sources hold {counts[kind]} samples with {kind}, and the recipe has no {kind}; add {kind}: {example}")
    for kind in sorted(set(counts) - output.kinds):
        logger.warning("%d samples have %s, which no tokenizer of the recipe takes; it is left out", counts[kind], kind)
    hidden = Counter(name for item, _ in items for name in set(item.attributes) & RESERVED)
    for name, count in sorted(hidden.items()):
        logger.warning("the attribute %s of %d samples is replaced by what the build writes under that name", name, count)


def _shards(items: Sequence[Named], recipe: Recipe, settings: MediaSettings) -> Iterator[PlannedShard]:
    """Shards of each split: items ordered by a hash, so that every shard is a random mix, cut to size."""
    crops = recipe.image.crops if recipe.image else 1
    splits: dict[str, list[Named]] = {}
    for item, source in items:
        splits.setdefault(item.split or split_of(item.key, recipe.splits), []).append((item, source))
    _check_crop_keys(items, crops)
    step = max(1, recipe.shard_samples // crops)
    for split in sorted(splits, key=lambda name: (name != DEFAULT_SPLIT, name)):
        mixed = sorted(splits[split], key=lambda pair: _sha256(f"{recipe.seed}:{pair[0].key}"))
        for number, start in enumerate(range(0, len(mixed), step)):
            part = tuple(sorted(mixed[start : start + step], key=lambda pair: pair[0].key))
            identity = _sha256(json.dumps([[_facts_of(item), source] for item, source in part], default=str))
            yield PlannedShard(f"{split}-{number:06d}.tar", split, ItemOrigin(part, split, settings), len(part), identity)


def _facts_of(item: Item) -> list[Any]:
    """Everything in an item that its samples depend on."""
    return [item.key, sorted(item.parts), sorted(item.attributes.items()), item.identity]


def _check_crop_keys(items: Sequence[Named], crops: int) -> None:
    """Refuse a sample whose key equals that of a crop of another."""
    keys = {item.key for item, _ in items} if crops > 1 else set()
    for item, _ in items if crops > 1 else ():
        twins = keys & {crop_key(item.key, number) for number in range(1, crops + 1)} if "image" in item.parts else set()
        if twins:
            raise ValueError(f"the sample {min(twins)!r} is called like a crop of {item.key!r}; rename one of them")


def split_of(key: str, splits: Mapping[str, float]) -> str:
    """The split of a key, by a hash of the key only, so that it depends on neither the seed nor other samples.

    Args:
        key: Key of an item, shared by all crops of an image.
        splits: Split to its share; the rest is "train".
    """
    luck = int(_sha256(f"split:{key}")[:12], 16) / 2**48
    for name, share in splits.items():
        if luck < share:
            return name
        luck -= share
    return DEFAULT_SPLIT


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
