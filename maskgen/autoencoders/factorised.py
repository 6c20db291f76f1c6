"""Residual quantizers with codebooks of few dimensions, and convolutions with normalised weights, under their published names."""

import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional


class WeightNormConv(nn.Module):
    """A convolution along time whose weight is stored as a direction and a length an output channel.

    Args:
        into: Channels of the input.
        out: Channels of the output.
        kernel: Frames of the kernel.
        stride: Frames from one output to the next.
        padding: Zeros at both ends.
        dilation: Frames from one tap of the kernel to the next.
    """

    def __init__(self, into: int, out: int, kernel: int, stride: int = 1, padding: int = 0, dilation: int = 1) -> None:
        super().__init__()
        self.stride, self.padding, self.dilation = stride, padding, dilation
        self.weight_g, self.weight_v = nn.Parameter(torch.ones(out, 1, 1)), nn.Parameter(torch.randn(out, into, kernel))
        self.bias = nn.Parameter(torch.zeros(out))

    def forward(self, x: Float[Tensor, "batch channels frames"]) -> Float[Tensor, "batch out frames2"]:
        weight = self.weight_v * (self.weight_g / self.weight_v.flatten(1).norm(dim=1)[:, None, None])
        return functional.conv1d(x, weight, self.bias, self.stride, self.padding, self.dilation)


class FactorisedCodebook(nn.Module):
    """One codebook, searched in a space of few dimensions by the angle.

    Args:
        dim: Channels of the vectors that are quantized.
        codebook_size: Codes.
        codebook_dim: Dimensions of the search.

    Source: improved VQGAN, arXiv:2110.04627 (factorised codes); Descript Audio Codec, arXiv:2306.06546. The chosen row is not normalised.
    """

    def __init__(self, dim: int, codebook_size: int, codebook_dim: int) -> None:
        super().__init__()
        equal = dim == codebook_dim
        self.in_project = nn.Identity() if equal else WeightNormConv(dim, codebook_dim, 1)
        self.out_project = nn.Identity() if equal else WeightNormConv(codebook_dim, dim, 1)
        self.codebook = nn.Embedding(codebook_size, codebook_dim)

    def nearest(self, x: Float[Tensor, "batch dim frames"]) -> Int[Tensor, "batch frames"]:
        """Codes of vectors."""
        found = functional.normalize(rearrange(self.in_project(x), "b d n -> b n d"), dim=-1)
        table = functional.normalize(self.codebook.weight, dim=-1)
        distance = found.square().sum(dim=-1, keepdim=True) - 2 * found @ table.T + table.square().sum(dim=-1)
        return distance.argmin(dim=-1)

    def forward(self, codes: Int[Tensor, "batch frames"]) -> Float[Tensor, "batch dim frames"]:
        """Vectors of codes."""
        out: Tensor = self.out_project(self.codebook(codes).transpose(1, 2))
        return out


class FactorisedResidual(nn.Module):
    """Codebooks one after another, each for what the ones before it leave.

    Args:
        num_levels: Codebooks.
        dim: Channels.
        codebook_size: Codes of each.
        codebook_dim: Dimensions of their search.
    """

    def __init__(self, num_levels: int, dim: int, codebook_size: int, codebook_dim: int) -> None:
        super().__init__()
        self.quantizers = nn.ModuleList([FactorisedCodebook(dim, codebook_size, codebook_dim) for _ in range(num_levels)])

    def encode(self, x: Float[Tensor, "batch dim frames"]) -> Int[Tensor, "batch level frames"]:
        """Codes of vectors, coarse to fine."""
        codes = []
        for quantizer in self.quantizers:
            codes.append(quantizer.nearest(x))  # type: ignore[operator]
            x = x - quantizer(codes[-1])
        return torch.stack(codes, dim=1)

    def forward(self, codes: Int[Tensor, "batch level frames"]) -> Float[Tensor, "batch dim frames"]:
        """Vectors of codes; fewer levels give coarser ones."""
        parts = [quantizer(codes[:, level]) for level, quantizer in enumerate(self.quantizers) if level < codes.shape[1]]
        return torch.stack(parts).sum(dim=0)
