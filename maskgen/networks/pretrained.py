"""Load the transformer of a model bundle for generation, as the start of training, or as a teacher."""

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
PROJECTION = "embed_features.weight"
"""Weight that projects features of a frozen encoder."""
FREE = ("dropout", "rope_raster", "rope_scaling", "rope_factor", "rope_trained")
"""Settings of a transformer that a training may change when it starts from another."""
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
"""Schema of the configuration of a model bundle."""
CHECKPOINT_SCHEMA = Record(
    {"kind": Text(), **{name: PIPELINE_SCHEMA.needed[name] for name in ("space", "fingerprints", "transformer")}},
    {
        "grids": PIPELINE_SCHEMA.needed["grids"],
        "seen_grids": PIPELINE_SCHEMA.needed["grids"],
        "target": Text(),
        "grid": Maybe(Items(Whole(1, 65_536), least=1, most=3)),
    },
)
"""Schema of the metadata in a checkpoint of token training."""


@dataclass(frozen=True)
class Pretrained:
    """Content of a model bundle that training uses.

    Args:
        name: Name as the user gave it.
        model: The transformer in float32, without gradients.
        space: Its token space.
        fingerprints: Modality to the fingerprint of the tokenizer it was trained with.
        grids: Default code grid of each target modality.
        weights: sha256 of the weights file; it does not depend on the bundle's other settings.
    """

    name: str
    model: MaskTransformer
    space: TokenSpace
    fingerprints: dict[str, str]
    grids: dict[str, list[int]]
    weights: str


def transformer_of(bundle: Bundle) -> tuple[Network, TokenSpace]:
    """Network of a model bundle in float32, in evaluation mode, and its token space.

    Raises:
        ValueError: If the configuration is invalid or does not match the weights.
    """
    space = TokenSpace.from_dict(bundle.config["space"])
    model = fitted(lambda: network_of(bundle.config["transformer"], space), bundle.tensors, str(bundle.folder), own_tensors)
    load_own(model, {name: tensor.float() for name, tensor in bundle.tensors.items()})
    return model.eval().requires_grad_(False), space


def load_pretrained(name: Path | str) -> Pretrained:
    """Load the transformer of a folder or of a shipped model, without its tokenizers.

    Raises:
        ValueError: If it is missing or damaged, or is not a model.
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
    """Check that a model has the token space of the shards.

    Raises:
        ValueError: If the token spaces differ; names both.
    """
    if len(found.space.modalities) != len(space.modalities) or not space.begins_with(found.space):
        raise ValueError(
            f"{found.name} has the token space {_named(found.space)}, the shards in {shards} have {_named(space)}; "
            "take a model that was trained on shards like these, or shards like those of the model"
        )


def start_from(model: MaskTransformer, space: TokenSpace, fingerprints: Mapping[str, str], name: str, shards: str) -> None:
    """Copy the weights of a model bundle into a transformer of the same sizes and the same token space, or one with more modalities.

    Appended modalities do not move old ids, so the old modalities keep all that they learned. New modalities start as they are in `model`,
    and so do additional heads, which contribute nothing at first. Modalities of the bundle after those of the shards are dropped. If the
    bundle was trained with another tokenizer, its weights are used with a warning: they are still a better start than random weights.

    Args:
        model: Transformer to train; only its weights change.
        space: Token space of the shards: equal to the bundle's, or one of the two is a prefix of the other.
        fingerprints: Fingerprints of the shards' tokenizers.
        name: Folder or shipped name of the model to start from.
        shards: Folder of the shards, for error messages.

    Raises:
        ValueError: If there is no such model, or its sizes or its token space differ; names both.
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
    ours = model.state_dict()
    model.load_state_dict(with_features(grown(with_heads(found.model, model), ours), ours))


def grown(old: Mapping[str, Tensor], new: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Old weights with as many rows as the new ones: additional rows are taken from the new weights, surplus rows are dropped.

    Args:
        old: Weights of a model.
        new: Weights of another model with the same names; only the first axis may be longer or shorter.
    """
    return {
        name: torch.cat([tensor, new[name][len(tensor) :].to(tensor)])[: len(new[name])] if tensor.ndim else tensor
        for name, tensor in old.items()
    }


def with_features(old: Mapping[str, Tensor], new: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Old weights with the projection of features that the new ones have: old columns first, added ones as they are in the new weights.

    Args:
        old: Weights of a model.
        new: Weights of another model with the same names, but for this projection.
    """
    kept = {name: tensor for name, tensor in old.items() if name != PROJECTION or name in new}
    if PROJECTION not in new:
        return kept
    columns = old[PROJECTION][:, : new[PROJECTION].shape[1]] if PROJECTION in old else new[PROJECTION][:, :0]
    return {**kept, PROJECTION: torch.cat([columns, new[PROJECTION][:, columns.shape[1] :].to(columns)], dim=1)}


def with_heads(old: MaskTransformer, new: MaskTransformer) -> dict[str, Tensor]:
    """Weights of a transformer grown to the heads of another; the added heads start with the other's weights and zero output.

    Args:
        old: Transformer whose function is preserved.
        new: Transformer of the same sizes with at least as many heads.

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
    """Settings that must agree; positions are free, so that an audio model can learn images, and any model larger grids."""
    sizes = {**asdict(config), "hidden_dim": config.inner_dim, "rope_split": tuple(config.rope_split), "head_width": config.head_dim}
    return {name: size for name, size in sizes.items() if name not in FREE}


def _named(space: TokenSpace) -> str:
    """Description of a token space for error messages."""
    parts = [f"{one.name} {one.num_levels} x {one.codebook_size} ({one.kind})" for one in space.modalities]
    specials = space.to_dict()["specials"]
    return f"[{', '.join(parts)}]" + (f" with specials {specials}" if specials else "")
