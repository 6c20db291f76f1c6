"""Merge trained models: join them as the towers of one network, or average their weights."""

import logging
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from maskgen.decoding.settings import CHEAPER, GenerationSettings, needs_of
from maskgen.io.bundle import WEIGHTS_FILE, find_model, load_bundle, read_bundle_record
from maskgen.io.checkpoint import read_checkpoint, weights
from maskgen.io.names import relative_place
from maskgen.networks.auto import own_tensors
from maskgen.networks.bridges import BRIDGE_KIND, BRIDGE_SCHEMA, Bridge
from maskgen.networks.pretrained import PIPELINE_KIND
from maskgen.networks.tower_config import Tower, TowersConfig
from maskgen.networks.towers import TowerTransformer, bridged
from maskgen.networks.transformer import MaskTransformer
from maskgen.pipelines.base import Pipeline
from maskgen.tokens.space import TokenSpace

logger = logging.getLogger(__name__)


def merge_as_towers(models: Mapping[str, Path | str]) -> Pipeline:
    """One pipeline whose network has each of the models as a tower.

    Rows with one tower's modalities give the same results as its model; attention across towers is untrained until the network is trained.

    Args:
        models: Name of the tower to folder or shipped name of a model of maskgen's own transformer.

    Raises:
        ValueError: If a model is missing or of another kind, two have a modality of one name, layers or heads differ, or a model's settings
            need what a network with towers does not support.
    """
    parts = {name: Pipeline.from_pretrained(model, specialists=False) for name, model in models.items()}
    for name, part in parts.items():
        if not isinstance(part.model, MaskTransformer):
            raise ValueError(f"{models[name]} is an adapted backbone or has towers itself; give models with a single maskgen transformer")
    towers = {
        name: Tower(modalities=[one.name for one in part.space.modalities], transformer=part.model.config) for name, part in parts.items()
    }
    config = TowersConfig(towers=towers)
    specials = dict.fromkeys(special for part in parts.values() for special in part.space.specials)
    if any(part.space.specials != tuple(specials) for part in parts.values()):
        raise ValueError(f"the models have different special ids ({', '.join(specials)} in all); merge models with the same ones")
    space = TokenSpace([one for part in parts.values() for one in part.space.modalities], specials)
    network = TowerTransformer(config, space)
    for name, part in parts.items():
        network.tower(name).load_state_dict(part.model.state_dict())
    tokenizers = {key: one for part in parts.values() for key, one in part.tokenizers.items()}
    settings = {key: _for_towers(key, one, str(models[name])) for name, part in parts.items() for key, one in part.settings.items()}
    grids = {key: one for part in parts.values() for key, one in part.grids.items()}
    return Pipeline.kind_for(space, settings, False, "the merged model")(network, space, tokenizers, settings, grids)


def add_bridge(checkpoint: Path, model: Path | str) -> Pipeline:
    """A model with towers and the bridge of a checkpoint between them; what each tower does without it doesn't change.

    Args:
        checkpoint: Of `maskgen.training.modules.bridges.BridgeModule`.
        model: Folder or shipped name of the model for which it was trained.

    Raises:
        ValueError: If the checkpoint or the model is missing, damaged or of another kind, or the bridge was trained for other weights.
    """
    found = read_checkpoint(checkpoint, BRIDGE_KIND)
    made, tensors = found["maskgen"], weights(found, "network.")
    BRIDGE_SCHEMA.check(made, f"checkpoint {checkpoint}")
    if {len(tensor) for name, tensor in tensors.items() if name.endswith(".into.weight")} != {made["bridge"]["hidden_dim"]}:
        raise ValueError(f"{checkpoint} holds weights of another hidden_dim than {made['bridge']['hidden_dim']}; copy it again")
    pipeline = Pipeline.from_pretrained(model, specialists=False)
    if read_bundle_record(find_model(model))["files"][WEIGHTS_FILE] != made["towers"] or not isinstance(pipeline.model, TowerTransformer):
        raise ValueError(f"{checkpoint} was trained between the towers of another model than {model}; give the one that its config names")
    network = bridged(pipeline.model, pipeline.space, made["reader"], Bridge(**made["bridge"]))
    missing, unexpected = network.load_state_dict(tensors, strict=False)
    if unexpected or any(name.startswith(f"bridges.{made['reader']}.") for name in missing):
        raise ValueError(f"{checkpoint} does not hold the whole bridge; train it again")
    return Pipeline(network, pipeline.space, pipeline.tokenizers, pipeline.settings, pipeline.grids)


def _for_towers(target: str, settings: GenerationSettings, model: str) -> GenerationSettings:
    """Settings that a network with towers supports: other acceleration settings are turned off, with a warning.

    Raises:
        ValueError: If the sampler needs a critic.
    """
    if "critic" in needs_of(settings.at(0)):
        raise ValueError(
            f"{target} of {model} is decoded with the sampler {settings.sampler}, which needs a critic that towers do not have; "
            "give its bundle another sampler first"
        )
    off = {name: value for name, value in CHEAPER.items() if getattr(settings, name) != value}
    if off:
        logger.warning("%s of %s: %s left off, which needs one transformer without towers", target, model, ", ".join(off))
    return settings.changed(**off)


def tokenizer_folders(models: Mapping[str, Path | str]) -> dict[str, Path]:
    """Folders of the models' tokenizers, so that a merged bundle can refer to them."""
    found = {}
    for model in models.values():
        bundle = load_bundle(find_model(model), PIPELINE_KIND)
        places = {name: relative_place(place, str(bundle.folder)) for name, place in bundle.config["tokenizers"].items()}
        found.update({name: (bundle.folder / place).resolve() for name, place in places.items()})
    return found


def average_models(shares: Mapping[Path | str, float]) -> Pipeline:
    """A pipeline whose weights are the weighted mean of the models' weights, without their critics and shortcuts, which fit one model only.

    Models trained further from the same weights often lie in one basin of the loss. The mean then keeps much of what each learned at the
    cost of one network: a model that learned a new task and half forgot an old one gets the old one back by its ancestor's share. The mean
    of models trained independently is useless. Generation settings and grids are those of the first model that has them.

    Args:
        shares: Folder or shipped name of each model to its share; shares are divided by their sum.

    Raises:
        ValueError: If there are fewer than two models, a share is not a positive number, a model is missing, they differ in network, token
            space or tokenizers, or a model is decoded with a critic or a shortcut.

    Source: WiSE-FT, arXiv:2109.01903 (two models); model soups, arXiv:2203.05482.
    """
    if len(shares) < 2:
        raise ValueError(f"an average needs at least two models, got {len(shares)}; name more")
    if len({find_model(name).resolve() for name in shares}) < len(shares):
        raise ValueError(f"each model is named once, got {', '.join(map(str, shares))}")
    if wrong := [f"{name}={share:g}" for name, share in shares.items() if not (math.isfinite(share) and share > 0)]:
        raise ValueError(f"shares are positive numbers, got {', '.join(wrong)}")
    parts = {name: Pipeline.from_pretrained(name, specialists=False) for name in shares}
    first, largest = next(iter(parts)), max(shares.values())
    weights = {name: share / largest for name, share in shares.items()}
    for name, part in parts.items():
        _require_alike(first, parts[first], name, part)
    states = {name: part.model.state_dict() for name, part in parts.items()}
    model = parts[first].model
    model.load_state_dict(
        {key: _mean([(state[key], weights[name] / sum(weights.values())) for name, state in states.items()]) for key in states[first]}
    )
    settings, grids = dict[str, GenerationSettings](), dict[str, Sequence[int]]()
    for name, part in parts.items():
        for target, one in part.settings.items():
            _require_alone(str(name), target, one)
        settings, grids = {**part.settings, **settings}, {**part.grids, **grids}
    return Pipeline(model, parts[first].space, parts[first].tokenizers, settings, grids)


def _require_alone(name: str, target: str, settings: GenerationSettings) -> None:
    """Refuse settings that need a critic or a shortcut, which was trained for one model."""
    if settings.shortcut > 1 or "critic" in needs_of(settings.at(0)):
        raise ValueError(
            f"{target} of {name} is decoded with a critic or a shortcut, which knows that model alone; give its bundle other settings first"
        )


def _mean(parts: Sequence[tuple[Tensor, float]]) -> Tensor:
    """Weighted sum, computed in double precision, in the type of the first tensor."""
    return torch.stack([tensor.double() * share for tensor, share in parts]).sum(dim=0).to(parts[0][0].dtype)


def _require_alike(first: Path | str, wanted: Pipeline, name: Path | str, found: Pipeline) -> None:
    """Refuse models whose weights do not correspond."""
    differences = {
        "network": found.model.config != wanted.model.config,
        "token space": len(found.space.modalities) != len(wanted.space.modalities) or not found.space.begins_with(wanted.space),
        "tokenizers": {key: one.fingerprint for key, one in found.tokenizers.items()}
        != {key: one.fingerprint for key, one in wanted.tokenizers.items()},
        "tensors": own_tensors(found.model).keys() != own_tensors(wanted.model).keys(),
    }
    if other := [what for what, differs in differences.items() if differs]:
        raise ValueError(f"{name} has another {' and '.join(other)} than {first}; average models that were trained from one another")
