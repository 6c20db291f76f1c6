"""Lightning data modules over shards: raw pictures for the autoencoder, token samples for the generator."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import lightning
import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from maskgen.data.loading.caption_templates import Phrases
from maskgen.data.loading.grouping import Grouping
from maskgen.data.loading.loader import ResumableLoader, Share
from maskgen.data.loading.order import BalancedOrder, Draw, MixtureOrder, Order, ShuffledOrder, balanced_weights, fixed_subset
from maskgen.data.loading.raw_audio import SoundRows
from maskgen.data.loading.rows import ShardRows
from maskgen.data.loading.samples import ImageRows, Joined, TokenRows, open_rows
from maskgen.data.shards.manifest import Index
from maskgen.data.shards.store import Check, Damage, ShardStore
from maskgen.tokens.batch import Codes, TokenBatch, pack, pack_rows
from maskgen.tokens.space import TokenSpace


def fixed_loader(data: Dataset[Any], order: Sequence[Draw], batch_size: int, collate: Callable[[Any], Any]) -> DataLoader[Any]:
    """A loader of given draws, in this process."""
    return DataLoader(data, batch_size=batch_size, sampler=order, collate_fn=collate, generator=torch.Generator())


def training_order(rows: ShardRows, balance: Sequence[str], window: int, seed: int) -> Order:
    """Rows balanced by their metadata where fields are named, else shuffled shard window by shard window."""
    if balance:
        return BalancedOrder(balanced_weights([rows.meta(row) for row in range(len(rows))], balance), seed)
    return ShuffledOrder([entry.count for entry in rows.shards], seed, window)


def share_of(module: lightning.LightningDataModule) -> Share:
    """Number of this process and of all, as the trainer has them."""
    trainer = module.trainer
    return Share() if trainer is None else Share(trainer.global_rank, trainer.world_size)


def to_unit(pictures: Sequence[Tensor]) -> Float[Tensor, "batch 3 rows columns"]:
    """uint8 pictures as one float batch in [0, 1]."""
    return torch.stack(list(pictures)).float() / 255


def first_of(rows: Sequence[Sequence[Any]]) -> list[Any]:
    """The samples of rows that hold one each."""
    return [sample for (sample,) in rows]


def pictures_of(rows: Sequence[Sequence[Tensor]]) -> Float[Tensor, "batch 3 rows columns"]:
    """Rows of one picture each as one batch."""
    return to_unit(first_of(rows))


def sounds_of(rows: Sequence[Sequence[Tensor]]) -> Float[Tensor, "batch samples"]:
    """Rows of one stretch of sound each as one batch."""
    return torch.stack(first_of(rows))


class RawImages(lightning.LightningDataModule):
    """Batches of pictures, float32 [batch 3 rows columns] in [0, 1], for training an image tokenizer.

    Args:
        folder: Raw shards with index.json; a local folder or a URL for fsspec.
        batch_size: Pictures a batch on each process.
        validation_splits: Splits to validate on, a loader each; "train" is a fixed subset of the training rows.
        validation_rows: Pictures of each, the same ones always.
        flip_share: Share of training pictures that are mirrored.
        balance: Fields of the rows' json whose values come equally often, outer to inner; empty takes every row once an epoch.
        window: Shards that are shuffled together where nothing is balanced; 0 is all.
        num_workers: Worker processes.
        seed: Decides the order of training.
    """

    def __init__(
        self,
        folder: str,
        batch_size: int = 32,
        validation_splits: Sequence[str] = ("A",),
        validation_rows: int = 256,
        flip_share: float = 0.0,
        balance: Sequence[str] = (),
        window: int = 0,
        num_workers: int = 0,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.folder, self.batch_size, self.seed = folder, batch_size, seed
        self.validation_splits, self.validation_rows, self.flip_share = tuple(validation_splits), validation_rows, flip_share
        self.balance, self.window, self.num_workers = tuple(balance), window, num_workers
        self.rows: dict[str, ImageRows] = {}

    def setup(self, stage: str) -> None:
        """Opens the splits that are not open yet."""
        store = ShardStore(self.folder)
        index = store.index()
        for split in ("train", *self.validation_splits):
            if split not in self.rows:
                self.rows[split] = ImageRows(open_rows(store, index, split), self.flip_share, self.seed)

    def train_dataloader(self) -> ResumableLoader:
        """Training rows without end."""
        data = self.rows["train"]
        order = training_order(data.rows, self.balance, self.window, self.seed)
        return ResumableLoader(data, order, self.batch_size, pictures_of, share=share_of(self), num_workers=self.num_workers)

    def val_dataloader(self) -> list[DataLoader[Any]]:
        """A fixed subset of each validation split."""
        return [
            fixed_loader(
                data, fixed_subset([data.rows.key(row) for row in range(len(data))], self.validation_rows), self.batch_size, to_unit
            )
            for data in (self.rows[split] for split in self.validation_splits)
        ]


class RawSounds(lightning.LightningDataModule):
    """Batches of stretches of sound, float32 [batch samples] in [-1, 1], for training an audio codec.

    Args:
        folder: Raw shards with index.json; a local folder or a URL for fsspec.
        batch_size: Stretches a batch on each process.
        seconds: Length of a training stretch.
        sample_rate_hz: Rate of the shards' sounds.
        validation_splits: Splits to validate on, a loader each; "train" is a fixed subset of the training rows.
        validation_rows: Sounds of each, the same ones always.
        validation_seconds: Length of a validation stretch.
        balance: Fields of the rows' json whose values come equally often, outer to inner; empty takes every row once an epoch.
        window: Shards that are shuffled together where nothing is balanced; 0 is all.
        num_workers: Worker processes.
        seed: Decides the order of training and where stretches begin.
    """

    def __init__(
        self,
        folder: str,
        batch_size: int = 32,
        seconds: float = 1.2,
        sample_rate_hz: int = 16_000,
        validation_splits: Sequence[str] = ("test",),
        validation_rows: int = 128,
        validation_seconds: float = 3.0,
        balance: Sequence[str] = (),
        window: int = 0,
        num_workers: int = 0,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.folder, self.batch_size, self.sample_rate_hz, self.seed = folder, batch_size, sample_rate_hz, seed
        self.samples, self.validation_samples = (round(length * sample_rate_hz) for length in (seconds, validation_seconds))
        self.validation_splits, self.validation_rows = tuple(validation_splits), validation_rows
        self.balance, self.window, self.num_workers = tuple(balance), window, num_workers
        self.train: SoundRows | None = None
        self.rows: dict[str, SoundRows] = {}

    def setup(self, stage: str) -> None:
        """Opens the splits that are not open yet."""
        store = ShardStore(self.folder)
        index = store.index()
        if self.train is None:
            self.train = SoundRows(open_rows(store, index, "train"), self.samples, self.sample_rate_hz, self.seed)
        for split in self.validation_splits:
            if split not in self.rows:
                self.rows[split] = SoundRows(open_rows(store, index, split), self.validation_samples, self.sample_rate_hz, self.seed)

    def train_dataloader(self) -> ResumableLoader:
        """Training rows without end."""
        assert self.train is not None, "setup comes first"
        order = training_order(self.train.rows, self.balance, self.window, self.seed)
        return ResumableLoader(self.train, order, self.batch_size, sounds_of, share=share_of(self), num_workers=self.num_workers)

    def val_dataloader(self) -> list[DataLoader[Any]]:
        """A fixed subset of each validation split."""
        return [
            fixed_loader(
                data, fixed_subset([data.rows.key(row) for row in range(len(data))], self.validation_rows), self.batch_size, torch.stack
            )
            for data in (self.rows[split] for split in self.validation_splits)
        ]


class TokenData(lightning.LightningDataModule):
    """Packed batches of token samples for training the generator.

    Args:
        folder: Token shards with index.json, a local folder or a URL for fsspec; or several, each with its mixing weight.
        batch_size: Rows a batch on each process.
        validation_splits: Splits to validate on, a loader each, of the first folder; "train" is a fixed subset of the training rows.
        validation_rows: Samples of each, the same ones always.
        canonical_share: Share of training draws that take the first caption.
        longest_text: In training a caption with more codes than this gives way to the row's shortest; 0 takes all.
        length_multiple: Rows are padded up to a multiple of this, so that a compiled model sees few shapes.
        balance: Fields of the rows' json whose values come equally often, outer to inner; empty takes every row once an epoch.
        window: Shards that are shuffled together where nothing is balanced; 0 is all.
        grouping: How samples become rows: one by one (None), by length, packed.
        num_workers: Worker processes; 0 reads in this process.
        check: "hash" reads all shards once at the start and compares; "size" looks at their length alone.
        damage: At a damaged shard "stop", or "skip" it with a warning and a count.
        seed: Decides the order of training and the captions taken.
        phrases: Puts captions of training into sentences.

    Raises:
        ValueError: If a folder holds no token shards, the token spaces or tokenizers of several differ, or the phrases have another
            tokenizer.
    """

    def __init__(
        self,
        folder: str | dict[str, float],
        batch_size: int = 64,
        validation_splits: Sequence[str] = ("A", "train"),
        validation_rows: int = 256,
        canonical_share: float = 0.5,
        longest_text: int = 0,
        length_multiple: int = 1,
        balance: Sequence[str] = (),
        window: int = 0,
        grouping: Grouping | None = None,
        num_workers: int = 0,
        check: Check = "hash",
        damage: Damage = "stop",
        seed: int = 0,
        phrases: Phrases | None = None,
    ) -> None:
        super().__init__()
        self.folders = {folder: 1.0} if isinstance(folder, str) else dict(folder)
        self.batch_size, self.seed, self.num_workers = batch_size, seed, num_workers
        self.validation_splits, self.validation_rows, self.canonical_share = tuple(validation_splits), validation_rows, canonical_share
        self.longest_text, self.length_multiple = longest_text, length_multiple
        self.balance, self.window, self.grouping = tuple(balance), window, grouping
        self.check, self.damage, self.phrases = check, damage, phrases
        self.rows: dict[str, TokenRows] = {}
        self.train: list[TokenRows] = []

    @property
    def space(self) -> TokenSpace:
        """The token space of the shards."""
        return self.train[0].space if self.train else token_space(ShardStore(next(iter(self.folders))))[1]

    @property
    def fingerprints(self) -> dict[str, str]:
        """Modality to the fingerprint of its tokenizer."""
        return dict(ShardStore(next(iter(self.folders))).index().fingerprints)

    def setup(self, stage: str) -> None:
        """Opens the training split of every folder and the validation splits of the first."""
        if self.train:
            return
        stores = [ShardStore(folder) for folder in self.folders]
        opened = [token_space(store) for store in stores]
        require_same_space(stores, [index for index, _ in opened])
        self.train = [self._open(store, index, "train", space) for store, (index, space) in zip(stores, opened, strict=True)]
        others = [split for split in self.validation_splits if split != "train"]
        self.rows = {"train": self.train[0], **{split: self._open(stores[0], opened[0][0], split, opened[0][1]) for split in others}}

    def _open(self, store: ShardStore, index: Index, split: str, space: TokenSpace) -> TokenRows:
        require_tokenizer_of(self.phrases, store, index)
        rows = open_rows(store, index, split, self.check, self.damage)
        return TokenRows(rows, space, self.canonical_share, self.longest_text, self.seed, self.phrases)

    def train_dataloader(self) -> ResumableLoader:
        """Training rows without end, folders mixed by weight."""
        orders = [training_order(part.rows, self.balance, self.window, self.seed) for part in self.train]
        order = orders[0] if len(orders) == 1 else MixtureOrder(orders, list(self.folders.values()), self.seed)
        data = Joined(self.train)
        collate = partial(pack_rows, space=self.space, multiple=self.length_multiple)
        return ResumableLoader(
            data, order, self.batch_size, collate, self.grouping, data.length, share=share_of(self), num_workers=self.num_workers
        )

    def val_dataloader(self) -> list[DataLoader[Any]]:
        """A fixed subset of each validation split, with first captions."""
        collate: Callable[[Sequence[Mapping[str, Codes]]], TokenBatch] = partial(pack, space=self.space, multiple=self.length_multiple)
        return [
            fixed_loader(
                data, fixed_subset([data.rows.key(row) for row in range(len(data))], self.validation_rows), self.batch_size, collate
            )
            for data in (self.rows[split] for split in self.validation_splits)
        ]


def token_space(store: ShardStore) -> tuple[Index, TokenSpace]:
    """Index and token space of token shards.

    Raises:
        ValueError: If there are none.
    """
    index = store.index()
    if index.space is None:
        raise ValueError(f"{store.place} holds {index.kind} shards, wanted tokens; build them: maskgen data tokenize")
    return index, TokenSpace.from_dict(dict(index.space))


def require_tokenizer_of(phrases: Phrases | None, store: ShardStore, index: Index) -> None:
    """Refuses phrases with another text tokenizer than that of the shards.

    Raises:
        ValueError: With both fingerprints.
    """
    if phrases is not None and phrases.tokenizer.fingerprint != index.fingerprints.get("text"):
        raise ValueError(
            f"the phrases' text tokenizer ({phrases.tokenizer.fingerprint}) is not that of {store.place} "
            f"({index.fingerprints.get('text')}); give phrases the bundle with which the shards were made"
        )


def require_same_space(stores: Sequence[ShardStore], found: Sequence[Index]) -> None:
    """Refuses to mix shards of different token spaces or tokenizers.

    Raises:
        ValueError: With both places and what rebuilds one of them.
    """
    for store, index in zip(stores[1:], found[1:], strict=True):
        spaces = [TokenSpace.from_dict(dict(one.space or {})) for one in (found[0], index)]
        same = len(spaces[0].modalities) == len(spaces[1].modalities) and spaces[0].begins_with(spaces[1])
        if not same or dict(index.fingerprints) != dict(found[0].fingerprints):
            raise ValueError(
                f"{stores[0].place} and {store.place} were made with other tokenizers ({dict(found[0].fingerprints)}, "
                f"{dict(index.fingerprints)}); rebuild one with the tokenizers of the other: maskgen data build or maskgen data tokenize"
            )
