"""MaskGen's text-to-image transformer, under its published names: joint blocks over image and text cells."""

import math
from dataclasses import dataclass

import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

EPSILON, LONGEST_PERIOD = 1e-6, 1000.0


@dataclass(frozen=True, kw_only=True)
class MaskGenConfig:
    """Size of the transformer; the defaults are those of `generator_maskgen_vq_l`.

    Args:
        num_tokens: Codes of an image.
        codebook_size: Codes of the tokenizer.
        num_ids: Rows of the embedding: codes, the mask, and others that are not used.
        dim: Width.
        num_layers: Joint blocks.
        num_heads: Attention heads; must divide dim.
        text_dim: Width of the text encoder's states and of its pooled embedding.
        score_dim: Width of the sinusoids of the aesthetic score; 0 for a network that is not told one.
    """

    num_tokens: int = 128
    codebook_size: int = 8192
    num_ids: int = 9194
    dim: int = 1024
    num_layers: int = 16
    num_heads: int = 16
    text_dim: int = 768
    score_dim: int = 256

    def __post_init__(self) -> None:
        sizes = (self.num_tokens, self.codebook_size, self.dim, self.num_layers, self.num_heads, self.text_dim)
        if min(sizes) < 1 or self.score_dim < 0 or self.dim % self.num_heads or self.num_ids <= self.codebook_size:
            raise ValueError(f"MaskGen needs sizes of at least 1, num_heads that divides dim and an id for the mask, got {self}")


def _normal(x: Float[Tensor, "batch cells dim"]) -> Float[Tensor, "batch cells dim"]:
    """Each cell at mean 0 and variance 1."""
    return functional.layer_norm(x, x.shape[-1:], eps=EPSILON)


class _SixPartNorm(nn.Module):
    """A norm whose shift, scale and gate for attention, and the same for the feed-forward network, are made from the condition."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.linear = nn.Linear(dim, 6 * dim)

    def forward(self, x: Float[Tensor, "batch cells dim"], condition: Float[Tensor, "batch dim"]) -> tuple[Tensor, ...]:
        shift, scale, *others = self.linear(functional.silu(condition))[:, None].chunk(6, dim=-1)
        return _normal(x) * (1 + scale) + shift, *others


class _TwoPartNorm(nn.Module):
    """A norm whose scale and shift, in this order, are made from the condition."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.linear = nn.Linear(dim, 2 * dim)

    def forward(self, x: Float[Tensor, "batch cells dim"], condition: Float[Tensor, "batch dim"]) -> Float[Tensor, "batch cells dim"]:
        scale, shift = self.linear(functional.silu(condition))[:, None].chunk(2, dim=-1)
        found: Tensor = _normal(x) * (1 + scale) + shift
        return found


class _FeedForward(nn.Module):
    """Two layers with tanh GELU between them."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.net = nn.ModuleDict({"0": nn.ModuleDict({"proj": nn.Linear(dim, 4 * dim)}), "2": nn.Linear(4 * dim, dim)})

    def forward(self, x: Float[Tensor, "batch cells dim"]) -> Float[Tensor, "batch cells dim"]:
        wide = functional.gelu(self.net["0"]["proj"](x), approximate="tanh")  # type: ignore[index]
        found: Tensor = self.net["2"](wide)
        return found


class _JointAttention(nn.Module):
    """Attention among image and text cells together, which have projections of their own."""

    def __init__(self, dim: int, num_heads: int, last: bool) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.to_q, self.to_k, self.to_v = (nn.Linear(dim, dim) for _ in range(3))
        self.add_q_proj, self.add_k_proj, self.add_v_proj = (nn.Linear(dim, dim) for _ in range(3))
        self.to_out = nn.ModuleList([nn.Linear(dim, dim)])
        if not last:
            self.to_add_out = nn.Linear(dim, dim)

    def forward(self, image: Float[Tensor, "batch cells dim"], text: Float[Tensor, "batch words dim"]) -> tuple[Tensor, Tensor | None]:
        pairs = ((self.to_q, self.add_q_proj), (self.to_k, self.add_k_proj), (self.to_v, self.add_v_proj))
        query, key, value = (
            rearrange(torch.cat([own(image), other(text)], dim=1), "b l (h d) -> b h l d", h=self.num_heads) for own, other in pairs
        )
        mixed = rearrange(functional.scaled_dot_product_attention(query, key, value), "b h l d -> b l (h d)")
        seen, words = mixed[:, : image.shape[1]], mixed[:, image.shape[1] :]
        return self.to_out[0](seen), self.to_add_out(words) if hasattr(self, "to_add_out") else None


class _JointBlock(nn.Module):
    """A block over both; the last one leaves the text as it is."""

    def __init__(self, dim: int, num_heads: int, last: bool) -> None:
        super().__init__()
        self.norm1, self.attn, self.ff = _SixPartNorm(dim), _JointAttention(dim, num_heads, last), _FeedForward(dim)
        self.norm1_context: nn.Module = _TwoPartNorm(dim) if last else _SixPartNorm(dim)
        if not last:
            self.ff_context = _FeedForward(dim)

    def forward(
        self, image: Float[Tensor, "batch cells dim"], text: Float[Tensor, "batch words dim"], condition: Float[Tensor, "batch dim"]
    ) -> tuple[Float[Tensor, "batch cells dim"], Float[Tensor, "batch words dim"]]:
        read, *parts = self.norm1(image, condition)
        found = self.norm1_context(text, condition)
        words, *others = (found,) if isinstance(found, Tensor) else found
        seen, told = self.attn(read, words)
        image = _fed(image, seen, parts, self.ff)
        return image, text if told is None else _fed(text, told, others, self.ff_context)


def _fed(x: Tensor, mixed: Tensor, parts: list[Tensor], feed: nn.Module) -> Tensor:
    """A residual stream after what attention gave and the feed-forward network."""
    gate, shift, scale, last_gate = parts
    x = x + gate * mixed
    found: Tensor = x + last_gate * feed(_normal(x) * (1 + scale) + shift)
    return found


class _TiedHead(nn.Module):
    """The head, whose weight is the embedding of the ids, stored twice."""

    def __init__(self, table: nn.Embedding) -> None:
        super().__init__()
        self.weight = table.weight


class MaskGenTransformer(nn.Module):
    """Codes, text states and a condition to states of the codes.

    Args:
        config: Size.

    Source: MaskGen, arXiv:2501.07730; joint blocks, arXiv:2403.03206.
    """

    def __init__(self, config: MaskGenConfig) -> None:
        super().__init__()
        self.config, dim = config, config.dim
        self.pos_embed = nn.Parameter(torch.zeros(1, config.num_tokens, dim))
        self.text_embed_proj = nn.Linear(config.text_dim, dim)
        self.cond_pooled_proj = nn.Linear(config.text_dim + config.score_dim, dim)
        last = config.num_layers - 1
        self.blocks = nn.ModuleList([_JointBlock(dim, config.num_heads, number == last) for number in range(config.num_layers)])
        self.norm = _TwoPartNorm(dim)
        self.embeddings = nn.Embedding(config.num_ids, dim, _weight=torch.zeros(config.num_ids, dim))
        self.lm_head = _TiedHead(self.embeddings)

    def forward(
        self,
        ids: Int[Tensor, "batch cells"],
        states: Float[Tensor, "batch words width"],
        pooled: Float[Tensor, "batch width"],
        score: Float[Tensor, " batch"],
    ) -> Float[Tensor, "batch cells dim"]:
        """States of every code, the input of `logits`.

        Args:
            ids: Codes; `codebook_size` is the mask.
            states: Of the text encoder's last layer but one.
            pooled: Its pooled and projected embedding.
            score: Aesthetic score, 0 to 10.
        """
        if self.config.score_dim:
            pooled = torch.cat([pooled, score_waves(score, self.config.score_dim).to(pooled.dtype)], dim=-1)
        condition = self.cond_pooled_proj(pooled)
        image, text = self.embeddings(ids) + self.pos_embed, self.text_embed_proj(states)
        for block in self.blocks:
            image, text = block(image, text, condition)
        found: Tensor = self.norm(image, condition)
        return found

    def logits(self, states: Float[Tensor, "*shape dim"]) -> Float[Tensor, "*shape codes"]:
        """Logits of the codes alone: the mask has none."""
        return functional.linear(states, self.lm_head.weight[: self.config.codebook_size])


def score_waves(score: Float[Tensor, " batch"], dim: int) -> Float[Tensor, "batch dim"]:
    """Sines, then cosines, of hundredths of a score, with a 0 behind them where `dim` is odd."""
    half = dim // 2
    exponents = -math.log(LONGEST_PERIOD) * torch.arange(half, dtype=torch.float32, device=score.device) / half
    angles = (score.float() * 100)[:, None] * exponents.exp()
    return functional.pad(torch.cat([angles.sin(), angles.cos()], dim=-1), (0, dim % 2))
