"""Models that were trained apart, joined as the towers of one network."""

import logging
from collections.abc import Mapping
from pathlib import Path

from maskgen.bundle import WEIGHTS_FILE, find_model, load_bundle, read_record
from maskgen.checkpoint import read_checkpoint, weights
from maskgen.generation import CHEAPER, GenerationSettings, needs_of
from maskgen.model import MaskTransformer
from maskgen.nets.bridges import BRIDGE_KIND, Bridge
from maskgen.nets.towers import Tower, TowersConfig, TowerTransformer, bridged
from maskgen.pipeline import Pipeline
from maskgen.pretrained import BUNDLE_KIND
from maskgen.space import TokenSpace

logger = logging.getLogger(__name__)


def join_towers(models: Mapping[str, Path | str]) -> Pipeline:
    """One pipeline whose network has each of the models as a tower.

    Rows of one tower's modalities give what its model gives; what lies across towers is untrained until the network is trained as a whole.

    Args:
        models: Name of the tower to folder or shipped name of a model of maskgen's own transformer.

    Raises:
        ValueError: If a model is missing or of another kind, two have a modality of one name, layers or heads differ, or a model's settings
            ask for what a network with towers cannot do.
    """
    parts = {name: Pipeline.from_pretrained(model) for name, model in models.items()}
    for name, part in parts.items():
        if not isinstance(part.model, MaskTransformer):
            raise ValueError(f"{models[name]} is an adapted backbone or has towers itself; give models of one transformer of maskgen")
    towers = {
        name: Tower(modalities=[one.name for one in part.space.modalities], transformer=part.model.config) for name, part in parts.items()
    }
    config = TowersConfig(towers=towers)
    specials = dict.fromkeys(special for part in parts.values() for special in part.space.specials)
    if any(part.space.specials != tuple(specials) for part in parts.values()):
        raise ValueError(f"the models have other special ids ({', '.join(specials)} in all); join models of like token spaces")
    space = TokenSpace([one for part in parts.values() for one in part.space.modalities], specials)
    network = TowerTransformer(config, space)
    for name, part in parts.items():
        network.tower(name).load_state_dict(part.model.state_dict())
    tokenizers = {key: one for part in parts.values() for key, one in part.tokenizers.items()}
    settings = {key: _for_towers(key, one, str(models[name])) for name, part in parts.items() for key, one in part.settings.items()}
    grids = {key: one for part in parts.values() for key, one in part.grids.items()}
    return Pipeline(network, space, tokenizers, settings, grids)


def join_by_bridge(checkpoint: Path, model: Path | str) -> Pipeline:
    """A model with towers and, between them, the bridge of a checkpoint; what each tower does alone stays as it is.

    Args:
        checkpoint: Of `maskgen.training.bridges.BridgeModule`.
        model: Folder or shipped name of the model for which it was trained.

    Raises:
        ValueError: If the checkpoint or the model is missing, damaged or of another kind, or the bridge was trained for other weights.
    """
    found = read_checkpoint(checkpoint, BRIDGE_KIND)
    made = found["maskgen"]
    pipeline = Pipeline.from_pretrained(model)
    if read_record(find_model(model))["files"][WEIGHTS_FILE] != made["towers"] or not isinstance(pipeline.model, TowerTransformer):
        raise ValueError(f"{checkpoint} was trained between the towers of another model than {model}; give the one that its config names")
    network = bridged(pipeline.model, pipeline.space, made["reader"], Bridge(**made["bridge"]))
    missing, unexpected = network.load_state_dict(weights(found, "network."), strict=False)
    if unexpected or any(name.startswith(f"bridges.{made['reader']}.") for name in missing):
        raise ValueError(f"{checkpoint} does not hold the whole bridge; train it again")
    return Pipeline(network, pipeline.space, pipeline.tokenizers, pipeline.settings, pipeline.grids)


def _for_towers(target: str, settings: GenerationSettings, model: str) -> GenerationSettings:
    """Settings of a model as a network with towers can follow them: speed settings that it cannot are left off, with a warning.

    Raises:
        ValueError: If the order needs a critic.
    """
    if "critic" in needs_of(settings.at(0)):
        raise ValueError(
            f"{target} of {model} is decoded in the order {settings.sampler}, which needs a critic that towers do not have; "
            "give its bundle another order first"
        )
    off = {name: value for name, value in CHEAPER.items() if getattr(settings, name) != value}
    if off:
        logger.warning("%s of %s: %s left off, which needs one transformer without towers", target, model, ", ".join(off))
    return settings.changed(**off)


def tokenizer_folders(models: Mapping[str, Path | str]) -> dict[str, Path]:
    """Where the models' tokenizers lie, so that a joined bundle can refer to them."""
    found = {}
    for model in models.values():
        bundle = load_bundle(find_model(model), BUNDLE_KIND)
        found.update({name: (bundle.folder / place).resolve() for name, place in bundle.config["tokenizers"].items()})
    return found
