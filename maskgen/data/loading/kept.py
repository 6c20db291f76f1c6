"""Decoded media that stay in memory, up to a fixed number of bytes: a small set is decoded once, a large one is streamed."""

from collections.abc import Callable
from typing import Generic, TypeVar

import numpy as np
from torch import Tensor

Media = TypeVar("Media", Tensor, np.ndarray)
KEPT_BYTES = 2**28
"""Bytes that a split keeps: 20,000 images of 64 x 64 pixels, 1,300 of 256 x 256, or 2 hours of audio at 16 kHz."""


class MediaCache(Generic[Media]):
    """The first decoded media of a split, as many as fit.

    Args:
        most_bytes: Bytes that are kept at most; 0 keeps nothing.
    """

    def __init__(self, most_bytes: int = KEPT_BYTES) -> None:
        self.media: dict[int, Media] = {}
        self.room_bytes = most_bytes

    def get(self, row: int, decode: Callable[[], Media]) -> Media:
        """The medium of a row: kept, or decoded now and kept if there is room."""
        if row in self.media:
            return self.media[row]
        medium = decode()
        if medium.nbytes <= self.room_bytes:
            self.room_bytes -= medium.nbytes
            self.media[row] = medium
        return medium
