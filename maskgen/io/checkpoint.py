"""Reading Lightning checkpoints as plain data: a file can't run code, and its hash reveals damage."""

import logging
import pickle
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from maskgen.io.files import file_sha256
from maskgen.io.sharded import read_sharded, verify_sharded

logger = logging.getLogger(__name__)


def hash_file_of(path: Path) -> Path:
    """Return the path of the file next to a checkpoint that holds its sha256, in the format of `sha256sum --check`."""
    return path.with_name(f"{path.name}.sha256")


def previous_of(path: Path) -> Path:
    """Return the path where the previous checkpoint of this name is kept."""
    return path.with_name(f"{path.stem}.previous{path.suffix}")


def recorded_hashes(path: Path) -> list[str]:
    """Return the hashes a checkpoint may have, most likely first; empty without a record. After an interrupted save a later one matches."""
    record = hash_file_of(path.resolve())  # resolve a link to the checkpoint it points to
    if not record.is_file():
        return []
    return record.read_text(errors="replace").replace("#", "").split()[::2] or [""]


def load_verified(path: Path, map_location: Any = "cpu") -> dict[str, Any]:
    """Load a checkpoint after verifying its hash.

    Args:
        path: The .ckpt file. Without a hash file next to it (older checkpoints have none) it is read unverified, with a notice. A folder of
            shards, which a training with sharded weights writes, is read whole.
        map_location: Device that the tensors are loaded to.

    Returns:
        The checkpoint.

    Raises:
        ValueError: If the file is missing, damaged or holds more than weights and plain data.
    """
    if path.is_dir():
        verify_sharded(path)
        return read_sharded(path, map_location)
    if not path.is_file():
        raise ValueError(f"checkpoint {path} does not exist; give the .ckpt file that `maskgen fit` wrote")
    wanted = recorded_hashes(path)
    if not wanted:
        logger.info("checkpoint %s has no %s beside it, so it is read unchecked", path, hash_file_of(path).name)
    elif (found := file_sha256(path)) not in wanted:
        raise ValueError(
            f"checkpoint {path} is damaged: sha256 {found[:12]}…, its record says {wanted[0][:12]}…; "
            f"copy it again or take another, such as {previous_of(path).name}"
        )
    try:
        checkpoint = torch.load(path, map_location=map_location, weights_only=True)
    except (RuntimeError, EOFError, pickle.UnpicklingError, KeyError, ValueError, IndexError) as error:
        raise ValueError(
            f"checkpoint {path} is damaged or holds more than weights; give the .ckpt file that `maskgen fit` wrote"
        ) from error
    if not isinstance(checkpoint, dict):
        raise ValueError(f"checkpoint {path} holds a {type(checkpoint).__name__}; give the .ckpt file that `maskgen fit` wrote")
    return checkpoint


def read_checkpoint(path: Path | str, kind: str) -> dict[str, Any]:
    """Read a Lightning checkpoint that a maskgen module of the given kind saved.

    Args:
        path: The .ckpt file, or a folder of shards.
        kind: "image_tokenizer" or "masked_transformer".

    Returns:
        The checkpoint; its entry "maskgen" holds what is needed to rebuild the network.

    Raises:
        ValueError: If the file is missing, damaged or of another kind.
    """
    checkpoint = load_verified(Path(path))
    made = checkpoint.get("maskgen")
    found = made.get("kind") if isinstance(made, dict) else "none of maskgen's modules"
    if found != kind:
        raise ValueError(f"checkpoint {path} holds {found}, wanted {kind}; give the checkpoint of that training")
    state = checkpoint.get("state_dict")
    if not isinstance(state, dict) or not all(isinstance(name, str) and isinstance(value, Tensor) for name, value in state.items()):
        raise ValueError(f"checkpoint {path} has no weights (state_dict); give the .ckpt file that `maskgen fit` wrote")
    return checkpoint


def weights(checkpoint: dict[str, Any], prefix: str) -> dict[str, Tensor]:
    """Return the weights under a prefix, with the prefix removed. Averaged weights are preferred once averaging has begun.

    Lightning's WeightAveraging stores the average in `state_dict`; before its first update, that is the untrained model.
    """
    begun = int(checkpoint.get("averaging_state", {}).get("n_averaged", 1)) > 0
    state = checkpoint["state_dict" if begun else "current_model_state"]
    return {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}
