"""Audio spectra: short-time Fourier transforms, mel bands, pitch, and the pulse excitation of the decoder."""

import math
from functools import lru_cache

import torch
from jaxtyping import Bool, Complex, Float
from torch import Tensor
from torch.nn import functional

LOWEST_PITCH_HZ, HIGHEST_PITCH_HZ = 60.0, 500.0
DIP_BELOW = 0.2
"""Normalised difference below which the first dip is the period."""
VOICED_BELOW = 0.5
"""Normalised difference at the period below which a frame counts as periodic; gliding speech never gets near 0."""
LOUD_ABOVE = 1e-3
"""Root mean square below which a frame counts as silence."""


def stft(waves: Float[Tensor, "batch samples"], window: int, hop: int, frames: int | None = None) -> Complex[Tensor, "batch bins frames"]:
    """Short-time Fourier transform with a Hann window, frame `t` centred on sample `t * hop`.

    Args:
        waves: Waveforms; their ends are mirrored, or padded with zeros where they are shorter than half a window.
        window: Length of the window and of the transform in samples.
        hop: Samples between frames.
        frames: Number of frames to keep from the start; None keeps all, samples // hop + 1.
    """
    mode = "reflect" if waves.shape[-1] > window // 2 else "constant"
    padded = functional.pad(waves[:, None], (window // 2, window // 2), mode=mode)[:, 0]
    hann = torch.hann_window(window, device=waves.device)
    found = torch.stft(padded, window, hop, window=hann, center=False, return_complex=True)
    return found if frames is None else found[..., :frames]


def inverse_stft(spectrum: Complex[Tensor, "batch bins frames"], window: int, hop: int, samples: int) -> Float[Tensor, "batch samples"]:
    """Waveform of a spectrum, by overlap-add normalised with the squared window; the inverse of `stft`.

    Args:
        spectrum: Any spectrum; it need not be the STFT of a waveform.
        window: As in `stft`; at least twice the hop.
        hop: As in `stft`.
        samples: Length of the result, at most frames * hop.
    """
    hann = torch.hann_window(window, device=spectrum.device)
    pieces = torch.fft.irfft(spectrum, n=window, dim=1) * hann[:, None]
    frames = spectrum.shape[-1]
    whole = (frames - 1) * hop + window

    def overlapped(parts: Tensor) -> Tensor:
        return functional.fold(parts, (1, whole), (1, window), stride=(1, hop))[:, 0, 0]

    weight = overlapped(hann.square()[None, :, None].expand(1, window, frames)).clamp(min=1e-6)
    return (overlapped(pieces) / weight)[:, window // 2 : window // 2 + samples]


@lru_cache(maxsize=16)
def mel_bands(sample_rate_hz: int, window: int, bands: int) -> Float[Tensor, "bands bins"]:
    """Triangular mel filters of unit peak, equally spaced on the mel scale from 0 to half the sample rate.

    Source: mel = 2595 log10(1 + f / 700), O'Shaughnessy 1987 (the "HTK" scale).
    """
    top = 2595.0 * math.log10(1.0 + sample_rate_hz / 2 / 700.0)
    edges = 700.0 * (10.0 ** (torch.linspace(0.0, top, bands + 2, dtype=torch.float64) / 2595.0) - 1.0)
    bins = torch.linspace(0.0, sample_rate_hz / 2, window // 2 + 1, dtype=torch.float64)
    rise = (bins[None] - edges[:-2, None]) / (edges[1:-1] - edges[:-2])[:, None]
    fall = (edges[2:, None] - bins[None]) / (edges[2:] - edges[1:-1])[:, None]
    return torch.minimum(rise, fall).clamp(min=0.0).float()


def log_mel(
    waves: Float[Tensor, "batch samples"], sample_rate_hz: int, window: int, hop: int, bands: int, frames: int | None = None
) -> Float[Tensor, "batch bands frames"]:
    """Natural logarithm of the mel magnitude spectrum, clamped from below at 1e-5."""
    magnitudes = stft(waves, window, hop, frames).abs()
    return (mel_bands(sample_rate_hz, window, bands).to(waves.device) @ magnitudes).clamp(min=1e-5).log()


@torch.no_grad()
def pitch(
    waves: Float[Tensor, "batch samples"], sample_rate_hz: int, hop: int, frames: int
) -> tuple[Float[Tensor, "batch frames"], Bool[Tensor, "batch frames"]]:
    """Fundamental frequency in Hz of frames centred on `t * hop`, and which frames are voiced.

    Args:
        waves: Waveforms.
        sample_rate_hz: Their sample rate.
        hop: Samples between frames.
        frames: Number of frames.

    Returns:
        Frequencies in [60, 500] Hz (meaningless where unvoiced), and voicing.

    Source: YIN, de Cheveigne and Kawahara 2002: steps 1 to 5 (difference function, cumulative mean, first dip, parabola),
    then a median over three frames.
    """
    longest, shortest = math.ceil(sample_rate_hz / LOWEST_PITCH_HZ), math.floor(sample_rate_hz / HIGHEST_PITCH_HZ)
    window = 3 * longest
    # The samples compared at a middle lag span 5/6 of the piece; that span, not the piece, is centred on the frame.
    padded = functional.pad(waves, (5 * window // 12, window + hop))
    pieces = padded.unfold(1, window, hop)[:, :frames]
    pieces = pieces - pieces.mean(dim=-1, keepdim=True)
    normal = _normalised_difference(pieces, longest)
    dips = normal[..., 1:-1]
    valley = (dips < normal[..., :-2]) & (dips <= normal[..., 2:]) & (dips < DIP_BELOW)
    valley[..., : shortest - 1] = False
    first = valley.float().argmax(dim=-1) + 1
    lag = torch.where(valley.any(dim=-1), first, normal[..., shortest:].argmin(dim=-1) + shortest).clamp(1, longest - 1)
    before, here, after = (normal.gather(-1, (lag + step)[..., None])[..., 0] for step in (-1, 0, 1))
    shift = (0.5 * (before - after) / (before - 2 * here + after).clamp(min=1e-6)).clamp(-0.5, 0.5)
    voiced = (here < VOICED_BELOW) & (pieces.square().mean(dim=-1).sqrt() > LOUD_ABOVE)
    hz = (sample_rate_hz / (lag + shift)).clamp(LOWEST_PITCH_HZ, HIGHEST_PITCH_HZ)
    return median_of_three(hz), median_of_three(voiced.float()) > 0.5


def median_of_three(values: Float[Tensor, "batch frames"]) -> Float[Tensor, "batch frames"]:
    """Median of each value and its two neighbours, which removes outliers of one frame."""
    around = functional.pad(values[:, None], (1, 1), mode="replicate")[:, 0].unfold(1, 3, 1)
    return around.median(dim=-1).values


def _normalised_difference(pieces: Float[Tensor, "batch frames window"], longest: int) -> Float[Tensor, "batch frames lags"]:
    """Cumulative mean normalised difference of each piece for lags 0 to `longest`, over a common span of the piece."""
    window = pieces.shape[-1]
    stretch = window - longest
    size = 2 ** math.ceil(math.log2(window + stretch))
    spectrum = torch.fft.rfft(pieces, size)
    head = torch.fft.rfft(pieces[..., :stretch], size)
    products = torch.fft.irfft(spectrum * head.conj(), size)[..., : longest + 1]
    energy = functional.pad(pieces.double().square().cumsum(dim=-1), (1, 0))
    energies = (energy[..., stretch : stretch + longest + 1] - energy[..., : longest + 1]).float()
    difference = (energies[..., :1] + energies - 2 * products).clamp(min=0.0)
    lags = torch.arange(longest + 1, device=pieces.device)
    mean = difference[..., 1:].cumsum(dim=-1) / lags[1:]
    return torch.cat([torch.ones_like(difference[..., :1]), difference[..., 1:] / mean.clamp(min=1e-9)], dim=-1)


def pulses(
    pitch_hz: Float[Tensor, "batch frames"], voiced: Bool[Tensor, "batch frames"], sample_rate_hz: int, hop: int
) -> Float[Tensor, "batch samples"]:
    """Band-limited pulse train at the pitch: all harmonics below half the sample rate, each of amplitude 1; 0 where unvoiced.

    Args:
        pitch_hz: Pitch of frames centred on `t * hop`; it is interpolated linearly between them.
        voiced: Which frames are voiced; a sample belongs to the nearest frame.
        sample_rate_hz: Sample rate of the result.
        hop: Samples per frame.

    Source: the source of harmonic-plus-noise models, NSF, arXiv:1904.12088; the sum of cosines in closed form is Dirichlet's kernel.
    """
    frames = pitch_hz.shape[1]
    place = torch.arange(frames * hop, device=pitch_hz.device, dtype=torch.float64) / hop
    left = place.floor().long()
    right, share = (left + 1).clamp(max=frames - 1), (place - left).float()
    hz = pitch_hz[:, left] * (1 - share) + pitch_hz[:, right] * share
    cycles = hz.double().cumsum(dim=1) / sample_rate_hz
    angle = (2 * math.pi * (cycles - cycles.floor())).float()
    harmonics = (0.49 * sample_rate_hz / hz).floor() + 0.5
    below = 2 * (angle / 2).sin()
    near = below.abs() < 2e-3
    kernel = torch.where(near, harmonics, (harmonics * angle).sin() / torch.where(near, torch.ones_like(below), below)) - 0.5
    nearest = place.round().long().clamp(max=frames - 1)
    return kernel * voiced[:, nearest]
