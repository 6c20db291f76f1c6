"""The trunk of MaskGCT's two stages: Llama's layers without a causal mask, whose norms are scaled by the time."""

import math
from dataclasses import dataclass

import torch
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional

THETA, EPSILON, WIDENING = 10_000.0, 1e-6, 4
Turn = tuple[Tensor, Tensor]
"""Cosine and sine `[places, head]` of the rotary angles."""


@dataclass(frozen=True, kw_only=True)
class NarLlamaConfig:
    """Size of a trunk.

    Args:
        dim: Width of the residual stream.
        num_layers: Layers.
        num_heads: Attention heads; must divide dim.
    """

    dim: int
    num_layers: int
    num_heads: int

    def __post_init__(self) -> None:
        if min(self.dim, self.num_layers, self.num_heads) < 1 or self.dim % (2 * self.num_heads):
            raise ValueError(f"hidden_size must be a multiple of twice num_heads, got {self.dim} and {self.num_heads}")


class TimeSinusoids(nn.Module):
    """Sines, then cosines, of a time at wavelengths from 2 pi to 20,000 pi, both ends included.

    Args:
        dim: Width, even.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim = dim

    def forward(self, time: Float[Tensor, " batch"]) -> Float[Tensor, "batch dim"]:
        half = self.dim // 2
        steps = torch.arange(half, dtype=torch.float32, device=time.device)
        angles = time.float()[:, None] * torch.exp(steps * (-math.log(10_000) / max(half - 1, 1)))
        return torch.cat([angles.sin(), angles.cos()], dim=-1)


class TimedNorm(nn.Module):
    """x / rms(x), with the mean square in float32, times a weight a channel that follows from the time.

    Args:
        dim: Channels.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.to_weight = nn.Linear(dim, dim)

    def forward(self, x: Float[Tensor, "batch places dim"], time: Float[Tensor, "batch dim"]) -> Float[Tensor, "batch places dim"]:
        scaled = x * torch.rsqrt(x.float().square().mean(dim=-1, keepdim=True) + EPSILON)
        out: Tensor = (self.to_weight(time)[:, None] * scaled).to(x.dtype)
        return out


class NarAttention(nn.Module):
    """Attention of every place to all places that are seen.

    Args:
        config: Size.
    """

    def __init__(self, config: NarLlamaConfig) -> None:
        super().__init__()
        self.head_dim = config.dim // config.num_heads
        self.q_proj, self.k_proj, self.v_proj, self.o_proj = (nn.Linear(config.dim, config.dim, bias=False) for _ in range(4))

    def forward(
        self, x: Float[Tensor, "batch places dim"], turn: Turn, seen: Bool[Tensor, "batch 1 1 places"]
    ) -> Float[Tensor, "batch places dim"]:
        query, key, value = (
            rearrange(part(x), "b n (h d) -> b h n d", d=self.head_dim) for part in (self.q_proj, self.k_proj, self.v_proj)
        )
        mixed = functional.scaled_dot_product_attention(_turned(query, turn), _turned(key, turn), value, attn_mask=seen)
        out: Tensor = self.o_proj(rearrange(mixed, "b h n d -> b n (h d)"))
        return out


class NarFeedForward(nn.Module):
    """The gated feed-forward part.

    Args:
        dim: Width of the residual stream.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.gate_proj, self.up_proj = (nn.Linear(dim, WIDENING * dim, bias=False) for _ in range(2))
        self.down_proj = nn.Linear(WIDENING * dim, dim, bias=False)

    def forward(self, x: Float[Tensor, "batch places dim"]) -> Float[Tensor, "batch places dim"]:
        out: Tensor = self.down_proj(functional.silu(self.gate_proj(x)) * self.up_proj(x))
        return out


class NarLayer(nn.Module):
    """Attention and a feed-forward part, each behind a norm and added to its input.

    Args:
        config: Size.
    """

    def __init__(self, config: NarLlamaConfig) -> None:
        super().__init__()
        self.self_attn, self.mlp = NarAttention(config), NarFeedForward(config.dim)
        self.input_layernorm, self.post_attention_layernorm = TimedNorm(config.dim), TimedNorm(config.dim)

    def forward(
        self,
        x: Float[Tensor, "batch places dim"],
        time: Float[Tensor, "batch dim"],
        turn: Turn,
        seen: Bool[Tensor, "batch 1 1 places"],
    ) -> Float[Tensor, "batch places dim"]:
        x = x + self.self_attn(self.input_layernorm(x, time), turn, seen)
        out: Tensor = x + self.mlp(self.post_attention_layernorm(x, time))
        return out


class NarLlama(nn.Module):
    """Layers over vectors of cells, under the names that MaskGCT's files have below `diff_estimator`.

    Args:
        config: Size.

    Source: MaskGCT, arXiv:2409.00750. Differs: its own layers, where the reference builds on classes of transformers that changed, so that
    it can't be imported with transformers 5.
    """

    def __init__(self, config: NarLlamaConfig) -> None:
        super().__init__()
        self.config, dim = config, config.dim
        self.layers = nn.ModuleList([NarLayer(config) for _ in range(config.num_layers)])
        self.norm = TimedNorm(dim)
        self.diff_step_embedding = TimeSinusoids(dim)
        self.diff_step_mlp = _two_layers(dim)
        self.cond_mlp = _two_layers(dim)

    def forward(
        self, x: Float[Tensor, "batch places dim"], time: Float[Tensor, " batch"], seen: Bool[Tensor, "batch places"]
    ) -> Float[Tensor, "batch places dim"]:
        """Hidden states behind the last norm.

        Args:
            x: Vectors, those of conditions included.
            time: From 1, where all is masked, to 0.
            seen: Places that exist; the others influence nothing.
        """
        told = self.diff_step_mlp(self.diff_step_embedding(time).to(x.dtype))
        waves = torch.arange(0, self.config.dim // self.config.num_heads, 2, dtype=torch.float32, device=x.device)
        places = torch.arange(x.shape[1], dtype=torch.float32, device=x.device)
        angles = places[:, None] * (1 / THETA ** (waves / (self.config.dim // self.config.num_heads)))
        angles = torch.cat([angles, angles], dim=-1)
        visible = seen | ~seen.any(dim=1, keepdim=True)  # no row is left without any place that it sees
        for layer in self.layers:
            x = layer(x, told, (angles.cos(), angles.sin()), visible[:, None, None])
        out: Tensor = self.norm(x, told)
        return out


def _two_layers(dim: int) -> nn.Sequential:
    """Two linear layers around SiLU, four times as wide inside."""
    return nn.Sequential(nn.Linear(dim, WIDENING * dim), nn.SiLU(), nn.Linear(WIDENING * dim, dim))


def _turned(x: Float[Tensor, "batch heads places dim"], turn: Turn) -> Float[Tensor, "batch heads places dim"]:
    """Queries or keys turned by the angles of their places; channel i is paired with channel i + dim / 2."""
    wide = x.float()
    first, second = wide.chunk(2, dim=-1)
    return (wide * turn[0] + torch.cat([-second, first], dim=-1) * turn[1]).to(x.dtype)
