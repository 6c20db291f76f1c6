"""The masked transformer: token ids in, hidden states out, and logits of one level's codes at chosen cells."""

from collections.abc import Sequence
from dataclasses import dataclass

from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional

from maskgen.io.schema import Items, Real, Whole, record_of
from maskgen.networks.attention import attend
from maskgen.networks.compression import CellCompression, blocks_of, check_compress, refuse_blocks
from maskgen.networks.feature_embedding import FeatureEmbedding
from maskgen.networks.recompute import Recompute, recomputed
from maskgen.networks.rope import RopeScaling, check_scaling, rope_frequencies, rotate
from maskgen.networks.visibility import Sight, nearby, sight
from maskgen.tokens.batch import TokenBatch


@dataclass(frozen=True, kw_only=True)
class TransformerConfig:
    """Configuration of the masked transformer.

    Args:
        dim: Width of the residual stream.
        num_layers: Number of blocks.
        num_heads: Attention heads; must divide dim where head_width is 0.
        hidden_dim: Width inside the SwiGLU; 0 takes 8/3 of dim, rounded up to a multiple of 64.
        dropout: Share of dropped activations after attention and feed-forward, in training.
        rope_base: Longest wavelength of the rotary positions, in cells.
        rope_split: Parts of a head's rotary pairs given to time, row and column.
        rope_raster: Number of columns for raster positions: rows and columns also rotate the pairs of time, in reading order, so a model
            with time positions only reads an image as a line of cells. 0 rotates only the rows' and columns' own pairs.
        tie_head: Use the embedding table as the output table.
        blind_condition: The condition does not attend to the target, in training and in decoding. Its keys and values are then computed
            once per decode (`maskgen.decoding.acceleration.kv_cache.PrefixCacheModel`) instead of at every step.
        head_width: Width of one head; 0 takes dim / num_heads. Networks that share their attention need equal heads
            (`maskgen.networks.towers`), not equal widths.
        rope_scaling: How rotary frequencies of rows and columns change for grids `rope_factor` times as long a side as those of the
            training: none, interpolate, ntk or yarn; see `maskgen.networks.rope.axis_frequencies`.
        rope_factor: See `rope_scaling`; 1 changes nothing.
        rope_trained: Cells a side of the training's grid, for yarn.
        compress: Cells a side of the blocks that image grids are merged into for the trunk
            (`maskgen.networks.compression.CellCompression`); 1 merges none. Not with blind_condition, refresh or merge.
    """

    dim: int = 512
    num_layers: int = 12
    num_heads: int = 8
    hidden_dim: int = 0
    dropout: float = 0.0
    rope_base: float = 1000.0
    rope_split: Sequence[int] = (2, 3, 3)
    rope_raster: int = 0
    tie_head: bool = False
    blind_condition: bool = False
    head_width: int = 0
    rope_scaling: RopeScaling = "none"
    rope_factor: float = 1.0
    rope_trained: int = 0
    compress: int = 1

    def __post_init__(self) -> None:
        if self.head_width < 0 or self.head_dim % 2 or (not self.head_width and self.dim % self.num_heads):
            raise ValueError(
                "dim must be an even multiple of num_heads, or head_width an even number, "
                f"got dim={self.dim}, num_heads={self.num_heads}, head_width={self.head_width}"
            )
        if len(self.rope_split) != 3 or min(self.rope_split) < 0 or sum(self.rope_split) == 0:
            raise ValueError(f"rope_split needs three shares (time, row, column), not all 0, got {tuple(self.rope_split)}")
        if self.rope_raster < 0:
            raise ValueError(f"rope_raster counts columns and must be at least 0, got {self.rope_raster}")
        check_scaling(self.rope_scaling, self.rope_factor, self.rope_trained)
        check_compress(self.compress, self.blind_condition)

    @property
    def head_dim(self) -> int:
        """Width of one head."""
        return self.head_width or self.dim // self.num_heads

    @property
    def inner_dim(self) -> int:
        """Width inside the SwiGLU."""
        return self.hidden_dim or 64 * -(-8 * self.dim // (3 * 64))


TRANSFORMER_SCHEMA = record_of(
    TransformerConfig,
    num_heads=Whole(1, 1024),
    dropout=Real(0.0, 1.0),
    rope_base=Real(1.0),
    rope_split=Items(Whole(0, 1024), least=3, most=3),
)
"""Schema of a `TransformerConfig` in a file."""


class Attention(nn.Module):
    """Multi-head attention with normalised queries and keys and rotary positions."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.num_heads = config.num_heads
        self.qkv = nn.Linear(config.dim, 3 * config.num_heads * config.head_dim, bias=False)
        self.query_norm = nn.RMSNorm(config.head_dim)
        self.key_norm = nn.RMSNorm(config.head_dim)
        self.out = nn.Linear(config.num_heads * config.head_dim, config.dim, bias=False)

    def forward(
        self, x: Float[Tensor, "batch length dim"], rotation: tuple[Tensor, Tensor], seen: Tensor | Sight | None
    ) -> Float[Tensor, "batch length dim"]:
        return self.mix(*self.project(x, rotation), seen)

    def project(self, x: Float[Tensor, "batch length dim"], rotation: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """Query, key and value of every cell, each [batch heads length head_dim]."""
        query, key, value = rearrange(self.qkv(x), "b l (three h d) -> three b h l d", three=3, h=self.num_heads)
        query, key = rotate(self.query_norm(query), rotation), rotate(self.key_norm(key), rotation)
        return query, key, value.to(query.dtype)

    def mix(
        self,
        query: Float[Tensor, "batch heads queries head_dim"],
        key: Float[Tensor, "batch heads length head_dim"],
        value: Float[Tensor, "batch heads length head_dim"],
        seen: Tensor | Sight | None,
    ) -> Float[Tensor, "batch queries dim"]:
        """Attention output of each query over the keys that it sees; the queries may be those of only some cells."""
        out: Tensor = self.out(attend(query, key, value, seen))
        return out


class FeedForward(nn.Module):
    """SwiGLU feed-forward network. Source: arXiv:2002.05202."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.into = nn.Linear(config.dim, 2 * config.inner_dim, bias=False)
        self.out = nn.Linear(config.inner_dim, config.dim, bias=False)

    def forward(self, x: Float[Tensor, "batch length dim"]) -> Float[Tensor, "batch length dim"]:
        gate, value = self.into(x).chunk(2, dim=-1)
        out: Tensor = self.out(functional.silu(gate) * value)
        return out


class Block(nn.Module):
    """Transformer block with pre-norm attention and feed-forward."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.attention_norm = nn.RMSNorm(config.dim)
        self.attention = Attention(config)
        self.feed_norm = nn.RMSNorm(config.dim)
        self.feed = FeedForward(config)
        self.dropout = nn.Dropout(config.dropout)

    def forward(
        self, x: Float[Tensor, "batch length dim"], rotation: tuple[Tensor, Tensor], seen: Tensor | Sight | None
    ) -> Float[Tensor, "batch length dim"]:
        return self.after(x, self.attention(self.attention_norm(x), rotation, seen))

    def enter(self, x: Float[Tensor, "batch length dim"], rotation: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """Query, key and value of every cell of the residual stream, where attention itself runs outside of the block."""
        return self.attention.project(self.attention_norm(x), rotation)

    def leave(self, x: Float[Tensor, "batch length dim"], heads: Float[Tensor, "batch length _"]) -> Float[Tensor, "batch length dim"]:
        """Residual stream after the block, from the output of the attention heads."""
        return self.after(x, self.attention.out(heads))

    def after(self, x: Float[Tensor, "batch length dim"], mixed: Float[Tensor, "batch length dim"]) -> Float[Tensor, "batch length dim"]:
        """Second half of the block: add the attention output to the residual stream, then the feed-forward output."""
        x = x + self.dropout(mixed)
        out: Tensor = x + self.dropout(self.feed(self.feed_norm(x)))
        return out


class MaskTransformer(nn.Module):
    """Bidirectional transformer over cells of any modality.

    A cell's input is the sum of the embeddings of all its levels plus that of its modality. Masked levels all share one embedding.

    Args:
        config: Configuration of the network.
        vocab_size: Number of ids of the token space; id 0 is padding and embeds to zero.
        num_modalities: Number of modalities in the space.
        feature_width: Numbers in the vector of a cell that a frozen encoder gives (`TokenSpace.feature_width`); 0 without one.

    Source: MaskGIT, arXiv:2202.04200; rotary positions over several axes as in arXiv:2403.13298; QK-norm, arXiv:2010.04245.
    """

    def __init__(self, config: TransformerConfig, vocab_size: int, num_modalities: int, feature_width: int = 0) -> None:
        super().__init__()
        self.config, self.vocab_size, self.num_modalities = config, vocab_size, num_modalities
        self.embed = nn.Embedding(vocab_size, config.dim, padding_idx=0)
        self.embed_modality = nn.Embedding(num_modalities + 1, config.dim, padding_idx=0)
        self.embed_features = FeatureEmbedding(feature_width, config.dim) if feature_width else None
        self.embed_norm = nn.RMSNorm(config.dim)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.num_layers))
        self.norm = nn.RMSNorm(config.dim)
        self.head = self.embed if config.tie_head else nn.Embedding(vocab_size, config.dim)
        self.recompute: Recompute = "none"
        """What a training computes twice to save memory."""
        self.apply(_initialise)
        self.compression = CellCompression(config.dim, config.compress) if config.compress > 1 else None
        for block in self.blocks:
            assert isinstance(block, Block)
            for linear in (block.attention.out, block.feed.out):
                nn.init.normal_(linear.weight, std=0.02 / (2 * config.num_layers) ** 0.5)

    def forward(
        self,
        batch: TokenBatch,
        context: Bool[Tensor, "batch length"] | None = None,
        window: Int[Tensor, " batch"] | None = None,
    ) -> Float[Tensor, "batch length dim"]:
        """Hidden states of all cells; undefined at invalid cells.

        Args:
            batch: Rows of cells.
            context: Cells that attend only to each other; required if `config.blind_condition` is set, and else not allowed.
            window: Time steps that each row's cells see of their own modality, see `nearby`; None or 0 sets no limit.

        Raises:
            ValueError: If `context` does not match the configuration.
        """
        if (context is not None) != self.config.blind_condition:
            found = "without context" if context is None else "with context"
            raise ValueError(
                f"the model has blind_condition={self.config.blind_condition} and was called {found}; "
                "give context with blind_condition only (maskgen.decoding.acceleration.kv_cache.PrefixCacheModel does)"
            )
        x, rotation = self._start(batch.ids, batch.modality, batch.coords, batch.features)
        if self.compression is None:
            return self._trunk(x, rotation, batch, context, window)
        blocks = blocks_of(batch, self.compression.side)
        small = self._trunk(self.compression.merged(x, blocks), self._rotation(blocks.batch.coords), blocks.batch, None, window)
        hidden: Tensor = self.norm(self.compression.restored(x, small, blocks))
        return hidden

    def _trunk(
        self,
        x: Float[Tensor, "batch length dim"],
        rotation: tuple[Tensor, Tensor],
        batch: TokenBatch,
        context: Tensor | None,
        window: Tensor | None,
    ) -> Float[Tensor, "batch length dim"]:
        """All blocks and the last norm."""
        near = None if window is None else nearby(batch.modality, batch.coords[..., 0], window)
        seen = sight(batch.valid, batch.document, context, near)
        for block in self.blocks:
            x = recomputed(self.recompute, block, x, rotation, seen)
        hidden: Tensor = self.norm(x)
        return hidden

    def start(
        self,
        ids: Int[Tensor, "batch length level"],
        modality: Int[Tensor, "batch length"],
        coords: Int[Tensor, "batch length 3"],
        features: Float[Tensor, "batch length width"] | None = None,
    ) -> tuple[Float[Tensor, "batch length dim"], tuple[Tensor, Tensor]]:
        """Input of the first block, and cosine and sine [batch 1 length pairs] of every cell's rotary angles.

        Raises:
            ValueError: If the model merges cells: then its blocks do not see one position a cell.
        """
        refuse_blocks(self.compression)
        return self._start(ids, modality, coords, features)

    def _start(
        self, ids: Tensor, modality: Tensor, coords: Tensor, features: Tensor | None
    ) -> tuple[Float[Tensor, "batch length dim"], tuple[Tensor, Tensor]]:
        x = self.embed(ids).sum(dim=2) + self.embed_modality(modality)
        x = self.embed_norm(x if self.embed_features is None or features is None else x + self.embed_features(features))
        return x, self._rotation(coords)

    def _rotation(self, coords: Int[Tensor, "batch length 3"]) -> tuple[Tensor, Tensor]:
        # A product and a sum, not a matrix product: autocast would round the angles to bfloat16.
        angles = (coords[..., None].float() * rope_frequencies(self.config, coords.device)).sum(dim=2)
        return angles.cos()[:, None], angles.sin()[:, None]

    def logits(self, hidden: Float[Tensor, "cells dim"], offset: int, size: int) -> Float[Tensor, "cells size"]:
        """Logits of the ids `offset` to `offset + size - 1` at the given cells: linear in `hidden`, without bias."""
        return functional.linear(hidden, self.head.weight[offset : offset + size])


def _initialise(module: nn.Module) -> None:
    """Initialise weights from a normal distribution with standard deviation 0.02, and padding rows with zero."""
    if isinstance(module, (nn.Linear, nn.Embedding)):
        nn.init.normal_(module.weight, std=0.02)
    if isinstance(module, nn.Embedding) and module.padding_idx is not None:
        nn.init.zeros_(module.weight.data[module.padding_idx])
