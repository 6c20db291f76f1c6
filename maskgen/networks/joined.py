"""Several calls of a transformer in one pass, each row at its own length: only attention is computed call by call."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor, nn

from maskgen.networks.attention import attend
from maskgen.networks.transformer import Block, MaskTransformer
from maskgen.networks.visibility import Sight, nearby, sight
from maskgen.tokens.batch import TokenBatch


class ForwardCall(NamedTuple):
    """What a network is called with.

    Args:
        batch: Rows of cells.
        window: See `MaskTransformer.forward`.
    """

    batch: TokenBatch
    window: Int[Tensor, " batch"] | None = None

    @property
    def num_cells(self) -> int:
        """Cells of all rows, padding included."""
        return self.batch.valid.numel()


def joined_hidden(model: MaskTransformer, calls: Sequence[ForwardCall]) -> list[Float[Tensor, "batch length dim"]]:
    """Hidden states of each call, computed in one pass over the cells of all of them, without padding.

    Embedding and attention of a call are computed as in `MaskTransformer.forward`; the layers between run on the cells of all calls.

    Args:
        model: The transformer, without `blind_condition`.
        calls: At least one; rows, lengths and windows may differ.

    Source: selective batching of Orca (Yu et al., OSDI 2022).
    """
    starts = [model.start(call.batch.ids, call.batch.modality, call.batch.coords, call.batch.features) for call in calls]
    masks = [_mask(call) for call in calls]
    rows, counts = [len(call.batch) for call in calls], [call.num_cells for call in calls]
    x = torch.cat([rearrange(x, "b l d -> 1 (b l) d") for x, _ in starts], dim=1)
    cosine, sine = (torch.cat([rearrange(one[part], "b 1 l p -> 1 1 (b l) p") for _, one in starts], dim=2) for part in (0, 1))
    for block in model.blocks:
        assert isinstance(block, Block)
        parts = [torch.split(part, counts, dim=2) for part in block.attention.project(block.attention_norm(x), (cosine, sine))]
        mixed = [_mixed(own, b, seen) for *own, b, seen in zip(*parts, rows, masks, strict=True)]
        x = block.after(x, block.attention.out(torch.cat(mixed, dim=1)))
    hidden = torch.split(model.norm(x), counts, dim=1)
    return [rearrange(one, "1 (b l) d -> b l d", b=b) for one, b in zip(hidden, rows, strict=True)]


def _mixed(own: Sequence[Float[Tensor, "1 heads cells head_dim"]], rows: int, seen: Tensor | Sight | None) -> Float[Tensor, "1 cells dim"]:
    """Attention output at the cells of one call, from its queries, keys and values."""
    query, key, value = (rearrange(part, "1 h (b l) d -> b h l d", b=rows) for part in own)
    return rearrange(attend(query, key, value, seen), "b l d -> 1 (b l) d")


def _mask(call: ForwardCall) -> Tensor | Sight | None:
    """The attention mask of a call."""
    batch = call.batch
    near = None if call.window is None else nearby(batch.modality, batch.coords[..., 0], call.window)
    return sight(batch.valid, batch.document, None, near)


PROBES = 64
"""Rows of random numbers that are repeated to measure how products round."""


class RoundingKinds:
    """How the matrix products of a transformer round with so many rows: equal kinds give a row the same bits.

    Libraries choose a kernel by the shape of a product, and kernels sum in different orders. Each number of rows is measured once, with
    one block's layers on random numbers.

    Args:
        model: The transformer, in float32 on a CPU.
    """

    def __init__(self, model: MaskTransformer) -> None:
        block, config = model.blocks[0] if len(model.blocks) else None, model.config
        self.layers: list[tuple[nn.Module, Tensor]] = []
        self._kinds: dict[tuple[int, int], int | None] = {}
        self._found: list[list[Tensor]] = []
        if isinstance(block, Block):
            attention, feed, draw = block.attention, block.feed, torch.Generator().manual_seed(0)
            widths = config.dim, config.num_heads * config.head_dim, config.dim, config.inner_dim
            for layer, width in zip((attention.qkv, attention.out, feed.into, feed.out), widths, strict=True):
                self.layers.append((layer, torch.randn(PROBES, width, generator=draw)))

    @torch.no_grad()
    def of(self, rows: int) -> int | None:
        """Number of the kind; None if some row's bits depend on its place in the product."""
        if not self._found:
            self._measured(8 * PROBES)  # fewer rows than probes are compared with more
        key = rows, torch.get_num_threads()
        if key not in self._kinds:
            self._kinds[key] = self._measured(rows)
        return self._kinds[key]

    def _measured(self, rows: int) -> int | None:
        places = torch.arange(rows) % PROBES
        products = [layer(probe[places][None])[0] for layer, probe in self.layers]
        heads = [product[:PROBES] for product in products]
        if not all(torch.equal(product, head[places]) for product, head in zip(products, heads, strict=True)):
            return None
        for kind, known in enumerate(self._found):
            if all(torch.equal(head, one[: len(head)]) for head, one in zip(heads, known, strict=True)):
                return kind
        if rows < PROBES:
            return None
        self._found.append([head.clone() for head in heads])
        return len(self._found) - 1
