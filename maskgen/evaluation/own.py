"""Samples of a user's own set, to judge a model on: a folder of files, or raw shards with any split names and fields."""

import hashlib
import logging
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from PIL import Image

from maskgen.data.build.plan import split_of
from maskgen.data.loading.samples import held_out_split
from maskgen.data.shards.format import read_split
from maskgen.data.shards.manifest import INDEX_FILE, read_index
from maskgen.data.sources.folder import FolderSource
from maskgen.data.sources.handles import FilePart
from maskgen.data.sources.items import Item
from maskgen.data.sources.media import decode_image, decode_text
from maskgen.io.audio import Waveform, decode_audio
from maskgen.io.files import read_text
from maskgen.io.limits import BadMedia, MediaLimits

logger = logging.getLogger(__name__)
HELD_OUT, TRAIN = "validation", "train"
Kind = Literal["image", "audio"]


@dataclass(frozen=True, kw_only=True, eq=False)
class OwnSample:
    """One sample of a set.

    Args:
        key: Name of the sample.
        media: The image or the recording.
        texts: Its captions, or its transcript; empty without any.
        split: Split that it belongs to.
    """

    key: str
    media: Image.Image | Waveform
    texts: Sequence[str]
    split: str

    @property
    def hash(self) -> str:
        """Sha256 of the key: a fixed order, and the seed of what is generated."""
        return hashlib.sha256(self.key.encode()).hexdigest()


@dataclass(frozen=True)
class OwnSet:
    """A set, divided.

    Args:
        judged: Samples that a model is judged on, in the order of the hashes of their keys.
        training: The others.
        split: Name of the split that is judged.
    """

    judged: list[OwnSample]
    training: list[OwnSample]
    split: str


def own_set(
    folder: Path,
    kind: Kind,
    *,
    held_out: float = 0.0,
    split: str | None = None,
    limit: int | None = None,
    texts: Path | None = None,
    preferred: str = HELD_OUT,
) -> OwnSet:
    """Read a set and take what is held out.

    Args:
        folder: A folder of images or recordings, each with a .txt of the same name, or raw shards.
        kind: Kind of its media.
        held_out: Share of a folder's samples that is judged, chosen as `maskgen finetune --held-out` does; a sample's own split wins.
        split: Split to judge; None takes the held-out one of the set, or all samples where nothing is held out.
        limit: Largest number of judged samples; None takes all.
        texts: A file with a line "name<TAB>text" for each recording, in place of .txt files.
        preferred: Split to judge where the set has it and `split` is None.

    Raises:
        ValueError: If there is no such folder, split or sample of this kind.
    """
    if not 0 <= held_out < 1:
        raise ValueError(f"the share held out must lie in [0, 1), got {held_out:g}")
    if limit is not None and limit < 1:
        raise ValueError(f"the limit must be at least 1, got {limit}")
    given = None if texts is None else read_texts(texts)
    shards = (folder / INDEX_FILE).is_file()
    samples = list(_of_shards(folder, kind) if shards else _of_folder(folder, kind, held_out, given))
    if not samples:
        raise ValueError(f"{folder} holds no {kind} that can be read; give a folder of them, or raw shards")
    splits = Counter(sample.split for sample in samples)
    chosen = split or held_out_split(splits, preferred)
    if chosen not in splits:
        raise ValueError(f"{folder} has no split {chosen!r}; there are {', '.join(sorted(splits))}")
    if chosen == TRAIN:
        logger.warning("nothing of %s is held out, so all of it is judged: samples that a model was trained on flatter it", folder)
    judged = sorted((sample for sample in samples if sample.split == chosen), key=lambda sample: sample.hash)
    training = [sample for sample in samples if sample.split == TRAIN and chosen != TRAIN]
    return OwnSet(judged[:limit], training, chosen)


def read_texts(path: Path) -> dict[str, str]:
    """The lines "name<TAB>text" of a file: stem of each recording's path, with "/", to its text.

    Raises:
        ValueError: If a line has another form, or a name occurs twice.
    """
    found: dict[str, str] = {}
    for number, line in enumerate(read_text(path).splitlines(), start=1):
        name, tab, text = line.partition("\t")
        if not line.strip():
            continue
        stem = Path(name.strip()).with_suffix("").as_posix()
        if not tab or not text.strip() or stem in found:
            raise ValueError(f"{path}, line {number}: wanted a recording's name, a tab and its text, each name once, found {line[:60]!r}")
        found[stem] = text.strip()
    return found


def require_fields(rows: Sequence[Mapping[str, Any]], fields: Sequence[str], folder: Path, instead: str) -> None:
    """Refuse rows without the fields of a demo corpus.

    Args:
        rows: Their json.
        fields: What each must have.
        folder: Where they are from.
        instead: The command for a set without these fields.

    Raises:
        ValueError: Names what is missing.
    """
    if lacking := [name for name in fields if any(not row.get(name) and row.get(name) != 0 for row in rows)]:
        raise ValueError(f"rows of {folder} have no {' and no '.join(lacking)}, as the demo corpus has; for a set of yours: {instead}")


def _of_folder(folder: Path, kind: Kind, held_out: float, texts: Mapping[str, str] | None) -> Iterator[OwnSample]:
    """Samples of a folder; what cannot be read is left out with a warning."""
    limits, reasons, missing = MediaLimits(), Counter[str](), 0
    for item in FolderSource(folder).items():
        if kind not in item.parts:
            continue
        try:
            said = _texts(item, folder, limits) if texts is None else [texts[name]] if (name := _stem(item, kind, folder)) in texts else []
            content = item.parts[kind].read(limits.max_bytes)
            media = decode_image(content, limits) if kind == "image" else decode_audio(content, limits)
        except BadMedia as error:
            reasons[str(error)] += 1
            continue
        missing += not said
        yield OwnSample(key=item.key, media=media, texts=said, split=item.split or split_of(item.key, {HELD_OUT: held_out}))
    for reason, count in reasons.most_common():
        logger.warning("%s: %d left out: %s", folder, count, reason)
    if missing:
        logger.warning("%s: %d have no text", folder, missing)


def _texts(item: Item, folder: Path, limits: MediaLimits) -> list[str]:
    return decode_text(item.parts["text"].read(limits.max_bytes), limits) if "text" in item.parts else []


def _stem(item: Item, kind: Kind, folder: Path) -> str:
    """Path of a file in its folder, without the ending."""
    part = item.parts[kind]
    return part.path.relative_to(folder.resolve()).with_suffix("").as_posix() if isinstance(part, FilePart) else item.key


def _of_shards(folder: Path, kind: Kind) -> Iterator[OwnSample]:
    """Samples of raw shards."""
    index = read_index(folder)
    if index.kind != "raw":
        raise ValueError(f"{folder} holds {index.kind} shards, wanted raw ones or a folder of files; codes cannot be judged")
    for split in index.counts:
        for key, sample in read_split(folder, index, split):
            facts = sample["json"]
            texts = [str(text) for text in facts.get("captions", [])]
            if kind == "image" and "png" in sample:
                yield OwnSample(key=key, media=Image.fromarray(sample["png"]), texts=texts, split=split)
            if kind == "audio" and "flac" in sample:
                wave = Waveform(samples=sample["flac"], sample_rate_hz=facts["sample_rate_hz"])
                yield OwnSample(key=key, media=wave, texts=texts, split=split)
