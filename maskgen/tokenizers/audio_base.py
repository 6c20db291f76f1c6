"""What every tokenizer of sound shares: files, rates, channels and exact lengths."""

from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from maskgen.io.audio import Waveform, fit_audio, read_sound, write_sound
from maskgen.tokenizers.base import Tokenizer
from maskgen.tokens.batch import UNKNOWN, Codes
from maskgen.tokens.space import Kind


class SoundTokenizer(Tokenizer):
    """A codec: waveforms to codes [level, frames] and back.

    A waveform of another rate or channel count is fitted first: channels by their mean, then the rate by soxr. `n` samples take
    ceil(n / samples_per_frame) frames, and `decode` gives frames * samples_per_frame samples, or as many as are asked for.

    Attributes:
        sample_rate_hz: Rate of the waveforms inside.
        channels: Their channels.
        samples_per_frame: Samples that one frame of codes stands for.
    """

    kind: ClassVar[Kind] = "audio"
    sample_rate_hz: int
    channels: int
    samples_per_frame: int

    @property
    def frames_per_s(self) -> float:
        """Frames of codes a second."""
        return self.sample_rate_hz / self.samples_per_frame

    @property
    def bits_per_s(self) -> float:
        """Bits that a second of sound takes as codes."""
        return float(self.frames_per_s * self.num_levels * np.log2(self.codebook_size))

    def frames(self, samples: int) -> int:
        """Frames that so many samples at the tokenizer's rate take."""
        return -(-samples // self.samples_per_frame)

    def read(self, path: Path | str) -> Waveform:
        """See `maskgen.io.audio.read_sound`."""
        return read_sound(path)

    def write(self, media: Waveform, path: Path | str) -> None:
        """See `maskgen.io.audio.write_sound`."""
        write_sound(media, path)

    def fitted(self, media: Sequence[Waveform]) -> list[Float[Tensor, "channels samples"]]:
        """Samples at the tokenizer's rate and channels.

        Raises:
            ValueError: If a waveform is empty or holds NaN or infinity.
        """
        found = []
        for number, wave in enumerate(media):
            if not wave.samples.shape[1] or not np.isfinite(wave.samples).all():
                what = "NaN or infinite samples" if wave.samples.shape[1] else "no samples"
                raise ValueError(f"sound {number} has {what}; give sound of finite samples")
            fit, _ = fit_audio(wave, self.sample_rate_hz, self.channels)
            found.append(torch.from_numpy(np.ascontiguousarray(fit.samples, dtype=np.float32)))
        return found

    def checked(self, codes: Sequence[Codes]) -> None:
        """Refuses codes that cannot be decoded.

        Raises:
            ValueError: If a grid has another shape, unknown cells or codes out of range.
        """
        for grid in codes:
            if grid.ndim != 2 or not 1 <= grid.shape[0] <= self.num_levels or not grid.shape[1]:
                raise ValueError(f"codes have shape {tuple(grid.shape)}, wanted [1 to {self.num_levels} levels, frames]")
            low, high = int(grid.min()), int(grid.max())
            if low < 0 or high >= self.codebook_size:
                raise ValueError(f"codes must lie in [0, {self.codebook_size}), got {low} to {high} ({UNKNOWN} is an unknown cell)")

    @abstractmethod
    def decode(self, codes: Sequence[Codes], samples: Sequence[int] | None = None) -> list[Waveform]:
        """Waveforms of code grids [level, frames]; fewer levels than `num_levels` give a coarser sound where the codec allows it.

        Args:
            codes: Known codes.
            samples: Length of each waveform, at most frames * samples_per_frame; None takes all of it.

        Raises:
            ValueError: If a grid has another shape, unknown cells or codes out of range, or a length does not fit its frames.
        """

    def cut(self, waves: Sequence[Float[Tensor, "channels _"]], samples: Sequence[int] | None) -> list[Waveform]:
        """Decoded samples as waveforms of the lengths asked for, clipped to [-1, 1].

        Raises:
            ValueError: If a length is below 1 or beyond what was decoded.
        """
        lengths = [wave.shape[1] for wave in waves] if samples is None else list(samples)
        if len(lengths) != len(waves):
            raise ValueError(f"{len(waves)} sounds need as many lengths, got {len(lengths)}")
        for wave, length in zip(waves, lengths, strict=True):
            if not 1 <= length <= wave.shape[1]:
                raise ValueError(f"a length must lie in 1 to {wave.shape[1]} samples, got {length}")
        return [
            Waveform(samples=wave[:, :length].float().clamp(-1, 1).cpu().numpy(), sample_rate_hz=self.sample_rate_hz)
            for wave, length in zip(waves, lengths, strict=True)
        ]
