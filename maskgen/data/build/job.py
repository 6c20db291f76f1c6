"""One shard as a job: picklable and pure, so that any engine can run it and its bytes depend only on the job."""

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from maskgen.data.shards.format import write_shard
from maskgen.data.shards.manifest import Held, ManifestLine
from maskgen.data.sources.items import PART_NAMES
from maskgen.version import __version__

FIRST_KEYS = 3
"""Keys that a manifest names of the samples that hold the same media."""


@dataclass(frozen=True)
class DecodedSample:
    """One sample, ready to be written.

    Args:
        key: Key in the shard.
        meta: Content of its JSON.
        media: Kind ("text", "image", "audio") to a list of captions, an RGB image, a waveform.
        resampled: Whether its audio was resampled.
        notes: Remarks of the decoders, such as a damaged colour profile that is ignored.
    """

    key: str
    meta: Mapping[str, Any]
    media: Mapping[str, Any]
    resampled: bool = False
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Reject:
    """A sample that is left out, with the reason."""

    key: str
    reason: str


@dataclass(frozen=True)
class Written:
    """Members of one sample (field to bytes) and its number of codes per modality."""

    key: str
    members: Mapping[str, bytes]
    tokens: Mapping[str, int] = field(default_factory=dict)


class Origin(ABC):
    """Origin of the samples of a shard; a small picklable handle."""

    @abstractmethod
    def samples(self, kinds: frozenset[str]) -> Iterator[DecodedSample | Reject]:
        """The samples, with only the media of the given kinds."""


class ShardOutput(ABC):
    """Writer of samples; a small picklable handle.

    Attributes:
        kind: "raw" or "tokens", as in the index.
        kinds: Kinds of media that it writes.
        fingerprints: Modality name to the fingerprint of the tokenizer.
        space: `TokenSpace.to_dict()` of tokens.
        facts: Everything else that its bytes depend on.
    """

    kind: str
    kinds: frozenset[str]
    fingerprints: Mapping[str, str]
    space: Mapping[str, Any] | None
    facts: Mapping[str, Any]

    @abstractmethod
    def written(self, samples: Iterable[DecodedSample]) -> Iterator[Written]:
        """Members of each sample, in the given order."""

    @abstractmethod
    def placed(self, worker: int) -> "ShardOutput":
        """The same output for one of several workers, each on its own device if there are several."""


@dataclass(frozen=True, kw_only=True)
class ShardJob:
    """Everything that is needed to write one shard.

    Args:
        folder: Output folder.
        name: File name of the shard.
        split: Split of its samples.
        origin: Origin of its samples.
        output: Writer of its samples.
        plan: Hash of its plan.
    """

    folder: Path
    name: str
    split: str
    origin: Origin
    output: ShardOutput
    plan: str

    def placed(self, worker: int) -> "ShardJob":
        """The same job for one of several workers."""
        return replace(self, output=self.output.placed(worker))


@dataclass
class Tally:
    """Counts the samples of a shard while they are written."""

    rejects: list[tuple[str, str]] = field(default_factory=list)
    sources: Counter[str] = field(default_factory=Counter)
    tokens: Counter[str] = field(default_factory=Counter)
    held: dict[tuple[str, tuple[str, ...]], list[str]] = field(default_factory=dict)
    resampled: int = 0
    notes: Counter[str] = field(default_factory=Counter)
    buckets: Counter[str] = field(default_factory=Counter)

    def kept(self, samples: Iterable[DecodedSample | Reject]) -> Iterator[DecodedSample]:
        """The good samples; counts the others."""
        for sample in samples:
            if isinstance(sample, Reject):
                self.rejects.append((sample.key, sample.reason))
                continue
            self.resampled += sample.resampled
            kinds = tuple(kind for kind in PART_NAMES if kind in sample.media)
            self.held.setdefault((str(sample.meta.get("source", "")), kinds), []).append(sample.key)
            self.notes.update(sample.notes)
            self.buckets.update([sample.meta["bucket"]] if "bucket" in sample.meta and "image" in sample.media else [])
            if "source" in sample.meta:
                self.sources[str(sample.meta["source"])] += 1
            yield sample

    def members(self, written: Iterable[Written]) -> Iterator[tuple[str, Mapping[str, bytes]]]:
        """Key and members of each sample."""
        for sample in written:
            self.tokens.update(sample.tokens)
            yield sample.key, sample.members


def build_shard(job: ShardJob) -> ManifestLine:
    """Write one shard; the same job gives the same bytes in any process.

    Args:
        job: The job.

    Returns:
        The line of the manifest, which the caller appends when the shard is complete.

    Raises:
        ValueError: If the origin is damaged, a key is repeated, or a tokenizer refuses a sample.
    """
    tally = Tally()
    samples = job.origin.samples(job.output.kinds)
    members = tally.members(job.output.written(tally.kept(samples)))
    # Keys of crops do not ascend with the keys of their images ("a-b" before "a-c1"), so the shard is sorted as a whole.
    entry = write_shard(job.folder / job.name, job.split, sorted(members, key=lambda sample: sample[0]))
    return ManifestLine(
        entry=replace(entry, tokens=dict(sorted(tally.tokens.items())), sources=dict(sorted(tally.sources.items()))),
        rejects=tuple(sorted(tally.rejects)),
        resampled=tally.resampled,
        notes=dict(sorted(tally.notes.items())),
        buckets=dict(sorted(tally.buckets.items())),
        fingerprints=job.output.fingerprints,
        version=__version__,
        plan=job.plan,
        held=tuple(
            Held(source=source, kinds=kinds, count=len(keys), first=tuple(sorted(keys)[:FIRST_KEYS]))
            for (source, kinds), keys in sorted(tally.held.items())
        ),
    )
