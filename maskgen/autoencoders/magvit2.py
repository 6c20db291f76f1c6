"""The image autoencoder of MAGVIT-v2 as Show-o published it: convolutions, one attention, and latents that are signs."""

from dataclasses import dataclass

import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

NORM_EPS = 1e-6


@dataclass(frozen=True, kw_only=True)
class Magvit2Config:
    """Sizes of the autoencoder; the defaults are the published ones.

    Args:
        channels: Channels at full resolution.
        bits: Channels of the latents, one bit of the code each.
        encoder_multipliers: Channels of each resolution as a multiple of `channels`, the highest resolution first.
        encoder_blocks: Residual blocks of each resolution.
        decoder_multipliers: As `encoder_multipliers`; as many.
        decoder_blocks: As `encoder_blocks`.
        groups: Groups of the norms; must divide all numbers of channels.
    """

    channels: int = 128
    bits: int = 13
    encoder_multipliers: tuple[int, ...] = (1, 2, 2, 4, 4)
    encoder_blocks: tuple[int, ...] = (4, 3, 4, 3, 4)
    decoder_multipliers: tuple[int, ...] = (1, 1, 2, 2, 4)
    decoder_blocks: tuple[int, ...] = (4, 4, 3, 4, 3)
    groups: int = 32

    def __post_init__(self) -> None:
        lengths = {len(one) for one in (self.encoder_multipliers, self.encoder_blocks, self.decoder_multipliers, self.decoder_blocks)}
        if len(lengths) != 1 or 0 in lengths:
            raise ValueError(
                f"encoder and decoder must have multipliers and blocks for the same resolutions, got {sorted(lengths)} entries"
            )
        if not 1 <= self.bits <= 24 or self.channels < 1 or self.channels % self.groups:
            raise ValueError(
                f"groups ({self.groups}) must divide channels ({self.channels}), and bits lie in 1 to 24, got {self.bits}; mend the sizes"
            )

    @property
    def pixels_per_cell(self) -> int:
        """Side length of a cell in pixels."""
        return int(2 ** (len(self.encoder_multipliers) - 1))


class _Block(nn.Module):
    """Two convolutions behind norms, added to their input."""

    def __init__(self, channels: int, out: int, groups: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.GroupNorm(groups, channels, NORM_EPS), nn.GroupNorm(groups, out, NORM_EPS)
        self.conv1, self.conv2 = nn.Conv2d(channels, out, 3, padding=1), nn.Conv2d(out, out, 3, padding=1)
        if channels != out:
            self.nin_shortcut = nn.Conv2d(channels, out, 1)

    def forward(self, x: Float[Tensor, "batch channels rows columns"]) -> Float[Tensor, "batch out rows columns"]:
        new = self.conv2(functional.silu(self.norm2(self.conv1(functional.silu(self.norm1(x))))))
        found: Tensor = (self.nin_shortcut(x) if hasattr(self, "nin_shortcut") else x) + new
        return found


class _CellAttention(nn.Module):
    """One head of attention among all cells, added to its input."""

    def __init__(self, channels: int, groups: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(groups, channels, NORM_EPS)
        self.q, self.k, self.v, self.proj_out = (nn.Conv2d(channels, channels, 1) for _ in range(4))

    def forward(self, x: Float[Tensor, "batch channels rows columns"]) -> Float[Tensor, "batch channels rows columns"]:
        read = self.norm(x)
        query, key, value = (rearrange(part(read), "b c h w -> b 1 (h w) c") for part in (self.q, self.k, self.v))
        mixed = functional.scaled_dot_product_attention(query, key, value)
        found: Tensor = x + self.proj_out(rearrange(mixed, "b 1 (h w) c -> b c h w", h=x.shape[-2]))
        return found


class _HalfSize(nn.Module):
    """A convolution at every second cell, with padding to the right and below."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2)

    def forward(self, x: Float[Tensor, "batch channels rows columns"]) -> Tensor:
        found: Tensor = self.conv(functional.pad(x, (0, 1, 0, 1)))
        return found


class _DoubleSize(nn.Module):
    """Every cell four times, then a convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Float[Tensor, "batch channels rows columns"]) -> Tensor:
        found: Tensor = self.conv(functional.interpolate(x, scale_factor=2.0, mode="nearest"))
        return found


class _Middle(nn.Module):
    """The part at the lowest resolution."""

    def __init__(self, channels: int, groups: int) -> None:
        super().__init__()
        self.block_1, self.block_2 = _Block(channels, channels, groups), _Block(channels, channels, groups)
        self.attn_1 = _CellAttention(channels, groups)

    def forward(self, x: Float[Tensor, "batch channels rows columns"]) -> Float[Tensor, "batch channels rows columns"]:
        found: Tensor = self.block_2(self.attn_1(self.block_1(x)))
        return found


class _Resolution(nn.Module):
    """The residual blocks of one resolution, and the way to the next one."""

    def __init__(self, channels: int, out: int, blocks: int, groups: int) -> None:
        super().__init__()
        self.block = nn.ModuleList([_Block(channels if number == 0 else out, out, groups) for number in range(blocks)])

    def forward(self, x: Float[Tensor, "batch channels rows columns"]) -> Tensor:
        for block in self.block:
            x = block(x)
        for name in ("downsample", "upsample"):
            if hasattr(self, name):
                x = getattr(self, name)(x)
        return x


class _Encoder(nn.Module):
    """Pixels to latents, one channel a bit."""

    def __init__(self, config: Magvit2Config) -> None:
        super().__init__()
        widths, groups = [config.channels * one for one in config.encoder_multipliers], config.groups
        self.conv_in = nn.Conv2d(3, config.channels, 3, padding=1)
        ins = [config.channels, *widths[:-1]]
        parts = [_Resolution(*sizes, groups) for sizes in zip(ins, widths, config.encoder_blocks, strict=True)]
        for part, width in list(zip(parts, widths, strict=True))[:-1]:
            part.downsample = _HalfSize(width)
        self.down = nn.ModuleList(parts)
        self.mid = _Middle(widths[-1], groups)
        self.norm_out = nn.GroupNorm(groups, widths[-1], NORM_EPS)
        self.conv_out = nn.Conv2d(widths[-1], config.bits, 3, padding=1)
        self.quant_conv = nn.Conv2d(config.bits, config.bits, 1)

    def forward(self, pixels: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch bits rows columns"]:
        x = self.conv_in(pixels)
        for part in self.down:
            x = part(x)
        found: Tensor = self.quant_conv(self.conv_out(functional.silu(self.norm_out(self.mid(x)))))
        return found


class _Decoder(nn.Module):
    """Signs to pixels."""

    def __init__(self, config: Magvit2Config) -> None:
        super().__init__()
        widths, groups = [config.channels * one for one in config.decoder_multipliers], config.groups
        self.post_quant_conv = nn.Conv2d(config.bits, config.bits, 1)
        self.conv_in = nn.Conv2d(config.bits, widths[-1], 3, padding=1)
        self.mid = _Middle(widths[-1], groups)
        ins = [*widths[1:], widths[-1]]
        parts = [_Resolution(*sizes, groups) for sizes in zip(ins, widths, config.decoder_blocks, strict=True)]
        for part, width in list(zip(parts, widths, strict=True))[1:]:
            part.upsample = _DoubleSize(width)
        self.up = nn.ModuleList(parts)  # the highest resolution first, as it is stored
        self.norm_out = nn.GroupNorm(groups, widths[0], NORM_EPS)
        self.conv_out = nn.Conv2d(widths[0], 3, 3, padding=1)

    def forward(self, signs: Float[Tensor, "batch bits rows columns"]) -> Float[Tensor, "batch 3 height width"]:
        x = self.mid(self.conv_in(self.post_quant_conv(signs)))
        for part in reversed(self.up):
            x = part(x)
        found: Tensor = self.conv_out(functional.silu(self.norm_out(x)))
        return found


class _SignQuantizer(nn.Module):
    """Codes from the signs of the latents, channel 0 being the most significant bit; 0 counts as negative.

    Both buffers are fixed numbers that published files hold: the signs of every code, and the value of every bit.
    """

    def __init__(self, bits: int) -> None:
        super().__init__()
        powers = 2 ** torch.arange(bits - 1, -1, -1)
        signs = (torch.arange(2**bits)[:, None] & powers).ne(0).float() * 2 - 1
        self.register_buffer("embedding", signs)
        self.register_buffer("power_vals", powers)

    def codes(self, latents: Float[Tensor, "batch bits rows columns"]) -> Int[Tensor, "batch rows columns"]:
        """The code of every cell."""
        powers: Tensor = self.power_vals  # type: ignore[assignment]
        return ((latents > 0) * powers[:, None, None]).sum(dim=1)

    def lookup(self, codes: Int[Tensor, "batch rows columns"]) -> Float[Tensor, "batch bits rows columns"]:
        """The signs of every code."""
        table: Tensor = self.embedding  # type: ignore[assignment]
        return rearrange(table[codes], "b h w c -> b c h w")


class Magvit2(nn.Module):
    """Encoder, quantizer and decoder under the names of Show-o's files.

    Args:
        config: Sizes.

    Source: MAGVIT-v2, arXiv:2310.05737; Show-o, arXiv:2408.12528 (`showlab/magvitv2`).
    """

    def __init__(self, config: Magvit2Config) -> None:
        super().__init__()
        self.config = config
        self.encoder, self.decoder, self.quantize = _Encoder(config), _Decoder(config), _SignQuantizer(config.bits)

    def encode(self, pixels: Float[Tensor, "batch 3 height width"]) -> Int[Tensor, "batch rows columns"]:
        """Codes of pixels in [-1, 1]."""
        return self.quantize.codes(self.encoder(pixels))

    def decode(self, codes: Int[Tensor, "batch rows columns"]) -> Float[Tensor, "batch 3 height width"]:
        """Pixels around [-1, 1]."""
        found: Tensor = self.decoder(self.quantize.lookup(codes))
        return found
