"""Codes of token shards: what an array of a modality must be, for training and for the check of a folder."""

from typing import Any

import numpy as np

from maskgen.data.shards.manifest import Index
from maskgen.data.shards.vectors import vector_fault
from maskgen.tokens.space import Modality, TokenSpace

MOST_AXES = 3
"""Axes of a grid: time, rows, columns."""


def index_space(index: Index, place: object) -> TokenSpace:
    """The token space of token shards.

    Args:
        index: Their index.
        place: Where it lies, for the error.

    Raises:
        ValueError: If the shards hold no tokens, or what the index says is no token space.
    """
    if index.space is None:
        raise ValueError(f"{place} holds {index.kind} shards, wanted tokens; build them: maskgen data tokenize")
    try:
        return TokenSpace.from_dict(dict(index.space))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ValueError(f"the index in {place} holds no token space ({error}); build the shards again") from error


def require_integers(array: Any, name: str, key: str) -> None:
    """Refuse an array that holds no codes; conversion would cut numbers to whole ones in silence.

    Args:
        array: As read from a shard.
        name: Name of its modality.
        key: Key of the sample.

    Raises:
        ValueError: If it does not hold integers.
    """
    if array.dtype.kind not in "iu":
        raise ValueError(f"{name}.npy of sample {key} holds {array.dtype}, wanted integer codes; build the shards again")


def code_fault(array: np.ndarray, modality: Modality) -> str:
    """What keeps an array from being the codes of a modality, or its vectors, in a few words; empty if nothing does.

    Args:
        array: [level *grid], of text [alternatives longest] with -1 behind the end of each.
        modality: The modality; its codes lie in 0 to codebook_size - 1, -1 is unknown.
    """
    if modality.has_vectors:
        return vector_fault(array, modality)
    if array.dtype.kind not in "iu":
        return f"holds {array.dtype}, wanted integer codes"
    if modality.is_text:
        if array.ndim != 2 or not array.shape[0]:
            return f"has shape {array.shape}, wanted [alternatives longest]"
    elif not 2 <= array.ndim <= 1 + MOST_AXES or array.shape[0] != modality.num_levels:
        return f"has shape {array.shape}, wanted {modality.num_levels} levels of a grid"
    if not array.size:
        return ""
    low, high = int(array.min()), int(array.max())
    if low < -1 or high >= modality.codebook_size:
        return f"holds the codes {low} to {high}, wanted 0 to {modality.codebook_size - 1}, or -1"
    if modality.is_text and bool(((array[:, :-1] < 0) & (array[:, 1:] >= 0)).any()):
        return "holds codes behind the end of a text"
    return ""
