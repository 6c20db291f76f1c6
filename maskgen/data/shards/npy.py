"""Arrays in npy format 1.0, read without pickle, without a copy, and never larger than their bytes."""

import ast
import math
from functools import lru_cache
from typing import Any

import numpy as np

NPY_MAGIC = b"\x93NUMPY\x01\x00"
NPY_HEADER_BYTES = 128
"""numpy pads the header of an array of few axes to this."""


def npy_view(content: memoryview) -> np.ndarray:
    """An array in npy format 1.0 without copying it.

    Raises:
        ValueError: If it is in another format, holds anything but plain numbers, or is cut short.
    """
    dtype, shape, count, start = _npy_header(bytes(content[:NPY_HEADER_BYTES]))
    if len(content) != start + count * dtype.itemsize:
        raise ValueError(f"npy array {shape} of {dtype} is not {len(content)} bytes long")
    return np.frombuffer(content, dtype, count, start).reshape(shape) if count else np.zeros(shape, dtype)


@lru_cache(maxsize=4096)
def _npy_header(head: bytes) -> tuple[np.dtype[Any], tuple[int, ...], int, int]:
    """Number type, shape, size and place of the numbers; arrays of few shapes have few headers, so most are known."""
    start = 10 + int.from_bytes(head[8:10], "little")
    if head[:8] != NPY_MAGIC or start > len(head):
        raise ValueError("no npy array of format 1.0 with a short header")
    try:
        declared = ast.literal_eval(head[10:start].decode("latin1").strip())
        dtype, shape = np.dtype(str(declared["descr"])), tuple(int(size) for size in declared["shape"])
        turned = bool(declared["fortran_order"])
    except (SyntaxError, TypeError, KeyError, ValueError, OverflowError, RecursionError, MemoryError) as error:
        raise ValueError(f"damaged npy header ({error})") from error
    if dtype.kind not in "biuf" or turned or min(shape, default=0) < 0 or max(shape, default=0) >= 2**31:
        raise ValueError(f"an npy array {shape} of {dtype}; plain numbers in C order are read")
    return dtype, shape, math.prod(shape), start
