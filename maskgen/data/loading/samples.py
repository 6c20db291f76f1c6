"""Samples by draw: images of raw shards, codes of token shards."""

from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from itertools import accumulate
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from maskgen.data.loading.caption_templates import Phrases
from maskgen.data.loading.kept import KEPT_BYTES, MediaCache
from maskgen.data.loading.order import Draw, chance
from maskgen.data.loading.rows import FEW_OPEN, MOST_OPEN, ShardRows
from maskgen.data.shards.codes import require_integers
from maskgen.data.shards.manifest import Index
from maskgen.data.shards.store import Check, Damage, ShardStore
from maskgen.data.shards.vectors import as_vectors, caption_vectors, lengths_of
from maskgen.tokens.batch import Codes
from maskgen.tokens.space import TokenSpace


def open_rows(store: ShardStore, index: Index, split: str, check: Check = "hash", damage: Damage = "stop") -> ShardRows:
    """Rows of one split, from the shards that can be trusted.

    Raises:
        ValueError: If the split is missing, or a shard is damaged and `damage` is "stop".
    """
    return ShardRows(store.locate, store.whole(index.of(split), check, damage), MOST_OPEN if store.cache_bytes is None else FEW_OPEN)


def held_out_split(splits: Iterable[str], preferred: str = "validation") -> str:
    """The split that a set is judged on by default, whoever made the set.

    Args:
        splits: Names of its splits.
        preferred: Taken where the set has it.

    Returns:
        The preferred one, "validation", "test" or the first other one; "train" where nothing is held out.
    """
    there = sorted(set(splits) - {"train"})
    return next((name for name in (preferred, "validation", "test", *there) if name in there), "train")


class ImageRows(Dataset[Tensor]):
    """Images of one split as uint8 [3 rows columns], decoded from memory-mapped shards when they are drawn.

    Args:
        rows: Rows of raw shards.
        flip_share: Share of draws that are mirrored.
        seed: With draw and key, decides which.
        most_bytes: Bytes of decoded images that are kept at most.
    """

    def __init__(self, rows: ShardRows, flip_share: float = 0.0, seed: int = 0, most_bytes: int = KEPT_BYTES) -> None:
        self.rows, self.flip_share, self.seed = rows, flip_share, seed
        self.kept: MediaCache[Tensor] = MediaCache(most_bytes)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, draw: Draw) -> Tensor:
        row, number = draw
        mirrored = number >= 0 and self.flip_share > 0 and chance(self.seed, "flip", number, self.rows.key(row)) < self.flip_share
        return self.picture(row).flip(-1) if mirrored else self.picture(row)

    def picture(self, row: int) -> Tensor:
        """One image as it is in the shard."""
        return self.kept.get(row, lambda: torch.from_numpy(self.rows.field(row, "png").copy()).permute(2, 0, 1).contiguous())


class TokenRows(Dataset[dict[str, Codes]]):
    """Token samples of one split.

    Args:
        rows: Rows of token shards.
        space: Their token space.
        canonical_share: Share of training draws that take the first caption; the other captions share the rest.
        longest_text: In training a caption with more codes than this gives way to the row's shortest; 0 takes all. Without text, features
            count as codes.
        seed: With draw and key, decides which caption is taken.
        phrases: In training puts captions into sentences; a sentence with more than `longest_text` codes stays a caption.

    Raises:
        ValueError: If a share lies outside [0, 1].
    """

    def __init__(
        self,
        rows: ShardRows,
        space: TokenSpace,
        canonical_share: float = 0.5,
        longest_text: int = 0,
        seed: int = 0,
        phrases: Phrases | None = None,
    ) -> None:
        if not 0.0 <= canonical_share <= 1.0:
            raise ValueError(f"canonical_share must lie in [0, 1], got {canonical_share}")
        self.rows, self.space = rows, space
        self.modalities = [(f"{modality.name}.npy", modality.name, modality.kind) for modality in space.modalities]
        self.fields = [field for field, _, _ in self.modalities]
        self.vectors = frozenset(name for _, name, kind in self.modalities if kind == "features")
        self.canonical_share, self.longest_text, self.seed, self.phrases = canonical_share, longest_text, seed, phrases

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, draw: Draw) -> dict[str, Codes]:
        return {
            name: as_vectors(array) if name in self.vectors else torch.from_numpy(array.astype(np.int64))
            for name, array in self.arrays(draw).items()
        }

    def arrays(self, draw: Draw) -> dict[str, np.ndarray]:
        """Codes of each modality that the sample has, as they lie in the shard; of the captions, the one that the draw takes.

        Features are those of the same caption.

        Raises:
            ValueError: If an array of codes holds other numbers than integers.
        """
        row, number = draw
        members = self.rows.read(row, self.fields)
        for field, name, kind in self.modalities:
            if field in members and kind != "features" and members[field].dtype.kind not in "iu":
                require_integers(members[field], name, self.rows.key(row))
        found = {}
        for field, name, kind in self.modalities:
            if field in members and kind == "text":
                found[name] = self.caption(members[field], row, number)
            elif field in members and kind == "features":
                found[name] = caption_vectors(members[field], self.told(members, row, number))
            elif field in members:
                found[name] = members[field]
        return found

    def told(self, members: Mapping[str, np.ndarray], row: int, number: int) -> int:
        """Which of a row's captions a draw takes, by its text, or by its features where it has no text."""
        field, kind = next(
            (field, kind)
            for field, _, kind in sorted(self.modalities, key=lambda one: one[2] != "text")
            if field in members and kind in ("text", "features")
        )
        array = members[field]
        return self.taken((array >= 0).sum(axis=1) if kind == "text" else lengths_of(array), row, number)

    def taken(self, lengths: np.ndarray, row: int, number: int) -> int:
        """Which of a row's captions a draw takes, from their cells: in training the shortest where the drawn one is too long."""
        place = self.alternative(row, number, len(lengths))
        return int(lengths.argmin()) if number >= 0 and self.longest_text and lengths[place] > self.longest_text else place

    def length(self, draw: Draw) -> int:
        """Cells that a draw takes in a row."""
        return sum(int(np.prod(array.shape[1:])) for array in self.arrays(draw).values())

    def caption(self, array: np.ndarray, row: int, number: int) -> np.ndarray:
        """Codes of the caption that a draw takes; in training perhaps in a sentence, and the shortest one where it is too long."""
        codes = caption_codes(array, self.taken((array >= 0).sum(axis=1), row, number))
        if number < 0 or self.phrases is None:
            return codes
        longest = self.longest_text or np.inf
        sentence = self.phrases(codes, self.seed, number, self.rows.key(row))
        return sentence if sentence.shape[1] <= longest else codes

    def alternative(self, row: int, number: int, count: int) -> int:
        """Which of a row's captions a draw takes: the first in validation, else by chance of (seed, draw, key)."""
        if number < 0 or count == 1:
            return 0
        luck = chance(self.seed, "caption", number, self.rows.key(row))
        if luck < self.canonical_share:
            return 0
        return 1 + int((luck - self.canonical_share) / (1 - self.canonical_share) * (count - 1))


def caption_codes(array: np.ndarray, alternative: int) -> np.ndarray:
    """Codes [1, n] of one caption out of [alternatives longest]."""
    caption: np.ndarray = array[alternative]
    return caption[caption >= 0][None]


@runtime_checkable
class SampleRows(Protocol):
    """A set of samples: how many, one by draw, and the cells of one."""

    def __len__(self) -> int: ...
    def __getitem__(self, draw: Draw) -> dict[str, Codes]: ...
    def length(self, draw: Draw) -> int:
        """Cells that a draw takes in a row."""


class Joined(Dataset[Any]):
    """Several sets of samples as one, numbered one set after another.

    Args:
        parts: Sets with a length, each a sample by draw.
    """

    def __init__(self, parts: Sequence[SampleRows]) -> None:
        self.parts = tuple(parts)
        self.ends = list(accumulate(map(len, parts)))

    def __getitem__(self, draw: Draw) -> dict[str, Codes]:
        part, inside = self._inside(draw)
        return part[inside]

    def length(self, draw: Draw) -> int:
        """Cells that a draw takes in a row."""
        part, inside = self._inside(draw)
        return part.length(inside)

    def _inside(self, draw: Draw) -> tuple[SampleRows, Draw]:
        """The set that a row belongs to, and the draw with the row's number in it."""
        row, number = draw
        place = bisect_right(self.ends, row)
        return self.parts[place], (row - (self.ends[place - 1] if place else 0), number)
