"""Timed phonemes of raw shards, for training the duration predictor."""

from collections.abc import Sequence
from functools import cached_property
from typing import NamedTuple

import lightning
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import DataLoader, Dataset

from maskgen.data.loading.loader import ResumableLoader, fixed_loader, share_of
from maskgen.data.loading.order import Draw, fixed_subset
from maskgen.data.loading.rows import ShardRows, training_order
from maskgen.data.loading.samples import held_out_split, open_rows
from maskgen.data.shards.store import ShardStore
from maskgen.tokenizers.attribute import AttributeTokenizer
from maskgen.tokenizers.phonemes import PhonemeTokenizer


class Timed(NamedTuple):
    """A batch of timed phonemes.

    Args:
        ids: Phonemes.
        frames: Frames that each lasts at the speaker's own pace.
        speaker: Code of the speaker.
        valid: False for padding.
    """

    ids: Int[Tensor, "batch length"]
    frames: Float[Tensor, "batch length"]
    speaker: Int[Tensor, " batch"]
    valid: Bool[Tensor, "batch length"]


Utterance = tuple[Tensor, Tensor, int]


class TimedRows(Dataset[Utterance]):
    """Phoneme ids, frames and speaker of the utterances of one split; each is read once and stays in memory.

    Args:
        rows: Rows of raw shards whose json has phonemes, durations, durations_per_s, speed and speaker.
        phones: Their tokenizer.
        speakers: The speakers' tokenizer.
        frames_per_s: Frames wanted.
    """

    def __init__(self, rows: ShardRows, phones: PhonemeTokenizer, speakers: AttributeTokenizer, frames_per_s: float) -> None:
        self.rows, self.phones, self.speakers, self.frames_per_s = rows, phones, speakers, frames_per_s
        self.utterances: dict[int, Utterance] = {}

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, draw: Draw) -> Utterance:
        row, _ = draw
        if row not in self.utterances:
            meta = self.rows.meta(row)
            frames = torch.tensor([int(count) for count in meta["durations"].split()]) * (meta["speed"] * self.frames_per_s)
            speaker = int(self.speakers.encode([meta["speaker"]])[0])
            self.utterances[row] = self.phones.codes_of(meta["phonemes"])[0], frames / meta["durations_per_s"], speaker
        return self.utterances[row]


def collated(utterances: Sequence[Utterance]) -> Timed:
    """Utterances as one batch."""
    lengths = torch.tensor([len(ids) for ids, _, _ in utterances])
    ids, frames = (pad_sequence([one[part] for one in utterances], batch_first=True) for part in (0, 1))  # type: ignore[misc]
    return Timed(ids, frames, torch.tensor([speaker for *_, speaker in utterances]), torch.arange(ids.shape[1])[None] < lengths[:, None])


def collated_rows(rows: Sequence[Sequence[Utterance]]) -> Timed:
    """Rows of one utterance each as one batch."""
    return collated([one for (one,) in rows])


class TimedPhonemes(lightning.LightningDataModule):
    """Batches of timed phonemes, for training the duration predictor.

    Args:
        folder: Raw shards.
        phones: Bundle of the phoneme tokenizer.
        speakers: Bundle of the speakers' tokenizer.
        frames_per_s: Frames in which durations are given.
        batch_size: Utterances a batch on each process.
        validation_splits: Splits to validate on, a loader each. None takes "test" and "A" where the set has them, or its own held-out split
            (`held_out_split`).
        validation_rows: Utterances of each.
        seed: Decides the order of training.
    """

    def __init__(
        self,
        folder: str,
        phones: str,
        speakers: str,
        frames_per_s: float = 40.0,
        batch_size: int = 64,
        validation_splits: Sequence[str] | None = None,
        validation_rows: int = 200,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.folder, self.batch_size, self.frames_per_s, self.seed = folder, batch_size, frames_per_s, seed
        self.phones, self.speakers = PhonemeTokenizer.from_bundle(phones), AttributeTokenizer.from_bundle(speakers)
        self._splits, self.validation_rows = validation_splits, validation_rows
        self.rows: dict[str, TimedRows] = {}

    @cached_property
    def validation_splits(self) -> tuple[str, ...]:
        """Splits to validate on."""
        if self._splits is not None:
            return tuple(self._splits)
        counts = ShardStore(self.folder).index().counts
        return tuple(name for name in ("test", "A") if name in counts) or (held_out_split(counts),)

    def setup(self, stage: str) -> None:
        """Opens the splits that are not open yet."""
        store = ShardStore(self.folder)
        index = store.index()
        for split in ("train", *self.validation_splits):
            if split not in self.rows:
                self.rows[split] = TimedRows(open_rows(store, index, split), self.phones, self.speakers, self.frames_per_s)

    def train_dataloader(self) -> ResumableLoader:
        """Training utterances without end."""
        data = self.rows["train"]
        return ResumableLoader(data, training_order(data.rows, (), 0, self.seed), self.batch_size, collated_rows, share=share_of(self))

    def val_dataloader(self) -> list[DataLoader[Timed]]:
        """A fixed subset of each validation split."""
        return [
            fixed_loader(data, fixed_subset([data.rows.key(row) for row in range(len(data))], self.validation_rows), 64, collated)
            for data in (self.rows[split] for split in self.validation_splits)
        ]
