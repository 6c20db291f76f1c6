"""The VQ-GAN of LlamaGen: a convolutional encoder and decoder around one codebook of unit vectors."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

ENCODER_BLOCKS, DECODER_BLOCKS = 2, 3
"""Residual blocks of each resolution."""


@dataclass(frozen=True, kw_only=True)
class LlamaGenConfig:
    """Size of the VQ-GAN; the defaults are those of the published VQ-16.

    Args:
        codebook_size: Number of codes.
        codebook_dim: Width of a code vector.
        latent_channels: Channels between encoder and codebook, and between codebook and decoder.
        channels: Channels of the highest resolution.
        multipliers: Channels of each resolution over `channels`, from the highest to the lowest. Every resolution but the last is halved.
        num_groups: Groups of every normalisation; must divide `channels`.
    """

    codebook_size: int = 16384
    codebook_dim: int = 8
    latent_channels: int = 256
    channels: int = 128
    multipliers: Sequence[int] = (1, 1, 2, 2, 4)
    num_groups: int = 32

    def __post_init__(self) -> None:
        sizes = (self.codebook_size, self.codebook_dim, self.latent_channels, self.channels, self.num_groups, *self.multipliers)
        if min(sizes) < 1 or not self.multipliers or self.channels % self.num_groups:
            raise ValueError(
                f"a LlamaGen VQ-GAN needs sizes of at least 1, a multiplier and channels that are a multiple of num_groups, got {self}"
            )

    @property
    def pixels_per_cell(self) -> int:
        """Side of a cell in pixels."""
        return int(2 ** (len(self.multipliers) - 1))

    @property
    def widths(self) -> list[int]:
        """Channels of each resolution, from the highest to the lowest."""
        return [self.channels * multiplier for multiplier in self.multipliers]


def llamagen_config(shapes: Mapping[str, Sequence[int]], num_groups: int = 32) -> LlamaGenConfig:
    """Read the size of a VQ-GAN from the shapes of its published tensors.

    Args:
        shapes: Shape of each tensor by its published name.
        num_groups: Groups of every normalisation, which no shape tells; 32 in the published model.

    Raises:
        ValueError: If a tensor is missing that tells a size.
    """
    try:
        channels = shapes["encoder.conv_in.weight"][0]
        levels = sum(name.startswith("encoder.conv_blocks.") and name.endswith(".res.0.conv1.weight") for name in shapes)
        widths = [shapes[f"encoder.conv_blocks.{level}.res.0.conv1.weight"][0] for level in range(levels)]
        codebook_size, codebook_dim = shapes["quantize.embedding.weight"]
        return LlamaGenConfig(
            codebook_size=codebook_size,
            codebook_dim=codebook_dim,
            latent_channels=shapes["encoder.conv_out.weight"][0],
            channels=channels,
            multipliers=tuple(width // channels for width in widths),
            num_groups=num_groups,
        )
    except KeyError as error:
        raise ValueError(f"a LlamaGen VQ-GAN has a tensor {error.args[0]}, the file has none; give vq_ds16_c2i.pt") from error


class LlamaGenVQ(nn.Module):
    """The VQ-GAN under its published names. Pixels lie in [-1, 1].

    Args:
        config: Its size.

    Source: LlamaGen, arXiv:2406.06525. Differs: without the buffer `quantize.codebook_used`, which only counts codes in training.
    """

    def __init__(self, config: LlamaGenConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder, self.decoder = _Encoder(config), _Decoder(config)
        vectors = torch.empty(config.codebook_size, config.codebook_dim).uniform_(-1, 1)
        self.quantize = nn.ModuleDict({"embedding": nn.Embedding(config.codebook_size, config.codebook_dim, _weight=vectors)})
        self.quant_conv = nn.Conv2d(config.latent_channels, config.codebook_dim, 1)
        self.post_quant_conv = nn.Conv2d(config.codebook_dim, config.latent_channels, 1)

    def codebook(self) -> Float[Tensor, "size dim"]:
        """The code vectors, each of length 1."""
        weight: Tensor = self.quantize["embedding"].weight  # type: ignore[assignment]
        return functional.normalize(weight, dim=-1)

    def encode(self, pixels: Float[Tensor, "batch 3 height width"]) -> Int[Tensor, "batch rows columns"]:
        """Code of the nearest vector of the codebook for each cell."""
        latents = functional.normalize(rearrange(self.quant_conv(self.encoder(pixels)), "b c r w -> b r w c"), dim=-1)
        return (latents @ self.codebook().T).argmax(dim=-1)

    def vectors(self, codes: Int[Tensor, "batch rows columns"]) -> Float[Tensor, "batch dim rows columns"]:
        """Code vectors of a grid of codes."""
        return rearrange(functional.embedding(codes, self.codebook()), "b r w c -> b c r w")

    def decode(self, codes: Int[Tensor, "batch rows columns"]) -> Float[Tensor, "batch 3 height width"]:
        """Pixels of a grid of codes, about in [-1, 1]; the caller clamps them."""
        shown: Tensor = self.decoder(self.post_quant_conv(self.vectors(codes)))
        return shown


class _Norm(nn.GroupNorm):
    """Group normalisation, with the epsilon of the published model."""

    def __init__(self, num_groups: int, channels: int) -> None:
        super().__init__(num_groups, channels, eps=1e-6)


class _Residual(nn.Module):
    """Two convolutions, each after normalisation and SiLU, added to the input."""

    def __init__(self, before: int, after: int, num_groups: int) -> None:
        super().__init__()
        self.norm1, self.conv1 = _Norm(num_groups, before), nn.Conv2d(before, after, 3, padding=1)
        self.norm2, self.conv2 = _Norm(num_groups, after), nn.Conv2d(after, after, 3, padding=1)
        self.nin_shortcut = nn.Conv2d(before, after, 1) if before != after else None

    def forward(self, cells: Float[Tensor, "batch before rows columns"]) -> Float[Tensor, "batch after rows columns"]:
        found = self.conv1(functional.silu(self.norm1(cells)))
        found = self.conv2(functional.silu(self.norm2(found)))
        out: Tensor = found + (cells if self.nin_shortcut is None else self.nin_shortcut(cells))
        return out


class _Attention(nn.Module):
    """Self-attention of all cells with one head as wide as the channels."""

    def __init__(self, channels: int, num_groups: int) -> None:
        super().__init__()
        self.norm = _Norm(num_groups, channels)
        self.q, self.k, self.v, self.proj_out = (nn.Conv2d(channels, channels, 1) for _ in range(4))

    def forward(self, cells: Float[Tensor, "batch channels rows columns"]) -> Float[Tensor, "batch channels rows columns"]:
        normed = self.norm(cells)
        query, key, value = (rearrange(part(normed), "b c r w -> b (r w) c") for part in (self.q, self.k, self.v))
        mixed = functional.scaled_dot_product_attention(query, key, value)
        out: Tensor = cells + self.proj_out(rearrange(mixed, "b (r w) c -> b c r w", r=cells.shape[2]))
        return out


class _Halve(nn.Module):
    """A convolution of stride 2, padded at the right and the bottom only."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2)

    def forward(self, cells: Float[Tensor, "batch channels rows columns"]) -> Float[Tensor, "batch channels fewer less"]:
        halved: Tensor = self.conv(functional.pad(cells, (0, 1, 0, 1)))
        return halved


class _Double(nn.Module):
    """Every cell repeated twice along both axes, then a convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, cells: Float[Tensor, "batch channels rows columns"]) -> Float[Tensor, "batch channels more_rows more_columns"]:
        doubled: Tensor = self.conv(functional.interpolate(cells, scale_factor=2.0, mode="nearest"))
        return doubled


class _Level(nn.Module):
    """The blocks of one resolution and the step to the next one; attention stands at the lowest resolution only."""

    def __init__(self, before: int, after: int, blocks: int, num_groups: int, attends: bool) -> None:
        super().__init__()
        self.res = nn.ModuleList(_Residual(before if block == 0 else after, after, num_groups) for block in range(blocks))
        self.attn = nn.ModuleList(_Attention(after, num_groups) for _ in range(blocks if attends else 0))

    def forward(self, cells: Float[Tensor, "batch before rows columns"]) -> Float[Tensor, "batch after more_rows more_columns"]:
        for number, block in enumerate(self.res):
            cells = block(cells)
            if len(self.attn):
                cells = self.attn[number](cells)
        for name in ("downsample", "upsample"):
            if hasattr(self, name):
                cells = getattr(self, name)(cells)
        return cells


def _middle(channels: int, num_groups: int) -> nn.ModuleList:
    """Two residual blocks with attention between them."""
    first, last = (_Residual(channels, channels, num_groups) for _ in range(2))
    return nn.ModuleList([first, _Attention(channels, num_groups), last])


class _Encoder(nn.Module):
    """Pixels to latents, from the highest resolution to the lowest."""

    def __init__(self, config: LlamaGenConfig) -> None:
        super().__init__()
        widths, groups = config.widths, config.num_groups
        self.conv_in = nn.Conv2d(3, config.channels, 3, padding=1)
        self.conv_blocks = nn.ModuleList()
        for number, (before, after) in enumerate(zip([config.channels, *widths], widths, strict=False)):
            level = _Level(before, after, ENCODER_BLOCKS, groups, attends=number == len(widths) - 1)
            if number < len(widths) - 1:
                level.downsample = _Halve(after)
            self.conv_blocks.append(level)
        self.mid = _middle(widths[-1], groups)
        self.norm_out = _Norm(groups, widths[-1])
        self.conv_out = nn.Conv2d(widths[-1], config.latent_channels, 3, padding=1)

    def forward(self, pixels: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch channels rows columns"]:
        cells = self.conv_in(pixels)
        for part in (*self.conv_blocks, *self.mid):
            cells = part(cells)
        latents: Tensor = self.conv_out(functional.silu(self.norm_out(cells)))
        return latents


class _Decoder(nn.Module):
    """Latents to pixels, from the lowest resolution to the highest."""

    def __init__(self, config: LlamaGenConfig) -> None:
        super().__init__()
        widths, groups = config.widths[::-1], config.num_groups
        self.conv_in = nn.Conv2d(config.latent_channels, widths[0], 3, padding=1)
        self.mid = _middle(widths[0], groups)
        self.conv_blocks = nn.ModuleList()
        for number, (before, after) in enumerate(zip([widths[0], *widths], widths, strict=False)):
            level = _Level(before, after, DECODER_BLOCKS, groups, attends=number == 0)
            if number < len(widths) - 1:
                level.upsample = _Double(after)
            self.conv_blocks.append(level)
        self.norm_out = _Norm(groups, widths[-1])
        self.conv_out = nn.Conv2d(widths[-1], 3, 3, padding=1)

    def forward(self, latents: Float[Tensor, "batch channels rows columns"]) -> Float[Tensor, "batch 3 height width"]:
        cells = self.conv_in(latents)
        for part in (*self.mid, *self.conv_blocks):
            cells = part(cells)
        pixels: Tensor = self.conv_out(functional.silu(self.norm_out(cells)))
        return pixels
