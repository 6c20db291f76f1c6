"""The network of MAGNeT: a transformer over audio codes that reads T5 states, under the published names."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional

from maskgen.networks.visibility import visible

LONGEST_PERIOD = 10_000.0
FIXED = {
    "norm_first": True,
    "bias_ff": False,
    "bias_attn": False,
    "bias_proj": False,
    "activation": "gelu",
    "causal": False,
    "positional_embedding": "sin",
    "norm": "layer_norm",
    "layer_scale": None,
    "past_context": None,
    "qk_layer_norm": False,
    "qk_layer_norm_cross": False,
    "kv_repeat": 1,
}
"""Options of `transformer_lm` that every published model has at these values."""


@dataclass(frozen=True, kw_only=True)
class MagnetConfig:
    """Sizes of the network.

    Args:
        dim: Width of the residual stream.
        num_heads: Attention heads; must divide dim.
        num_layers: Blocks.
        hidden_dim: Width inside the feed-forward part.
        num_levels: Levels of the codes, `n_q`.
        codebook_size: Codes of a level, `card`; the id behind them is the mask.
        text_dim: Width of the T5 states.
    """

    dim: int
    num_heads: int
    num_layers: int
    hidden_dim: int
    num_levels: int
    codebook_size: int
    text_dim: int

    def __post_init__(self) -> None:
        if self.dim % 2 or self.dim < 4 or self.dim % self.num_heads:
            raise ValueError(f"dim must be even, at least 4 and a multiple of num_heads, got {self.dim} and {self.num_heads} heads")

    @classmethod
    def from_dict(cls, config: Mapping[str, Any], text_dim: int, source: str) -> "MagnetConfig":
        """Read the section `transformer_lm` of a published configuration.

        Args:
            config: The section.
            text_dim: Width of the T5 states.
            source: Where it comes from, for errors.

        Raises:
            ValueError: If a size is missing or no positive whole number, or an option has another value than all published models have.
        """
        for name, value in FIXED.items():
            if config.get(name, value) != value:
                raise ValueError(f"{source} has {name} {config[name]!r}, and maskgen knows MAGNeT's network with {name} {value!r} alone")
        names = {"dim": "dim", "num_heads": "num_heads", "num_layers": "num_layers", "num_levels": "n_q", "codebook_size": "card"}
        sizes = {ours: config.get(theirs) for ours, theirs in names.items()} | {"hidden_scale": config.get("hidden_scale", 4)}
        for name, value in sizes.items():
            if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= 2**24:
                raise ValueError(
                    f"{source} gives {value!r} for {names.get(name, name)}, wanted a positive whole number; copy the model again"
                )
        scale = sizes.pop("hidden_scale")
        return cls(**sizes, hidden_dim=sizes["dim"] * scale, text_dim=text_dim)  # type: ignore[arg-type,operator]


def time_sinusoids(time: Int[Tensor, "batch frames"], dim: int) -> Float[Tensor, "batch frames dim"]:
    """Cosines, then sines, of each frame's number in float32, at wavelengths from 2 pi to 20,000 pi."""
    half = dim // 2
    exponents = torch.arange(half, dtype=torch.float32, device=time.device) / (half - 1)
    phase = time[..., None].float() / LONGEST_PERIOD**exponents
    return torch.cat([phase.cos(), phase.sin()], dim=-1)


class MagnetAttention(nn.Module):
    """Attention whose three input matrices lie in one tensor: queries, keys, values.

    Args:
        dim: Width of the residual stream.
        num_heads: Heads.
    """

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.in_proj_weight = nn.Parameter(torch.empty(3 * dim, dim))
        self.out_proj = nn.Linear(dim, dim, bias=False)

    def forward(
        self,
        read: Float[Tensor, "batch frames dim"],
        source: Float[Tensor, "batch places dim"],
        seen: Bool[Tensor, "batch 1 _ places"] | None,
    ) -> Float[Tensor, "batch frames dim"]:
        """What each frame reads of the visible places of `source`."""
        for_query, for_key, for_value = self.in_proj_weight.chunk(3)
        query, key, value = (
            rearrange(functional.linear(states, weight), "b n (h d) -> b h n d", h=self.num_heads)
            for states, weight in ((read, for_query), (source, for_key), (source, for_value))
        )
        found = functional.scaled_dot_product_attention(query, key, value, attn_mask=seen)
        out: Tensor = self.out_proj(rearrange(found, "b h n d -> b n (h d)"))
        return out


class MagnetBlock(nn.Module):
    """Self-attention, attention to the text and a feed-forward part, each behind a norm and added to its input."""

    def __init__(self, config: MagnetConfig) -> None:
        super().__init__()
        self.self_attn, self.cross_attention = (MagnetAttention(config.dim, config.num_heads) for _ in range(2))
        self.linear1 = nn.Linear(config.dim, config.hidden_dim, bias=False)
        self.linear2 = nn.Linear(config.hidden_dim, config.dim, bias=False)
        self.norm1, self.norm2, self.norm_cross = (nn.LayerNorm(config.dim) for _ in range(3))

    def forward(
        self,
        states: Float[Tensor, "batch frames dim"],
        near: Bool[Tensor, "batch 1 frames frames"] | None,
        words: Float[Tensor, "batch words dim"],
        told: Bool[Tensor, "batch 1 1 words"] | None,
    ) -> Float[Tensor, "batch frames dim"]:
        """States after the block; `near` says which frames a frame sees, `told` which words."""
        read = self.norm1(states)
        states = states + self.self_attn(read, read, near)
        states = states + self.cross_attention(self.norm_cross(states), words, told)
        out: Tensor = states + self.linear2(functional.gelu(self.linear1(self.norm2(states))))
        return out


class MagnetTransformer(nn.Module):
    """Everything with published weights.

    A frame is the sum of one vector a level and of the sinusoids of its time.

    Args:
        config: Sizes.

    Source: MAGNeT, arXiv:2401.04577.
    """

    def __init__(self, config: MagnetConfig) -> None:
        super().__init__()
        self.config = config
        self.emb = nn.ModuleList([nn.Embedding(config.codebook_size + 1, config.dim) for _ in range(config.num_levels)])
        reader = nn.ModuleDict({"output_proj": nn.Linear(config.text_dim, config.dim)})
        self.condition_provider = nn.ModuleDict({"conditioners": nn.ModuleDict({"description": reader})})
        self.transformer = nn.ModuleDict({"layers": nn.ModuleList([MagnetBlock(config) for _ in range(config.num_layers)])})
        self.out_norm = nn.LayerNorm(config.dim)
        self.linears = nn.ModuleList([nn.Linear(config.dim, config.codebook_size, bias=False) for _ in range(config.num_levels)])

    def words(self, states: Float[Tensor, "batch words width"], told: Bool[Tensor, "batch words"]) -> Float[Tensor, "batch words dim"]:
        """What the network reads of T5 states: their projection, 0 where nothing is said."""
        reader: Any = self.condition_provider
        found: Tensor = reader["conditioners"]["description"]["output_proj"](states)
        return found * told[..., None]

    def forward(
        self,
        ids: Int[Tensor, "batch frames level"],
        time: Int[Tensor, "batch frames"],
        words: Float[Tensor, "batch words dim"],
        near: Bool[Tensor, "batch 1 frames frames"] | None = None,
        told: Bool[Tensor, "batch words"] | None = None,
    ) -> Float[Tensor, "batch frames dim"]:
        """Hidden states after the last norm, the input of the heads.

        Args:
            ids: Codes of every level; `codebook_size` is the mask.
            time: Number of each frame.
            words: Result of `words`.
            near: Frames that a frame sees; None for all.
            told: Words that are seen; None for all, also those that are 0.
        """
        states = sum(table(ids[..., level]) for level, table in enumerate(self.emb))
        assert isinstance(states, Tensor), "there is a level"
        states = states + time_sinusoids(time, self.config.dim).to(states.dtype)
        seen = None if told is None else told[:, None, None]
        for block in self.transformer["layers"]:  # type: ignore[attr-defined]
            states = block(states, near, words, seen)
        out: Tensor = self.out_norm(states)
        return out


def near_frames(
    inside: Bool[Tensor, "batch frames"], time: Int[Tensor, "batch frames"], window: Int[Tensor, " batch"] | None
) -> Bool[Tensor, "batch 1 frames frames"] | None:
    """Which frames see each other: those that are no padding, within the window of their row.

    Args:
        inside: False for padding.
        time: Number of each frame.
        window: Frames to either side, of each row; 0 and None restrict nothing.
    """
    near = None
    if window is not None:
        near = ((time[:, :, None] - time[:, None, :]).abs() <= window[:, None, None]) | (window[:, None, None] == 0)
    return visible(inside, torch.zeros_like(time), near=near)
