"""How long each phoneme of a text lasts: predicted, or sharing out a length that was asked for."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from maskgen.networks.durations import DurationPredictor, whole_frames
from maskgen.tokenizers.phonemes import PhonemeTokenizer
from maskgen.tokens.batch import Codes

SHORTEST_SPEECH_S = 0.3
"""A text whose phonemes would take less is spoken at this length."""
PACES = (0.25, 4.0)
"""Slowest and fastest pace, relative to the voice's own, at which phonemes can still be told apart."""


@dataclass(frozen=True)
class PhonemeTiming:
    """Phonemes of texts with whole frames of a codec.

    Args:
        phones: The phoneme tokenizer.
        durations: How long each phoneme lasts.
        sample_rate_hz: Of the codec.
        samples_per_frame: Samples that one frame of the codec stands for.
    """

    phones: PhonemeTokenizer
    durations: DurationPredictor
    sample_rate_hz: int
    samples_per_frame: int

    @property
    def frames_per_s(self) -> float:
        """Frames of codes a second."""
        return self.sample_rate_hz / self.samples_per_frame

    def timed(self, sentences: Sequence[str], speaker: int, seconds: float | None, speed: float, edges: bool = True) -> list[Codes]:
        """Phonemes of each sentence with the frames that each lasts.

        Raises:
            ValueError: If the length or pace is out of range.
        """
        if not PACES[0] <= speed <= PACES[1]:
            raise ValueError(f"speed must lie in {PACES[0]:g} to {PACES[1]:g}, got {speed:g}")
        if seconds is not None and speed != 1.0:
            raise ValueError("seconds and speed both decide the pace; give one of them")
        codes = [self.phones.encode([sentence])[0][:, 0 if edges else 1 : None if edges else -1] for sentence in sentences]
        natural = [self.durations.frames(grid[0], speaker) * (self.frames_per_s / self.durations.config.frames_per_s) for grid in codes]
        floor = SHORTEST_SPEECH_S * self.frames_per_s
        natural = [frames * max(1.0, floor / float(frames.sum())) / speed for frames in natural]
        totals = self._totals(natural, seconds)
        return [torch.stack([grid[0], whole_frames(frames, total)]) for grid, frames, total in zip(codes, natural, totals, strict=True)]

    def _totals(self, natural: Sequence[Float[Tensor, " _"]], seconds: float | None) -> list[int]:
        """Frames of each sentence: as predicted, or sharing out the seconds asked for.

        Raises:
            ValueError: If so many seconds would be too fast or too slow to be understood.
        """
        lengths = [float(frames.sum()) for frames in natural]
        if seconds is None:
            return [max(1, round(length)) for length in lengths]
        own = sum(lengths) / self.frames_per_s
        if not own / PACES[1] <= seconds <= own / PACES[0]:
            raise ValueError(
                f"seconds is {seconds:g}; this text takes {own:.2f} s at the voice's own pace, "
                f"and {own / PACES[1]:.2f} to {own / PACES[0]:.2f} s are possible"
            )
        wanted = -(-round(seconds * self.sample_rate_hz) // self.samples_per_frame)
        ends = np.rint(np.cumsum(lengths) * wanted / sum(lengths)).astype(int)
        return [max(1, int(frames)) for frames in np.diff(ends, prepend=0)]


def pauses(frames: int) -> Codes:
    """So many frames as pauses of at most 127, which put what follows at its place in time."""
    lengths = [127] * (frames // 127) + [frames % 127] * (frames % 127 > 0)
    return torch.tensor([[0] * len(lengths), lengths], dtype=torch.long)
