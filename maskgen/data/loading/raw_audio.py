"""Audio segments from raw shards, for training a codec."""

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils.data import Dataset

from maskgen.data.loading.order import Draw, chance
from maskgen.data.loading.rows import ShardRows
from maskgen.io.audio import mixed_down


class AudioRows(Dataset[Tensor]):
    """Audio segments of equal length from one split, mono, float32 in [-1, 1]; each clip is decoded once and kept in memory as int16.

    Args:
        rows: Rows of raw shards with audio of the wanted rate.
        samples: Length of a segment; shorter clips are padded with silence.
        sample_rate_hz: Sample rate of the clips.
        seed: With draw and key, decides where a segment begins.
    """

    def __init__(self, rows: ShardRows, samples: int, sample_rate_hz: int, seed: int = 0) -> None:
        self.rows, self.samples, self.sample_rate_hz, self.seed = rows, samples, sample_rate_hz, seed
        self.sounds: dict[int, np.ndarray] = {}

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
        if row not in self.sounds:
            rate_hz = self.rows.meta(row)["sample_rate_hz"]
            if rate_hz != self.sample_rate_hz:
                raise ValueError(
                    f"sound {self.rows.key(row)} has {rate_hz} Hz, the training wants {self.sample_rate_hz}; build the shards at that rate"
                )
            samples = self.rows.field(row, "flac")
            self.sounds[row] = np.clip(np.rint(mixed_down(samples)[0] * 2**15), -(2**15), 2**15 - 1).astype(np.int16)
        return self.sounds[row]
