"""Token shards of different modalities as one training mixture: parts by weight, samples joined by what they have in common."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import lightning
import torch
from torch.utils.data import DataLoader, Dataset

from maskgen.data.loading.caption_templates import Phrases
from maskgen.data.loading.grouping import Grouping
from maskgen.data.loading.loader import ResumableLoader
from maskgen.data.loading.order import BalancedOrder, Draw, MixtureOrder, Order, ShuffledOrder, balanced_weights, chance, fixed_subset
from maskgen.data.loading.samples import Joined, TokenRows, open_rows
from maskgen.data.loading.token_data import fixed_loader, require_tokenizer_of, share_of, token_space, training_order
from maskgen.data.shards.manifest import Index, read_index
from maskgen.data.shards.store import Check, Damage, ShardStore
from maskgen.tokens.batch import Codes, TokenBatch, pack, pack_rows
from maskgen.tokens.space import Modality, TokenSpace


@dataclass(frozen=True, kw_only=True)
class Part:
    """One part of a mixture.

    Args:
        folder: Token shards.
        weight: How often it comes.
        join: Token shards whose samples join those of `folder`: every draw of a sample takes one of the samples there that agree with it,
            by chance. Samples without any are left out. A modality that both have is taken from `folder`.
        on: Field of both samples' json that must agree.
        drop: Modalities that are left out.
        balance: Fields of the json whose values come equally often, outer to inner.
        canonical_share: Share of draws that take a sample's first caption.
        longest_text: A caption with more codes gives way to the sample's shortest; 0 takes all.
        phrases: Puts captions into sentences.
    """

    folder: str
    weight: float = 1.0
    join: str | None = None
    on: str = "label"
    drop: Sequence[str] = ()
    balance: Sequence[str] = ()
    canonical_share: float = 0.5
    longest_text: int = 0
    phrases: Phrases | None = None

    @property
    def folders(self) -> tuple[str, ...]:
        """All folders that it reads."""
        return (self.folder,) if self.join is None else (self.folder, self.join)


def merged_space(folders: Sequence[str]) -> tuple[TokenSpace, dict[str, str]]:
    """The token space of several folders of shards: modalities in the order in which they first come, and their fingerprints.

    Raises:
        ValueError: If a folder holds no token shards, or two have a modality of one name from different tokenizers; names both.
    """
    return merged([(folder, read_index(Path(folder))) for folder in folders])


def merged(indexes: Sequence[tuple[str, Index]]) -> tuple[TokenSpace, dict[str, str]]:
    """As `merged_space`, of indexes with the places where they were read."""
    members: dict[str, tuple[Modality, str, str]] = {}
    for place, index in indexes:
        if index.space is None:
            raise ValueError(f"{place} holds {index.kind} shards, wanted tokens; build them: maskgen data tokenize")
        for modality in TokenSpace.from_dict(dict(index.space)).modalities:
            made = index.fingerprints[modality.name]
            known, tokenizer, where = members.setdefault(modality.name, (modality, made, place))
            if tokenizer != made or not known.same_ids(modality):
                raise ValueError(
                    f"{where} and {place} have {modality.name} from other tokenizers ({tokenizer}, {made}); "
                    "rebuild one with the tokenizer of the other: maskgen data tokenize"
                )
            if known.end is None and modality.end is not None:
                members[modality.name] = (modality, made, where)
    return TokenSpace([modality for modality, _, _ in members.values()]), {name: made for name, (_, made, _) in members.items()}


class JoinedRows(Dataset[dict[str, Codes]]):
    """Samples of two sets that agree in a field, one of `left` with one of its partners in `right`.

    Args:
        left: Samples that are drawn.
        right: Samples that join them.
        on: Field of the json.
        seed: With draw and key, decides the partner.

    Raises:
        ValueError: If no sample has a partner.
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
        """Both samples of a draw; in validation the first partner."""
        row, number = draw
        left, partners = self.pairs[row]
        place = 0 if number < 0 else int(chance(self.seed, "partner", number, self.left.rows.key(left)) * len(partners))
        return (left, number), (partners[place], number)


class Filled(Dataset[dict[str, Codes]]):
    """Samples of one part, texts filled behind their end, left-out modalities gone.

    A model learns to end texts of any length from blanks of any length: in training the number of cells is drawn anew each time.

    Args:
        rows: Samples.
        space: Token space of the mixture.
        text_cells: Most cells that a text is filled to; 0 fills none. A longer text stays as it is.
        drop: Modalities that are left out.
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
        """A text and its end, as long as the draw says."""
        room = max(self.text_cells - codes.shape[1], 0)
        luck = 1.0 if draw[1] < 0 else chance(self.seed, "cells", *draw)
        return torch.cat([codes, codes.new_full((1, min(room, 1 + int(luck * room))), end)], dim=1)

    def length(self, draw: Draw) -> int:
        """Cells that a draw takes in a row."""
        return sum(codes[0].numel() for codes in self[draw].values())


class MixedModalData(lightning.LightningDataModule):
    """Token batches of a mixture of shards with different modalities, in the token space of all together.

    Args:
        parts: What is mixed.
        batch_size: Samples a batch.
        text_cells: Texts are filled with end codes to a random number of cells up to this; 0 leaves them as they are.
        length_multiple: Rows are padded to a multiple of this.
        grouping: How draws become rows.
        validation_splits: Splits of which `validation_rows` samples of every part that has them are looked at.
        validation_rows: Samples of each.
        num_workers: Processes that read.
        check: See `TokenData`.
        damage: See `TokenData`.
        seed: Decides every draw.

    Raises:
        ValueError: If a folder holds no token shards or tokenizers differ.
    """

    def __init__(
        self,
        parts: Sequence[Part],
        batch_size: int = 64,
        text_cells: int = 0,
        length_multiple: int = 1,
        grouping: Grouping | None = None,
        validation_splits: Sequence[str] = ("A",),
        validation_rows: int = 128,
        num_workers: int = 0,
        check: Check = "hash",
        damage: Damage = "stop",
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.parts, self.batch_size, self.text_cells, self.length_multiple = tuple(parts), batch_size, text_cells, length_multiple
        self.grouping, self.num_workers, self.check, self.damage, self.seed = grouping, num_workers, check, damage, seed
        self.validation_splits, self.validation_rows = tuple(validation_splits), validation_rows
        self.train: list[Filled] = []
        self.validation: list[Filled] = []

    @cached_property
    def _merged(self) -> tuple[TokenSpace, dict[str, str]]:
        return merged_space(list(dict.fromkeys(folder for part in self.parts for folder in part.folders)))

    @property
    def space(self) -> TokenSpace:
        """The token space of all parts."""
        return self._merged[0]

    @property
    def fingerprints(self) -> dict[str, str]:
        """Modality to the fingerprint of its tokenizer."""
        return self._merged[1]

    def setup(self, stage: str) -> None:
        """Opens the training split of every part, and the validation splits that it has."""
        if self.train:
            return
        space = self.space
        self._check()
        self.train = [self._filled(part, "train", space) for part in self.parts]
        self.validation = [
            self._filled(part, split, space)
            for split in self.validation_splits
            for part in self.parts
            if all(split in ShardStore(folder).index().counts for folder in part.folders)
        ]

    def _check(self) -> None:
        """Refuse what would do nothing without a word.

        Raises:
            ValueError: If no part has a validation split, a part drops what it has not, or phrases or text cells have no text.
        """
        indexes = {folder: token_space(ShardStore(folder)) for part in self.parts for folder in part.folders}
        for split in self.validation_splits:
            if not any(all(split in indexes[folder][0].counts for folder in part.folders) for part in self.parts):
                found = sorted({name for index, _ in indexes.values() for name in index.counts})
                raise ValueError(f"no part has the validation split {split!r}; there are {', '.join(found)}")
        for part in self.parts:
            names = {one.name: one.kind for folder in part.folders for one in indexes[folder][1].modalities}
            if lacking := [name for name in part.drop if name not in names]:
                raise ValueError(f"{part.folder} has no {', '.join(lacking)} to drop; it has {', '.join(names)}")
            if part.phrases is not None and "text" not in names:
                raise ValueError(f"{part.folder} has no text to put into phrases; it has {', '.join(names)}")
        if self.text_cells and not any(one.kind == "text" and one.end is not None for one in self.space.modalities):
            raise ValueError(
                f"text_cells is {self.text_cells}, but no text of these shards has a code for its end; build them again or set it to 0"
            )

    def _filled(self, part: Part, split: str, space: TokenSpace) -> Filled:
        """The samples of one split of a part."""
        opened = [self._open(folder, split, part) for folder in part.folders]
        rows = opened[0] if part.join is None else JoinedRows(opened[0], opened[1], part.on, self.seed)
        return Filled(rows, space, self.text_cells, part.drop, self.seed)

    def _open(self, folder: str, split: str, part: Part) -> TokenRows:
        store = ShardStore(folder)
        index, space = token_space(store)
        if "text" in index.fingerprints:
            require_tokenizer_of(part.phrases, store, index)
        rows = open_rows(store, index, split, self.check, self.damage)
        return TokenRows(rows, space, part.canonical_share, part.longest_text, self.seed, part.phrases)

    def train_dataloader(self) -> ResumableLoader:
        """Training rows without end, parts mixed by weight."""
        orders = [self._order(part, filled) for part, filled in zip(self.parts, self.train, strict=True)]
        order = orders[0] if len(orders) == 1 else MixtureOrder(orders, [part.weight for part in self.parts], self.seed)
        data = Joined(self.train)
        collate = partial(pack_rows, space=self.space, multiple=self.length_multiple)
        return ResumableLoader(
            data, order, self.batch_size, collate, self.grouping, data.length, share=share_of(self), num_workers=self.num_workers
        )

    def _order(self, part: Part, filled: Filled) -> Order:
        """The endless order of one part."""
        if isinstance(filled.source, TokenRows):
            return training_order(filled.source.rows, part.balance, 0, self.seed)
        if part.balance:
            return BalancedOrder(balanced_weights([filled.source.meta(row) for row in range(len(filled))], part.balance), self.seed)
        return ShuffledOrder([len(filled)], self.seed)

    def val_dataloader(self) -> list[DataLoader[Any]]:
        """A fixed subset of each part's validation splits."""

        def collate(samples: Sequence[dict[str, Codes]]) -> TokenBatch:
            return pack(samples, self.space, self.length_multiple)

        return [
            fixed_loader(data, fixed_subset([_key(data, row) for row in range(len(data))], self.validation_rows), self.batch_size, collate)
            for data in self.validation
        ]


def _key(data: Filled, row: int) -> str:
    """Key of a sample."""
    return data.source.rows.key(row) if isinstance(data.source, TokenRows) else data.source.key(row)
