"""Attention that each cell receives, and a grouping of cells by it."""

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
    """Attention that each cell receives from the valid cells of its row, averaged over those cells, heads and layers.

    Costs one model call, with attention computed twice.

    Args:
        model: The network.
        batch: Rows in their current state.
        target: Number of the target modality; with `blind_condition` all others are context that does not attend to it.

    Returns:
        Shares; those of a row's valid cells sum to 1, except for attention from valid cells of other documents.
    """
    asking = batch.valid[:, None, :, None]  # padding attends too, but its result is never used
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
    """Run the model once and call `watch` with the queries, keys and attention mask of each block."""
    x, rotation = model.start(batch.ids, batch.modality, batch.coords, batch.features)
    seen = visible(batch.valid, batch.document, batch.modality != target if model.config.blind_condition else None)
    for block in model.blocks:
        assert isinstance(block, Block)
        query, key, value = block.attention.project(block.attention_norm(x), rotation)
        watch(query, key, seen)
        x = block.after(x, block.attention.mix(query, key, value, seen))


def lower_half(values: Float[Tensor, "batch length"], cells: Bool[Tensor, "batch length"]) -> Bool[Tensor, "batch length"]:
    """Mask of the chosen cells whose value is at most the (lower) median of the row's chosen cells."""
    middle = values.masked_fill(~cells, torch.nan).nanmedian(dim=1, keepdim=True).values
    return cells & (values <= middle)


def low_attention(model: MaskTransformer | TowerTransformer) -> GroupFn:
    """Grouping function for `maskgen.sampling.frequency.FrequencySampler`: target cells that receive at most the median attention.

    Low frequency means little attention: uniform regions, to which few cells attend. The sampler keeps their codes. On a CPU each row is
    computed separately, so a row's groups don't depend on the batch.

    Args:
        model: The generator.

    Returns:
        A function of a filled batch and the current segment; it is True at persistent cells.

    Source: arXiv:2304.01515, our reading of its abstract; averaging, median and direction are our choices.
    """

    def grouping(batch: TokenBatch, segment: Segment) -> Tensor:
        with torch.no_grad():
            received = row_by_row(lambda rows: received_attention(model, rows, segment.index), batch)
        return lower_half(received, batch.cells(segment.index))

    return grouping
