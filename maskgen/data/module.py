"""Lightning data modules over shards: raw pictures for the autoencoder, token samples for the generator."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import lightning
import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from maskgen.batch import Codes, pack
from maskgen.data.manifest import read_index
from maskgen.data.order import BalancedOrder, Draw, chance, family_weights, fixed_subset
from maskgen.data.shards import Sample, read_split
from maskgen.space import TokenSpace

Rows = list[tuple[str, Sample]]


def loader(data: Dataset[Any], order: Any, batch_size: int, collate: Callable[[Any], Any], drop_last: bool) -> DataLoader[Any]:
    """A loader in this process: rows lie in memory, so workers would only copy them."""
    return DataLoader(data, batch_size=batch_size, sampler=order, collate_fn=collate, drop_last=drop_last)


class ImageRows(Dataset[Tensor]):
    """Pictures of one split in memory as uint8.

    Args:
        folder: Raw shards with index.json.
        split: Split to read.
        flip_share: Share of draws that are mirrored.
        seed: With draw and key, decides which.
    """

    def __init__(self, folder: Path, split: str, flip_share: float = 0.0, seed: int = 0) -> None:
        rows: Rows = [(key, sample) for key, sample in read_split(folder, read_index(folder), split)]
        self.keys = [key for key, _ in rows]
        self.meta = [sample["json"] for _, sample in rows]
        self.pixels = torch.stack([torch.from_numpy(sample["png"].copy()).permute(2, 0, 1) for _, sample in rows]).contiguous()
        self.flip_share, self.seed = flip_share, seed

    def __len__(self) -> int:
        return len(self.keys)

    def __getitem__(self, draw: Draw) -> Tensor:
        row, number = draw
        mirrored = number >= 0 and chance(self.seed, "flip", number, self.keys[row]) < self.flip_share
        return self.pixels[row].flip(-1) if mirrored else self.pixels[row]


def to_unit(pictures: Sequence[Tensor]) -> Float[Tensor, "batch 3 rows columns"]:
    """uint8 pictures as one float batch in [0, 1]."""
    return torch.stack(list(pictures)).float() / 255


class RawImages(lightning.LightningDataModule):
    """Batches of pictures, float32 [batch 3 rows columns] in [0, 1], for training an image tokenizer.

    Args:
        folder: Raw shards with index.json.
        batch_size: Pictures a batch.
        validation_splits: Splits to validate on, a loader each; "train" is a fixed subset of the training rows.
        validation_rows: Pictures of each, the same ones always.
        flip_share: Share of training pictures that are mirrored.
        seed: Decides the order of training.
    """

    def __init__(
        self,
        folder: str,
        batch_size: int = 32,
        validation_splits: Sequence[str] = ("A",),
        validation_rows: int = 256,
        flip_share: float = 0.0,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.folder, self.batch_size, self.seed = Path(folder), batch_size, seed
        self.validation_splits, self.validation_rows, self.flip_share = tuple(validation_splits), validation_rows, flip_share
        self.rows: dict[str, ImageRows] = {}

    def setup(self, stage: str) -> None:
        """Reads the splits that are not in memory yet."""
        for split in ("train", *self.validation_splits):
            if split not in self.rows:
                self.rows[split] = ImageRows(self.folder, split, self.flip_share, self.seed)

    def train_dataloader(self) -> DataLoader[Any]:
        """Training rows, drawing families equally often."""
        rows = self.rows["train"]
        return loader(rows, BalancedOrder(family_weights(rows.meta), self.seed), self.batch_size, to_unit, drop_last=True)

    def val_dataloader(self) -> list[DataLoader[Any]]:
        """A fixed subset of each validation split."""
        subsets = {split: fixed_subset(self.rows[split].keys, self.validation_rows) for split in self.validation_splits}
        return [loader(self.rows[split], order, self.batch_size, to_unit, drop_last=False) for split, order in subsets.items()]


class TokenRows(Dataset[dict[str, Codes]]):
    """Token samples of one split in memory.

    Args:
        folder: Token shards with index.json.
        split: Split to read.
        canonical_share: Share of training draws that take the first caption; the other captions share the rest.
        longest_text: In training a caption with more codes than this gives way to the row's shortest; 0 takes all.
        seed: With draw and key, decides which caption is taken.

    Raises:
        ValueError: If the folder holds no token shards.
    """

    def __init__(self, folder: Path, split: str, canonical_share: float = 0.5, longest_text: int = 0, seed: int = 0) -> None:
        index = read_index(folder)
        if index.space is None:
            raise ValueError(f"{folder} holds {index.kind} shards, wanted tokens; build them: maskgen data tokenize")
        if not 0.0 <= canonical_share <= 1.0:
            raise ValueError(f"canonical_share must lie in [0, 1], got {canonical_share}")
        self.space = TokenSpace.from_dict(dict(index.space))
        self.rows: Rows = list(read_split(folder, index, split))
        self.keys = [key for key, _ in self.rows]
        self.meta = [sample["json"] for _, sample in self.rows]
        self.canonical_share, self.longest_text, self.seed = canonical_share, longest_text, seed

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, draw: Draw) -> dict[str, Codes]:
        row, number = draw
        found = {}
        for modality in self.space.modalities:
            array = self.rows[row][1][f"{modality.name}.npy"]
            text = modality.kind == "text"
            found[modality.name] = self.caption(array, row, number) if text else torch.from_numpy(array).long()
        return found

    def caption(self, array: Any, row: int, number: int) -> Codes:
        """Codes of the caption that a draw takes; in training the shortest one where that is too long."""
        codes = caption_codes(array, self.alternative(row, number, len(array)))
        if number < 0 or not self.longest_text or codes.shape[1] <= self.longest_text:
            return codes
        return min((caption_codes(array, place) for place in range(len(array))), key=lambda caption: caption.shape[1])

    def alternative(self, row: int, number: int, count: int) -> int:
        """Which of a row's captions a draw takes: the first in validation, else by chance of (seed, draw, key)."""
        luck = chance(self.seed, "caption", number, self.keys[row])
        if number < 0 or count == 1 or luck < self.canonical_share:
            return 0
        return 1 + int((luck - self.canonical_share) / (1 - self.canonical_share) * (count - 1))


def caption_codes(array: Any, alternative: int) -> Codes:
    """Codes [1, n] of one caption out of [alternatives longest]."""
    caption = torch.from_numpy(array[alternative]).long()
    return caption[caption >= 0][None]


class TokenData(lightning.LightningDataModule):
    """Packed batches of token samples for training the generator.

    Args:
        folder: Token shards with index.json.
        batch_size: Samples a batch.
        validation_splits: Splits to validate on, a loader each; "train" is a fixed subset of the training rows.
        validation_rows: Samples of each, the same ones always.
        canonical_share: Share of training draws that take the first caption.
        longest_text: In training a caption with more codes than this gives way to the row's shortest; 0 takes all.
        length_multiple: Rows are padded up to a multiple of this, so that a compiled model sees few shapes.
        seed: Decides the order of training and the captions taken.
    """

    def __init__(
        self,
        folder: str,
        batch_size: int = 64,
        validation_splits: Sequence[str] = ("A", "train"),
        validation_rows: int = 256,
        canonical_share: float = 0.5,
        longest_text: int = 0,
        length_multiple: int = 1,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.folder, self.batch_size, self.seed = Path(folder), batch_size, seed
        self.validation_splits, self.validation_rows, self.canonical_share = tuple(validation_splits), validation_rows, canonical_share
        self.longest_text, self.length_multiple = longest_text, length_multiple
        self.rows: dict[str, TokenRows] = {}

    @property
    def space(self) -> TokenSpace:
        """The token space of the shards."""
        return TokenSpace.from_dict(dict(read_index(self.folder).space or {}))

    def setup(self, stage: str) -> None:
        """Reads the splits that are not in memory yet."""
        for split in ("train", *self.validation_splits):
            if split not in self.rows:
                self.rows[split] = TokenRows(self.folder, split, self.canonical_share, self.longest_text, self.seed)

    def train_dataloader(self) -> DataLoader[Any]:
        """Training rows, drawing families equally often."""
        rows = self.rows["train"]
        order = BalancedOrder(family_weights(rows.meta), self.seed)
        return loader(rows, order, self.batch_size, partial(pack, space=rows.space, multiple=self.length_multiple), drop_last=True)

    def val_dataloader(self) -> list[DataLoader[Any]]:
        """A fixed subset of each validation split, with first captions."""
        subsets = {split: fixed_subset(self.rows[split].keys, self.validation_rows) for split in self.validation_splits}
        collate = partial(pack, space=self.rows["train"].space, multiple=self.length_multiple)
        return [loader(self.rows[split], order, self.batch_size, collate, drop_last=False) for split, order in subsets.items()]
