"""Vectors of cells: what a frozen encoder says of a prompt, carried beside the ids of a token batch."""

import functools
from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from maskgen.tokens.batch import Codes, TokenBatch
from maskgen.tokens.space import Modality, TokenSpace


def require_vectors(vectors: Codes, modality: Modality) -> Float[Tensor, "width cells"]:
    """The vectors of one sample, after a check of type and shape.

    Raises:
        ValueError: If they are not numbers [width, n] with the width of the modality.
    """
    if not vectors.is_floating_point() or vectors.ndim != 2 or vectors.shape[0] != modality.width:
        raise ValueError(
            f"{modality.name} of a sample is {vectors.dtype} of shape {tuple(vectors.shape)}, wanted vectors [{modality.width}, n]; "
            "encode the text with the model's encoder"
        )
    return vectors


def cell_features(
    rows: Sequence[Sequence[tuple[str, Codes]]], modality: Int[Tensor, "batch length"], space: TokenSpace
) -> Float[Tensor, "batch length width"] | None:
    """The vector of every cell, in the precision of the vectors given; 0 where a cell has none.

    Args:
        rows: Per row the name and the vectors [width, n] of every set of cells that has some, in the order of the cells.
        modality: Number of each cell's modality.
        space: The token space.

    Returns:
        None where the space has no modality of kind features.
    """
    if not space.feature_width:
        return None
    types = [vectors.dtype for row in rows for _, vectors in row]
    features = torch.zeros(
        *modality.shape, space.feature_width, dtype=functools.reduce(torch.promote_types, types) if types else torch.float16
    )
    for row, parts in enumerate(rows):
        for name in {name for name, _ in parts}:
            whole = torch.cat([vectors.T.cpu() for other, vectors in parts if other == name])
            features[row, modality[row] == space.index(name), space.feature_columns(name)] = whole.to(features.dtype)
    return features


def vectors_of(batch: TokenBatch, row: int, cells: Bool[Tensor, " length"], columns: slice) -> Float[Tensor, "width cells"]:
    """The vectors of chosen cells of a row, in the columns of their modality."""
    assert batch.features is not None, "a space with features packs them"
    return batch.features[row, cells, columns].T
