"""Vocos: ConvNeXt blocks along time, and a head whose spectrum becomes a waveform."""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

KERNEL = 7
LOUDEST = 100.0
"""Largest magnitude of a bin."""


class ConvNeXtUnit(nn.Module):
    """A depthwise convolution and two linear layers, scaled a channel and added to the input.

    Args:
        dim: Channels.
        hidden: Channels between the linear layers.
    """

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.dwconv = nn.Conv1d(dim, dim, KERNEL, padding=KERNEL // 2, groups=dim)
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        self.pwconv1, self.pwconv2 = nn.Linear(dim, hidden), nn.Linear(hidden, dim)
        self.gamma = nn.Parameter(torch.ones(dim))

    def forward(self, x: Float[Tensor, "batch dim frames"]) -> Float[Tensor, "batch dim frames"]:
        read = self.norm(self.dwconv(x).transpose(1, 2))
        out: Tensor = x + (self.gamma * self.pwconv2(functional.gelu(self.pwconv1(read)))).transpose(1, 2)
        return out


class VocosBackbone(nn.Module):
    """A convolution and ConvNeXt blocks: a frame sees 3 frames to each side for the convolution and for each block.

    Args:
        in_dim: Channels of the input.
        dim: Channels of the output.
        hidden: Channels inside the blocks.
        num_layers: Blocks.

    Source: Vocos, arXiv:2306.00814.
    """

    def __init__(self, in_dim: int, dim: int, hidden: int, num_layers: int) -> None:
        super().__init__()
        self.embed = nn.Conv1d(in_dim, dim, KERNEL, padding=KERNEL // 2)
        self.norm, self.final_layer_norm = nn.LayerNorm(dim, eps=1e-6), nn.LayerNorm(dim, eps=1e-6)
        self.convnext = nn.ModuleList([ConvNeXtUnit(dim, hidden) for _ in range(num_layers)])

    def forward(self, x: Float[Tensor, "batch channels frames"]) -> Float[Tensor, "batch frames dim"]:
        x = self.norm(self.embed(x).transpose(1, 2)).transpose(1, 2)
        for block in self.convnext:
            x = block(x)
        out: Tensor = self.final_layer_norm(x.transpose(1, 2))
        return out


class _Window(nn.Module):
    """The stored window of an inverse transform."""

    window: Tensor

    def __init__(self, length: int) -> None:
        super().__init__()
        self.register_buffer("window", torch.hann_window(length))


class SpectrumHead(nn.Module):
    """Log magnitudes and phases of a spectrum, and its waveform by overlap-add: `hop` samples a frame.

    Args:
        dim: Channels of the input.
        window: Samples of a window and of its transform.
        hop: Samples a frame.
    """

    def __init__(self, dim: int, window: int, hop: int) -> None:
        super().__init__()
        if not 0 < hop <= window or (window - hop) % 2:
            raise ValueError(f"n_fft must exceed hop_size by an even number of samples, got {window} and {hop}")
        self.hop, self.out, self.istft = hop, nn.Linear(dim, window + 2), _Window(window)

    def forward(self, x: Float[Tensor, "batch frames dim"]) -> Float[Tensor, "batch 1 samples"]:
        magnitude, phase = self.out(x).transpose(1, 2).chunk(2, dim=1)
        window, frames = self.istft.window, x.shape[1]
        size, cut = len(window), (len(window) - self.hop) // 2
        pieces = torch.fft.irfft(torch.polar(magnitude.exp().clamp(max=LOUDEST), phase), n=size, dim=1) * window[:, None]
        whole = (frames - 1) * self.hop + size

        def overlapped(parts: Tensor) -> Tensor:
            return functional.fold(parts, (1, whole), (1, size), stride=(1, self.hop))[:, 0, 0, cut : whole - cut]

        weight = overlapped(window.square()[None, :, None].expand(1, size, frames))
        return (overlapped(pieces) / weight)[:, None]
