"""The decoder of MaskGIT's VQGAN, with which two-stage TiTok tokenizers end: convolutions from a grid of vectors to pixels."""

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

NORM_EPS = 1e-6


@dataclass(frozen=True, kw_only=True)
class PixelDecoderConfig:
    """Sizes of the decoder; the defaults are the published ones.

    Args:
        codes: Vectors of the codebook that its input is mixed from.
        latent_dim: Width of these vectors.
        channels: Channels at full resolution.
        multipliers: Channels of each resolution as a multiple of `channels`, the highest resolution first.
        blocks: Residual blocks of each resolution.
        groups: Groups of the norms; must divide all numbers of channels.
    """

    codes: int = 1024
    latent_dim: int = 256
    channels: int = 128
    multipliers: tuple[int, ...] = (1, 1, 2, 2, 4)
    blocks: int = 2
    groups: int = 32

    def __post_init__(self) -> None:
        sizes = (self.codes, self.latent_dim, self.channels, self.blocks, self.groups, *self.multipliers)
        if not self.multipliers or min(sizes) < 1 or self.channels % self.groups:
            raise ValueError(f"sizes of the pixel decoder must be at least 1 and groups must divide channels, got {self}")

    @property
    def pixels_per_cell(self) -> int:
        """Side length in pixels of one vector of the input."""
        return int(2 ** (len(self.multipliers) - 1))


class _PixelBlock(nn.Module):
    """Two convolutions behind norms. The projection of a block that changes the width reads their result, as the weights were trained."""

    def __init__(self, channels: int, out: int, groups: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.GroupNorm(groups, channels, NORM_EPS), nn.GroupNorm(groups, out, NORM_EPS)
        self.conv1 = nn.Conv2d(channels, out, 3, padding=1, bias=False)
        self.conv2 = nn.Conv2d(out, out, 3, padding=1, bias=False)
        if channels != out:
            self.nin_shortcut = nn.Conv2d(out, out, 1, bias=False)

    def forward(self, x: Float[Tensor, "batch channels rows columns"]) -> Float[Tensor, "batch out rows columns"]:
        new = self.conv2(functional.silu(self.norm2(self.conv1(functional.silu(self.norm1(x))))))
        found: Tensor = new + (self.nin_shortcut(new) if hasattr(self, "nin_shortcut") else x)
        return found


class _PixelStage(nn.Module):
    """The residual blocks of one resolution, and the way to the next higher one."""

    def __init__(self, channels: int, out: int, blocks: int, groups: int, doubles: bool) -> None:
        super().__init__()
        self.block = nn.ModuleList([_PixelBlock(channels if number == 0 else out, out, groups) for number in range(blocks)])
        if doubles:
            self.upsample_conv = nn.Conv2d(out, out, 3, padding=1)

    def forward(self, x: Float[Tensor, "batch channels rows columns"]) -> Tensor:
        for block in self.block:
            x = block(x)
        if hasattr(self, "upsample_conv"):
            x = self.upsample_conv(functional.interpolate(x, scale_factor=2.0, mode="nearest"))
        return x


class PixelDecoder(nn.Module):
    """Vectors to pixels around [0, 1].

    Args:
        config: Sizes.

    Source: MaskGIT, arXiv:2202.04200; names of open-muse's `maskgit-vqgan-imagenet-f16-256`.
    """

    def __init__(self, config: PixelDecoderConfig) -> None:
        super().__init__()
        widths, groups = [config.channels * one for one in config.multipliers], config.groups
        self.conv_in = nn.Conv2d(config.latent_dim, widths[-1], 3, padding=1)
        self.mid = nn.ModuleList([_PixelBlock(widths[-1], widths[-1], groups) for _ in range(config.blocks)])
        ins = [*widths[1:], widths[-1]]
        stages = enumerate(zip(ins, widths, strict=True))
        self.up = nn.ModuleList([_PixelStage(*sizes, config.blocks, groups, number > 0) for number, sizes in stages])
        self.norm_out = nn.GroupNorm(groups, widths[0], NORM_EPS)
        self.conv_out = nn.Conv2d(widths[0], 3, 3, padding=1)

    def forward(self, latents: Float[Tensor, "batch dim rows columns"]) -> Float[Tensor, "batch 3 height width"]:
        x = self.conv_in(latents)
        for block in self.mid:
            x = block(x)
        for stage in reversed(self.up):
            x = stage(x)
        found: Tensor = self.conv_out(functional.silu(self.norm_out(x)))
        return found
