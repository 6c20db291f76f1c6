"""Origins of the samples of a shard: items of a source, decoded, checked and resized, or a raw shard."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from maskgen.data.build.fitting import BUCKET, CROP_CORNER, fitted_images, with_facts
from maskgen.data.build.job import DecodedSample, Origin, Reject
from maskgen.data.build.recipe import AudioRecipe, ImageRecipe
from maskgen.data.shards.format import Sample, read_split_shard
from maskgen.data.shards.manifest import ShardEntry
from maskgen.data.sources.items import Item
from maskgen.data.sources.media import decode_image, decode_text
from maskgen.io.audio import Waveform, decode_audio, fit_audio, sixteen_bits
from maskgen.io.limits import BadMedia, MediaLimits, Note

RESERVED = frozenset({"captions", "source", "split", "crop", BUCKET, *CROP_CORNER, "sample_rate_hz", "seconds"})
"""Names in a sample's JSON that the build writes itself; they override attributes of the same name."""


@dataclass(frozen=True)
class MediaSettings:
    """The parts of a recipe that one sample needs: limits, image and audio settings."""

    image: ImageRecipe | None
    audio: AudioRecipe | None
    limits: MediaLimits


@dataclass(frozen=True)
class ItemOrigin(Origin):
    """Samples of the items of one shard.

    Args:
        items: Each item with the name of its source.
        split: Their split.
        settings: Limits, image and audio settings.
    """

    items: tuple[tuple[Item, str], ...]
    split: str
    settings: MediaSettings

    def samples(self, kinds: frozenset[str]) -> Iterator[DecodedSample | Reject]:
        """Decode each item; a bad one gives a Reject with the reason."""
        for item, source in self.items:
            if not kinds & set(item.parts):
                yield Reject(item.key, f"holds {' and '.join(sorted(item.parts))}, wanted {' or '.join(sorted(kinds))}")
                continue
            try:
                yield from self._decoded(item, source, kinds)
            except BadMedia as error:
                yield Reject(item.key, str(error))

    def _decoded(self, item: Item, source: str, kinds: frozenset[str]) -> list[DecodedSample]:
        """The samples of one item: one, or one per crop. All media are decoded before the first sample is returned."""
        limits = self.settings.limits
        content = {kind: part.read(limits.max_bytes) for kind, part in item.parts.items() if kind in kinds or kind == "text"}
        captions = decode_text(content["text"], limits) if "text" in content else []
        learned = {name: value for kind in content for name, value in item.parts[kind].facts().items()}
        meta = {**item.attributes, **learned, "captions": captions, "source": source, "split": self.split}
        media: dict[str, Any] = {"text": captions} if captions else {}
        resampled, notes = False, list[str]()
        if "audio" in content:
            media["audio"], resampled = self._audio(content["audio"], notes.append)
            meta |= _audio_facts(media["audio"])
        if "image" not in content:
            return [DecodedSample(item.key, meta, media, resampled, tuple(notes))]
        pictures = [
            ({**media, "image": picture}, with_facts(meta, facts)) for picture, facts in self._pictures(content["image"], notes.append)
        ]
        if len(pictures) == 1:
            return [DecodedSample(item.key, pictures[0][1], pictures[0][0], resampled, tuple(notes))]
        return [
            DecodedSample(crop_key(item.key, n), {**told, "crop": n}, crop, resampled, tuple(notes) if n == 1 else ())
            for n, (crop, told) in enumerate(pictures, start=1)
        ]

    def _pictures(self, content: bytes, note: Note) -> list[tuple[Image.Image, dict[str, Any]]]:
        """The crops of an image, each with the entries of its JSON."""
        how = self.settings.image
        assert how is not None, "the plan refuses pictures without image settings"
        return fitted_images(decode_image(content, self.settings.limits, note), how)

    def _audio(self, content: bytes, note: Note) -> tuple[Waveform, bool]:
        """The waveform at the recipe's rate, rounded to 16 bits as in a raw shard, so that both kinds of build give the same codes."""
        how = self.settings.audio
        assert how is not None, "the plan refuses audio without audio settings"
        wave, resampled = fit_audio(decode_audio(content, self.settings.limits, note), how.sample_rate_hz, how.channels, note)
        return Waveform(samples=sixteen_bits(wave).astype(np.float32) / 2**15, sample_rate_hz=wave.sample_rate_hz), resampled


def crop_key(key: str, number: int) -> str:
    """Key of a crop of an image; crops are numbered from 1."""
    return f"{key}-c{number}"


def _audio_facts(wave: Waveform) -> dict[str, Any]:
    """Entries of a sample's JSON about its audio."""
    return {"sample_rate_hz": wave.sample_rate_hz, "seconds": round(wave.samples.shape[1] / wave.sample_rate_hz, 6)}


@dataclass(frozen=True)
class RawShardOrigin(Origin):
    """Samples of one raw shard, checked by sha256.

    Args:
        folder: Folder of raw shards.
        entry: The shard's entry in the index.
    """

    folder: Path
    entry: ShardEntry

    def samples(self, kinds: frozenset[str]) -> Iterator[DecodedSample | Reject]:
        """Read the shard; its content was checked when it was built."""
        for key, sample in read_split_shard(self.folder, self.entry):
            yield DecodedSample(key, sample["json"], _raw_media(sample, kinds))


def _raw_media(sample: Sample, kinds: frozenset[str]) -> dict[str, Any]:
    """Media of one sample of a raw shard."""
    media: dict[str, Any] = {}
    if "text" in kinds and sample["json"].get("captions"):
        media["text"] = sample["json"]["captions"]
    if "image" in kinds and "png" in sample:
        media["image"] = Image.fromarray(sample["png"])
    if "audio" in kinds and "flac" in sample:
        media["audio"] = Waveform(samples=sample["flac"], sample_rate_hz=sample["json"]["sample_rate_hz"])
    return media
