"""How draws become rows of a batch: one a row, rows of like length together, or several packed into one row."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

import torch

from maskgen.data.loading.order import Draw, seeded

Row = tuple[Draw, ...]
Length = Callable[[Draw], int]
"""Cells that a draw takes."""


class Grouping(ABC):
    """Turns one window of draws after another into rows; a window's rows depend on its draws alone."""

    @abstractmethod
    def window(self, global_batch: int) -> int:
        """Draws that are looked at together."""

    @abstractmethod
    def rows(self, draws: Sequence[Draw], length: Length, global_batch: int) -> list[Row]:
        """Rows of one window; every draw comes in exactly one of them."""


class OneByOne(Grouping):
    """Each draw is a row, in the order in which it was drawn."""

    def window(self, global_batch: int) -> int:
        return global_batch

    def rows(self, draws: Sequence[Draw], length: Length, global_batch: int) -> list[Row]:
        return [(draw,) for draw in draws]


class ByLength(Grouping):
    """Batches of rows of like length, so that little is padded; the batches of a window come in random order.

    Args:
        batches: Batches a window; more make lengths in a batch more alike and the order less random.

    Raises:
        ValueError: If there are fewer than 2.
    """

    def __init__(self, batches: int = 32) -> None:
        if batches < 2:
            raise ValueError(f"sorting by length needs a window of at least 2 batches, got {batches}")
        self.batches = batches

    def window(self, global_batch: int) -> int:
        return self.batches * global_batch

    def rows(self, draws: Sequence[Draw], length: Length, global_batch: int) -> list[Row]:
        ranked = sorted(draws, key=lambda draw: (length(draw), draw[1], draw[0]))
        batches = [ranked[start : start + global_batch] for start in range(0, len(ranked), global_batch)]
        mixed = torch.randperm(len(batches), generator=seeded("batches", draws[0])).tolist()
        return [(draw,) for number in mixed for draw in batches[number]]


class Packed(Grouping):
    """Several samples in one row, as many as fit; the model keeps them apart by `document`.

    First fit: a draw goes into the first open row that has room for it.

    Args:
        cells: Most cells a row; a longer sample gets a row of its own.
        draws: Draws a window; more fill rows better.
        open_rows: Rows that stay open; the fullest is closed when there are more.

    Raises:
        ValueError: If a number is not positive.
    """

    def __init__(self, cells: int, draws: int = 1024, open_rows: int = 64) -> None:
        if min(cells, draws, open_rows) < 1:
            raise ValueError(f"packing needs positive numbers, got cells={cells}, draws={draws}, open_rows={open_rows}")
        self.cells, self.draws, self.open_rows = cells, draws, open_rows

    def window(self, global_batch: int) -> int:
        return self.draws

    def rows(self, draws: Sequence[Draw], length: Length, global_batch: int) -> list[Row]:
        done: list[list[Draw]] = []
        open_rows: list[tuple[int, list[Draw]]] = []
        for draw in draws:
            cells = length(draw)
            place = next((place for place, (used, _) in enumerate(open_rows) if used + cells <= self.cells), len(open_rows))
            used, row = open_rows.pop(place) if place < len(open_rows) else (0, [])
            open_rows.insert(place, (used + cells, [*row, draw]))
            if len(open_rows) > self.open_rows:
                done.append(open_rows.pop(max(range(len(open_rows)), key=lambda place: open_rows[place][0]))[1])
        return [tuple(row) for row in [*done, *(row for _, row in open_rows)]]
