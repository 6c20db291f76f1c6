"""How much attention each cell receives, and cells grouped by it."""

from collections.abc import Callable

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from maskgen.networks.row_by_row import row_by_row
from maskgen.networks.towers import TowerTransformer
from maskgen.networks.transformer import Block, MaskTransformer
from maskgen.networks.visibility import visible
from maskgen.tokens.batch import TokenBatch
from maskgen.tokens.functions import GroupFn
from maskgen.tokens.space import Segment


def received_attention(model: MaskTransformer | TowerTransformer, batch: TokenBatch, target: int) -> Float[Tensor, "batch length"]:
    """Attention that each cell receives from the valid cells of its row, averaged over them, over heads and over layers.

    Cost: one pass of the model, with attention computed twice.

    Args:
        model: The network.
        batch: Rows as they stand.
        target: Number of the target modality; with `blind_condition` all others are context that does not look at it.

    Returns:
        Shares; those of a row's valid cells sum to 1, but for what valid cells of other documents see.
    """
    asking = batch.valid[:, None, :, None]  # padding attends too, but nobody reads what it finds
    received = torch.zeros(batch.valid.shape, device=batch.ids.device)

    def watch(query: Tensor, key: Tensor, seen: Tensor | None) -> None:
        scores = (query.float() * query.shape[-1] ** -0.5) @ key.float().transpose(-1, -2)
        shares = (scores if seen is None else scores.masked_fill(~seen, -torch.inf)).softmax(dim=-1)
        received.add_((shares * asking).mean(dim=1).sum(dim=1))

    if isinstance(model, TowerTransformer):
        model(batch, watch=watch)
    else:
        _watched(model, batch, target, watch)
    num_layers = model.num_layers if isinstance(model, TowerTransformer) else len(model.blocks)
    return received / (num_layers * batch.valid.sum(dim=1, keepdim=True).clamp(min=1))


def _watched(model: MaskTransformer, batch: TokenBatch, target: int, watch: Callable[[Tensor, Tensor, Tensor | None], None]) -> None:
    """One pass, of which `watch` is told the queries, the keys and who sees whom, block by block."""
    x, rotation = model.start(batch.ids, batch.modality, batch.coords)
    seen = visible(batch.valid, batch.document, batch.modality != target if model.config.blind_condition else None)
    for block in model.blocks:
        assert isinstance(block, Block)
        query, key, value = block.attention.project(block.attention_norm(x), rotation)
        watch(query, key, seen)
        x = block.after(x, block.attention.mix(query, key, value, seen))


def lower_half(values: Float[Tensor, "batch length"], cells: Bool[Tensor, "batch length"]) -> Bool[Tensor, "batch length"]:
    """The chosen cells whose value is at most the (lower) median of the row's chosen cells."""
    middle = values.masked_fill(~cells, torch.nan).nanmedian(dim=1, keepdim=True).values
    return cells & (values <= middle)


def low_attention(model: MaskTransformer | TowerTransformer) -> GroupFn:
    """The grouping of `maskgen.sampling.frequency.FrequencySampler`: cells of the target that receive at most the median attention.

    Low frequency is read as little attention: even regions, to which few cells look. Their codes are kept for good. On a CPU rows are
    computed alone, so a row's groups are the same in any batch.

    Args:
        model: The generator.

    Returns:
        A function of a filled batch and the segment at hand; True at persistent cells.

    Source: arXiv:2304.01515, our reading of its abstract; average, median and direction are ours.
    """

    def grouping(batch: TokenBatch, segment: Segment) -> Tensor:
        with torch.no_grad():
            received = row_by_row(lambda rows: received_attention(model, rows, segment.index), batch)
        return lower_half(received, batch.cells(segment.index))

    return grouping
