"""Base class of audio tokenizers: files, sample rates, channels and exact lengths."""

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
    """Base class of audio tokenizers, which convert waveforms to codes [level, frames] and back.

    A waveform of another rate or channel count is converted first: channels by their mean, then the rate by soxr. `n` samples take
    ceil(n / samples_per_frame) frames, and `decode` gives frames * samples_per_frame samples, or as many as requested.

    Attributes:
        sample_rate_hz: Sample rate that the codec works at.
        channels: Channels that the codec works with.
        samples_per_frame: Samples per frame of codes.
    """

    kind: ClassVar[Kind] = "audio"
    sample_rate_hz: int
    channels: int
    samples_per_frame: int

    @property
    def frames_per_s(self) -> float:
        """Frames of codes per second."""
        return self.sample_rate_hz / self.samples_per_frame

    @property
    def bits_per_s(self) -> float:
        """Bits per second of audio, when stored as codes."""
        return float(self.frames_per_s * self.num_levels * np.log2(self.codebook_size))

    def frames(self, samples: int) -> int:
        """Return the number of frames for a number of samples at the tokenizer's rate."""
        return -(-samples // self.samples_per_frame)

    def read(self, path: Path | str) -> Waveform:
        """Read an audio file; see `maskgen.io.audio.read_sound`."""
        return read_sound(path)

    def write(self, media: Waveform, path: Path | str) -> None:
        """Write an audio file; see `maskgen.io.audio.write_sound`."""
        write_sound(media, path)

    def fitted(self, media: Sequence[Waveform]) -> list[Float[Tensor, "channels samples"]]:
        """Convert waveforms to samples at the tokenizer's rate and channel count.

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
        """Raise if codes cannot be decoded.

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
        """Decode code grids [level, frames] to waveforms. Fewer levels than `num_levels` give coarser audio if the codec allows it.

        Args:
            codes: Code grids without unknown cells.
            samples: Length of each waveform, at most frames * samples_per_frame; None keeps all samples.

        Raises:
            ValueError: If a grid has another shape, unknown cells or codes out of range, or a length does not fit its frames.
        """

    def cut(self, waves: Sequence[Float[Tensor, "channels _"]], samples: Sequence[int] | None) -> list[Waveform]:
        """Cut decoded samples to the requested lengths and clip them to [-1, 1].

        Raises:
            ValueError: If a length is below 1 or exceeds the decoded samples.
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
