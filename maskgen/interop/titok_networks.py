"""The class-conditional generators of TiTok, a BERT and a U-ViT, under their published names."""

from dataclasses import dataclass
from typing import Literal

import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

BERT_EPS, UVIT_EPS = 1e-12, 1e-5


@dataclass(frozen=True, kw_only=True)
class TiTokGeneratorConfig:
    """Size of a generator; the defaults are those of `generator_titok_l32_imagenet`.

    Args:
        kind: "ViT" is a BERT with its norms last, "UViT" a transformer with skips between its halves and its norms first.
        num_tokens: Codes of an image.
        codebook_size: Codes of the tokenizer.
        num_classes: Classes.
        dim: Width.
        num_layers: Blocks; a U-ViT has one more in its middle.
        num_heads: Attention heads; must divide dim.
        feed_dim: Width of the feed-forward networks.
    """

    kind: Literal["ViT", "UViT"] = "ViT"
    num_tokens: int = 32
    codebook_size: int = 4096
    num_classes: int = 1000
    dim: int = 768
    num_layers: int = 24
    num_heads: int = 16
    feed_dim: int = 3072

    def __post_init__(self) -> None:
        sizes = (self.num_tokens, self.codebook_size, self.num_classes, self.dim, self.num_layers, self.num_heads, self.feed_dim)
        if min(sizes) < 1 or self.dim % self.num_heads or (self.kind == "UViT" and self.num_layers % 2):
            raise ValueError(f"a TiTok generator needs sizes of at least 1, num_heads that divides dim and pairs of layers, got {self}")

    @property
    def num_ids(self) -> int:
        """Rows of the embedding: codes, the mask, classes and the class that stands for none."""
        return self.codebook_size + self.num_classes + 2


class _BertPart(nn.Module):
    """A projection, added to what it was made from, and a norm."""

    def __init__(self, dim: int, out: int) -> None:
        super().__init__()
        self.dense, self.LayerNorm = nn.Linear(dim, out), nn.LayerNorm(out, eps=BERT_EPS)

    def forward(self, x: Float[Tensor, "batch length dim"], before: Float[Tensor, "batch length out"]) -> Tensor:
        found: Tensor = self.LayerNorm(self.dense(x) + before)
        return found


class _BertLayer(nn.Module):
    """Attention and a feed-forward network, each with its norm after it."""

    def __init__(self, dim: int, num_heads: int, feed_dim: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        parts = {name: nn.Linear(dim, dim) for name in ("query", "key", "value")}
        self.attention = nn.ModuleDict({"self": nn.ModuleDict(parts), "output": _BertPart(dim, dim)})
        self.intermediate, self.output = nn.ModuleDict({"dense": nn.Linear(dim, feed_dim)}), _BertPart(feed_dim, dim)

    def forward(self, x: Float[Tensor, "batch length dim"]) -> Float[Tensor, "batch length dim"]:
        own = self.attention["self"]
        query, key, value = (rearrange(own[name](x), "b l (h d) -> b h l d", h=self.num_heads) for name in ("query", "key", "value"))  # type: ignore[index]
        mixed = functional.scaled_dot_product_attention(query, key, value)
        x = self.attention["output"](rearrange(mixed, "b h l d -> b l (h d)"), x)
        found: Tensor = self.output(functional.gelu(self.intermediate["dense"](x)), x)
        return found


class _BertEmbeddings(nn.Module):
    """Ids, their places, and the one type that all cells have."""

    def __init__(self, config: TiTokGeneratorConfig) -> None:
        super().__init__()
        dim = config.dim
        self.word_embeddings, self.position_embeddings = _table(config.num_ids, dim), _table(config.num_tokens + 1, dim)
        self.token_type_embeddings, self.LayerNorm = _table(2, dim), nn.LayerNorm(dim, eps=BERT_EPS)

    def forward(self, ids: Int[Tensor, "batch length"]) -> Float[Tensor, "batch length dim"]:
        places = self.position_embeddings.weight[: ids.shape[1]]
        found: Tensor = self.LayerNorm(self.word_embeddings(ids) + places + self.token_type_embeddings.weight[0])
        return found


class ImageBert(nn.Module):
    """TiTok's BERT: ids of a class and an image to states of the image.

    Args:
        config: Size.

    Source: TiTok, arXiv:2406.07550.
    """

    def __init__(self, config: TiTokGeneratorConfig) -> None:
        super().__init__()
        layers = [_BertLayer(config.dim, config.num_heads, config.feed_dim) for _ in range(config.num_layers)]
        encoder = nn.ModuleDict({"layer": nn.ModuleList(layers)})
        head = nn.Linear(config.dim, config.codebook_size)
        self.model = nn.ModuleDict({"embeddings": _BertEmbeddings(config), "encoder": encoder, "lm_head": head})

    def forward(self, ids: Int[Tensor, "batch length"]) -> Float[Tensor, "batch cells dim"]:
        """States of the cells behind the class."""
        x: Tensor = self.model["embeddings"](ids)
        for layer in self.model["encoder"]["layer"]:  # type: ignore[index]
            x = layer(x)
        return x[:, 1:]

    @property
    def table(self) -> nn.Embedding:
        """The embedding of the ids."""
        found: nn.Embedding = self.model["embeddings"].word_embeddings  # type: ignore[assignment]
        return found

    @property
    def head(self) -> nn.Linear:
        """From states to logits of the codes."""
        found: nn.Linear = self.model["lm_head"]  # type: ignore[assignment]
        return found


class _UVitAttention(nn.Module):
    """Attention with one matrix for queries, keys and values, without bias."""

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads, self.qkv, self.proj = num_heads, nn.Linear(dim, 3 * dim, bias=False), nn.Linear(dim, dim)

    def forward(self, x: Float[Tensor, "batch length dim"]) -> Float[Tensor, "batch length dim"]:
        query, key, value = rearrange(self.qkv(x), "b l (k h d) -> k b h l d", k=3, h=self.num_heads).unbind()
        mixed = functional.scaled_dot_product_attention(query, key, value)
        found: Tensor = self.proj(rearrange(mixed, "b h l d -> b l (h d)"))
        return found


class _UVitBlock(nn.Module):
    """A block with its norms first; one of the second half first takes in the state that its partner of the first half left."""

    def __init__(self, config: TiTokGeneratorConfig, skips: bool = False) -> None:
        super().__init__()
        dim = config.dim
        self.norm1, self.norm2 = nn.LayerNorm(dim, eps=UVIT_EPS), nn.LayerNorm(dim, eps=UVIT_EPS)
        self.attn = _UVitAttention(dim, config.num_heads)
        self.mlp = nn.ModuleDict({"fc1": nn.Linear(dim, config.feed_dim), "fc2": nn.Linear(config.feed_dim, dim)})
        if skips:
            self.skip_linear = nn.Linear(2 * dim, dim)

    def forward(
        self, x: Float[Tensor, "batch length dim"], skip: Float[Tensor, "batch length dim"] | None = None
    ) -> Float[Tensor, "batch length dim"]:
        if skip is not None:
            x = self.skip_linear(torch.cat([x, skip], dim=-1))
        x = x + self.attn(self.norm1(x))
        found: Tensor = x + self.mlp["fc2"](functional.gelu(self.mlp["fc1"](self.norm2(x))))
        return found


class UVitBert(nn.Module):
    """TiTok's U-ViT: ids of a class and an image to states of the image.

    Args:
        config: Size.

    Source: TiTok, arXiv:2406.07550; U-ViT, arXiv:2209.12152.
    """

    def __init__(self, config: TiTokGeneratorConfig) -> None:
        super().__init__()
        half = config.num_layers // 2
        self.embeddings = _table(config.num_ids, config.dim)
        self.pos_embed = nn.Parameter(torch.zeros(1, config.num_tokens + 1, config.dim))
        self.in_blocks = nn.ModuleList([_UVitBlock(config) for _ in range(half)])
        self.mid_block = _UVitBlock(config)
        self.out_blocks = nn.ModuleList([_UVitBlock(config, skips=True) for _ in range(half)])
        self.norm, self.lm_head = nn.LayerNorm(config.dim, eps=UVIT_EPS), nn.Linear(config.dim, config.codebook_size)

    def forward(self, ids: Int[Tensor, "batch length"]) -> Float[Tensor, "batch cells dim"]:
        """States of the cells behind the class."""
        x = self.embeddings(ids) + self.pos_embed[:, : ids.shape[1]]
        left = []
        for block in self.in_blocks:
            x = block(x)
            left.append(x)
        x = self.mid_block(x)
        for block in self.out_blocks:
            x = block(x, left.pop())
        found: Tensor = self.norm(x)[:, 1:]
        return found

    @property
    def table(self) -> nn.Embedding:
        """The embedding of the ids."""
        return self.embeddings

    @property
    def head(self) -> nn.Linear:
        """From states to logits of the codes."""
        return self.lm_head


def _table(rows: int, dim: int) -> nn.Embedding:
    """An embedding that starts at 0: published weights take its place, and a normal draw on the meta device is slow."""
    return nn.Embedding(rows, dim, _weight=torch.zeros(rows, dim))
