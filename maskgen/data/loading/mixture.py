"""Parts of a training mixture: their shards, samples joined with those of other shards, and texts filled behind their end."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.data import Dataset

from maskgen.data.loading.caption_templates import Phrases
from maskgen.data.loading.order import Draw, chance
from maskgen.data.loading.samples import TokenRows
from maskgen.tokens.batch import Codes
from maskgen.tokens.space import TokenSpace


@dataclass(frozen=True, kw_only=True)
class Part:
    """One part of a mixture.

    Args:
        folder: Token shards with index.json: a local folder or a URL for fsspec.
        weight: How often it comes, relative to the other parts.
        join: Token shards to join with `folder`: each draw of a sample adds a random one of the samples there with the same value of `on`.
            Samples without a match are left out. A modality that both have is taken from `folder`.
        on: Field of both samples' json that must be equal.
        drop: Modalities to leave out.
        balance: Fields of the json whose values come equally often, outer to inner; empty takes every sample once an epoch.
        window: Shards that are shuffled together where nothing is balanced; 0 is all. Joined samples are shuffled as a whole.
        canonical_share: Share of training draws that take a sample's first caption.
        longest_text: In training a caption with more codes gives way to the sample's shortest; 0 takes all.
        phrases: Puts captions of training into sentences.

    Raises:
        ValueError: If joined samples are given a window.
    """

    folder: str
    weight: float = 1.0
    join: str | None = None
    on: str = "label"
    drop: Sequence[str] = ()
    balance: Sequence[str] = ()
    window: int = 0
    canonical_share: float = 0.5
    longest_text: int = 0
    phrases: Phrases | None = None

    def __post_init__(self) -> None:
        if self.join is not None and self.window:
            raise ValueError(f"window shuffles the shards of one folder, got window={self.window} with join; leave one of them out")

    @property
    def folders(self) -> tuple[str, ...]:
        """All folders that it reads."""
        return (self.folder,) if self.join is None else (self.folder, self.join)


def folders_of(parts: Sequence[Part]) -> list[str]:
    """All folders that parts read, each once, in the order that gives the token space of the mixture."""
    return list(dict.fromkeys(folder for part in parts for folder in part.folders))


class JoinedRows(Dataset[dict[str, Codes]]):
    """Samples of two sets joined by a field: one of `left` with one of its matches in `right`.

    Args:
        left: Samples that are drawn.
        right: Samples to join with them.
        on: Field of the json that must be equal.
        seed: With draw and key, decides the match.

    Raises:
        ValueError: If no sample has a match.
    """

    def __init__(self, left: TokenRows, right: TokenRows, on: str, seed: int) -> None:
        self.left, self.right, self.seed = left, right, seed
        partners = defaultdict(list)
        for row in range(len(right)):
            partners[right.rows.meta(row).get(on)].append(row)
        partners.pop(None, None)
        values = [left.rows.meta(row).get(on) for row in range(len(left))]
        self.pairs = [(row, partners[value]) for row, value in enumerate(values) if value in partners]
        if not self.pairs:
            raise ValueError(f"no samples of two sets agree in {on!r} ({len(left)} and {len(right)} samples); look at their json")

    def __len__(self) -> int:
        return len(self.pairs)

    def meta(self, row: int) -> Any:
        """Metadata of the left sample of a pair."""
        return self.left.rows.meta(self.pairs[row][0])

    def key(self, row: int) -> str:
        """Key of the left sample of a pair."""
        return self.left.rows.key(self.pairs[row][0])

    def __getitem__(self, draw: Draw) -> dict[str, Codes]:
        left, right = self._drawn(draw)
        return {**self.right[right], **self.left[left]}

    def length(self, draw: Draw) -> int:
        """Cells that a draw takes in a row."""
        left, right = self._drawn(draw)
        return self.left.length(left) + self.right.length(right)

    def _drawn(self, draw: Draw) -> tuple[Draw, Draw]:
        """Both samples of a draw; in validation the first match."""
        row, number = draw
        left, partners = self.pairs[row]
        place = 0 if number < 0 else int(chance(self.seed, "partner", number, self.left.rows.key(left)) * len(partners))
        return (left, number), (partners[place], number)


class Filled(Dataset[dict[str, Codes]]):
    """Samples of one part, with texts filled with end codes and dropped modalities removed.

    The number of cells is drawn anew each time in training, so a model learns to end texts of any length in blanks of any length.

    Args:
        rows: Samples.
        space: Token space of the mixture.
        text_cells: Largest number of cells to fill a text to; 0 fills none. A longer text is not changed.
        drop: Modalities to leave out.
        seed: With the draw, decides the number of cells.

    Source: LLaDA, arXiv:2502.09992 (texts of random length, ends as codes).
    """

    def __init__(self, rows: TokenRows | JoinedRows, space: TokenSpace, text_cells: int, drop: Sequence[str], seed: int) -> None:
        self.source, self.drop, self.text_cells, self.seed = rows, tuple(drop), text_cells, seed
        self.ends = {one.name: one.end for one in space.modalities if one.kind == "text" and one.end is not None and text_cells}

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, draw: Draw) -> dict[str, Codes]:
        sample = {name: codes for name, codes in self.source[draw].items() if name not in self.drop}
        return sample | {name: self._filled(sample[name], end, draw) for name, end in self.ends.items() if name in sample}

    def _filled(self, codes: Codes, end: int, draw: Draw) -> Codes:
        """A text and its end codes, of the length that the draw decides."""
        room = max(self.text_cells - codes.shape[1], 0)
        luck = 1.0 if draw[1] < 0 else chance(self.seed, "cells", *draw)
        return torch.cat([codes, codes.new_full((1, min(room, 1 + int(luck * room))), end)], dim=1)

    def length(self, draw: Draw) -> int:
        """Cells that a draw takes in a row."""
        if not self.ends and not self.drop:
            return self.source.length(draw)
        return sum(codes[0].numel() for codes in self[draw].values())
