"""A folder of tensors keyed by what made them, so that a repeated evaluation is fast."""

import hashlib
import logging
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from jaxtyping import Float
from safetensors.torch import load_file, save
from torch import Tensor

from maskgen.io.files import write_atomic

logger = logging.getLogger(__name__)


def digest(*parts: str | Tensor) -> str:
    """Sha256 of strings and tensors in order, as 64 hex digits; shapes and types of tensors count too."""
    hasher = hashlib.sha256()
    for part in parts:
        data = part.encode() if isinstance(part, str) else part.contiguous().numpy().tobytes()
        label = "text" if isinstance(part, str) else f"{part.dtype}{tuple(part.shape)}"
        hasher.update(f"{label}:{len(data)}:".encode())
        hasher.update(data)
    return hasher.hexdigest()


def cached(folder: Path | None, name: str, make: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
    """Tensors of a name from the folder, made and written when they are not there.

    Args:
        folder: Cache folder; None always makes.
        name: File name without ending; must contain a digest of everything that `make` depends on.
        make: Gives the tensors.

    Returns:
        The tensors, equal whether they were read or made.
    """
    if folder is None:
        return make()
    path = folder / f"{name}.safetensors"
    if path.exists():
        return load_file(path)
    logger.info("making %s", path)
    tensors = {key: value.contiguous() for key, value in make().items()}
    _write(path, tensors)
    return tensors


def remembered(
    folder: Path | None, name: str, keys: Sequence[str], make: Callable[[list[int]], Float[Tensor, "made dim"]], part_size: int = 1024
) -> Float[Tensor, "batch dim"]:
    """One row of numbers an item, computed only for items that the folder does not know yet.

    What is new is written every `part_size` items, so a killed run resumes where it stopped, and a corpus that gained a few images costs
    these alone.

    Args:
        folder: Cache folder; None computes all.
        name: What the rows are; must contain a digest of the computation.
        keys: Hex digest of each item; equal keys are computed once.
        make: Rows of the items at these places.
        part_size: Items in one file.
    """
    known: dict[str, Tensor] = {} if folder is None else _known(folder, name)
    new = {key: place for place, key in enumerate(keys) if key not in known}
    places = sorted(new.values())
    if places:
        logger.info("computing %d of %d rows of %s", len(places), len(keys), name)
    for start in range(0, len(places), part_size):
        part = places[start : start + part_size]
        rows = make(part)
        part_keys = [keys[place] for place in part]
        known.update(zip(part_keys, rows, strict=True))
        if folder is not None:
            table = torch.tensor([list(bytes.fromhex(key)) for key in part_keys], dtype=torch.uint8)
            _write(folder / f"{name}-{digest(*part_keys)[:16]}.safetensors", {"keys": table, "rows": rows})
    return torch.stack([known[key] for key in keys])


def _known(folder: Path, name: str) -> dict[str, Tensor]:
    """Every item that the folder's parts hold."""
    known: dict[str, Tensor] = {}
    for path in sorted(folder.glob(f"{name}-*.safetensors")):
        part = load_file(path)
        known.update({bytes(key.tolist()).hex(): row for key, row in zip(part["keys"], part["rows"], strict=True)})
    return known


def _write(path: Path, tensors: dict[str, Tensor]) -> None:
    """Write under a temporary name, then rename: a killed run or a full disk leaves no half a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, save({key: value.contiguous() for key, value in tensors.items()}))
