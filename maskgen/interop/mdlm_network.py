"""The network of MDLM: a transformer that sees both ways and has adaptive norms, as a network over our token space."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional

from maskgen.interop.sequences import ModelVocabulary, cell_after_cell
from maskgen.interop.sinusoids import sinusoids
from maskgen.networks.published import PublishedConfig, PublishedNetwork
from maskgen.networks.visibility import visible
from maskgen.tokens.batch import TokenBatch
from maskgen.tokens.space import TokenSpace

WAVES, WAVE_BASE = 256, 10000.0
"""Numbers that describe a noise level, and base of the rotary wavelengths: the same in every published model."""
SIZES = {
    "dim": "hidden_dim",
    "cond_dim": "cond_dim",
    "num_layers": "n_blocks",
    "num_heads": "n_heads",
    "length": "model_length",
    "vocab_size": "vocab_size",
}
"""Our names of the sizes to those of a `config.json`."""


@dataclass(frozen=True, kw_only=True)
class MDLMConfig:
    """Sizes of the network; the defaults are those of `kuleshov-group/mdlm-owt`.

    Args:
        dim: Width of the residual stream, `hidden_dim`.
        cond_dim: Width of the condition of the norms.
        num_layers: Blocks, `n_blocks`.
        num_heads: Attention heads, `n_heads`.
        length: Tokens of a training row, `model_length`.
        vocab_size: Ids; the last one is the mask token.
    """

    dim: int = 768
    cond_dim: int = 128
    num_layers: int = 12
    num_heads: int = 12
    length: int = 1024
    vocab_size: int = 50258

    def __post_init__(self) -> None:
        if self.dim % self.num_heads or (self.dim // self.num_heads) % 2:
            raise ValueError(f"hidden_dim {self.dim} must be n_heads {self.num_heads} times an even number; copy the model again")

    @property
    def mask_id(self) -> int:
        """Id of the mask token."""
        return self.vocab_size - 1

    @classmethod
    def from_dict(cls, config: Mapping[str, Any], source: str) -> "MDLMConfig":
        """Read the content of a `config.json`.

        Args:
            config: The content.
            source: Where it comes from, for errors.

        Raises:
            ValueError: If a size is missing or no positive number, or the network is told the noise level.
        """
        if config.get("time_conditioning"):
            raise ValueError(f"{source} has time_conditioning true, and maskgen runs MDLM without it alone; take kuleshov-group/mdlm-owt")
        found = {ours: config.get(theirs) for ours, theirs in SIZES.items()}
        for name, value in found.items():
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise ValueError(f"{source} gives {value!r} for {SIZES[name]}, wanted a positive whole number; copy the model again")
        return cls(**found)  # type: ignore[arg-type]


class _Condition(nn.Module):
    """From noise levels, as sinusoids, to the condition of the norms."""

    def __init__(self, cond_dim: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(WAVES, cond_dim), nn.SiLU(), nn.Linear(cond_dim, cond_dim))

    def forward(self, waves: Float[Tensor, "batch waves"]) -> Float[Tensor, "batch cond"]:
        found: Tensor = self.mlp(waves)
        return found


def _modulated(
    x: Float[Tensor, "batch length dim"], shift: Float[Tensor, "batch 1 dim"], scale: Float[Tensor, "batch 1 dim"]
) -> Float[Tensor, "batch length dim"]:
    """A norm's output under a shift and a scale."""
    return x * (1 + scale) + shift


class MDLMBlock(nn.Module):
    """Attention and feed-forward part, each behind a norm whose output the condition shifts and scales, and each gated by it."""

    def __init__(self, config: MDLMConfig) -> None:
        super().__init__()
        dim = config.dim
        self.num_heads = config.num_heads
        self.norm1, self.norm2 = nn.LayerNorm(dim, bias=False), nn.LayerNorm(dim, bias=False)
        self.attn_qkv, self.attn_out = nn.Linear(dim, 3 * dim, bias=False), nn.Linear(dim, dim, bias=False)
        self.mlp = nn.Sequential(nn.Linear(dim, 4 * dim), nn.GELU(approximate="tanh"), nn.Linear(4 * dim, dim))
        self.adaLN_modulation = nn.Linear(config.cond_dim, 6 * dim)

    def forward(
        self,
        x: Float[Tensor, "batch length dim"],
        condition: Float[Tensor, "batch cond"],
        turn: tuple[Tensor, Tensor],
        seen: Bool[Tensor, "batch 1 length length"] | None,
    ) -> Float[Tensor, "batch length dim"]:
        """Hidden states after the block; `turn` is the rotation of each place, `seen` which places each may see."""
        first, second = self.adaLN_modulation(condition)[:, None].chunk(2, dim=-1)
        shift, scale, gate = first.chunk(3, dim=-1)
        query, key, value = rearrange(
            self.attn_qkv(_modulated(self.norm1(x), shift, scale)), "b l (k h d) -> k b h l d", k=3, h=self.num_heads
        ).unbind()
        mixed = functional.scaled_dot_product_attention(_rotated(query, turn), _rotated(key, turn), value, attn_mask=seen)
        x = x + gate * self.attn_out(rearrange(mixed, "b h l d -> b l (h d)"))
        shift, scale, gate = second.chunk(3, dim=-1)
        out: Tensor = x + gate * self.mlp(_modulated(self.norm2(x), shift, scale))
        return out


def _rotated(x: Float[Tensor, "batch heads length dim"], turn: tuple[Tensor, Tensor]) -> Float[Tensor, "batch heads length dim"]:
    """Queries or keys, each pair of channels half a head apart turned by its place."""
    cosine, sine = turn
    first, second = x.float().chunk(2, dim=-1)
    return torch.cat([first * cosine - second * sine, second * cosine + first * sine], dim=-1).to(x.dtype)


class _Rows(nn.Module):
    """The output table and its bias. It is no `nn.Linear`, because a part of its rows is asked for: it is neither packed nor quantized."""

    def __init__(self, rows: int, dim: int) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.zeros(rows, dim)), nn.Parameter(torch.zeros(rows))

    def forward(self, hidden: Float[Tensor, "*shape dim"], start: int, size: int) -> Float[Tensor, "*shape size"]:
        return functional.linear(hidden, self.weight[start : start + size], self.bias[start : start + size])


class MDLMTrunk(nn.Module):
    """Everything with weights, under the published names but for the embedding, which is an `nn.Embedding` here."""

    def __init__(self, config: MDLMConfig) -> None:
        super().__init__()
        self.config = config
        self.vocab_embed, self.sigma_map = nn.Embedding(config.vocab_size, config.dim), _Condition(config.cond_dim)
        self.blocks = nn.ModuleList([MDLMBlock(config) for _ in range(config.num_layers)])
        parts = {"norm_final": nn.LayerNorm(config.dim, bias=False), "linear": _Rows(config.vocab_size, config.dim)}
        self.output_layer = nn.ModuleDict({**parts, "adaLN_modulation": nn.Linear(config.cond_dim, 2 * config.dim)})

    def forward(
        self,
        ids: Int[Tensor, "batch length"],
        sigma: Float[Tensor, " batch"],
        seen: Bool[Tensor, "batch 1 length length"] | None = None,
    ) -> Float[Tensor, "batch length dim"]:
        """Input of the output table.

        Args:
            ids: Ids, the mask token where unknown.
            sigma: Noise level of each row; 0 in a model without time conditioning.
            seen: Which places each may see; None for all.
        """
        angles = torch.arange(ids.shape[1], device=ids.device)[:, None] * rotary_frequencies(self.config, ids.device)
        x: Tensor = self.vocab_embed(ids)
        condition = functional.silu(self.sigma_map(sinusoids(sigma, WAVES).to(x.dtype)))
        for block in self.blocks:
            x = block(x, condition, (angles.cos(), angles.sin()), seen)
        shift, scale = self.output_layer["adaLN_modulation"](condition)[:, None].chunk(2, dim=-1)
        return _modulated(self.output_layer["norm_final"](x), shift, scale)


def rotary_frequencies(config: MDLMConfig, device: torch.device | str = "cpu") -> Float[Tensor, " pairs"]:
    """Frequency of each pair of channels of a head, in float32; the published file holds them too."""
    head_dim = config.dim // config.num_heads
    return 1.0 / WAVE_BASE ** (torch.arange(0, head_dim, 2, dtype=torch.float32, device=device) / head_dim)


class MDLMNetwork(PublishedNetwork):
    """MDLM's network over a space of text. Its noise level is always 0, as in the published model, which ignores the time.

    A cell that is padding or hidden is seen by no other.

    Args:
        config: Sizes.
        space: Token space with one modality of `vocab_size - 1` codes: the mask token is none.

    Attributes:
        files: Small files of the folder that the weights were read from, by name, to write the same layout again.

    Source: MDLM, arXiv:2406.07524. Differs: the mask token has no logit at all, where the authors give it -1e6 (their SUBS).
    """

    adapted = r".*\.(attn_qkv|attn_out)"

    def __init__(self, config: MDLMConfig, space: TokenSpace) -> None:
        super().__init__()
        self.config, self.sizes = PublishedConfig(config.dim), config
        self.vocabulary = ModelVocabulary(space, {space.modalities[0].name: 0}, config.mask_id, config.vocab_size)
        self.files: Mapping[str, str] = {}
        self.backbone = MDLMTrunk(config)

    @property
    def embed(self) -> nn.Embedding:
        """The embedding table, which tells device and precision."""
        return self.backbone.vocab_embed

    def forward(
        self, batch: TokenBatch, context: Bool[Tensor, "batch length"] | None = None, window: Int[Tensor, " batch"] | None = None
    ) -> Float[Tensor, "batch length dim"]:
        """Hidden state of every cell, 0 where a cell is hidden or padding; see `PublishedNetwork.forward`."""
        if context is not None or window is not None:
            raise ValueError("MDLM's network lets every cell see every other one; leave windows and blind conditions off")
        read = cell_after_cell(self.vocabulary)(batch)
        sigma = torch.zeros(len(batch), device=read.ids.device)
        hidden: Tensor = self.backbone(read.ids, sigma, visible(read.valid, read.document))
        return hidden.masked_fill(~batch.valid[..., None], 0)

    def logits(self, hidden: Float[Tensor, "cells dim"], offset: int, size: int) -> Float[Tensor, "cells size"]:
        """Logits of the ids `offset` to `offset + size - 1` of the token space."""
        found: Tensor = self.backbone.output_layer["linear"](hidden, self.vocabulary.start(offset), size)
        return found
