"""The blocks of 4M's encoder and decoder, under their published names."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional

EPS = 1e-6


@dataclass(frozen=True, kw_only=True)
class FourMBlockConfig:
    """Size of a block.

    Args:
        dim: Width.
        num_heads: Attention heads; must divide dim.
        feed_dim: Width of the feed-forward network before gating: dim times the published `mlp_ratio`.
        gated: Whether the feed-forward network multiplies two projections, each two thirds as wide.
        activation: Name of a function of `torch.nn`, such as "SiLU".
        qkv_bias: Whether queries, keys and values have a bias.
        proj_bias: Whether the output of attention has one.
        mlp_bias: Whether the feed-forward network has one.
        norm_bias: Whether norms learn a bias; else a bias of zeros is stored.
        qk_norm: Whether queries and keys are normalised.
    """

    dim: int = 768
    num_heads: int = 12
    feed_dim: int = 3072
    gated: bool = True
    activation: str = "SiLU"
    qkv_bias: bool = False
    proj_bias: bool = False
    mlp_bias: bool = False
    norm_bias: bool = False
    qk_norm: bool = False

    def __post_init__(self) -> None:
        if min(self.dim, self.num_heads, self.feed_dim) < 1 or self.dim % self.num_heads or self.dim % 4:
            raise ValueError(f"4M needs sizes of at least 1, and dim a multiple of 4 and of num_heads, got {self}")
        if self.activation not in ("SiLU", "GELU"):
            raise ValueError(f"4M's activation is SiLU or GELU, got {self.activation!r}; use another model")


class FourMNorm(nn.Module):
    """Layer norm. Without a bias it stores zeros in its place, as the published files do.

    Args:
        dim: Width.
        bias: Whether the bias is learned.
    """

    bias: Tensor

    def __init__(self, dim: int, bias: bool) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))
        if bias:
            self.bias = nn.Parameter(torch.zeros(dim))
        else:
            self.register_buffer("bias", torch.zeros(dim))

    def forward(self, x: Float[Tensor, "*cells dim"]) -> Float[Tensor, "*cells dim"]:
        """The normalised states."""
        return functional.layer_norm(x, self.weight.shape, self.weight, self.bias, EPS)


class _Attention(nn.Module):
    """What attention of states to themselves and to a context share."""

    def __init__(self, config: FourMBlockConfig) -> None:
        super().__init__()
        self.num_heads, head = config.num_heads, config.dim // config.num_heads
        self.proj = nn.Linear(config.dim, config.dim, bias=config.proj_bias)
        if config.qk_norm:
            self.q_norm, self.k_norm = FourMNorm(head, config.norm_bias), FourMNorm(head, config.norm_bias)
        self.normed = config.qk_norm

    def mixed(self, query: Tensor, key: Tensor, value: Tensor, visible: Bool[Tensor, "batch queries keys"]) -> Tensor:
        """Attention of every head, and the projection. A query that sees nothing gets 0, where the reference averages over padding."""
        query, key, value = (rearrange(part, "b n (h d) -> b h n d", h=self.num_heads) for part in (query, key, value))
        if self.normed:
            query, key = self.q_norm(query), self.k_norm(key)
        blind = ~visible.any(dim=-1, keepdim=True)
        found = functional.scaled_dot_product_attention(query, key, value, attn_mask=(visible | blind)[:, None])
        made: Tensor = self.proj(rearrange(found.masked_fill(blind[:, None], 0), "b h n d -> b n (h d)"))
        return made


class FourMSelfAttention(_Attention):
    """Attention of states to each other.

    Args:
        config: Size.
    """

    def __init__(self, config: FourMBlockConfig) -> None:
        super().__init__(config)
        self.qkv = nn.Linear(config.dim, 3 * config.dim, bias=config.qkv_bias)

    def forward(self, x: Float[Tensor, "batch cells dim"], visible: Bool[Tensor, "batch queries cells"]) -> Tensor:
        """The mixed states."""
        query, key, value = self.qkv(x).chunk(3, dim=-1)
        return self.mixed(query, key, value, visible)


class FourMCrossAttention(_Attention):
    """Attention of states to a context.

    Args:
        config: Size.
    """

    def __init__(self, config: FourMBlockConfig) -> None:
        super().__init__(config)
        self.q = nn.Linear(config.dim, config.dim, bias=config.qkv_bias)
        self.kv = nn.Linear(config.dim, 2 * config.dim, bias=config.qkv_bias)

    def forward(
        self, x: Float[Tensor, "batch cells dim"], context: Float[Tensor, "batch keys dim"], visible: Bool[Tensor, "batch queries keys"]
    ) -> Tensor:
        """The mixed context."""
        key, value = self.kv(context).chunk(2, dim=-1)
        return self.mixed(self.q(x), key, value, visible)


class FourMFeedForward(nn.Module):
    """A feed-forward network, gated or not.

    Args:
        config: Size.
    """

    def __init__(self, config: FourMBlockConfig) -> None:
        super().__init__()
        hidden = int(2 * config.feed_dim / 3) if config.gated else config.feed_dim
        self.fc1, self.fc2 = (nn.Linear(*sizes, bias=config.mlp_bias) for sizes in ((config.dim, hidden), (hidden, config.dim)))
        if config.gated:
            self.fc3 = nn.Linear(config.dim, hidden, bias=config.mlp_bias)
        self.gated, self.activation = config.gated, _activation(config.activation)

    def forward(self, x: Float[Tensor, "batch cells dim"]) -> Float[Tensor, "batch cells dim"]:
        """The transformed states."""
        inside = self.activation(self.fc1(x))
        found: Tensor = self.fc2(inside * self.fc3(x) if self.gated else inside)
        return found


def _activation(name: str) -> Callable[[Tensor], Tensor]:
    """The function of that name."""
    return functional.silu if name == "SiLU" else functional.gelu


class FourMEncoderBlock(nn.Module):
    """Attention and a feed-forward network, each behind its norm.

    Args:
        config: Size.
    """

    def __init__(self, config: FourMBlockConfig) -> None:
        super().__init__()
        self.norm1, self.norm2 = FourMNorm(config.dim, config.norm_bias), FourMNorm(config.dim, config.norm_bias)
        self.attn, self.mlp = FourMSelfAttention(config), FourMFeedForward(config)

    def forward(self, x: Float[Tensor, "batch cells dim"], visible: Bool[Tensor, "batch queries cells"]) -> Tensor:
        """The next states."""
        x = x + self.attn(self.norm1(x), visible)
        found: Tensor = x + self.mlp(self.norm2(x))
        return found


class FourMDecoderBlock(nn.Module):
    """Attention inside the decoder, attention to the encoder, and a feed-forward network.

    Args:
        config: Size.
    """

    def __init__(self, config: FourMBlockConfig) -> None:
        super().__init__()
        self.norm1, self.query_norm, self.context_norm, self.norm2 = (FourMNorm(config.dim, config.norm_bias) for _ in range(4))
        self.self_attn, self.cross_attn, self.mlp = FourMSelfAttention(config), FourMCrossAttention(config), FourMFeedForward(config)

    def forward(
        self,
        y: Float[Tensor, "batch cells dim"],
        context: Float[Tensor, "batch keys dim"],
        visible: Bool[Tensor, "batch cells cells"],
        seen: Bool[Tensor, "batch queries keys"],
    ) -> Tensor:
        """The next states of the decoder.

        Args:
            y: States of the decoder.
            context: What the encoder made.
            visible: Which cells of the decoder each of them sees.
            seen: Which cells of the encoder each of them sees.
        """
        y = y + self.self_attn(self.norm1(y), visible)
        y = y + self.cross_attn(self.query_norm(y), self.context_norm(context), seen)
        found: Tensor = y + self.mlp(self.norm2(y))
        return found
