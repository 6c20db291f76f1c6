"""Networks of the audio codec: a mel encoder, a quantizer, a decoder that filters two excitations, and spectrum discriminators."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import torch
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional

from maskgen.autoencoders.quantizers import Quantizer
from maskgen.autoencoders.spectra import inverse_stft, log_mel, pulses, stft

STEPS_PER_FRAME = 2
"""Number of inner frames of the encoder and decoder per frame of codes."""
LARGEST_LOG = 6.0


@dataclass(frozen=True, kw_only=True)
class AudioAutoencoderConfig:
    """Configuration of the audio codec.

    Args:
        sample_rate_hz: Sample rate of the waveforms.
        samples_per_frame: Samples per frame of codes; even.
        window: Window of the decoder in samples: a multiple of the inner hop (half a frame), at least four inner hops.
        mel_bands: Mel bands of the encoder's input.
        encoder_dim: Width of the encoder.
        encoder_layers: Blocks of the encoder; a third of them run before the downsampling from inner frames to frames.
        decoder_dim: Width of the decoder.
        decoder_layers: Blocks of the decoder; a third of them run before the upsampling from frames to inner frames.

    Raises:
        ValueError: If a size is not positive or `samples_per_frame` and `window` are incompatible.
    """

    sample_rate_hz: int = 16_000
    samples_per_frame: int = 400
    window: int = 800
    mel_bands: int = 80
    encoder_dim: int = 192
    encoder_layers: int = 6
    decoder_dim: int = 320
    decoder_layers: int = 8

    def __post_init__(self) -> None:
        if min(vars(self).values()) < 1:
            raise ValueError(f"all sizes must be at least 1, got {vars(self)}")
        if self.samples_per_frame % STEPS_PER_FRAME or self.window % self.hop or self.window < 4 * self.hop:
            raise ValueError(
                f"samples_per_frame must be even and window a multiple of its half, four times that at least; "
                f"got samples_per_frame={self.samples_per_frame}, window={self.window}"
            )

    @property
    def hop(self) -> int:
        """Samples per inner frame."""
        return self.samples_per_frame // STEPS_PER_FRAME

    @property
    def bins(self) -> int:
        """Frequency bins of the decoder's spectrum."""
        return self.window // 2 + 1


class Voice(NamedTuple):
    """Output of the decoder for each inner frame.

    Args:
        shape: Log-magnitudes of the pulses, their phase, log-magnitudes of the noise, and log-magnitude and phase of an unconstrained part.
        log_pitch: Natural logarithm of the pitch in Hz.
        voicing: Logit that the frame is voiced.
    """

    shape: Float[Tensor, "batch frames shapes"]
    log_pitch: Float[Tensor, "batch frames"]
    voicing: Float[Tensor, "batch frames"]


class ConvNeXtBlock(nn.Module):
    """Residual block: a depthwise convolution over time and a pointwise network. Source: ConvNeXt, arXiv:2201.03545."""

    def __init__(self, dim: int, kernel: int = 7) -> None:
        super().__init__()
        self.depthwise = nn.Conv1d(dim, dim, kernel, padding=kernel // 2, groups=dim)
        self.norm = nn.LayerNorm(dim)
        self.into = nn.Linear(dim, 3 * dim)
        self.out = nn.Linear(3 * dim, dim)
        nn.init.normal_(self.out.weight, std=0.01)
        nn.init.zeros_(self.out.bias)

    def forward(self, x: Float[Tensor, "batch frames dim"]) -> Float[Tensor, "batch frames dim"]:
        mixed = self.depthwise(x.transpose(1, 2)).transpose(1, 2)
        change: Tensor = self.out(functional.gelu(self.into(self.norm(mixed))))
        return x + change


class AudioEncoder(nn.Module):
    """Encode log-mel frames as vectors to quantize, one per frame of codes."""

    def __init__(self, config: AudioAutoencoderConfig, dim: int) -> None:
        super().__init__()
        width, early = config.encoder_dim, max(1, config.encoder_layers // 3)
        self.into = nn.Linear(config.mel_bands, width)
        self.early = nn.Sequential(*(ConvNeXtBlock(width) for _ in range(early)))
        self.join = nn.Linear(STEPS_PER_FRAME * width, width)
        self.late = nn.Sequential(*(ConvNeXtBlock(width) for _ in range(max(1, config.encoder_layers - early))))
        self.norm = nn.LayerNorm(width)
        self.out = nn.Linear(width, dim)

    def forward(self, mel: Float[Tensor, "batch bands inner"]) -> Float[Tensor, "batch frames dim"]:
        x = self.early(self.into(mel.transpose(1, 2)))
        x = self.late(self.join(rearrange(x, "b (t s) d -> b t (s d)", s=STEPS_PER_FRAME)))
        out: Tensor = self.out(self.norm(x))
        return out


class AudioDecoder(nn.Module):
    """Decode quantized vectors to the voice parameters of each inner frame."""

    def __init__(self, config: AudioAutoencoderConfig, dim: int) -> None:
        super().__init__()
        width, early = config.decoder_dim, max(1, config.decoder_layers // 3)
        self.into = nn.Linear(dim, width)
        self.early = nn.Sequential(*(ConvNeXtBlock(width) for _ in range(early)))
        self.split = nn.Linear(width, STEPS_PER_FRAME * width)
        self.late = nn.Sequential(*(ConvNeXtBlock(width) for _ in range(max(1, config.decoder_layers - early))))
        self.norm = nn.LayerNorm(width)
        self.shape = nn.Linear(width, 5 * config.bins)
        self.pitch = nn.Linear(width, 2)
        with torch.no_grad():
            self.shape.weight.mul_(0.3)
            bias = self.shape.bias.view(5, config.bins)
            for part, level in enumerate((-4.0, 0.0, -5.0, -7.0, 0.0)):
                bias[part] = level
            self.pitch.bias.copy_(torch.tensor([5.0, 0.0]))

    def forward(self, values: Float[Tensor, "batch frames dim"]) -> Voice:
        x = rearrange(self.split(self.early(self.into(values))), "b t (s d) -> b (t s) d", s=STEPS_PER_FRAME)
        x = self.norm(self.late(x))
        pitch = self.pitch(x).float()
        return Voice(self.shape(x).float(), pitch[..., 0], pitch[..., 1])


class AudioAutoencoder(nn.Module):
    """Encode audio as code grids and decode it.

    The decoder predicts no waveform. For each frame it predicts the filters of a pulse train at the pitch and of a noise, and an
    unconstrained spectrum that is added; one inverse STFT gives the waveform. Pulses and noise have coherent phase, so losses on magnitudes
    alone are enough for fast training.

    Args:
        config: Configuration of encoder and decoder.
        quantizer: Quantizer between encoder and decoder.

    Source: ISTFT head of Vocos, arXiv:2306.00814; harmonic-plus-noise source of NSF, arXiv:1904.12088, filtered in the spectrum as in
    iSTFTNet, arXiv:2203.02395, and DDSP, arXiv:2001.04643.
    """

    def __init__(self, config: AudioAutoencoderConfig, quantizer: Quantizer) -> None:
        super().__init__()
        self.config, self.quantizer = config, quantizer
        self.encoder = AudioEncoder(config, quantizer.dim)
        self.decoder = AudioDecoder(config, quantizer.dim)

    def frames(self, samples: int) -> int:
        """Number of frames of codes for this number of samples."""
        return -(-samples // self.config.samples_per_frame)

    def encode(self, waves: Float[Tensor, "batch samples"]) -> Float[Tensor, "batch frames dim"]:
        """Vectors before quantization; the end is padded with silence to whole frames."""
        frames = self.frames(waves.shape[1])
        padded = functional.pad(waves, (0, frames * self.config.samples_per_frame - waves.shape[1]))
        config = self.config
        mel = log_mel(padded.float(), config.sample_rate_hz, 1024, config.hop, config.mel_bands, STEPS_PER_FRAME * frames)
        values: Tensor = self.encoder(mel * 0.25 + 0.5)
        return values

    def codes(self, waves: Float[Tensor, "batch samples"]) -> Int[Tensor, "batch level frames"]:
        """Codes of waveforms."""
        codes: Tensor = self.quantizer(self.encode(waves).float()).codes
        return codes

    def sound(
        self,
        shape: Float[Tensor, "batch frames shapes"],
        pitch_hz: Float[Tensor, "batch frames"],
        voiced: Bool[Tensor, "batch frames"],
        noise: Float[Tensor, "batch samples"],
    ) -> Float[Tensor, "batch samples"]:
        """Waveform synthesised from the decoder's output.

        Args:
            shape: See Voice.
            pitch_hz: Pitch of each inner frame.
            voiced: Which inner frames are voiced.
            noise: White noise of unit variance, frames * hop samples.
        """
        return self.filtered(shape, pulses(pitch_hz, voiced, self.config.sample_rate_hz, self.config.hop), noise)

    def filtered(
        self, shape: Float[Tensor, "batch frames shapes"], source: Float[Tensor, "batch samples"], noise: Float[Tensor, "batch samples"]
    ) -> Float[Tensor, "batch samples"]:
        """Spectrum of pulses and noise after the filters of each frame, plus the unconstrained part."""
        config, frames = self.config, shape.shape[1]
        loud, turn, hiss, free, phase = rearrange(shape, "b t (five k) -> five b k t", five=5)
        voice = stft(source, config.window, config.hop, frames) / (config.window / 4)
        breath = stft(noise, config.window, config.hop, frames) / (config.window * 3 / 8) ** 0.5
        spectrum = torch.polar(loud.clamp(max=LARGEST_LOG).exp(), torch.pi * turn.tanh()) * voice
        spectrum = spectrum + hiss.clamp(max=LARGEST_LOG).exp() * breath + torch.polar(free.clamp(max=LARGEST_LOG).exp(), phase)
        return inverse_stft(spectrum, config.window, config.hop, frames * config.hop)


class SpectrumDiscriminator(nn.Module):
    """Classify each patch of a spectrum as original or reconstructed.

    Args:
        window: Window in samples; the hop is a quarter of it.
        channels: Number of channels.

    Source: the multi-resolution discriminators of UnivNet, arXiv:2106.07889, and EnCodec, arXiv:2210.13438, on magnitudes.
    """

    def __init__(self, window: int, channels: int = 24) -> None:
        super().__init__()
        self.window = window
        widths = [1, channels, channels, channels, channels]
        self.layers = nn.ModuleList(
            nn.Conv2d(
                before,
                after,
                (7, 5) if not place else (5, 3),
                stride=(2, 1) if place < 3 else (2, 2),
                padding=(3, 2) if not place else (2, 1),
            )
            for place, (before, after) in enumerate(pairwise(widths))
        )
        self.verdict = nn.Conv2d(channels, 1, 3, padding=1)

    def forward(self, waves: Float[Tensor, "batch samples"]) -> tuple[Tensor, list[Tensor]]:
        """Logits of the patches `[batch 1 bins frames]`, and the features of the layers before."""
        x = (stft(waves, self.window, self.window // 4).abs() + 1e-5).log()[:, None]
        features = []
        for layer in self.layers:
            x = functional.leaky_relu(layer(x), 0.1)
            features.append(x)
        return self.verdict(x), features


class SpectrumDiscriminators(nn.Module):
    """Discriminators at several resolutions, one SpectrumDiscriminator each.

    Args:
        windows: Window of each in samples.
        channels: Number of channels of each.
    """

    def __init__(self, windows: Sequence[int] = (512, 1024, 2048), channels: int = 24) -> None:
        super().__init__()
        self.parts = nn.ModuleList(SpectrumDiscriminator(window, channels) for window in windows)

    def forward(self, waves: Float[Tensor, "batch samples"]) -> list[tuple[Tensor, list[Tensor]]]:
        """Logits and features of each resolution."""
        return [part(waves) for part in self.parts]
