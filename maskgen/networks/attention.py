"""Scaled dot-product attention with the fastest method for the device and the length."""

import functools
from collections.abc import Callable
from typing import Any

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from maskgen.networks.visibility import LONGEST_DENSE, Sight

MOST_SHAPES = 256
"""Shapes for which flex attention is compiled."""


def attend(
    query: Float[Tensor, "batch heads queries head_dim"],
    key: Float[Tensor, "batch heads length head_dim"],
    value: Float[Tensor, "batch heads length head_dim"],
    seen: Tensor | Sight | None,
) -> Float[Tensor, "batch queries features"]:
    """Attention output with all heads concatenated."""
    if isinstance(seen, Sight):
        mixed = flex(query, key, value, seen) if seen.blocks is not None else chunked_attention(query, key, value, seen)
        return rearrange(mixed, "b h l d -> b l (h d)")
    explicit = query.device.type == "cpu" and torch.is_grad_enabled() and key.shape[2] <= LONGEST_DENSE
    by = explicit_attention if explicit else functional.scaled_dot_product_attention
    return rearrange(by(query, key, value, attn_mask=seen), "b h l d -> b l (h d)")


def explicit_attention(
    query: Float[Tensor, "batch heads queries head_dim"],
    key: Float[Tensor, "batch heads length head_dim"],
    value: Float[Tensor, "batch heads length head_dim"],
    attn_mask: Tensor | None = None,
) -> Float[Tensor, "batch heads queries head_dim"]:
    """Attention as two matrix products, for training on short rows on a CPU: the backward pass of SDPA is slower there (docs/log.md)."""
    scores = (query * query.shape[-1] ** -0.5) @ key.transpose(-1, -2)
    if attn_mask is not None:
        scores = scores.masked_fill(~attn_mask, -1e4) if attn_mask.dtype == torch.bool else scores + attn_mask
    mixed: Tensor = scores.softmax(dim=-1) @ value
    return mixed


def chunked_attention(
    query: Float[Tensor, "batch heads queries head_dim"],
    key: Float[Tensor, "batch heads length head_dim"],
    value: Float[Tensor, "batch heads length head_dim"],
    seen: Sight,
) -> Float[Tensor, "batch heads queries head_dim"]:
    """SDPA for some queries at a time. The mask of a chunk is made for it alone, and made again in the backward pass."""

    def part(start: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        return functional.scaled_dot_product_attention(query, key, value, attn_mask=seen.mask(start, start + query.shape[2]))

    learns = torch.is_grad_enabled() and query.requires_grad
    options: dict[str, Any] = {"use_reentrant": False, "preserve_rng_state": False}
    parts = []
    for number, queries in enumerate(torch.split(query, seen.chunk, dim=2)):
        start = number * seen.chunk
        parts.append(checkpoint(part, start, queries, key, value, **options) if learns else part(start, queries, key, value))
    return torch.cat(parts, dim=2)


def flex(
    query: Float[Tensor, "batch heads queries head_dim"],
    key: Float[Tensor, "batch heads length head_dim"],
    value: Float[Tensor, "batch heads length head_dim"],
    seen: Sight,
) -> Float[Tensor, "batch heads queries head_dim"]:
    """Flex attention over the blocks of `seen`; it knows no autocast, so its inputs are rounded here."""
    kind = query.device.type
    if torch.is_autocast_enabled(kind):
        query, key, value = (part.to(torch.get_autocast_dtype(kind)) for part in (query, key, value))
    mixed: Tensor = _flex_attention()(query, key, value, block_mask=seen.blocks)
    return mixed


def _flex_attention() -> Callable[..., Any]:
    """Flex attention: plain while something around it is compiled and on a CPU, else compiled."""
    from torch.nn.attention.flex_attention import flex_attention

    return flex_attention if torch.compiler.is_compiling() else _compiled_flex()


@functools.cache
def _compiled_flex() -> Callable[..., Any]:
    from torch.nn.attention.flex_attention import flex_attention

    compiled = torch.compile(flex_attention, dynamic=False)

    def run(*args: Any, **kwargs: Any) -> Any:
        with torch._dynamo.config.patch(recompile_limit=MOST_SHAPES):  # beyond it torch goes on without fusing, with all scores in memory
            return compiled(*args, **kwargs)

    return run
