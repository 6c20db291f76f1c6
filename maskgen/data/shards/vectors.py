"""Vectors in token shards: the features that a frozen encoder gives of a sample's captions, in half precision."""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from maskgen.tokens.space import Kind, Modality


def kept_vectors(captions: Sequence[Tensor]) -> np.ndarray:
    """Features of several captions as one array [alternatives longest width], NaN behind the end of each.

    Float16 stays; bfloat16, which numpy lacks, is stored as its bits in Int16.

    Args:
        captions: Features [width tokens] of each caption, all in one precision.
    """
    first = captions[0]
    array = torch.full((len(captions), max(one.shape[1] for one in captions), first.shape[0]), torch.nan, dtype=first.dtype)
    for row, vectors in zip(array, captions, strict=True):
        row[: vectors.shape[1]] = vectors.T
    kept: np.ndarray = (array.view(torch.int16) if first.dtype == torch.bfloat16 else array).numpy()
    return kept


def lengths_of(array: np.ndarray) -> np.ndarray:
    """Cells of each caption, [alternatives]."""
    count: np.ndarray = torch.isnan(_tensor(array[..., 0])).logical_not().sum(dim=1).numpy()
    return count


def caption_vectors(array: np.ndarray, alternative: int) -> np.ndarray:
    """Features [width n] of one caption out of [alternatives longest width], as they are stored."""
    found: np.ndarray = array[alternative, : lengths_of(array[alternative][None])[0]].T
    return found


def as_vectors(array: np.ndarray) -> Float[Tensor, "width tokens"]:
    """Stored features as a tensor in their precision."""
    return _tensor(np.ascontiguousarray(array))


def num_cells(array: np.ndarray, kind: Kind) -> int:
    """Cells with a code, or with a vector, in all alternatives and levels of a stored array."""
    return int(lengths_of(array).sum()) if kind == "features" else int((array >= 0).sum())


def vector_fault(array: np.ndarray, modality: Modality) -> str:
    """What keeps an array from being the features of a modality, in a few words; empty if nothing does."""
    if array.dtype not in (np.float16, np.int16):
        return f"holds {array.dtype}, wanted features in float16, or in bfloat16 as int16"
    if array.ndim != 3 or not array.shape[0] or array.shape[2] != modality.width:
        return f"has shape {array.shape}, wanted [alternatives longest {modality.width}]"
    missing = torch.isnan(_tensor(array)).numpy()
    ends = np.arange(array.shape[1]) >= lengths_of(array)[:, None]
    return "" if np.array_equal(missing, np.broadcast_to(ends[..., None], array.shape)) else "holds features that are no numbers"


def _tensor(array: np.ndarray) -> Tensor:
    """An array as a tensor; the bits of bfloat16 as its numbers. Copied: shards are memory-mapped and read-only."""
    tensor = torch.from_numpy(np.array(array))
    return tensor.view(torch.bfloat16) if array.dtype == np.int16 else tensor
