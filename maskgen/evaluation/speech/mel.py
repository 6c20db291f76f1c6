"""Mel spectrograms in plain torch: inputs of the judges of speech, and small images for reports."""

import math

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from maskgen.io.audio import Waveform, mixed_down

LINEAR_HZ = 200 / 3
"""Width of a mel below 1000 Hz; above, mels are logarithmic (Slaney's scale)."""
BREAK_HZ = 1000.0
LOG_STEP = math.log(6.4) / 27
PICTURE_RANGE_DB = 80.0
PICTURE_HOP_S = 0.02
PICTURE_MELS = 64


def mel_filters(sample_rate_hz: int, window: int, num_mels: int) -> Float[Tensor, "mels bins"]:
    """Triangular filters of equal area from 0 Hz to half the rate, evenly spaced in mels.

    Args:
        sample_rate_hz: Rate of the audio.
        window: Samples of a Fourier transform.
        num_mels: Filters.

    Returns:
        Weight of each of the window // 2 + 1 frequencies in each filter, as `librosa.filters.mel` gives it by default.

    Source: Slaney, Auditory Toolbox, 1998.
    """
    bins_hz = torch.arange(window // 2 + 1, dtype=torch.float64) * sample_rate_hz / window
    half_hz = sample_rate_hz / 2
    top = half_hz / LINEAR_HZ if half_hz < BREAK_HZ else BREAK_HZ / LINEAR_HZ + math.log(half_hz / BREAK_HZ) / LOG_STEP
    mels = torch.linspace(0, top, num_mels + 2, dtype=torch.float64)
    beyond = BREAK_HZ * torch.exp((mels - BREAK_HZ / LINEAR_HZ) * LOG_STEP)
    edges_hz = torch.where(mels < BREAK_HZ / LINEAR_HZ, mels * LINEAR_HZ, beyond)
    low, middle, high = (edges_hz[start : start + num_mels, None] for start in range(3))
    rising = (bins_hz - low) / (middle - low)
    falling = (high - bins_hz) / (high - middle)
    return (torch.minimum(rising, falling).clamp(min=0) * 2 / (high - low)).float()


def mel_power(
    samples: Float[Tensor, " samples"], sample_rate_hz: int, *, window: int, hop: int, num_mels: int
) -> Float[Tensor, "mels frames"]:
    """Power in each mel filter of each frame; frames are centred, the ends padded with zeros.

    Args:
        samples: A mono sound in [-1, 1].
        sample_rate_hz: Its rate.
        window: Samples of a Hann window and of its Fourier transform.
        hop: Samples from frame to frame.
        num_mels: Filters.
    """
    hann = torch.hann_window(window)
    spectrum = torch.stft(samples.float(), window, hop, window=hann, center=True, pad_mode="constant", return_complex=True)
    return mel_filters(sample_rate_hz, window, num_mels) @ spectrum.abs().square()


def decibels(power: Float[Tensor, "mels frames"], range_db: float = 80.0) -> Float[Tensor, "mels frames"]:
    """Decibels relative to the loudest cell, from -range_db to 0; silence is 0 everywhere."""
    level = 10 * power.clamp(min=1e-10).log10()
    return (level - level.max()).clamp(min=-range_db)


def mel_picture(wave: Waveform) -> Image.Image:
    """A grey-scale mel spectrogram, dark where it is loud: one column per 20 ms, low frequencies at the bottom.

    Args:
        wave: Any audio clip; its channels are mixed down.
    """
    samples = torch.from_numpy(mixed_down(wave.samples)[0])
    window, hop = round(0.04 * wave.sample_rate_hz), round(PICTURE_HOP_S * wave.sample_rate_hz)
    power = mel_power(samples, wave.sample_rate_hz, window=window, hop=hop, num_mels=PICTURE_MELS)
    if float(power.max()) < 1e-10:
        return Image.new("L", (power.shape[1], PICTURE_MELS), 255)
    grey = (-decibels(power, PICTURE_RANGE_DB) / PICTURE_RANGE_DB * 255).round().to(torch.uint8)
    return Image.fromarray(grey.flip(0).numpy())
