"""Feature extraction: hidden states of the transformer for unmasked samples."""

from collections.abc import Mapping, Sequence
from typing import Literal, cast

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from maskgen.networks.adapted import AdaptedTransformer
from maskgen.networks.auto import Network
from maskgen.networks.published import PublishedNetwork
from maskgen.networks.towers import TowerTransformer
from maskgen.networks.visibility import sight
from maskgen.tokens.batch import Codes, TokenBatch
from maskgen.tokens.packing import pack
from maskgen.tokens.space import TokenSpace

Pool = Literal["mean", "none"]
EMBED_BATCH = 64
"""Rows per model call where rows can be batched."""


@torch.no_grad()
def hidden_states(
    model: Network, batch: TokenBatch, layer: int = -1, context: Bool[Tensor, "batch length"] | None = None
) -> Float[Tensor, "batch length dim"]:
    """Hidden states of all cells after a number of blocks; after the last block, with the final norm: the input of the head.

    Args:
        model: The transformer; an adapted backbone has only its last layer, before its shift and head, a published network the input of
            its head.
        batch: Rows.
        layer: Number of blocks to run, from 0; negative numbers count from the end, -1 runs all.
        context: As in `MaskTransformer.forward`, for a model with `blind_condition`.

    Raises:
        ValueError: If there is no such layer, or `context` does not fit the model.
    """
    if isinstance(model, AdaptedTransformer | PublishedNetwork):
        if layer != -1:
            raise ValueError(f"an adapted or published network gives the features of its last layer, -1, alone; got {layer}")
        return model.states(batch) if isinstance(model, AdaptedTransformer) else cast(Tensor, model(batch))
    count = model.num_layers if isinstance(model, TowerTransformer) else len(model.blocks)
    if not -count - 1 <= layer <= count:
        raise ValueError(f"the model has layers 0 (its input) to {count}, or {-count - 1} to -1 from the end; got {layer}")
    wanted = layer % (count + 1)
    if wanted == count:
        found: Tensor = model(batch, context=context)
        return found
    if isinstance(model, TowerTransformer):
        return model(batch, layers=wanted)  # type: ignore[no-any-return]
    x, rotation = model.start(batch.ids, batch.modality, batch.coords, batch.features)
    seen = sight(batch.valid, batch.document, context)
    for block in list(model.blocks)[:wanted]:
        x = block(x, rotation, seen)
    return x


def embed_rows(
    model: Network,
    space: TokenSpace,
    rows: Sequence[Mapping[str, Codes]],
    layer: int = -1,
    pool: Pool = "mean",
    target: str | None = None,
) -> list[dict[str, Tensor]]:
    """Features of every modality of every row; see `maskgen.pipelines.base.Pipeline.embed` for the arguments.

    In float32 on a CPU each row is a separate model call, so its features are bit-identical in any batch.

    Raises:
        ValueError: If a row is empty, has unknown modalities or none that a published network computes states of; if layer or pool doesn't
            exist, or `target` is missing where it is required.
    """
    if pool not in ("mean", "none"):
        raise ValueError(f'pool must be "mean" or "none", got {pool!r}')
    if model.config.blind_condition and target is None:
        raise ValueError("the condition of this model does not look at its target (blind_condition); say which modality is the target")
    for number, row in enumerate(rows):
        if not any(codes.numel() for codes in row.values()):
            raise ValueError(f"row {number} has no cell; features need at least one")
    weight = model.embed.weight
    size = 1 if weight.device.type == "cpu" and weight.dtype == torch.float32 else EMBED_BATCH
    found: list[dict[str, Tensor]] = []
    for start in range(0, len(rows), size):
        part = rows[start : start + size]
        batch = pack(part, space).to(weight.device)
        context = batch.modality != space.index(target) if model.config.blind_condition and target is not None else None
        hidden = hidden_states(model, batch, layer, context).float()
        found += [_features(hidden[row], batch.rows(slice(row, row + 1)), space, sample, pool) for row, sample in enumerate(part)]
    if isinstance(model, PublishedNetwork):
        return [_computed(features, number) for number, features in enumerate(found)]
    return found


def _features(
    hidden: Float[Tensor, "length dim"], row: TokenBatch, space: TokenSpace, sample: Mapping[str, Codes], pool: Pool
) -> dict[str, Tensor]:
    """Features of each modality of one row."""
    found = {}
    for name, codes in sample.items():
        cells = hidden[row.cells(space.index(name))[0]].cpu()
        found[name] = cells.mean(dim=0) if pool == "mean" else cells.reshape(*codes.shape[1:], -1)
    return found


def _computed(features: dict[str, Tensor], number: int) -> dict[str, Tensor]:
    """Features without those of modalities for which a published network computes no states: they are 0 and would say nothing.

    Raises:
        ValueError: If none is left.
    """
    found = {name: one for name, one in features.items() if one.any()}
    if not found:
        raise ValueError(
            f"the network computes no states of {', '.join(features)}, the only media of row {number}; give one that it generates too"
        )
    return found
