"""Samples of a split by number, read from memory-mapped shards without unpacking the others."""

import mmap
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

from maskgen.data.loading.order import BalancedOrder, Order, ShuffledOrder, balanced_weights
from maskgen.data.shards.format import decode_member, parse_member
from maskgen.data.shards.manifest import ShardEntry
from maskgen.data.shards.npy import npy_view
from maskgen.data.shards.tar import members

MOST_OPEN = 256
"""Shards mapped at a time; each costs a file descriptor and 20 bytes a member."""
FEW_OPEN = 16
"""Shards mapped at a time from a cache of bounded size: a mapped shard holds its disk space after it was removed from the cache."""
Fields = dict[str, tuple[int, int]]
"""Field name to offset and size."""


class Shard:
    """One memory-mapped shard and the places of its members.

    Args:
        path: An uncompressed tar written by maskgen.

    Raises:
        ValueError: If it is missing, damaged, or holds something else than samples.
    """

    def __init__(self, path: Path) -> None:
        self.keys: list[str] = []
        self.fields: list[Fields] = []
        self.known: set[str] = set()
        try:
            with path.open("rb") as handle:
                self.content = memoryview(mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ))
            for name, offset, size in members(self.content):
                self._add(name, (offset, size))
        except (OSError, ValueError) as error:
            raise ValueError(f"{path} cannot be read as a shard ({error}); build it again") from error

    def _add(self, name: str, place: tuple[int, int]) -> None:
        """Note one member; the members of a sample follow each other, keys ascending."""
        key, _, field = name.partition(".")
        last = self.keys[-1] if self.keys else ""
        if key != last or field not in self.known:
            self.known.add(parse_member(name)[1])
        if key < last or (key == last and field in self.fields[-1]):
            raise ValueError(f"member {name} comes twice or out of order")
        if key != last:
            self.keys.append(key)
            self.fields.append({})
        self.fields[-1][field] = place


class ShardRows:
    """Samples of some shards by running number, over all shards in the order given.

    Shards are mapped when first touched and let go when more than `most_open` are open; a copy sent to another process opens them anew.

    Args:
        locate: Shard to the path of a local copy of it.
        shards: What the index says of them.
        most_open: Shards mapped at a time.
    """

    def __init__(self, locate: Callable[[ShardEntry], Path], shards: Sequence[ShardEntry], most_open: int = MOST_OPEN) -> None:
        self.locate, self.shards, self.most_open = locate, tuple(shards), most_open
        self.ends = list(accumulate(entry.count for entry in self.shards))
        self.starts = [0, *self.ends]
        self.count = self.ends[-1] if self.ends else 0
        self.open: OrderedDict[int, Shard] = OrderedDict()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "open": OrderedDict()}

    def __len__(self) -> int:
        return self.count

    def place(self, row: int) -> tuple[int, int]:
        """Number of the shard and position inside it.

        Raises:
            IndexError: If there is no such row.
        """
        if not 0 <= row < self.count:
            raise IndexError(f"row {row} of {self.count}")
        shard = bisect_right(self.ends, row)
        return shard, row - self.starts[shard]

    def shard(self, number: int) -> Shard:
        """An open shard.

        Raises:
            ValueError: If it cannot be read or holds another number of samples than the index says.
        """
        found = self.open.get(number)
        if found is None:
            path, count = self.locate(self.shards[number]), self.shards[number].count
            try:
                found = Shard(path)
            except FileNotFoundError:  # another process removed it from a bounded cache
                found = Shard(path := self.locate(self.shards[number]))
            self.open[number] = found
            if len(found.keys) != count:
                raise ValueError(f"{path} holds {len(found.keys)} samples, the index says {count}; build it again")
            if len(self.open) > self.most_open:
                self.open.popitem(last=False)
        self.open.move_to_end(number)
        return found

    def key(self, row: int) -> str:
        """Key of a sample."""
        shard, position = self.place(row)
        return self.shard(shard).keys[position]

    def sizes(self, row: int) -> Mapping[str, int]:
        """Bytes of each field of a sample, without reading it."""
        shard, position = self.place(row)
        return {name: size for name, (_, size) in self.shard(shard).fields[position].items()}

    def read(self, row: int, names: Sequence[str]) -> dict[str, Any]:
        """The decoded fields of those names that a sample has: arrays are read-only views into the shard.

        Raises:
            ValueError: If one does not decode.
        """
        number, position = self.place(row)
        shard = self.shard(number)
        fields = shard.fields[position]
        return {name: _decoded(shard.content, name, *fields[name]) for name in names if name in fields}

    def field(self, row: int, name: str) -> Any:
        """One decoded field of a sample.

        Raises:
            ValueError: If the sample lacks it or it does not decode.
        """
        members = self.read(row, (name,))
        if not members:
            shard = self.shards[self.place(row)[0]].name
            raise ValueError(f"sample {self.key(row)} of {shard} has no {name}; it holds {sorted(self.sizes(row))}")
        return members[name]

    def content(self, row: int, name: str) -> bytes:
        """The bytes of one field of a sample as they lie in the shard."""
        number, position = self.place(row)
        shard = self.shard(number)
        offset, size = shard.fields[position][name]
        return bytes(shard.content[offset : offset + size])

    def meta(self, row: int) -> dict[str, Any]:
        """The json of a sample."""
        found: dict[str, Any] = self.field(row, "json")
        return found


def _decoded(content: memoryview, name: str, offset: int, size: int) -> Any:
    """Value of a member."""
    found = content[offset : offset + size]
    return npy_view(found) if name.endswith("npy") else decode_member(name, bytes(found))


def training_order(rows: ShardRows, balance: Sequence[str], window: int, seed: int) -> Order:
    """Rows balanced by their metadata where fields are named, else shuffled shard window by shard window."""
    if balance:
        return BalancedOrder(balanced_weights([rows.meta(row) for row in range(len(rows))], balance), seed)
    return ShuffledOrder([entry.count for entry in rows.shards], seed, window)
