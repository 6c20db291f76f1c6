"""Index of the members of an uncompressed tar, for random access: all headers are found and checked at once."""

from collections.abc import Iterator
from mmap import mmap
from typing import NamedTuple

import numpy as np

BLOCK = 512
MAGIC = np.frombuffer(b"ustar", np.uint8)
NAME, SIZE, CHECKSUM, KIND, PREFIX = slice(0, 100), slice(124, 135), slice(148, 154), 156, slice(345, 500)
CHECKSUM_FIELD = slice(148, 156)
Blocks = np.ndarray[tuple[int, int], np.dtype[np.uint8]]


class Member(NamedTuple):
    """A regular file inside a tar: its name, offset and size."""

    name: str
    offset: int
    size: int


def members(content: memoryview | mmap) -> Iterator[Member]:
    """Regular files of a tar in file order; every header's checksum and the end of the archive are checked.

    Args:
        content: All bytes of the tar, for example a memory map.

    Raises:
        ValueError: If a header is damaged, a member is not a regular file or reaches past the end, or the end of the archive is missing.
    """
    blocks = np.frombuffer(content, np.uint8, len(content) // BLOCK * BLOCK).reshape(-1, BLOCK)
    headers = _headers(blocks)
    place = 0
    while place < len(blocks) and blocks[place].any():
        if place not in headers:
            raise ValueError("no tar header where one should be: compressed, damaged, or no tar")
        name, size, whole, kind = headers[place]
        if not whole:
            raise ValueError("a tar header's checksum is wrong: damaged")
        if kind not in b"0\0":
            raise ValueError(f"member {name!r} is no plain file")
        offset = (place + 1) * BLOCK
        if offset + size > len(content):
            raise ValueError(f"member {name!r} reaches past the end of the file: the tar is cut short")
        yield Member(name, offset, size)
        place += 1 + -(-size // BLOCK)
    if place >= len(blocks):
        raise ValueError("no end-of-archive mark: the tar is cut short, or it is no tar")


def _headers(blocks: Blocks) -> dict[int, tuple[str, int, bool, int]]:
    """Name, size, validity of the checksum, and kind of every block that looks like a header, by block number.

    Content of a member can look like a header too; the walk over the members skips it.
    """
    places = np.flatnonzero((blocks[:, 257:262] == MAGIC).all(axis=1))
    table = blocks[places]
    sums = table.sum(axis=1, dtype=np.int64) - table[:, CHECKSUM_FIELD].sum(axis=1, dtype=np.int64) + 8 * ord(" ")
    whole = (_octal(table[:, CHECKSUM]) == sums) & (_octal(table[:, SIZE]) >= 0)
    names = zip(_text(table[:, PREFIX]), _text(table[:, NAME]), strict=True)
    joined = (f"{prefix}/{name}" if prefix else name for prefix, name in names)
    return dict(
        zip(
            places.tolist(), zip(joined, _octal(table[:, SIZE]).tolist(), whole.tolist(), table[:, KIND].tolist(), strict=True), strict=True
        )
    )


def _octal(digits: Blocks) -> np.ndarray:
    """Numbers in octal digits; -1 if there is another character."""
    values = digits.astype(np.int64) - ord("0")
    weights = 8 ** np.arange(digits.shape[1] - 1, -1, -1, dtype=np.int64)
    return np.where(((values >= 0) & (values < 8)).all(axis=1), values @ weights, -1)


def _text(fields: Blocks) -> list[str]:
    """Text fields, terminated by their first zero byte."""
    packed = np.ascontiguousarray(fields).view(f"S{fields.shape[1]}").ravel().tolist()
    return [field.partition(b"\0")[0].decode("utf-8", "replace") for field in packed]
