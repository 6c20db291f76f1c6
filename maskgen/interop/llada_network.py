"""The network of LLaDA, MMaDA and Lumina-DiMOO: a bidirectional Llama, under the names of its published weights."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional

from maskgen.interop.sequences import Layout, ModelVocabulary
from maskgen.networks.published import PublishedConfig, PublishedNetwork
from maskgen.networks.visibility import visible
from maskgen.tokens.batch import TokenBatch

NEVER = -1e4
"""Logit of the mask token, which is no code. It is finite, so that guidance can mix it."""
FIXED = {
    "block_type": "llama",
    "layer_norm_type": "rms",
    "activation_type": "silu",
    "rope": True,
    "alibi": False,
    "include_bias": False,
    "include_qkv_bias": False,
    "weight_tying": False,
    "attention_layer_norm": False,
    "scale_logits": False,
    "input_emb_norm": False,
    "layer_norm_with_affine": True,
}
"""Options of the published configuration that every model of the family has at these values."""


@dataclass(frozen=True, kw_only=True)
class LLaDAConfig:
    """Sizes of the network.

    Args:
        dim: Width of the residual stream, `d_model`.
        num_layers: Blocks, `n_layers`.
        num_heads: Query heads, `n_heads`.
        num_kv_heads: Key and value heads, `n_kv_heads`.
        hidden_dim: Width inside the feed-forward part, `mlp_hidden_size`.
        vocab_size: Ids of the embedding table, `embedding_size`.
        mask_id: Id of the mask token.
        rope_theta: Base of the rotary wavelengths.
        norm_eps: Added to the mean square in the norms, `rms_norm_eps`.
    """

    dim: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    hidden_dim: int
    vocab_size: int
    mask_id: int = 126336
    rope_theta: float = 500000.0
    norm_eps: float = 1e-5

    def __post_init__(self) -> None:
        if self.dim % self.num_heads or (self.dim // self.num_heads) % 2 or self.num_heads % self.num_kv_heads:
            raise ValueError(
                f"d_model {self.dim} must be n_heads {self.num_heads} times an even number, and n_kv_heads {self.num_kv_heads} "
                "must divide n_heads"
            )

    @classmethod
    def from_dict(cls, config: Mapping[str, Any], source: str) -> "LLaDAConfig":
        """Read the content of a `config.json`.

        Args:
            config: The content.
            source: Where it comes from, for errors.

        Raises:
            ValueError: If a size is missing or no positive number, or an option has another value than all models of the family have.
        """
        for name, value in FIXED.items():
            if config.get(name, value) != value:
                raise ValueError(f"{source} has {name} {config[name]!r}, and maskgen knows LLaDA's network with {name} {value!r} alone")
        heads = config.get("n_heads")
        # embedding_size and n_kv_heads may be null in the file
        found = {
            "dim": config.get("d_model"),
            "num_layers": config.get("n_layers"),
            "num_heads": heads,
            "num_kv_heads": config.get("n_kv_heads") or heads,
            "hidden_dim": config.get("mlp_hidden_size") or int(config.get("mlp_ratio") or 0) * int(config.get("d_model") or 0),
            "vocab_size": config.get("embedding_size") or config.get("vocab_size"),
        }
        for name, value in found.items():
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise ValueError(f"{source} gives {value!r} for {name}, wanted a positive whole number; copy the model again")
        return cls(
            **found,  # type: ignore[arg-type]
            mask_id=int(config.get("mask_token_id", 126336)),
            rope_theta=float(config.get("rope_theta", 500000.0)),
            norm_eps=float(config.get("rms_norm_eps", 1e-5)),
        )


class LLaDANorm(nn.Module):
    """x / rms(x), computed in float32, times a weight a channel."""

    def __init__(self, dim: int, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(dim))

    def forward(self, x: Float[Tensor, "*shape dim"]) -> Float[Tensor, "*shape dim"]:
        wide = x.float()
        scaled = wide * torch.rsqrt(wide.square().mean(dim=-1, keepdim=True) + self.eps)
        out: Tensor = self.weight * scaled.to(x.dtype)
        return out


def _rotation(places: int, head_dim: int, theta: float, device: torch.device) -> tuple[Tensor, Tensor]:
    """Cosine and sine [places, head_dim] of the rotary angles, in float32; both halves of a head have the same angles."""
    waves = torch.arange(0, head_dim, 2, dtype=torch.float32, device=device) / head_dim
    angles = torch.arange(places, dtype=torch.float32, device=device)[:, None] * (1.0 / theta**waves)
    angles = torch.cat([angles, angles], dim=-1)
    return angles.cos(), angles.sin()


def _rotated(x: Float[Tensor, "batch heads places dim"], turn: tuple[Tensor, Tensor]) -> Float[Tensor, "batch heads places dim"]:
    """Queries or keys turned by the angles of their places, in float32; channel i is paired with channel i + dim / 2."""
    wide = x.float()
    first, second = wide.chunk(2, dim=-1)
    return (wide * turn[0] + torch.cat([-second, first], dim=-1) * turn[1]).to(x.dtype)


class LLaDABlock(nn.Module):
    """Attention and a gated feed-forward part, each behind a norm and added to its input."""

    def __init__(self, config: LLaDAConfig) -> None:
        super().__init__()
        dim, self.head_dim = config.dim, config.dim // config.num_heads
        kv_dim = config.num_kv_heads * self.head_dim
        self.grouped = config.num_kv_heads != config.num_heads
        self.attn_norm, self.ff_norm = LLaDANorm(dim, config.norm_eps), LLaDANorm(dim, config.norm_eps)
        self.q_proj, self.attn_out = nn.Linear(dim, dim, bias=False), nn.Linear(dim, dim, bias=False)
        self.k_proj, self.v_proj = nn.Linear(dim, kv_dim, bias=False), nn.Linear(dim, kv_dim, bias=False)
        self.ff_proj, self.up_proj = nn.Linear(dim, config.hidden_dim, bias=False), nn.Linear(dim, config.hidden_dim, bias=False)
        self.ff_out = nn.Linear(config.hidden_dim, dim, bias=False)

    def forward(
        self,
        x: Float[Tensor, "batch places dim"],
        turn: tuple[Tensor, Tensor],
        seen: Bool[Tensor, "batch 1 places places"] | None,
    ) -> Float[Tensor, "batch places dim"]:
        """Hidden states after attention and feed-forward; `turn` is the rotation of each place, `seen` which places each may see."""
        read = self.attn_norm(x)
        query, key, value = (
            rearrange(part(read), "b n (h d) -> b h n d", d=self.head_dim) for part in (self.q_proj, self.k_proj, self.v_proj)
        )
        mixed = functional.scaled_dot_product_attention(
            _rotated(query, turn), _rotated(key, turn), value, attn_mask=seen, enable_gqa=self.grouped
        )
        x = x + self.attn_out(rearrange(mixed, "b h n d -> b n (h d)"))
        read = self.ff_norm(x)
        out: Tensor = x + self.ff_out(functional.silu(self.ff_proj(read)) * self.up_proj(read))
        return out


class LLaDAHead(nn.Module):
    """The output table. It is no `nn.Linear`, because a part of its rows is asked for: it is neither packed nor quantized."""

    def __init__(self, vocab_size: int, dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(vocab_size, dim))

    def forward(self, hidden: Float[Tensor, "*shape dim"], start: int = 0, size: int | None = None) -> Float[Tensor, "*shape size"]:
        """Logits of `size` ids from `start` on; of all ids without them."""
        return functional.linear(hidden, self.weight if size is None else self.weight[start : start + size])


class LLaDATrunk(nn.Module):
    """Everything with weights; `transformer` has the submodules that the published names begin with."""

    def __init__(self, config: LLaDAConfig) -> None:
        super().__init__()
        self.config = config
        self.transformer = nn.ModuleDict(
            {
                "wte": nn.Embedding(config.vocab_size, config.dim),
                "blocks": nn.ModuleList([LLaDABlock(config) for _ in range(config.num_layers)]),
                "ln_f": LLaDANorm(config.dim, config.norm_eps),
                "ff_out": LLaDAHead(config.vocab_size, config.dim),
            }
        )

    def forward(
        self, ids: Int[Tensor, "batch places"], valid: Bool[Tensor, "batch places"], document: Int[Tensor, "batch places"]
    ) -> Float[Tensor, "batch places dim"]:
        """Hidden states after the last norm, the input of the head."""
        turn = _rotation(ids.shape[1], self.config.dim // self.config.num_heads, self.config.rope_theta, ids.device)
        seen = visible(valid, document)
        x: Tensor = self.transformer["wte"](ids)
        for block in self.transformer["blocks"]:  # type: ignore[attr-defined]
            x = block(x, turn, seen)
        out: Tensor = self.transformer["ln_f"](x)
        return out


class LLaDANetwork(PublishedNetwork):
    """LLaDA's network over a token space.

    A cell that is padding or hidden is seen by no other: a row has the same hidden states alone and padded.

    Args:
        config: Sizes.
        vocabulary: Which ids are the codes of which modality.
        layout: How rows become sequences.

    Attributes:
        files: Small files of the folder that the weights were read from, by name, to write the same layout again.

    Source: LLaDA, arXiv:2502.09992; MMaDA, arXiv:2505.15809; Lumina-DiMOO, arXiv:2510.06308. Differs: the published code of LLaDA ignores
    padding masks, and lets the mask token be drawn as a code.
    """

    def __init__(self, config: LLaDAConfig, vocabulary: ModelVocabulary, layout: Layout) -> None:
        super().__init__()
        self.config, self.sizes = PublishedConfig(config.dim), config
        self.vocabulary, self.layout = vocabulary, layout
        self.files: Mapping[str, str] = {}
        self.model = LLaDATrunk(config)

    @property
    def embed(self) -> nn.Embedding:
        """The embedding table, which tells device and precision."""
        table: nn.Embedding = self.model.transformer["wte"]  # type: ignore[assignment]
        return table

    def forward(
        self, batch: TokenBatch, context: Bool[Tensor, "batch length"] | None = None, window: Int[Tensor, " batch"] | None = None
    ) -> Float[Tensor, "batch length dim"]:
        """Hidden state of every cell, 0 where a cell is hidden or padding; see `PublishedNetwork.forward`."""
        if context is not None or window is not None:
            raise ValueError("LLaDA's network lets every cell see every other one; leave windows and blind conditions off")
        read = self.layout(batch)
        hidden = self.model(read.ids, read.valid, read.document)
        shown = (batch.valid & (read.places >= 0))[..., None]
        return torch.take_along_dim(hidden, read.places.clamp(min=0)[..., None], 1).masked_fill(~shown, 0)

    def logits(self, hidden: Float[Tensor, "cells dim"], offset: int, size: int) -> Float[Tensor, "cells size"]:
        """Logits of the ids `offset` to `offset + size - 1` of the token space; that of the mask token is `NEVER`."""
        start = self.vocabulary.start(offset)
        found: Tensor = self.model.transformer["ff_out"](hidden, start, size)
        if start <= self.vocabulary.mask < start + size:
            found[:, self.vocabulary.mask - start] = NEVER
        return found
