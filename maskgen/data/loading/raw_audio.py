"""Stretches of the sounds of raw shards, for training a codec."""

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils.data import Dataset

from maskgen.data.loading.order import Draw, chance
from maskgen.data.loading.rows import ShardRows


class SoundRows(Dataset[Tensor]):
    """Stretches of equal length of one split, mono, float32 in [-1, 1]; each sound is decoded once and stays in memory as 16 bits.

    Args:
        rows: Rows of raw shards with sound of the wanted rate.
        samples: Length of a stretch; shorter sounds are padded with silence.
        sample_rate_hz: Rate wanted.
        seed: With draw and key, decides where a stretch begins.
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
        """One sound as Int16 [samples], the mean of its channels.

        Raises:
            ValueError: If it has another rate.
        """
        if row not in self.sounds:
            found = self.rows.meta(row)["sample_rate_hz"]
            if found != self.sample_rate_hz:
                raise ValueError(
                    f"sound {self.rows.key(row)} has {found} Hz, the training wants {self.sample_rate_hz}; build the shards at that rate"
                )
            samples = self.rows.field(row, "flac")
            self.sounds[row] = np.clip(np.rint(samples.mean(axis=0) * 2**15), -(2**15), 2**15 - 1).astype(np.int16)
        return self.sounds[row]
