"""Lightning data modules over raw shards, for training tokenizers: batches of images and of audio."""

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import lightning
import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils.data import DataLoader

from maskgen.data.loading.loader import ResumableLoader, fixed_loader, share_of
from maskgen.data.loading.order import fixed_subset
from maskgen.data.loading.raw_audio import AudioRows
from maskgen.data.loading.rows import training_order
from maskgen.data.loading.samples import ImageRows, held_out_split, open_rows
from maskgen.data.shards.store import ShardStore


def to_unit(pictures: Sequence[Tensor]) -> Float[Tensor, "batch 3 rows columns"]:
    """Stack uint8 images to one float batch in [0, 1]."""
    return torch.stack(list(pictures)).float() / 255


def first_of(rows: Sequence[Sequence[Any]]) -> list[Any]:
    """The samples of rows of one sample each."""
    return [sample for (sample,) in rows]


def images_of(rows: Sequence[Sequence[Tensor]]) -> Float[Tensor, "batch 3 rows columns"]:
    """Stack rows of one image each to a batch in [0, 1]."""
    return to_unit(first_of(rows))


def audio_of(rows: Sequence[Sequence[Tensor]]) -> Float[Tensor, "batch samples"]:
    """Stack rows of one audio segment each to a batch."""
    return torch.stack(first_of(rows))


class RawImages(lightning.LightningDataModule):
    """Batches of images, float32 [batch 3 rows columns] in [0, 1], for training an image tokenizer.

    Args:
        folder: Raw shards with index.json; a local folder or a URL for fsspec.
        batch_size: Images per batch on each process.
        validation_splits: Splits to validate on, a loader each; "train" is a fixed subset of the training rows. None takes "A", or
            the set's own held-out split (`held_out_split`).
        validation_rows: Images of each split, the same ones always.
        flip_share: Share of training images that are mirrored.
        balance: Fields of the rows' json whose values come equally often, outer to inner; empty takes every row once an epoch.
        window: Shards that are shuffled together where nothing is balanced; 0 is all.
        num_workers: Worker processes.
        seed: Decides the order of training.
    """

    def __init__(
        self,
        folder: str,
        batch_size: int = 32,
        validation_splits: Sequence[str] | None = None,
        validation_rows: int = 256,
        flip_share: float = 0.0,
        balance: Sequence[str] = (),
        window: int = 0,
        num_workers: int = 0,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.folder, self.batch_size, self.seed = folder, batch_size, seed
        self._splits, self.validation_rows, self.flip_share = validation_splits, validation_rows, flip_share
        self.balance, self.window, self.num_workers = tuple(balance), window, num_workers
        self.rows: dict[str, ImageRows] = {}

    @cached_property
    def validation_splits(self) -> tuple[str, ...]:
        """Splits to validate on."""
        counts = ShardStore(self.folder).index().counts
        return (held_out_split(counts, "A"),) if self._splits is None else tuple(self._splits)

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
        return ResumableLoader(data, order, self.batch_size, images_of, share=share_of(self), num_workers=self.num_workers)

    def val_dataloader(self) -> list[DataLoader[Any]]:
        """A fixed subset of each validation split."""
        return [
            fixed_loader(
                data, fixed_subset([data.rows.key(row) for row in range(len(data))], self.validation_rows), self.batch_size, to_unit
            )
            for data in (self.rows[split] for split in self.validation_splits)
        ]


class RawAudio(lightning.LightningDataModule):
    """Batches of audio segments, float32 [batch samples] in [-1, 1], for training an audio codec.

    Args:
        folder: Raw shards with index.json; a local folder or a URL for fsspec.
        batch_size: Segments per batch on each process.
        seconds: Length of a training segment.
        sample_rate_hz: Sample rate of the shards' audio.
        validation_splits: Splits to validate on, a loader each; "train" is a fixed subset of the training rows. None takes "test", or
            the set's own held-out split (`held_out_split`).
        validation_rows: Clips of each split, the same ones always.
        validation_seconds: Length of a validation segment.
        balance: Fields of the rows' json whose values come equally often, outer to inner; empty takes every row once an epoch.
        window: Shards that are shuffled together where nothing is balanced; 0 is all.
        num_workers: Worker processes.
        seed: Decides the order of training and where segments begin.
    """

    def __init__(
        self,
        folder: str,
        batch_size: int = 32,
        seconds: float = 1.2,
        sample_rate_hz: int = 16_000,
        validation_splits: Sequence[str] | None = None,
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
        self._splits, self.validation_rows = validation_splits, validation_rows
        self.balance, self.window, self.num_workers = tuple(balance), window, num_workers
        self.train: AudioRows | None = None
        self.rows: dict[str, AudioRows] = {}

    @cached_property
    def validation_splits(self) -> tuple[str, ...]:
        """Splits to validate on."""
        counts = ShardStore(self.folder).index().counts
        return (held_out_split(counts, "test"),) if self._splits is None else tuple(self._splits)

    def setup(self, stage: str) -> None:
        """Opens the splits that are not open yet."""
        store = ShardStore(self.folder)
        index = store.index()
        if self.train is None:
            self.train = AudioRows(open_rows(store, index, "train"), self.samples, self.sample_rate_hz, self.seed)
        for split in self.validation_splits:
            if split not in self.rows:
                self.rows[split] = AudioRows(open_rows(store, index, split), self.validation_samples, self.sample_rate_hz, self.seed)

    def train_dataloader(self) -> ResumableLoader:
        """Training rows without end."""
        assert self.train is not None, "setup comes first"
        order = training_order(self.train.rows, self.balance, self.window, self.seed)
        return ResumableLoader(self.train, order, self.batch_size, audio_of, share=share_of(self), num_workers=self.num_workers)

    def val_dataloader(self) -> list[DataLoader[Any]]:
        """A fixed subset of each validation split."""
        return [
            fixed_loader(
                data, fixed_subset([data.rows.key(row) for row in range(len(data))], self.validation_rows), self.batch_size, torch.stack
            )
            for data in (self.rows[split] for split in self.validation_splits)
        ]
