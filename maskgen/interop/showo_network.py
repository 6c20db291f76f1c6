"""The network of Show-o: phi-1.5 with norms on queries and keys, causal over text and bidirectional over an image."""

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
from maskgen.tokens.batch import TokenBatch

PHI_1_5: Mapping[str, Any] = {
    "hidden_size": 2048,
    "intermediate_size": 8192,
    "num_hidden_layers": 24,
    "num_attention_heads": 32,
    "partial_rotary_factor": 0.5,
    "rope_theta": 10_000.0,
    "layer_norm_eps": 1e-5,
}
"""Sizes of phi-1.5, which Show-o's own folder does not repeat."""


@dataclass(frozen=True, kw_only=True)
class PhiSizes:
    """Sizes of the network.

    Args:
        dim: Width of the residual stream.
        num_heads: Attention heads.
        num_layers: Blocks.
        hidden_dim: Width inside the feed-forward part.
        vocab_size: Ids of text, special tokens, image codes and the mask.
        rotary_dim: Channels of a head that are turned by its place.
        rope_theta: Base of the rotary wavelengths.
        norm_eps: Added to the variance in the norms.
    """

    dim: int
    num_heads: int
    num_layers: int
    hidden_dim: int
    vocab_size: int
    rotary_dim: int
    rope_theta: float
    norm_eps: float

    @classmethod
    def from_dict(cls, config: Mapping[str, Any], vocab_size: int, source: str) -> "PhiSizes":
        """Read the content of the `config.json` of a phi; what it lacks is as in phi-1.5.

        Args:
            config: The content.
            vocab_size: Ids of the whole vocabulary.
            source: Where it comes from, for errors.

        Raises:
            ValueError: If a size is no positive whole number, heads don't divide the width, or keys have heads of their own.
        """
        found = {**PHI_1_5, **{name: value for name, value in config.items() if name in PHI_1_5 and value is not None}}
        rope = config.get("rope_parameters")
        if isinstance(rope, Mapping):
            found |= {name: value for name, value in rope.items() if name in PHI_1_5}
        for name in ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"):
            if not isinstance(found[name], int) or isinstance(found[name], bool) or not 1 <= found[name] <= 2**20:
                raise ValueError(f"{source} gives {found[name]!r} for {name}, wanted a positive whole number; copy the model again")
        dim, heads = found["hidden_size"], found["num_attention_heads"]
        rotary = int(found["partial_rotary_factor"] * (dim // heads))
        if dim % heads or rotary % 2 or not 0 < rotary <= dim // heads or config.get("num_key_value_heads") not in (None, heads):
            raise ValueError(
                f"{source} describes no network of Show-o: width {dim}, {heads} heads, {rotary} channels turned; copy it again"
            )
        return cls(
            dim=dim,
            num_heads=heads,
            num_layers=found["num_hidden_layers"],
            hidden_dim=found["intermediate_size"],
            vocab_size=vocab_size,
            rotary_dim=rotary,
            rope_theta=float(found["rope_theta"]),
            norm_eps=float(found["layer_norm_eps"]),
        )


Turn = tuple[Float[Tensor, "places rotary"], Float[Tensor, "places rotary"]]
"""Cosine and sine of the angle of each place and channel."""


class PhiAttention(nn.Module):
    """Attention with biases; queries and keys are normed, and a part of their channels is turned by the place."""

    def __init__(self, sizes: PhiSizes) -> None:
        super().__init__()
        self.heads, head_dim = sizes.num_heads, sizes.dim // sizes.num_heads
        self.q_proj, self.k_proj, self.v_proj, self.dense = (nn.Linear(sizes.dim, sizes.dim) for _ in range(4))
        self.q_layernorm, self.k_layernorm = (nn.LayerNorm(head_dim, eps=sizes.norm_eps) for _ in range(2))

    def forward(
        self, read: Float[Tensor, "batch places dim"], turn: Turn, seen: Bool[Tensor, "batch 1 places places"]
    ) -> Float[Tensor, "batch places dim"]:
        """What each place reads of the places that it sees."""
        query, key, value = (
            rearrange(part(read), "b n (h d) -> b h n d", h=self.heads) for part in (self.q_proj, self.k_proj, self.v_proj)
        )
        query, key = _turned(self.q_layernorm(query), turn), _turned(self.k_layernorm(key), turn)
        found = functional.scaled_dot_product_attention(query, key, value, attn_mask=seen)
        out: Tensor = self.dense(rearrange(found, "b h n d -> b n (h d)"))
        return out


def _turned(x: Float[Tensor, "batch heads places dim"], turn: Turn) -> Float[Tensor, "batch heads places dim"]:
    """The first channels turned by the angles of their places, channel i with channel i + half of them; the others as they are."""
    cosine, sine = (part.to(x.dtype) for part in turn)
    moved, rest = x[..., : cosine.shape[-1]], x[..., cosine.shape[-1] :]
    first, second = moved.chunk(2, dim=-1)
    return torch.cat([moved * cosine + torch.cat([-second, first], dim=-1) * sine, rest], dim=-1)


class PhiFeedForward(nn.Module):
    """Two linear layers with phi's GELU between them."""

    def __init__(self, sizes: PhiSizes) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(sizes.dim, sizes.hidden_dim), nn.Linear(sizes.hidden_dim, sizes.dim)

    def forward(self, read: Float[Tensor, "batch places dim"]) -> Float[Tensor, "batch places dim"]:
        """The output of each place."""
        out: Tensor = self.fc2(functional.gelu(self.fc1(read), approximate="tanh"))
        return out


class PhiBlock(nn.Module):
    """Attention and a feed-forward part behind one norm, both added to its input."""

    def __init__(self, sizes: PhiSizes) -> None:
        super().__init__()
        self.self_attn, self.mlp = PhiAttention(sizes), PhiFeedForward(sizes)
        self.input_layernorm = nn.LayerNorm(sizes.dim, eps=sizes.norm_eps)

    def forward(
        self, x: Float[Tensor, "batch places dim"], turn: Turn, seen: Bool[Tensor, "batch 1 places places"]
    ) -> Float[Tensor, "batch places dim"]:
        """States after the block."""
        read = self.input_layernorm(x)
        out: Tensor = x + self.self_attn(read, turn, seen) + self.mlp(read)
        return out


class PhiTrunk(nn.Module):
    """Table, blocks and last norm.

    Args:
        sizes: Sizes.
    """

    def __init__(self, sizes: PhiSizes) -> None:
        super().__init__()
        self.sizes = sizes
        self.embed_tokens = nn.Embedding(sizes.vocab_size, sizes.dim)
        self.layers = nn.ModuleList([PhiBlock(sizes) for _ in range(sizes.num_layers)])
        self.final_layernorm = nn.LayerNorm(sizes.dim, eps=sizes.norm_eps)

    def forward(self, ids: Int[Tensor, "batch places"], seen: Bool[Tensor, "batch 1 places places"]) -> Float[Tensor, "batch places dim"]:
        """Hidden states after the last norm, the input of the head; `seen` says which places each may see."""
        waves = torch.arange(0, self.sizes.rotary_dim, 2, dtype=torch.float32, device=ids.device) / self.sizes.rotary_dim
        angles = torch.arange(ids.shape[1], dtype=torch.float32, device=ids.device)[:, None] * (1.0 / self.sizes.rope_theta**waves)
        angles = torch.cat([angles, angles], dim=-1)
        x: Tensor = self.embed_tokens(ids)
        for block in self.layers:
            x = block(x, (angles.cos(), angles.sin()), seen)
        out: Tensor = self.final_layernorm(x)
        return out


class BiasedHead(nn.Module):
    """The output table with its bias. It is no `nn.Linear`, because a part of its rows is asked for: it is neither packed nor quantized."""

    def __init__(self, vocab_size: int, dim: int) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.empty(vocab_size, dim)), nn.Parameter(torch.empty(vocab_size))

    def forward(self, hidden: Float[Tensor, "*shape dim"], start: int, size: int) -> Float[Tensor, "*shape size"]:
        """Logits of `size` ids from `start` on."""
        rows = slice(start, start + size)
        return functional.linear(hidden, self.weight[rows], self.bias[rows])


def omni_mask(
    ids: Int[Tensor, "batch places"], valid: Bool[Tensor, "batch places"], begin: int, end: int, answer: int
) -> Bool[Tensor, "batch 1 places places"]:
    """Which places see which: text sees what stands before it, an image sees itself as a whole too.

    Args:
        ids: Ids of the rows, with one image each at most.
        valid: False for padding, which nobody sees.
        begin: Id before an image; it and the next one belong to the image.
        end: Id behind an image.
        answer: Id of the task of answering, which sees the image behind it.

    Source: Show-o, arXiv:2408.12528 (omni-attention).
    """
    begins, ends = ids == begin, ids == end
    image = (begins.cumsum(dim=1) > ends.cumsum(dim=1)) | ends | (ids == answer)
    places = torch.arange(ids.shape[1], device=ids.device)
    causal = places[:, None] >= places
    seen = (causal | (image[:, :, None] & image[:, None, :])) & valid[:, None, :]
    return (seen | (places[:, None] == places))[:, None]


class ShowoNetwork(PublishedNetwork):
    """Show-o's network over a token space of text and image.

    Codes of an image are read off at their own places, those of a text at the place before, because text was learned as the next token.

    Args:
        sizes: Sizes.
        vocabulary: Which ids are the codes of which modality.
        layout: How rows become sequences.
        marks: Ids before and behind an image, and of the task of answering.
        side: Rows and columns of an image.

    Attributes:
        published: Content of the small files that the model was read with, to write them again.

    Source: Show-o, arXiv:2408.12528. Differs: captions of a batch need no padding to one length; places count from the first token of a
    row, which changes nothing but rounding, because only distances of places count.
    """

    adapted = r".*\.(q_proj|k_proj|v_proj|dense)"

    def __init__(self, sizes: PhiSizes, vocabulary: ModelVocabulary, layout: Layout, marks: tuple[int, int, int], side: int) -> None:
        super().__init__()
        self.config, self.sizes = PublishedConfig(sizes.dim), sizes
        self.vocabulary, self.layout, self.marks, self.side = vocabulary, layout, marks, side
        self.text, self.image = (vocabulary.space.index(name) for name in ("text", "image"))
        self.published: dict[str, Any] = {}
        self.showo = nn.ModuleDict({"model": PhiTrunk(sizes), "lm_head": BiasedHead(sizes.vocab_size, sizes.dim)})

    @property
    def embed(self) -> nn.Embedding:
        """The embedding table, which tells device and precision."""
        found: nn.Embedding = self.showo["model"].embed_tokens  # type: ignore[assignment]
        return found

    def forward(
        self, batch: TokenBatch, context: Bool[Tensor, "batch length"] | None = None, window: Int[Tensor, " batch"] | None = None
    ) -> Float[Tensor, "batch length dim"]:
        """Hidden state of every cell from which its code is read, 0 where a cell is hidden or padding.

        Raises:
            ValueError: If an image has not the size that the model was trained on, or windows or a blind condition are asked for.
        """
        if context is not None or window is not None:
            raise ValueError("Show-o's masks follow from its tokens; leave windows and blind conditions off")
        cells = batch.cells(self.image)
        counts, sizes = cells.sum(dim=1), batch.extent[cells][:, 1:]
        if bool((sizes != self.side).any()) or bool(((counts != 0) & (counts != self.side**2)).any()):
            found = sorted({tuple(size) for size in sizes.tolist()})[:3]
            raise ValueError(
                f"this model was trained on whole images of {self.side} x {self.side} cells, got {found} with {int(counts.max())} cells "
                "seen; give such an image, and shift it to go beyond its edge"
            )
        read = self.layout(batch)
        hidden = self.showo["model"](read.ids, omni_mask(read.ids, read.valid, *self.marks))
        places = torch.where(batch.modality == self.text, read.places - 1, read.places).clamp(min=0)
        shown = (batch.valid & (read.places >= 0))[..., None]
        return torch.take_along_dim(hidden, places[..., None], 1).masked_fill(~shown, 0)

    def logits(self, hidden: Float[Tensor, "cells dim"], offset: int, size: int) -> Float[Tensor, "cells size"]:
        """Logits of the ids `offset` to `offset + size - 1` of the token space: affine in `hidden`, so guidance may mix hidden states."""
        found: Tensor = self.showo["lm_head"](hidden, self.vocabulary.start(offset), size)
        return found
