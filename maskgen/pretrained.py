"""The transformer of a model bundle: for generation, as the start of a training, and as a teacher."""

import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from maskgen.bundle import WEIGHTS_FILE, Bundle, find_model, load_bundle, read_record
from maskgen.model import MaskTransformer, TransformerConfig
from maskgen.nets.adapted import Network, network_of
from maskgen.space import TokenSpace

logger = logging.getLogger(__name__)
BUNDLE_KIND = "pipeline"


@dataclass(frozen=True)
class Pretrained:
    """What a training takes from a model bundle.

    Args:
        name: As it was asked for.
        model: The transformer in float32, without gradients.
        space: Its token space.
        fingerprints: Modality to the fingerprint of the tokenizer it was trained with.
        grids: Default code grid of each target modality.
        weights: sha256 of the weights file; other settings beside the same weights do not change it.
    """

    name: str
    model: MaskTransformer
    space: TokenSpace
    fingerprints: dict[str, str]
    grids: dict[str, list[int]]
    weights: str


def transformer_of(bundle: Bundle) -> tuple[Network, TokenSpace]:
    """The transformer of a model bundle in float32, a MaskTransformer or an AdaptedTransformer, ready for use, and its token space."""
    space = TokenSpace.from_dict(bundle.config["space"])
    model = network_of(bundle.config["transformer"], space)
    tensors = {name: tensor.float() for name, tensor in bundle.tensors.items()}
    if model.config.tie_head:
        tensors["head.weight"] = tensors["embed.weight"]
    model.load_state_dict(tensors)
    return model.eval().requires_grad_(False), space


def load_pretrained(name: Path | str) -> Pretrained:
    """The transformer of a folder or of a shipped model, without its tokenizers.

    Raises:
        ValueError: If it is missing, damaged or no model.
    """
    folder = find_model(name)
    bundle = load_bundle(folder, BUNDLE_KIND)
    model, space = transformer_of(bundle)
    if not isinstance(model, MaskTransformer):
        raise ValueError(
            f"{name} is an adapted backbone, which is neither a start nor a teacher; give a model of maskgen's own transformer"
        )
    weights = read_record(folder)["files"][WEIGHTS_FILE]
    return Pretrained(str(name), model, space, bundle.config["fingerprints"], bundle.config["grids"], weights)


def require_space(found: Pretrained, space: TokenSpace, shards: str) -> None:
    """Refuse a model whose ids mean something else than those of the shards.

    Raises:
        ValueError: If the token spaces differ; names both.
    """
    if len(found.space.modalities) != len(space.modalities) or not space.begins_with(found.space):
        raise ValueError(
            f"{found.name} has the token space {_named(found.space)}, the shards in {shards} have {_named(space)}; "
            "take a model that was trained on shards like these, or shards like those of the model"
        )


def start_from(model: MaskTransformer, space: TokenSpace, fingerprints: Mapping[str, str], name: str, shards: str) -> None:
    """Copy the weights of a model bundle into a transformer of the same sizes and the same token space, or one with further modalities.

    No old id moves where modalities are appended, so the old ones keep all that they learned; the new ones start as they are in `model`.
    Codes of another tokenizer are taken with a warning: a start from them is still better than none.

    Args:
        model: Transformer that is to be trained; only its weights change.
        space: Token space of the shards: the bundle's, or one that begins with it.
        fingerprints: Tokenizers of the shards.
        name: Folder or shipped name of the model to start from.
        shards: Folder of the shards, for the errors.

    Raises:
        ValueError: If there is no such model, or its sizes or its token space are others; names both.
    """
    found = load_pretrained(name)
    if not space.begins_with(found.space):
        require_space(found, space, shards)
    ours, theirs = _sizes(model.config), _sizes(found.model.config)
    other = [key for key in ours if ours[key] != theirs[key]]
    if other:
        have, wanted = (", ".join(f"{key}={sizes[key]}" for key in other) for sizes in (theirs, ours))
        raise ValueError(f"the model {name} has {have}, this training has {wanted}; copy its sizes")
    for modality, fingerprint in found.fingerprints.items():
        if fingerprints.get(modality) != fingerprint:
            logger.warning("%s was trained with another %s tokenizer than made %s: its codes start as strangers", name, modality, shards)
    model.load_state_dict(grown(found.model.state_dict(), model.state_dict()))


def grown(old: Mapping[str, Tensor], new: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Old weights where a table has as many rows or more; rows that came to it as they are in the new weights.

    Args:
        old: Weights of the smaller model.
        new: Weights of the larger one, of the same names; only the first axis may be longer.
    """
    return {name: torch.cat([tensor, new[name][len(tensor) :].to(tensor)]) if tensor.ndim else tensor for name, tensor in old.items()}


def _sizes(config: TransformerConfig) -> dict[str, Any]:
    """What must agree for weights to mean the same. Dropout may differ, and so may `rope_raster`: a model of sound is taught pictures."""
    sizes = {**asdict(config), "hidden_dim": config.inner_dim, "rope_split": tuple(config.rope_split)}
    return {name: size for name, size in sizes.items() if name not in ("dropout", "rope_raster")}


def _named(space: TokenSpace) -> str:
    """A token space in words."""
    parts = [f"{one.name} {one.num_levels} x {one.codebook_size} ({one.kind})" for one in space.modalities]
    specials = space.to_dict()["specials"]
    return f"[{', '.join(parts)}]" + (f" with specials {specials}" if specials else "")
