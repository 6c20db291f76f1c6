"""Reading Lightning checkpoints as plain data: nothing in a file can run code."""

import pickle
from pathlib import Path
from typing import Any

import torch
from torch import Tensor


def read_checkpoint(path: Path | str, kind: str) -> dict[str, Any]:
    """What a maskgen module of the given kind left in a Lightning checkpoint.

    Args:
        path: The .ckpt file.
        kind: "image_tokenizer" or "masked_transformer".

    Returns:
        The checkpoint; its entry "maskgen" tells how to rebuild the network.

    Raises:
        ValueError: If the file is missing, damaged or of another kind.
    """
    if not Path(path).is_file():
        raise ValueError(f"checkpoint {path} does not exist; give the .ckpt file that `maskgen fit` wrote")
    try:
        checkpoint: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, pickle.UnpicklingError) as error:
        raise ValueError(
            f"checkpoint {path} is damaged or holds more than weights; give the .ckpt file that `maskgen fit` wrote"
        ) from error
    found = checkpoint.get("maskgen", {}).get("kind", "none of maskgen's modules")
    if found != kind:
        raise ValueError(f"checkpoint {path} holds {found}, wanted {kind}; give the checkpoint of that training")
    return checkpoint


def weights(checkpoint: dict[str, Any], prefix: str) -> dict[str, Tensor]:
    """Weights under a prefix, without it: averaged ones where averaging had begun.

    Lightning's WeightAveraging puts the average into `state_dict`; before its first update that is the untrained model.
    """
    begun = int(checkpoint.get("averaging_state", {}).get("n_averaged", 1)) > 0
    state = checkpoint["state_dict" if begun else "current_model_state"]
    return {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}
