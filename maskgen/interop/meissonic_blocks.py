"""Layers of Meissonic's transformer, under the names of its published weights: joint and single blocks, norms and resampling.

Text and image cells have weights of their own in the joint blocks and share them in the single blocks. Every block is modulated by one
vector a row. Source: Meissonic, arXiv:2410.08261; joint blocks, arXiv:2403.03206.
"""

from collections.abc import Sequence
from functools import lru_cache

import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from maskgen.interop.sinusoids import sinusoids
from maskgen.networks.packed_linear import linear

EPSILON = 1e-6
"""Added to the variance in every norm."""
LARGEST_HALF = 65504.0
"""Largest number of half precision; residual streams are clipped to it there."""
Rotation = tuple[Tensor, Tensor]
"""Cosines and sines `[cells dim]` of the rotary angle of each cell and channel."""


@lru_cache(maxsize=8)
@torch.inference_mode(False)  # what a validation computes is kept for training
def rotations(words: int, rows: int, columns: int, axes: tuple[int, ...], device: torch.device) -> Rotation:
    """Rotary angles of a text and the grid behind it; text cells stand at (0, 0, 0), an image cell at (0, row, column).

    Args:
        words: Text cells.
        rows: Rows of the grid.
        columns: Columns of the grid.
        axes: Channels of a head that turn with each of the three coordinates.
        device: Where the angles are needed.
    """
    places = torch.zeros(words + rows * columns, 3, dtype=torch.float64)
    places[words:, 1:] = torch.cartesian_prod(torch.arange(rows), torch.arange(columns)).reshape(-1, 2).double()
    angles = [places[:, axis, None] * 10000.0 ** -(torch.arange(0, size, 2).double() / size) for axis, size in enumerate(axes)]
    every = torch.cat(angles, dim=1).repeat_interleave(2, dim=1)
    return every.cos().float().to(device), every.sin().float().to(device)


def rotated(x: Float[Tensor, "batch heads cells dim"], rotation: Rotation) -> Float[Tensor, "batch heads cells dim"]:
    """Turn channels 2i and 2i + 1 of every cell together by its angle."""
    cosine, sine = rotation
    even, odd = rearrange(x.float(), "b h c (d two) -> two b h c d", two=2)
    turned = torch.stack([-odd, even], dim=-1).flatten(-2)
    return (x.float() * cosine + turned * sine).to(x.dtype)


class Embedder(nn.Module):
    """Two linear layers with SiLU between them.

    Args:
        into: Width of the input.
        dim: Width of the output.
        bias: Whether the layers have a bias.
    """

    def __init__(self, into: int, dim: int, bias: bool) -> None:
        super().__init__()
        self.linear_1 = nn.Linear(into, dim, bias=bias)
        self.linear_2 = nn.Linear(dim, dim, bias=bias)

    def forward(self, x: Float[Tensor, "batch into"]) -> Float[Tensor, "batch dim"]:
        return linear(self.linear_2, functional.silu(linear(self.linear_1, x)))


class TimeTextEmbedder(nn.Module):
    """The vector that modulates all blocks: the time step and the micro-conditioned text, each through layers of its own.

    Args:
        dim: Width of the network.
        waves: Width of the sinusoids of the time.
    """

    def __init__(self, dim: int, waves: int) -> None:
        super().__init__()
        self.waves = waves
        self.timestep_embedder = Embedder(waves, dim, bias=True)
        self.text_embedder = Embedder(dim, dim, bias=True)

    def forward(self, time: Float[Tensor, " batch"], pooled: Float[Tensor, "batch dim"]) -> Float[Tensor, "batch dim"]:
        found: Tensor = self.timestep_embedder(sinusoids(time, self.waves).to(pooled.dtype)) + self.text_embedder(pooled)
        return found


class CodeEmbedding(nn.Module):
    """Embedding, norm and a pointwise convolution of the ids of a grid."""

    def __init__(self, ids: int, dim: int) -> None:
        super().__init__()
        self.embeddings = nn.Embedding(ids, dim, _weight=torch.rand(ids, dim))  # a normal draw is slow on the meta device
        self.layer_norm = nn.RMSNorm(dim, eps=EPSILON)
        self.conv = nn.Conv2d(dim, dim, kernel_size=1, bias=False)

    def forward(self, ids: Int[Tensor, "batch rows columns"]) -> Float[Tensor, "batch dim rows columns"]:
        found: Tensor = self.conv(rearrange(self.layer_norm(self.embeddings(ids)), "b h w d -> b d h w"))
        return found


class Resampling(nn.Module):
    """A norm and a strided convolution, which halves or doubles the sides of a grid."""

    def __init__(self, convolution: nn.Conv2d | nn.ConvTranspose2d) -> None:
        super().__init__()
        self.norm = nn.RMSNorm(convolution.in_channels, eps=EPSILON)
        self.conv = convolution

    def forward(self, x: Float[Tensor, "batch dim rows columns"]) -> Float[Tensor, "batch dim other wide"]:
        found: Tensor = self.conv(rearrange(self.norm(rearrange(x, "b d h w -> b h w d")), "b h w d -> b d h w"))
        return found


class Stage(nn.Module):
    """A resampling layer under its published name, or nothing.

    Args:
        name: "downsample" or "upsample".
        layer: None keeps the grid.
    """

    def __init__(self, name: str, layer: Resampling | None) -> None:
        super().__init__()
        if layer is not None:
            self.add_module(name, layer)

    def forward(self, x: Float[Tensor, "batch dim rows columns"]) -> Float[Tensor, "batch dim other wide"]:
        for layer in self.children():
            x = layer(x)
        return x


class CodeHead(nn.Module):
    """The head: a linear layer and a norm at each cell, then one logit a code."""

    def __init__(self, dim: int, codes: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(dim, dim, kernel_size=1, bias=False)
        self.layer_norm = nn.RMSNorm(dim, eps=EPSILON)
        self.conv2 = nn.Conv2d(dim, codes, kernel_size=1, bias=False)

    def forward(self, x: Float[Tensor, "batch dim rows columns"]) -> Float[Tensor, "batch rows columns dim"]:
        """What enters the last layer."""
        found: Tensor = self.layer_norm(rearrange(self.conv1(x), "b d h w -> b h w d"))
        return found

    def logits(self, hidden: Float[Tensor, "cells dim"]) -> Float[Tensor, "cells codes"]:
        """The last layer, which is linear."""
        return functional.linear(hidden, self.conv2.weight[:, :, 0, 0])


class AdaptiveNorm(nn.Module):
    """Layer norm whose shift and scale, and the further parts of its block's modulation, come from the condition.

    Args:
        dim: Width of a cell.
        parts: Vectors that the condition gives: shift, scale, then those that `forward` hands on.
    """

    def __init__(self, dim: int, parts: int) -> None:
        super().__init__()
        self.linear = nn.Linear(dim, parts * dim)
        self.parts = parts

    def forward(self, x: Float[Tensor, "batch cells dim"], condition: Float[Tensor, "batch dim"]) -> tuple[Tensor, Sequence[Tensor]]:
        shift, scale, *rest = linear(self.linear, functional.silu(condition))[:, None].chunk(self.parts, dim=-1)
        return modulated(x, shift, scale), rest


def modulated(
    x: Float[Tensor, "batch cells dim"], shift: Float[Tensor, "batch 1 dim"], scale: Float[Tensor, "batch 1 dim"]
) -> Float[Tensor, "batch cells dim"]:
    """Layer norm without weights, then a scale and a shift."""
    return torch.addcmul(shift, functional.layer_norm(x, x.shape[-1:], eps=EPSILON), 1 + scale)


class TanhFeedForward(nn.Module):
    """Four times as wide, GELU, and back."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.net = nn.ModuleList([nn.ModuleDict({"proj": nn.Linear(dim, 4 * dim)}), nn.Identity(), nn.Linear(4 * dim, dim)])

    def forward(self, x: Float[Tensor, "batch cells dim"]) -> Float[Tensor, "batch cells dim"]:
        return linear(self.net[2], functional.gelu(linear(self.net[0]["proj"], x), approximate="tanh"))  # type: ignore[index]


def _heads(x: Float[Tensor, "batch cells dim"], head_dim: int) -> Float[Tensor, "batch heads cells head"]:
    return rearrange(x, "b c (h d) -> b h c d", d=head_dim)


def _attended(query: Tensor, key: Tensor, value: Tensor, rotation: Rotation) -> Float[Tensor, "batch cells dim"]:
    """What every cell collects from all cells of its row."""
    found = functional.scaled_dot_product_attention(rotated(query, rotation), rotated(key, rotation), value)
    return rearrange(found, "b h c d -> b c (h d)")


class SelfAttention(nn.Module):
    """Attention among all cells of a row, without a layer after it."""

    def __init__(self, dim: int, head_dim: int) -> None:
        super().__init__()
        self.to_q, self.to_k, self.to_v = (nn.Linear(dim, dim) for _ in range(3))
        self.norm_q, self.norm_k = (nn.RMSNorm(head_dim, eps=EPSILON) for _ in range(2))
        self.head_dim = head_dim

    def forward(self, x: Float[Tensor, "batch cells dim"], rotation: Rotation) -> Float[Tensor, "batch cells dim"]:
        query, key, value = (_heads(linear(layer, x), self.head_dim) for layer in (self.to_q, self.to_k, self.to_v))
        return _attended(self.norm_q(query), self.norm_k(key), value, rotation)


class JointAttention(nn.Module):
    """Attention among text and image cells, each with projections of their own."""

    def __init__(self, dim: int, head_dim: int) -> None:
        super().__init__()
        self.to_q, self.to_k, self.to_v = (nn.Linear(dim, dim) for _ in range(3))
        self.add_q_proj, self.add_k_proj, self.add_v_proj = (nn.Linear(dim, dim) for _ in range(3))
        self.norm_q, self.norm_k, self.norm_added_q, self.norm_added_k = (nn.RMSNorm(head_dim, eps=EPSILON) for _ in range(4))
        self.to_out, self.to_add_out = nn.ModuleList([nn.Linear(dim, dim)]), nn.Linear(dim, dim)
        self.head_dim = head_dim

    def forward(
        self, text: Float[Tensor, "batch words dim"], image: Float[Tensor, "batch cells dim"], rotation: Rotation
    ) -> tuple[Float[Tensor, "batch words dim"], Float[Tensor, "batch cells dim"]]:
        """What text and image cells collect."""
        query, key, value = (_heads(linear(layer, image), self.head_dim) for layer in (self.to_q, self.to_k, self.to_v))
        added = (self.add_q_proj, self.add_k_proj, self.add_v_proj)
        text_query, text_key, text_value = (_heads(linear(layer, text), self.head_dim) for layer in added)
        query = torch.cat([self.norm_added_q(text_query), self.norm_q(query)], dim=2)
        key = torch.cat([self.norm_added_k(text_key), self.norm_k(key)], dim=2)
        found = _attended(query, key, torch.cat([text_value, value], dim=2), rotation)
        words = text.shape[1]
        return linear(self.to_add_out, found[:, :words]), linear(self.to_out[0], found[:, words:])


class JointBlock(nn.Module):
    """Joint attention and feed-forward, with weights of their own for text and image cells."""

    def __init__(self, dim: int, head_dim: int) -> None:
        super().__init__()
        self.norm1, self.norm1_context = AdaptiveNorm(dim, 6), AdaptiveNorm(dim, 6)
        self.attn = JointAttention(dim, head_dim)
        self.ff, self.ff_context = TanhFeedForward(dim), TanhFeedForward(dim)

    def forward(
        self, text: Float[Tensor, "batch words dim"], image: Float[Tensor, "batch cells dim"], condition: Tensor, rotation: Rotation
    ) -> tuple[Float[Tensor, "batch words dim"], Float[Tensor, "batch cells dim"]]:
        """Text and image cells after the block."""
        inner_text, of_text = self.norm1_context(text, condition)
        inner_image, of_image = self.norm1(image, condition)
        from_text, from_image = self.attn(inner_text, inner_image, rotation)
        image = _fed(self.ff, image, from_image, of_image)
        return clipped(_fed(self.ff_context, text, from_text, of_text)), image


def _fed(layer: TanhFeedForward, x: Tensor, attended: Tensor, modulation: Sequence[Tensor]) -> Float[Tensor, "batch cells dim"]:
    """Cells after what attention gave them and their feed-forward layer."""
    gate, shift, scale, last_gate = modulation
    x = x + gate * attended
    fed: Tensor = layer(modulated(x, shift, scale))
    return x + last_gate * fed


class SingleBlock(nn.Module):
    """Attention and feed-forward side by side, with the same weights for text and image cells."""

    def __init__(self, dim: int, head_dim: int) -> None:
        super().__init__()
        self.norm = AdaptiveNorm(dim, 3)
        self.proj_mlp, self.proj_out = nn.Linear(dim, 4 * dim), nn.Linear(5 * dim, dim)
        self.attn = SelfAttention(dim, head_dim)

    def forward(self, x: Float[Tensor, "batch cells dim"], condition: Tensor, rotation: Rotation) -> Float[Tensor, "batch cells dim"]:
        """Text and image cells after the block."""
        inner, (gate,) = self.norm(x, condition)
        risen = functional.gelu(linear(self.proj_mlp, inner), approximate="tanh")
        return clipped(x + gate * linear(self.proj_out, torch.cat([self.attn(inner, rotation), risen], dim=-1)))


def clipped(x: Float[Tensor, "batch cells dim"]) -> Float[Tensor, "batch cells dim"]:
    """The cells, in half precision without infinities."""
    return x.clip(-LARGEST_HALF, LARGEST_HALF) if x.dtype == torch.float16 else x
