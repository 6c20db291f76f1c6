"""A training loader that knows where it is: its state is the exact place in an endless order, whatever the workers."""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import Any, Generic, NamedTuple, TypeVar

import lightning
import torch
from torch.utils.data import DataLoader, Dataset

from maskgen.data.loading.grouping import Grouping, OneByOne, Row
from maskgen.data.loading.order import Draw, Order

Sample = TypeVar("Sample")


class OrderPlace(NamedTuple):
    """Window of draws, and rows of it that are done."""

    window: int
    row: int


class Share(NamedTuple):
    """Which part of every global batch this process reads."""

    rank: int = 0
    world_size: int = 1


ALONE = Share()


class RowsOfSamples(Dataset[list[Sample]], Generic[Sample]):
    """Rows of draws as rows of samples.

    Args:
        data: A sample by draw.
    """

    def __init__(self, data: Dataset[Sample]) -> None:
        self.data = data

    def __getitem__(self, row: Row) -> list[Sample]:
        return [self.data[draw] for draw in row]


class ResumableLoader:
    """Batches of an endless order, as many a pass as an epoch has; the next pass goes on where this one stopped.

    No draw is lost or repeated between passes, ranks or workers. The rows of a global batch are the same on any number of ranks: each
    rank takes a consecutive part. Lightning stores `state_dict` in its checkpoints and hands it back on resume.

    Args:
        data: A sample by draw; in workers it is a copy.
        order: Which samples come, endlessly.
        batch_size: Rows a batch on this rank.
        collate: A list of rows, each a list of samples, to a batch.
        grouping: How draws become rows; None is one a row.
        length: Cells of a draw, for groupings that look at it.
        share: Number of this process, and of all.
        num_workers: Worker processes of this loader; 0 reads in this process.

    Raises:
        ValueError: If the order has fewer draws than one global batch, or a number is out of range.
    """

    def __init__(
        self,
        data: Dataset[Any],
        order: Order,
        batch_size: int,
        collate: Callable[[Sequence[Any]], Any],
        grouping: Grouping | None = None,
        length: Callable[[Draw], int] = lambda draw: 1,
        share: Share = ALONE,
        num_workers: int = 0,
    ) -> None:
        if batch_size < 1 or num_workers < 0 or not 0 <= share.rank < share.world_size:
            raise ValueError(f"batch_size={batch_size}, num_workers={num_workers}, rank {share.rank} of {share.world_size} make no loader")
        self.global_batch = batch_size * share.world_size
        if len(order) < self.global_batch:
            raise ValueError(f"{len(order)} training rows do not fill one batch of {self.global_batch}; use a smaller batch_size")
        self.data, self.order, self.batch_size, self.collate = data, order, batch_size, collate
        self.grouping, self.length = grouping or OneByOne(), length
        self.share, self.num_workers = share, num_workers
        self.place = OrderPlace(0, 0)

    def __len__(self) -> int:
        """Batches in one pass: an epoch's draws, one a row."""
        return len(self.order) // self.global_batch

    def __iter__(self) -> Iterator[Any]:
        places: deque[OrderPlace] = deque()
        batches = self._noted(places)
        loader = DataLoader(
            RowsOfSamples(self.data),
            batch_sampler=batches,
            collate_fn=self.collate,
            num_workers=self.num_workers,
            generator=torch.Generator(),  # else it would draw from the global one, and a resumed run would differ
        )
        for batch in islice(loader, len(self)):
            # Before handing over: a checkpoint written while this batch is trained on must go on after it.
            self.place = places.popleft()
            yield batch

    def state_dict(self) -> dict[str, int]:
        """The place after the last batch handed over."""
        return {"window": self.place.window, "row": self.place.row, "window_size": self.grouping.window(self.global_batch)}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go on from a place.

        Raises:
            ValueError: If the state was made with another global batch or grouping.
        """
        size = self.grouping.window(self.global_batch)
        if state["window_size"] != size:
            raise ValueError(
                f"the checkpoint was made with windows of {state['window_size']} draws, this run has {size}; "
                "keep batch_size x processes and the grouping as they were, or start without --ckpt_path"
            )
        self.place = OrderPlace(state["window"], state["row"])

    def _noted(self, places: deque[OrderPlace]) -> Iterator[list[Row]]:
        """This rank's rows batch after batch; the place after each is noted."""
        for rows, place in self.global_batches():
            places.append(place)
            first = self.share.rank * self.batch_size
            yield rows[first : first + self.batch_size]

    def global_batches(self) -> Iterator[tuple[list[Row], OrderPlace]]:
        """Rows of all ranks, batch after batch without end, and the place after each."""
        window, done = self.place
        rows = self._window(window)[done:]
        while True:
            while len(rows) < self.global_batch:
                window, done = window + 1, -len(rows)
                rows += self._window(window)
            batch, rows = rows[: self.global_batch], rows[self.global_batch :]
            done += self.global_batch
            yield batch, OrderPlace(window, done)

    def _window(self, number: int) -> list[Row]:
        """Rows of one window of draws."""
        size = self.grouping.window(self.global_batch)
        return self.grouping.rows(self.order.draws(number * size, (number + 1) * size), self.length, self.global_batch)


def fixed_loader(data: Dataset[Any], order: Sequence[Draw], batch_size: int, collate: Callable[[Any], Any]) -> DataLoader[Any]:
    """A loader of given draws, in this process."""
    return DataLoader(data, batch_size=batch_size, sampler=order, collate_fn=collate, generator=torch.Generator())


class FixedBatches:
    """Batches of given draws, the same on every rank: each rank takes its rows after the masks are drawn, so masks don't depend on ranks.

    Not a DataLoader, so that Lightning doesn't divide it among the ranks.

    Args:
        data: A sample by draw.
        order: The draws.
        batch_size: Rows a batch over all ranks; the last one may have fewer.
        collate: A list of samples to a batch.
    """

    def __init__(self, data: Dataset[Any], order: Sequence[Draw], batch_size: int, collate: Callable[[Any], Any]) -> None:
        self.data, self.order, self.batch_size, self.collate = data, order, batch_size, collate

    def __len__(self) -> int:
        return -(-len(self.order) // self.batch_size)

    def __iter__(self) -> Iterator[Any]:
        for start in range(0, len(self.order), self.batch_size):
            yield self.collate([self.data[draw] for draw in self.order[start : start + self.batch_size]])


def share_of(module: lightning.LightningDataModule) -> Share:
    """Number of this process and of all, as the trainer has them."""
    trainer = module.trainer
    return Share() if trainer is None else Share(trainer.global_rank, trainer.world_size)
