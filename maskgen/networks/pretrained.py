"""The transformer of a model bundle: for generation, as the start of a training, and as a teacher."""

import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from maskgen.io.bundle import WEIGHTS_FILE, Bundle, find_model, load_bundle, read_bundle_record
from maskgen.io.fitting import fitted
from maskgen.io.schema import Items, Maybe, Plain, Record, Table, Text, Whole
from maskgen.networks.auto import Network, NetworkSchema, load_own, network_of, own_tensors
from maskgen.networks.transformer import MaskTransformer, TransformerConfig
from maskgen.tokens.space import SPACE_SCHEMA, TokenSpace

logger = logging.getLogger(__name__)
PIPELINE_KIND = "pipeline"
PIPELINE_SCHEMA = Record(
    {
        "space": SPACE_SCHEMA,
        "transformer": NetworkSchema(),
        "tokenizers": Table(Text()),
        "fingerprints": Table(Text()),
        "generation": Table(Table(Plain())),
        "grids": Table(Items(Whole(1, 65_536), least=1, most=3)),
    }
)
"""What the configuration of a model bundle may hold."""
CHECKPOINT_SCHEMA = Record(
    {"kind": Text(), **{name: PIPELINE_SCHEMA.needed[name] for name in ("space", "fingerprints", "transformer")}},
    {"grids": PIPELINE_SCHEMA.needed["grids"], "target": Text(), "grid": Maybe(Items(Whole(1, 65_536), least=1, most=3))},
)
"""What the checkpoint of a token training says of itself."""


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
    """The network of a model bundle in float32, ready for use, and its token space.

    Raises:
        ValueError: If the configuration makes no network, or one of other sizes than the weights.
    """
    space = TokenSpace.from_dict(bundle.config["space"])
    model = fitted(lambda: network_of(bundle.config["transformer"], space), bundle.tensors, str(bundle.folder), own_tensors)
    load_own(model, {name: tensor.float() for name, tensor in bundle.tensors.items()})
    return model.eval().requires_grad_(False), space


def load_pretrained(name: Path | str) -> Pretrained:
    """The transformer of a folder or of a shipped model, without its tokenizers.

    Raises:
        ValueError: If it is missing, damaged or no model.
    """
    folder = find_model(name)
    bundle = load_bundle(folder, PIPELINE_KIND, PIPELINE_SCHEMA)
    model, space = transformer_of(bundle)
    if not isinstance(model, MaskTransformer):
        raise ValueError(
            f"{name} is an adapted backbone or has towers, neither a start nor a teacher; give a model of one transformer of maskgen"
        )
    weights = read_bundle_record(folder)["files"][WEIGHTS_FILE]
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

    No old id moves where modalities are appended, so the old ones keep all that they learned; the new ones start as they are in `model`,
    and so do further heads, which add nothing at first. Modalities of the bundle behind those of the shards are left out. Codes of another
    tokenizer are taken with a warning: a start from them is still better than none.

    Args:
        model: Transformer that is to be trained; only its weights change.
        space: Token space of the shards: the bundle's, or one that begins with it, or with which it begins.
        fingerprints: Tokenizers of the shards.
        name: Folder or shipped name of the model to start from.
        shards: Folder of the shards, for the errors.

    Raises:
        ValueError: If there is no such model, or its sizes or its token space are others; names both.
    """
    found = load_pretrained(name)
    if not space.begins_with(found.space) and not found.space.begins_with(space):
        require_space(found, space, shards)
    ours, theirs = _sizes(model.config), _sizes(found.model.config)
    other = [key for key in ours if ours[key] != theirs[key] and not (key == "num_heads" and ours[key] > theirs[key])]
    if other:
        have, wanted = (", ".join(f"{key}={sizes[key]}" for key in other) for sizes in (theirs, ours))
        raise ValueError(f"the model {name} has {have}, this training has {wanted}; copy its sizes")
    names = [one.name for one in space.modalities]
    for modality, fingerprint in found.fingerprints.items():
        if modality in names and fingerprints.get(modality) != fingerprint:
            logger.warning(
                "%s was trained with another %s tokenizer than made %s: its embeddings do not match these codes yet",
                name,
                modality,
                shards,
            )
    model.load_state_dict(grown(with_heads(found.model, model), model.state_dict()))


def grown(old: Mapping[str, Tensor], new: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Old weights where a table has as many rows; rows that came to it as they are in the new weights, rows behind its end left out.

    Args:
        old: Weights of a model.
        new: Weights of another one, of the same names; only the first axis may be longer or shorter.
    """
    return {
        name: torch.cat([tensor, new[name][len(tensor) :].to(tensor)])[: len(new[name])] if tensor.ndim else tensor
        for name, tensor in old.items()
    }


def with_heads(old: MaskTransformer, new: MaskTransformer) -> dict[str, Tensor]:
    """Weights of a transformer with as many heads as another has; what came to it is the other's, but its answers are not heard.

    Args:
        old: Transformer whose function stays.
        new: One of the same sizes with as many heads or more.

    Source: function-preserving growth, Net2Net, arXiv:1511.05641.
    """
    state, theirs = dict(old.state_dict()), new.state_dict()
    width = old.config.num_heads * old.config.head_dim
    for name in [name for name in state if ".attention." in name]:
        if name.endswith(".qkv.weight"):
            pairs = zip(state[name].chunk(3), theirs[name].chunk(3), strict=True)
            state[name] = torch.cat([torch.cat([ours, more[width:].to(ours)]) for ours, more in pairs])
        elif name.endswith(".out.weight"):
            state[name] = functional.pad(state[name], (0, theirs[name].shape[1] - width))
    return state


def _sizes(config: TransformerConfig) -> dict[str, Any]:
    """What must agree for weights to mean the same. Dropout may differ, and so may `rope_raster`: a model of sound is taught pictures."""
    sizes = {**asdict(config), "hidden_dim": config.inner_dim, "rope_split": tuple(config.rope_split), "head_width": config.head_dim}
    return {name: size for name, size in sizes.items() if name not in ("dropout", "rope_raster")}


def _named(space: TokenSpace) -> str:
    """A token space in words."""
    parts = [f"{one.name} {one.num_levels} x {one.codebook_size} ({one.kind})" for one in space.modalities]
    specials = space.to_dict()["specials"]
    return f"[{', '.join(parts)}]" + (f" with specials {specials}" if specials else "")
