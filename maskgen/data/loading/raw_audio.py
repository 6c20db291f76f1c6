"""Audio segments from raw shards, for training a codec."""

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils.data import Dataset

from maskgen.data.loading.kept import KEPT_BYTES, MediaCache
from maskgen.data.loading.order import Draw, chance
from maskgen.data.loading.rows import ShardRows
from maskgen.io.audio import mixed_down


class AudioRows(Dataset[Tensor]):
    """Audio segments of equal length from one split, mono, float32 in [-1, 1]; decoded as int16 when they are drawn.

    Args:
        rows: Rows of raw shards with audio of the wanted rate.
        samples: Length of a segment; shorter clips are padded with silence.
        sample_rate_hz: Sample rate of the clips.
        seed: With draw and key, decides where a segment begins.
        most_bytes: Bytes of decoded clips that are kept at most.
    """

    def __init__(self, rows: ShardRows, samples: int, sample_rate_hz: int, seed: int = 0, most_bytes: int = KEPT_BYTES) -> None:
        self.rows, self.samples, self.sample_rate_hz, self.seed = rows, samples, sample_rate_hz, seed
        self.kept: MediaCache[np.ndarray] = MediaCache(most_bytes)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, draw: Draw) -> Float[Tensor, " samples"]:
        row, number = draw
        sound = self.sound(row)
        spare = max(0, len(sound) - self.samples)
        start = spare // 2 if number < 0 else int(chance(self.seed, "stretch", number, self.rows.key(row)) * (spare + 1))
        stretch = sound[start : start + self.samples].astype(np.float32) / 2**15
        return torch.from_numpy(np.pad(stretch, (0, self.samples - len(stretch))))

    def sound(self, row: int) -> np.ndarray:
        """One clip as int16 [samples], its channels mixed down.

        Raises:
            ValueError: If it has another rate.
        """
        return self.kept.get(row, lambda: self._decoded(row))

    def _decoded(self, row: int) -> np.ndarray:
        rate_hz = self.rows.meta(row)["sample_rate_hz"]
        if rate_hz != self.sample_rate_hz:
            raise ValueError(
                f"sound {self.rows.key(row)} has {rate_hz} Hz, the training wants {self.sample_rate_hz}; build the shards at that rate"
            )
        mixed: np.ndarray = mixed_down(self.rows.field(row, "flac"))[0]
        sound: np.ndarray = np.clip(np.rint(mixed * 2**15), -(2**15), 2**15 - 1).astype(np.int16)
        return sound
