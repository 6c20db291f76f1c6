"""The emoji corpus as its evaluators use it: images, labels, captions, styles and skin tones of the raw shards."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from jaxtyping import UInt8
from PIL import Image
from torch import Tensor

from maskgen.data.shards.format import read_split
from maskgen.data.shards.manifest import Index, read_index
from maskgen.evaluation.image.pixels import to_rgb_bytes
from maskgen.evaluation.own import require_fields


@dataclass(frozen=True, kw_only=True)
class Row:
    """Metadata of one image.

    Args:
        key: Name in the shard.
        label: Text in the retrieval gallery, with the tone and without the style.
        caption: The canonical caption, used as the prompt.
        style: One of the corpus's drawing styles.
        tone: Skin tone, 1 (light) to 5 (dark); 0 if there is none.
        group: Group of the label; flags and symbols are reported separately.
    """

    key: str
    label: str
    caption: str
    style: str
    tone: int
    group: str

    @property
    def hash(self) -> str:
        """Sha256 of the key: gives a fixed order independent of the order in the corpus."""
        return hashlib.sha256(self.key.encode()).hexdigest()

    @property
    def kind(self) -> str:
        """ "flags", "symbols" (both are memorised, not composed) or "other"."""
        return self.group if self.group in ("flags", "symbols") else "other"


@dataclass(frozen=True)
class Corpus:
    """Rows and their images, in the same order."""

    rows: list[Row]
    pixels: UInt8[Tensor, "batch channels rows columns"] = field(repr=False)

    def pick(self, index: Sequence[int]) -> "Corpus":
        """The rows at these places, in this order."""
        return Corpus([self.rows[place] for place in index], self.pixels[torch.tensor(list(index), dtype=torch.long)])

    def limited(self, limit: int | None) -> "Corpus":
        """A fixed subset: the `limit` rows with the lowest key hashes, in the order of the corpus; all rows for None."""
        if limit is None or limit >= len(self.rows):
            return self
        lowest = sorted(range(len(self.rows)), key=lambda place: self.rows[place].hash)[:limit]
        return self.pick(sorted(lowest))


def read_corpus(folder: Path) -> dict[str, Corpus]:
    """Read every split of the raw shards; together they hold all labels of the retrieval gallery.

    Args:
        folder: Folder with `<split>-000000.tar` and so on and `index.json`, as docs/data.md describes.

    Returns:
        Split name to its corpus.

    Raises:
        ValueError: If the index or a shard is missing or damaged, or there is no training split.
    """
    index = read_index(folder)
    if "train" not in index.counts:
        raise ValueError(f"found only {sorted(index.counts)} in {folder}, wanted train beside held-out splits; build the corpus again")
    return {split: _read_split(folder, index, split) for split in index.counts}


def _read_split(folder: Path, index: Index, split: str) -> Corpus:
    """One split."""
    rows, pictures = [], []
    for key, sample in read_split(folder, index, split):
        rows.append(_row(key, sample["json"], folder))
        pictures.append(Image.fromarray(sample["png"]))
    return Corpus(rows, to_rgb_bytes(pictures))


def _row(key: str, info: Mapping[str, Any], folder: Path) -> Row:
    """A row from a shard's json."""
    require_fields([info], ("label", "captions", "style", "tone", "group"), folder, "maskgen evaluate image FOLDER")
    return Row(
        key=key,
        label=str(info["label"]),
        caption=str(info["captions"][0]),
        style=str(info["style"]),
        tone=int(info["tone"]),
        group=str(info["group"]),
    )
