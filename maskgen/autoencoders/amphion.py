"""MaskGCT's two codecs: waveforms to acoustic codes and back, and features of speech to semantic codes and back."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from maskgen.autoencoders.factorised import FactorisedResidual, WeightNormConv
from maskgen.autoencoders.vocos import SpectrumHead, VocosBackbone

DILATIONS = (1, 3, 9)


@dataclass(frozen=True, kw_only=True)
class AcousticCodecConfig:
    """Size of the acoustic codec.

    Args:
        encoder_dim: Channels of the first convolution; they double at each stride.
        strides: Samples or frames to one of the next stage.
        dim: Channels of the quantized vectors.
        num_levels: Levels of codes.
        codebook_size: Codes a level.
        codebook_dim: Dimensions of the search for a code.
        vocos_dim: Channels of the decoder.
        vocos_hidden: Channels inside its blocks.
        vocos_layers: Its blocks.
        window: Samples of the inverse transform.
        tanh: Whether the encoder ends with tanh.
    """

    encoder_dim: int
    strides: Sequence[int]
    dim: int
    num_levels: int
    codebook_size: int
    codebook_dim: int
    vocos_dim: int
    vocos_hidden: int
    vocos_layers: int
    window: int
    tanh: bool = False

    @property
    def hop(self) -> int:
        """Samples a frame."""
        return math.prod(self.strides)


@dataclass(frozen=True, kw_only=True)
class SemanticCodecConfig:
    """Size of the semantic codec.

    Args:
        dim: Channels of the features.
        codebook_size: Codes.
        codebook_dim: Dimensions of the search for a code.
        vocos_dim: Channels of encoder and decoder.
        vocos_hidden: Channels inside their blocks.
        vocos_layers: Blocks of each.
    """

    dim: int
    codebook_size: int
    codebook_dim: int
    vocos_dim: int
    vocos_hidden: int
    vocos_layers: int


class SnakeCurve(nn.Module):
    """x + sin(a x) ** 2 / a, with an a a channel.

    Args:
        dim: Channels.

    Source: arXiv:2006.08195.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.alpha = nn.Parameter(torch.ones(1, dim, 1))

    def forward(self, x: Float[Tensor, "batch channels frames"]) -> Float[Tensor, "batch channels frames"]:
        return x + (self.alpha * x).sin().square() / (self.alpha + 1e-9)


class _ResidualUnit(nn.Module):
    """Two convolutions behind curves, added to the input."""

    def __init__(self, dim: int, dilation: int) -> None:
        super().__init__()
        wide = WeightNormConv(dim, dim, 7, padding=3 * dilation, dilation=dilation)
        self.block = nn.Sequential(SnakeCurve(dim), wide, SnakeCurve(dim), WeightNormConv(dim, dim, 1))

    def forward(self, x: Float[Tensor, "batch channels frames"]) -> Float[Tensor, "batch channels frames"]:
        out: Tensor = x + self.block(x)
        return out


class _Downsampling(nn.Module):
    """Residual units and a strided convolution to twice the channels."""

    def __init__(self, dim: int, stride: int) -> None:
        super().__init__()
        last = WeightNormConv(dim, 2 * dim, 2 * stride, stride=stride, padding=math.ceil(stride / 2))
        self.block = nn.Sequential(*(_ResidualUnit(dim, dilation) for dilation in DILATIONS), SnakeCurve(dim), last)

    def forward(self, x: Float[Tensor, "batch channels frames"]) -> Float[Tensor, "batch wider shorter"]:
        out: Tensor = self.block(x)
        return out


class AcousticEncoder(nn.Module):
    """Waveform to vectors.

    Args:
        config: Size of the codec.
    """

    def __init__(self, config: AcousticCodecConfig) -> None:
        super().__init__()
        dim = config.encoder_dim
        widest = dim * 2 ** len(config.strides)
        stages = [_Downsampling(dim * 2**place, stride) for place, stride in enumerate(config.strides)]
        ending = [SnakeCurve(widest), WeightNormConv(widest, config.dim, 3, padding=1), *([nn.Tanh()] if config.tanh else [])]
        self.block = nn.Sequential(WeightNormConv(1, dim, 7, padding=3), *stages, *ending)

    def forward(self, waves: Float[Tensor, "batch 1 samples"]) -> Float[Tensor, "batch dim frames"]:
        out: Tensor = self.block(waves)
        return out


class AcousticDecoder(nn.Module):
    """Vectors to codes, codes to vectors, vectors to a waveform.

    Args:
        config: Size of the codec.
    """

    def __init__(self, config: AcousticCodecConfig) -> None:
        super().__init__()
        self.quantizer = FactorisedResidual(config.num_levels, config.dim, config.codebook_size, config.codebook_dim)
        backbone = VocosBackbone(config.dim, config.vocos_dim, config.vocos_hidden, config.vocos_layers)
        self.model = nn.ModuleDict({"backbone": backbone, "head": SpectrumHead(config.vocos_dim, config.window, config.hop)})

    def forward(self, vectors: Float[Tensor, "batch dim frames"]) -> Float[Tensor, "batch 1 samples"]:
        out: Tensor = self.model["head"](self.model["backbone"](vectors))
        return out


class AcousticCodec(nn.Module):
    """Both halves of the acoustic codec, which were published as two files.

    Args:
        config: Size.

    Source: MaskGCT, arXiv:2409.00750 (acoustic codec).
    """

    def __init__(self, config: AcousticCodecConfig) -> None:
        super().__init__()
        self.config, self.encoder, self.decoder = config, AcousticEncoder(config), AcousticDecoder(config)

    def encode(self, waves: Float[Tensor, "batch 1 samples"]) -> Int[Tensor, "batch level frames"]:
        """Codes of waveforms of whole frames."""
        return self.decoder.quantizer.encode(self.encoder(waves))

    def forward(self, codes: Int[Tensor, "batch level frames"]) -> Float[Tensor, "batch 1 samples"]:
        """Waveforms of codes; fewer levels give coarser ones."""
        out: Tensor = self.decoder(self.decoder.quantizer(codes))
        return out


class SemanticCodec(nn.Module):
    """Features of speech to codes of one level, and back.

    Args:
        config: Size.

    Source: MaskGCT, arXiv:2409.00750 (semantic codec); RepCodec, arXiv:2309.00169.
    """

    def __init__(self, config: SemanticCodecConfig) -> None:
        super().__init__()
        self.config, sizes = config, (config.dim, config.vocos_dim, config.vocos_hidden, config.vocos_layers)
        self.encoder = nn.Sequential(VocosBackbone(*sizes), nn.Linear(config.vocos_dim, config.dim))
        self.decoder = nn.Sequential(VocosBackbone(*sizes), nn.Linear(config.vocos_dim, config.dim))
        self.quantizer = FactorisedResidual(1, config.dim, config.codebook_size, config.codebook_dim)

    def encode(self, features: Float[Tensor, "batch frames dim"]) -> Int[Tensor, "batch frames"]:
        """Codes of normalised features."""
        return self.quantizer.encode(self.encoder(features.transpose(1, 2)).transpose(1, 2))[:, 0]

    def forward(self, codes: Int[Tensor, "batch frames"]) -> Float[Tensor, "batch frames dim"]:
        """Normalised features of codes."""
        out: Tensor = self.decoder(self.quantizer(codes[:, None]))
        return out
