"""The network of Dream and Omni-Diffusion: a Qwen2 that sees both ways and predicts the next cell, under its published names."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from maskgen.interop.llada_network import NEVER, LLaDAHead
from maskgen.interop.omnivoice_network import FrequenciesOnDemand
from maskgen.interop.sequences import Layout, ModelVocabulary, Sequences
from maskgen.networks.published import PublishedConfig, PublishedNetwork
from maskgen.networks.visibility import visible
from maskgen.tokens.batch import TokenBatch

SIZES = {
    "dim": "hidden_size",
    "hidden_dim": "intermediate_size",
    "num_layers": "num_hidden_layers",
    "num_heads": "num_attention_heads",
    "num_kv_heads": "num_key_value_heads",
    "vocab_size": "vocab_size",
    "mask_id": "mask_token_id",
}
"""Our names of the sizes to those of a `config.json`."""
FIXED = {"hidden_act": "silu", "rope_scaling": None, "use_sliding_window": False, "tie_word_embeddings": False, "use_mrope": False}
"""Options of the published configuration that every model of the family has at these values."""


@dataclass(frozen=True, kw_only=True)
class DreamConfig:
    """Sizes of the network; the defaults are those of `Dream-org/Dream-v0-Instruct-7B`.

    Args:
        dim: Width of the residual stream, `hidden_size`.
        hidden_dim: Width inside the feed-forward part, `intermediate_size`.
        num_layers: Blocks.
        num_heads: Query heads.
        num_kv_heads: Key and value heads.
        vocab_size: Ids of the embedding table.
        mask_id: Id of the mask token.
        rope_theta: Base of the rotary wavelengths.
        norm_eps: Added to the mean square in the norms, `rms_norm_eps`.
    """

    dim: int = 3584
    hidden_dim: int = 18944
    num_layers: int = 28
    num_heads: int = 28
    num_kv_heads: int = 4
    vocab_size: int = 152064
    mask_id: int = 151666
    rope_theta: float = 1e6
    norm_eps: float = 1e-6

    def __post_init__(self) -> None:
        if self.dim % self.num_heads or (self.dim // self.num_heads) % 2 or self.num_heads % self.num_kv_heads:
            raise ValueError(
                f"hidden_size {self.dim} must be num_attention_heads {self.num_heads} times an even number, and num_key_value_heads "
                f"{self.num_kv_heads} must divide num_attention_heads; copy the model again"
            )

    @classmethod
    def from_dict(cls, config: Mapping[str, Any], source: str) -> "DreamConfig":
        """Read the content of a `config.json`.

        Args:
            config: The content.
            source: Where it comes from, for errors.

        Raises:
            ValueError: If a size is missing or no positive number, or an option has another value than all models of the family have.
        """
        for name, value in FIXED.items():
            if config.get(name, value) != value:
                raise ValueError(f"{source} has {name} {config[name]!r}, and maskgen knows Dream's network with {name} {value!r} alone")
        found = {ours: config.get(theirs) for ours, theirs in SIZES.items()}
        for name, value in found.items():
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise ValueError(f"{source} gives {value!r} for {SIZES[name]}, wanted a positive whole number; copy the model again")
        return cls(
            **found,  # type: ignore[arg-type]
            rope_theta=float(config.get("rope_theta", 1e6)),
            norm_eps=float(config.get("rms_norm_eps", 1e-6)),
        )


class DreamNetwork(PublishedNetwork):
    """Dream's network over a token space.

    The state of a cell is that of the visible cell before it in its sequence, because the network kept Qwen2's habit of predicting the next
    token; the first one has its own. Places count visible cells. What is padding or hidden is seen by no other cell.

    Args:
        config: Sizes.
        vocabulary: Which ids are the codes of which modality.
        layout: How rows become sequences.

    Attributes:
        files: Small files of the folder that the weights were read from, by name, to write the same layout again.

    Raises:
        ImportError: If transformers is missing.

    Source: Dream, arXiv:2508.15487; Omni-Diffusion, arXiv:2603.06577. Differs: the mask token can't be drawn as a code.
    """

    model: Any

    def __init__(self, config: DreamConfig, vocabulary: ModelVocabulary, layout: Layout) -> None:
        super().__init__()
        try:
            from transformers import Qwen2Config, Qwen2Model
        except ImportError as error:
            raise ImportError("Dream's network needs transformers: pip install maskgen[adapt]") from error
        self.config, self.sizes = PublishedConfig(config.dim), config
        self.vocabulary, self.layout = vocabulary, layout
        self.files: Mapping[str, str] = {}
        trunk: Any = Qwen2Config(
            vocab_size=config.vocab_size,
            hidden_size=config.dim,
            intermediate_size=config.hidden_dim,
            num_hidden_layers=config.num_layers,
            num_attention_heads=config.num_heads,
            num_key_value_heads=config.num_kv_heads,
            rms_norm_eps=config.norm_eps,
            attn_implementation="sdpa",  # type: ignore[call-arg]
        )
        self.model = Qwen2Model(trunk)
        self.model.rotary_emb = FrequenciesOnDemand(config.dim // config.num_heads, config.rope_theta)
        for layer in self.model.layers:
            layer.self_attn.is_causal = False
        self.lm_head = LLaDAHead(config.vocab_size, config.dim)

    @property
    def embed(self) -> nn.Embedding:
        """The embedding table, which tells device and precision."""
        found: nn.Embedding = self.model.embed_tokens
        return found

    def forward(
        self, batch: TokenBatch, context: Bool[Tensor, "batch length"] | None = None, window: Int[Tensor, " batch"] | None = None
    ) -> Float[Tensor, "batch length dim"]:
        """Hidden state of every cell, 0 where a cell is hidden or padding; see the class and `PublishedNetwork.forward`."""
        if context is not None or window is not None:
            raise ValueError("Dream's network lets every cell see every other one; leave windows and blind conditions off")
        read = self.layout(batch)
        states: Tensor = self.model(
            input_ids=read.ids,
            attention_mask={"full_attention": visible(read.valid, read.document)},
            position_ids=(read.valid.long().cumsum(dim=1) - 1).clamp(min=0),
            use_cache=False,
        ).last_hidden_state
        before = torch.take_along_dim(_before(read), read.places.clamp(min=0), 1)
        shown = (batch.valid & (read.places >= 0))[..., None]
        return torch.take_along_dim(states, before[..., None], 1).masked_fill(~shown, 0)

    def logits(self, hidden: Float[Tensor, "cells dim"], offset: int, size: int) -> Float[Tensor, "cells size"]:
        """Logits of the ids `offset` to `offset + size - 1` of the token space; that of the mask token is `NEVER`."""
        start = self.vocabulary.start(offset)
        found: Tensor = self.lm_head(hidden, start, size)
        if start <= self.vocabulary.mask < start + size:
            found[:, self.vocabulary.mask - start] = NEVER
        return found


def _before(read: Sequences) -> Int[Tensor, "batch places"]:
    """Number of the visible place before each place in its document; the place itself where there is none."""
    own = torch.arange(read.ids.shape[1], device=read.ids.device).expand_as(read.ids)
    latest = torch.where(read.valid, own, -1).cummax(dim=1).values
    found = torch.cat([torch.full_like(own[:, :1], -1), latest[:, :-1]], dim=1)
    same = torch.take_along_dim(read.document, found.clamp(min=0), 1) == read.document
    return torch.where((found >= 0) & same, found, own)
