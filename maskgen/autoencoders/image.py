"""Networks of the image tokenizer: a convolutional encoder and decoder around a quantizer, and a patch discriminator."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from maskgen.autoencoders.quantizers import Quantizer

AnyModule = TypeVar("AnyModule", bound=nn.Module)


@dataclass(frozen=True, kw_only=True)
class ImageAutoencoderConfig:
    """Configuration of the image autoencoder.

    The image is first cut into patches; each further entry of `encoder_channels` halves the grid once more.

    Args:
        patch: Side of the first patch embedding in pixels, and factor of the last pixel shuffle times 2 per decoder stage.
        encoder_channels: Channels of each encoder stage, fine to coarse.
        decoder_channels: Channels of each decoder stage, coarse to fine.
        encoder_blocks: Residual blocks per encoder stage.
        decoder_blocks: Residual blocks per decoder stage.

    Raises:
        ValueError: If a stage list is empty, channels are not a multiple of 16 (they are normalised in groups of 16), or the decoder
            enlarges by a factor that does not divide `pixels_per_cell`.
    """

    patch: int = 4
    encoder_channels: Sequence[int] = (128, 256)
    decoder_channels: Sequence[int] = (256, 192, 96)
    encoder_blocks: int = 2
    decoder_blocks: int = 2

    def __post_init__(self) -> None:
        for name, channels in (("encoder_channels", self.encoder_channels), ("decoder_channels", self.decoder_channels)):
            if not channels or any(width < 16 or width % 16 for width in channels):
                raise ValueError(f"{name} must be one or more multiples of 16, got {list(channels)}")
        if self.patch < 1:
            raise ValueError(f"patch must be at least 1 pixel, got {self.patch}")
        if self.pixels_per_cell % 2 ** (len(self.decoder_channels) - 1):
            raise ValueError(
                f"{len(self.decoder_channels)} decoder stages enlarge by {2 ** (len(self.decoder_channels) - 1)}, which does not divide "
                f"pixels_per_cell={self.pixels_per_cell}; use fewer decoder stages"
            )

    @property
    def pixels_per_cell(self) -> int:
        """Side in pixels of the image area that one code cell covers."""
        return int(self.patch * 2 ** (len(self.encoder_channels) - 1))

    @property
    def shuffle(self) -> int:
        """Factor of the decoder's last pixel shuffle."""
        return int(self.pixels_per_cell // 2 ** (len(self.decoder_channels) - 1))


class ResidualBlock(nn.Module):
    """Residual block with two normalised 3 x 3 convolutions."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(channels // 16, channels)
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.norm2 = nn.GroupNorm(channels // 16, channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)
        nn.init.zeros_(self.conv2.weight)

    def forward(self, x: Float[Tensor, "batch channels rows columns"]) -> Float[Tensor, "batch channels rows columns"]:
        hidden = self.conv1(functional.silu(self.norm1(x)))
        change: Tensor = self.conv2(functional.silu(self.norm2(hidden)))
        return x + change


def _enlarge(source: int, target: int) -> nn.Module:
    """Upsampling by 2 in rows and columns with a pixel shuffle."""
    return nn.Sequential(nn.Conv2d(source, 4 * target, 1), nn.PixelShuffle(2))


class ImageAutoencoder(nn.Module):
    """Encode images as code grids and decode them.

    Args:
        config: Configuration of encoder and decoder.
        quantizer: Quantizer between encoder and decoder; its `dim` sets the width of the bottleneck.

    Source: the layout of VQGAN, arXiv:2012.09841, with patch embedding and pixel shuffle in place of full-resolution stages.
    """

    def __init__(self, config: ImageAutoencoderConfig, quantizer: Quantizer) -> None:
        super().__init__()
        self.config, self.quantizer = config, quantizer
        self.encoder = _encoder(config, quantizer.dim)
        self.decoder = _decoder(config, quantizer.dim)

    def encode(self, pixels: Float[Tensor, "batch 3 rows columns"]) -> Float[Tensor, "batch cells dim"]:
        """Vectors before quantization, cells in reading order.

        Args:
            pixels: RGB in [0, 1]; rows and columns must be multiples of `pixels_per_cell`.
        """
        grid: Tensor = self.encoder(pixels * 2.0 - 1.0)
        return rearrange(grid, "b d h w -> b (h w) d")

    def decode(self, values: Float[Tensor, "batch cells dim"], grid: tuple[int, int]) -> Float[Tensor, "batch 3 rows columns"]:
        """RGB around [0, 1] (not clamped) from quantized vectors of a (rows, columns) grid."""
        picture: Tensor = self.decoder(rearrange(values, "b (h w) d -> b d h w", h=grid[0], w=grid[1]))
        return picture * 0.5 + 0.5

    def grid(self, pixels: Tensor) -> tuple[int, int]:
        """Rows and columns of the code grid of an image tensor."""
        side = self.config.pixels_per_cell
        return pixels.shape[-2] // side, pixels.shape[-1] // side

    def codes(self, pixels: Float[Tensor, "batch 3 rows columns"]) -> Int[Tensor, "batch level cells"]:
        """Codes of images."""
        codes: Tensor = self.quantizer(self.encode(pixels)).codes
        return codes


def _encoder(config: ImageAutoencoderConfig, dim: int) -> nn.Sequential:
    """Patch embedding, stages from fine to coarse, projection to the bottleneck."""
    channels = config.encoder_channels
    layers: list[nn.Module] = [nn.Conv2d(3, channels[0], config.patch, stride=config.patch)]
    for stage, width in enumerate(channels):
        if stage:
            layers.append(nn.Conv2d(channels[stage - 1], width, 2, stride=2))
        layers += [ResidualBlock(width) for _ in range(config.encoder_blocks)]
    return nn.Sequential(*layers, nn.GroupNorm(channels[-1] // 16, channels[-1]), nn.Conv2d(channels[-1], dim, 1))


def _decoder(config: ImageAutoencoderConfig, dim: int) -> nn.Sequential:
    """Bottleneck to image: stages from coarse to fine, then a pixel shuffle."""
    channels = config.decoder_channels
    layers: list[nn.Module] = [nn.Conv2d(dim, channels[0], 3, padding=1)]
    for stage, width in enumerate(channels):
        if stage:
            layers.append(_enlarge(channels[stage - 1], width))
        layers += [ResidualBlock(width) for _ in range(config.decoder_blocks)]
    last = channels[-1]
    layers += [
        nn.GroupNorm(last // 16, last),
        nn.SiLU(),
        nn.Conv2d(last, 3 * config.shuffle**2, 3, padding=1),
        nn.PixelShuffle(config.shuffle),
    ]
    return nn.Sequential(*layers)


class PatchDiscriminator(nn.Module):
    """Classify each patch as original or reconstructed.

    Args:
        channels: Channels of the first stage; later stages double them, up to four times as many.
        stages: Number of strided stages; each logit covers a square of about 2 ** (stages + 2) pixels a side.

    Raises:
        ValueError: If `channels` is not a multiple of 8 or there is no stage.

    Source: PatchGAN, arXiv:1611.07004.
    """

    def __init__(self, channels: int = 64, stages: int = 3) -> None:
        super().__init__()
        if channels < 8 or channels % 8 or stages < 1:
            raise ValueError(f"a discriminator needs a multiple of 8 channels and 1 stage or more, got {channels} and {stages}")
        layers: list[nn.Module] = [nn.Conv2d(3, channels, 4, stride=2, padding=1), nn.LeakyReLU(0.2)]
        width = channels
        for _ in range(stages - 1):
            wider = min(2 * width, 4 * channels)
            layers += [nn.Conv2d(width, wider, 4, stride=2, padding=1), nn.GroupNorm(wider // 16, wider), nn.LeakyReLU(0.2)]
            width = wider
        self.layers = nn.Sequential(*layers, nn.Conv2d(width, 1, 3, padding=1))

    def forward(self, pixels: Float[Tensor, "batch 3 rows columns"]) -> Float[Tensor, "batch 1 verdict_rows verdict_columns"]:
        verdict: Tensor = self.layers(pixels * 2.0 - 1.0)
        return verdict


def channels_last(network: AnyModule) -> AnyModule:
    """Convert a network's convolutions to channels-last memory format, which is faster for images; in place."""
    move: Any = network.to  # the stubs of torch 2.11 lack memory_format
    move(memory_format=torch.channels_last)
    return network
