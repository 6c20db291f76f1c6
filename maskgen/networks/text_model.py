"""Encoders of transformers that read text: from a folder or from a record, without running code from either."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from maskgen.io.fitting import fitted, refusing
from maskgen.networks.auto import load_own, own_tensors
from maskgen.networks.backbone import NOT_KEPT

ENCODER_ONLY = {
    "t5": "T5EncoderModel",
    "mt5": "MT5EncoderModel",
    "umt5": "UMT5EncoderModel",
    "clip_text_model": "CLIPTextModel",
    "siglip_text_model": "SiglipTextModel",
}
"""Class of the part that reads text, by `model_type`; every other type is taken whole."""
WITH_TEXT = ("clip", "siglip")
"""Types with a text half, described by `text_config`."""


def read_text_model(folder: Path) -> tuple[nn.Module, dict[str, Any]]:
    """The text encoder in a folder that `save_pretrained` of transformers wrote, in float32, and its configuration as plain data.

    Args:
        folder: Folder with config.json and safetensors; of a model with two halves, such as CLIP, the one that reads text is taken.

    Raises:
        ImportError: If transformers is missing.
        ValueError: If the folder holds no model that reads text, or it is damaged.
    """
    config = _config_in(folder)
    with refusing(str(folder)):
        made = _config_of(config)
    read: Any = _class_of(config).from_pretrained
    try:
        model, info = read(folder, config=made, local_files_only=True, use_safetensors=True, dtype=torch.float32, output_loading_info=True)
    except (OSError, ValueError, RuntimeError, KeyError, TypeError) as error:
        reason = (str(error).strip().splitlines() or [""])[0][:200]
        raise ValueError(f"{folder} has no text encoder that can be read ({reason}); give config.json and whole safetensors") from error
    wrong = [*info["missing_keys"], *(one[0] for one in info["mismatched_keys"])]
    if wrong := [name for name in wrong if not name.startswith("pooler.")]:
        raise ValueError(f"the weights in {folder} don't match their configuration at {sorted(wrong)[0]}; copy the folder again")
    return _frozen(model, str(folder)), config


def made_text_model(config: Mapping[str, Any], tensors: Mapping[str, Tensor], source: str) -> nn.Module:
    """The text encoder of a configuration with the given weights, after a check that they fit.

    Raises:
        ImportError: If transformers is missing.
        ValueError: If the configuration makes no such network.
    """
    network = fitted(lambda: _frozen(_class_of(config)._from_config(_config_of(config)), source), tensors, source, own_tensors)
    load_own(network, tensors)
    return network.eval().requires_grad_(False)


def _frozen(model: Any, source: str) -> nn.Module:
    """The model in evaluation mode, without the layer that pools its states.

    Raises:
        ValueError: If it reads no text.
    """
    if model.get_input_embeddings() is None or not hasattr(model.config, "vocab_size"):
        raise ValueError(f"{source} holds a {model.config.model_type}, which reads no text; give a text encoder")
    if getattr(model, "pooler", None) is not None:
        model.pooler = None
    frozen: nn.Module = model.float().eval().requires_grad_(False)
    return frozen


def _config_in(folder: Path) -> dict[str, Any]:
    """The configuration in a folder as its file says it, without paths and references to code."""
    try:
        plain = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"{folder} has no config.json that can be read; give a folder that save_pretrained wrote") from error
    if not isinstance(plain, dict) or not isinstance(plain.get("model_type"), str):
        raise ValueError(f"{folder}/config.json names no model_type; copy the folder again")
    if plain["model_type"] in WITH_TEXT:
        plain = {**plain.get("text_config", {}), "model_type": f"{plain['model_type']}_text_model"}
    return {name: value for name, value in plain.items() if name not in NOT_KEPT and not name.startswith("_")}


def _config_of(config: Mapping[str, Any]) -> Any:
    """The configuration as transformers has it.

    Raises:
        ValueError: If transformers knows no such type.
    """
    made: Any = _transformers().AutoConfig
    return made.for_model(**config)


def _class_of(config: Mapping[str, Any]) -> Any:
    """The class of a configuration's network."""
    library = _transformers()
    kind = config.get("model_type")
    if kind in ENCODER_ONLY:
        return getattr(library, ENCODER_ONLY[kind])
    found = library.MODEL_MAPPING.get(type(_config_of(config)), None)
    if isinstance(found, tuple):
        found = found[0]
    if found is None:
        raise ValueError(f"transformers has no model of type {kind!r}; give a text encoder, such as a T5, CLIP or BERT")
    return found


def _transformers() -> Any:
    """Import transformers, or raise an ImportError that names the extra."""
    try:
        import transformers
    except ImportError as error:
        raise ImportError("a frozen text encoder needs transformers: pip install maskgen[codecs]") from error
    return transformers
