"""The order of training rows: endless, balanced or shuffled, and a function of (seed, position) alone."""

import hashlib
import math
from abc import ABC, abstractmethod
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import accumulate
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

Draw = tuple[int, int]
"""Row number and number of the draw; draw -1 is validation, where nothing is left to chance."""
SHARE_UNITS = 2**20
"""Mixing weights are rounded to this many parts, so that positions far into a run are exact."""
LARGEST_BLOCK = 2**16


def chance(*parts: object) -> float:
    """A number in [0, 1) that depends on the parts alone."""
    text = ":".join(map(str, parts)).encode()
    return int.from_bytes(hashlib.sha256(text).digest()[:6], "big") / 2**48


def seeded(*parts: object) -> torch.Generator:
    """A generator that depends on the parts alone."""
    return torch.Generator().manual_seed(int(chance(*parts) * 2**48))


class Order(ABC):
    """An endless sequence of draws that can be read from any position: where a run stopped is one number."""

    @abstractmethod
    def __len__(self) -> int:
        """Draws in an epoch."""

    @abstractmethod
    def draws(self, start: int, stop: int) -> list[Draw]:
        """Draws number `start` up to `stop`."""


class EpochOrder(Order, ABC):
    """An order made of epochs of equal length, each of one or more blocks."""

    def __init__(self) -> None:
        self._last: tuple[tuple[int, int], list[int]] = ((-1, -1), [])

    @abstractmethod
    def sizes(self, epoch: int) -> list[int]:
        """Rows in each block of an epoch."""

    @abstractmethod
    def block(self, epoch: int, number: int) -> list[int]:
        """Row numbers of one block, in order."""

    def draws(self, start: int, stop: int) -> list[Draw]:
        drawn: list[Draw] = []
        while start < stop:
            epoch, position = divmod(start, len(self))
            ends = list(accumulate(self.sizes(epoch)))
            number = bisect_right(ends, position)
            begin = ends[number - 1] if number else 0
            rows = self._cached(epoch, number)[position - begin : position - begin + stop - start]
            drawn += zip(rows, range(start, start + len(rows)), strict=True)
            start += len(rows)
        return drawn

    def _cached(self, epoch: int, number: int) -> list[int]:
        """One block; the last one stays in memory, because reading goes on inside it."""
        if self._last[0] != (epoch, number):
            self._last = ((epoch, number), self.block(epoch, number))
        return self._last[1]


class ShuffledOrder(EpochOrder):
    """Every row once an epoch: shards in random order, rows mixed inside a window of shards.

    Args:
        counts: Rows of each shard.
        seed: With the epoch, decides the order.
        window: Shards whose rows are mixed; 0 is all of them. A small window keeps remote reading local.

    Raises:
        ValueError: If there are no rows, or the window is negative.
    """

    def __init__(self, counts: Sequence[int], seed: int, window: int = 0) -> None:
        super().__init__()
        if sum(counts) < 1 or window < 0:
            raise ValueError(
                f"an order needs at least one row and a window of 0 or more shards, got counts {list(counts)}, window {window}"
            )
        self.counts, self.seed, self.window = tuple(counts), seed, window or len(counts)
        self.starts = [end - count for end, count in zip(accumulate(counts), counts, strict=True)]

    def __len__(self) -> int:
        return sum(self.counts)

    def windows(self, epoch: int) -> list[list[int]]:
        """Shards of each block of an epoch."""
        shards = torch.randperm(len(self.counts), generator=seeded(self.seed, "shards", epoch)).tolist()
        return [shards[start : start + self.window] for start in range(0, len(shards), self.window)]

    def sizes(self, epoch: int) -> list[int]:
        return [sum(self.counts[shard] for shard in shards) for shards in self.windows(epoch)]

    def block(self, epoch: int, number: int) -> list[int]:
        shards = self.windows(epoch)[number]
        rows = torch.cat([torch.arange(self.starts[shard], self.starts[shard] + self.counts[shard]) for shard in shards])
        mixed: list[int] = rows[torch.randperm(len(rows), generator=seeded(self.seed, "rows", epoch, number))].tolist()
        return mixed


class BalancedOrder(EpochOrder):
    """As many draws an epoch as there are rows; each row comes its expected number of times, rounded down or up.

    Args:
        weights: Probability of each row.
        seed: With the epoch, decides the order.
    """

    def __init__(self, weights: Float[Tensor, " rows"], seed: int) -> None:
        super().__init__()
        self.weights, self.seed = weights.double() / weights.double().sum(), seed

    def __len__(self) -> int:
        return len(self.weights)

    def sizes(self, epoch: int) -> list[int]:
        return [len(self)]

    def block(self, epoch: int, number: int) -> list[int]:
        count = len(self)
        generator = seeded(self.seed, epoch)
        points = (torch.arange(count) + torch.rand(1, generator=generator, dtype=torch.float64)) / count
        rows = torch.searchsorted(self.weights.cumsum(0), points).clamp(max=count - 1)
        mixed: list[int] = rows[torch.randperm(count, generator=generator)].tolist()
        return mixed


class MixtureOrder(Order):
    """Several orders mixed by weight; inside each, its own epochs go on without loss.

    Every block of draws holds each order's share of it, rounded so that the shares are exact in the long run.

    Args:
        orders: What is mixed; row numbers of a later order follow those of the earlier ones.
        weights: How often each comes.
        seed: Decides the order inside a block.

    Raises:
        ValueError: If a weight is not positive, or smaller than 1 in 32,768 of their sum.
    """

    def __init__(self, orders: Sequence[Order], weights: Sequence[float], seed: int) -> None:
        if len(orders) != len(weights) or not orders or min(weights) <= 0:
            raise ValueError(f"a mixture needs a positive weight for each of its {len(orders)} parts, got {list(weights)}")
        self.orders, self.seed = tuple(orders), seed
        self._last: tuple[int, list[Draw]] = (-1, [])
        self.firsts = [end - len(order) for end, order in zip(accumulate(map(len, orders)), orders, strict=True)]
        ends = [round(end / sum(weights) * SHARE_UNITS) for end in accumulate(weights)]
        self.bounds = [0, *ends]
        smallest = min(high - low for low, high in zip(self.bounds, ends, strict=False))
        self.block_size = max(256, math.ceil(2 * SHARE_UNITS / smallest)) if smallest else LARGEST_BLOCK + 1
        if self.block_size > LARGEST_BLOCK:
            raise ValueError(f"weights {list(weights)} are too uneven: the smallest must be at least 1/32768 of their sum")

    def __len__(self) -> int:
        return sum(map(len, self.orders))

    def draws(self, start: int, stop: int) -> list[Draw]:
        size = self.block_size
        found = [draw for number in range(start // size, -(-stop // size)) for draw in self._cached(number)]
        first = start // size * size
        return found[start - first : stop - first]

    def taken(self, part: int, block: int) -> int:
        """Draws of one part before a block."""
        low, high = (bound * block * self.block_size // SHARE_UNITS for bound in self.bounds[part : part + 2])
        return high - low

    def _cached(self, number: int) -> list[Draw]:
        """One block; the last one stays in memory, because reading goes on inside it."""
        if self._last[0] != number:
            self._last = (number, self._block(number))
        return self._last[1]

    def _block(self, number: int) -> list[Draw]:
        """All draws of one block."""
        found = [draw for part in range(len(self.orders)) for draw in self._share(part, number)]
        return [found[place] for place in torch.randperm(len(found), generator=seeded(self.seed, "mixture", number)).tolist()]

    def _share(self, part: int, number: int) -> Iterator[Draw]:
        """Draws of one part in one block, with the rows numbered over all parts."""
        for row, draw in self.orders[part].draws(self.taken(part, number), self.taken(part, number + 1)):
            yield row + self.firsts[part], draw


def balanced_weights(rows: Sequence[Mapping[str, Any]], fields: Sequence[str]) -> Float[Tensor, " rows"]:
    """Probability of each row: values of the first field equally often, values of the second inside each of them, and so on.

    Args:
        rows: Metadata of the rows.
        fields: Names in them, outer to inner, for example ("family", "style").

    Returns:
        Weights that sum to 1; rows that agree in all fields share alike.

    Raises:
        ValueError: If a row lacks a field.
    """
    for field in fields:
        if any(field not in row for row in rows):
            raise ValueError(f"rows cannot be balanced by {field!r}: not every row has it; they hold {sorted(rows[0])}")
    paths = [tuple(row[field] for field in fields) for row in rows]
    prefixes = {path[:depth] for path in paths for depth in range(1, len(fields) + 1)}
    branches = Counter(prefix[:-1] for prefix in prefixes)
    alike = Counter(paths)
    shares = {path: 1 / (alike[path] * math.prod(branches[path[:depth]] for depth in range(len(fields)))) for path in alike}
    return torch.tensor([shares[path] for path in paths], dtype=torch.float64)


def fixed_subset(keys: Sequence[str], count: int) -> list[Draw]:
    """At most `count` rows, the same ones always: those whose keys have the smallest hashes."""
    ranked = sorted(range(len(keys)), key=lambda row: hashlib.sha256(keys[row].encode()).hexdigest())
    return [(row, -1) for row in sorted(ranked[:count])]
