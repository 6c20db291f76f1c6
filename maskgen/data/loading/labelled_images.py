"""Images with the classes of their attributes, for training a classifier."""

from collections.abc import Mapping, Sequence
from typing import Any

import lightning
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from maskgen.data.loading.loader import ResumableLoader, fixed_loader, share_of
from maskgen.data.loading.order import Draw, fixed_subset
from maskgen.data.loading.raw_media import first_of, to_unit
from maskgen.data.loading.rows import training_order
from maskgen.data.loading.samples import ImageRows, open_rows
from maskgen.data.shards.store import ShardStore


class LabelledImageRows(Dataset[tuple[Tensor, list[int]]]):
    """Images of one split with a class number per attribute.

    Args:
        images: The images.
        meta: The json of each.
        names: Attribute to its class names in order; a class that is not among them has number -100, which cross-entropy skips.
    """

    def __init__(self, images: ImageRows, meta: Sequence[Mapping[str, Any]], names: Mapping[str, Sequence[object]]) -> None:
        numbers = {field: {name: number for number, name in enumerate(found)} for field, found in names.items()}
        self.images, self.meta = images, meta
        self.targets = [[numbers[field].get(row[field], -100) for field in names] for row in meta]

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, draw: Draw) -> tuple[Tensor, list[int]]:
        return self.images[draw], self.targets[draw[0]]


def class_names(rows: Sequence[Mapping[str, Any]], attributes: Sequence[str]) -> dict[str, list[object]]:
    """Sorted classes of each attribute in the training rows.

    Raises:
        ValueError: If a row lacks an attribute.
    """
    for field in attributes:
        if any(field not in row for row in rows):
            raise ValueError(f"attribute {field!r} is not in every row of the shards; they hold {sorted(rows[0])}")
    return {field: sorted({row[field] for row in rows}) for field in attributes}


def labelled(rows: Sequence[tuple[Tensor, list[int]]]) -> tuple[Float[Tensor, "batch 3 rows columns"], Int[Tensor, "batch attribute"]]:
    """Images in [0, 1] and class numbers."""
    return to_unit([picture for picture, _ in rows]), torch.tensor([targets for _, targets in rows])


class LabelledImages(lightning.LightningDataModule):
    """Batches of (images, classes): float32 [batch 3 rows columns] in [0, 1] and int64 [batch attribute].

    Args:
        folder: Raw shards with index.json.
        attributes: Fields of the rows' JSON to classify; the module's heads are in the same order.
        batch_size: Images per batch.
        validation_split: Split to validate on.
        validation_rows: Images of it, the same ones always.
        balance: Fields of the rows' json whose values come equally often, outer to inner.
        num_workers: Worker processes.
        seed: Decides the order of training.
    """

    def __init__(
        self,
        folder: str,
        attributes: Sequence[str] = ("base", "tone", "style"),
        batch_size: int = 128,
        validation_split: str = "A",
        validation_rows: int = 512,
        balance: Sequence[str] = (),
        num_workers: int = 0,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.folder, self.attributes, self.batch_size, self.seed = folder, tuple(attributes), batch_size, seed
        self.validation_split, self.validation_rows = validation_split, validation_rows
        self.balance, self.num_workers = tuple(balance), num_workers
        self.rows: dict[str, LabelledImageRows] = {}

    def setup(self, stage: str) -> None:
        """Opens the splits; the classes are those of the training split."""
        if self.rows:
            return
        store = ShardStore(self.folder)
        index = store.index()
        opened = {split: ImageRows(open_rows(store, index, split)) for split in ("train", self.validation_split)}
        meta = {split: [images.rows.meta(row) for row in range(len(images))] for split, images in opened.items()}
        names = class_names(meta["train"], self.attributes)
        self.rows = {split: LabelledImageRows(images, meta[split], names) for split, images in opened.items()}

    def train_dataloader(self) -> ResumableLoader:
        """Training rows without end."""
        data = self.rows["train"]
        order = training_order(data.images.rows, self.balance, 0, self.seed)
        return ResumableLoader(
            data, order, self.batch_size, lambda rows: labelled(first_of(rows)), share=share_of(self), num_workers=self.num_workers
        )

    def val_dataloader(self) -> DataLoader[Any]:
        """A fixed subset of the validation split."""
        data = self.rows[self.validation_split]
        keys = [data.images.rows.key(row) for row in range(len(data))]
        return fixed_loader(data, fixed_subset(keys, self.validation_rows), self.batch_size, labelled)
