"""The one loader: a folder becomes the parts of a pipeline, and the parts become a folder."""

import json
import logging
import os
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from maskgen.decoding.decoder import Helpers
from maskgen.decoding.parts import Parts
from maskgen.decoding.settings import GenerationSettings
from maskgen.interop.base import LoadOptions
from maskgen.interop.families import families, load_family, published_family
from maskgen.io.bundle import CONFIG_FILE, WEIGHTS_FILE, load_bundle, read_bundle_record, require_fingerprint, save_bundle
from maskgen.io.files import write_atomic
from maskgen.io.fitting import CONSTRUCTION_ERRORS
from maskgen.io.names import file_name, relative_place
from maskgen.networks.auto import own_tensors
from maskgen.networks.critic import load_critic, save_critic
from maskgen.networks.durations import DurationPredictor
from maskgen.networks.pretrained import PIPELINE_KIND, PIPELINE_SCHEMA, transformer_of
from maskgen.networks.shortcut import ShortcutBlock
from maskgen.tokenizers.auto import load_tokenizer

logger = logging.getLogger(__name__)
REFUSED: tuple[type[Exception], ...] = (ValueError, *CONSTRUCTION_ERRORS)
SPECIALISTS_FILE = "specialists.json"
SPECIALIST_TARGETS = {"image": "image", "speech": "audio"}
"""Keys of `specialists.json` to the modality that each specialist generates."""
FOREIGN = {"model_index.json": "a diffusers pipeline", "config.json": "a transformers model", "adapter_config.json": "an adapter of peft"}
"""Files of other libraries, to what their folder holds."""


def load_parts(folder: Path, options: LoadOptions | None = None) -> Parts:
    """Read a folder that `save_parts` wrote, one of the shipped models, or a published model of one of the families in `maskgen.interop`.

    Args:
        folder: The folder.
        options: Precision and device of a published model's network; models of maskgen's own are read in float32 to the CPU.

    Raises:
        ValueError: If it is no model bundle, damaged, or was trained with other tokenizers than it names.
    """
    if not (folder / CONFIG_FILE).is_file() and (family := published_family(folder)) is not None:
        return load_family(family, folder, options or LoadOptions())
    _require_ours(folder)
    bundle = load_bundle(folder, PIPELINE_KIND, PIPELINE_SCHEMA)
    config, tokenizers = bundle.config, {}
    for modality in [one["name"] for one in config["space"]["modalities"] if one["name"] in config["tokenizers"]]:
        place = relative_place(config["tokenizers"][file_name(modality, str(folder / CONFIG_FILE))], str(folder / CONFIG_FILE))
        tokenizers[modality] = load_tokenizer(folder / place)
        require_fingerprint(modality, tokenizers[modality].fingerprint, config["fingerprints"][modality], str(folder))
    model, space = transformer_of(bundle)
    return Parts(
        model=model,
        space=space,
        tokenizers=tokenizers,
        settings=_settings(folder, config["generation"]),
        grids={name: tuple(grid) for name, grid in config["grids"].items()},
        helpers=_helpers(folder, model),
        durations=DurationPredictor.from_bundle(folder / "durations") if (folder / "durations").is_dir() else None,
        specialists=_specialists(folder),
    )


def save_parts(folder: Path, parts: Parts, half: bool | None, tokenizers: Mapping[str, Path | str]) -> str:
    """Write everything that a pipeline is made of but its specialists, and return the fingerprint.

    Args:
        folder: Made if missing.
        parts: What is written.
        half: Whether weights are stored in half precision; None does so where no weight changes by it.
        tokenizers: Modality to a bundle that is referred to by relative path instead of being written inside the folder.
    """
    places = {}
    for name, tokenizer in parts.tokenizers.items():
        given = tokenizers.get(name)
        inside = f"tokenizers/{file_name(name, 'the token space')}"
        places[name] = relative_place(os.path.relpath(given, folder) if given else inside, f"the {name} tokenizer")
        if not given:
            tokenizer.save(folder / places[name])
    state = own_tensors(parts.model)
    half = all(map(_fits_half, state.values())) if half is None else half
    config = {
        "space": parts.space.to_dict(),
        "transformer": asdict(parts.model.config),
        "tokenizers": places,
        "fingerprints": {name: tokenizer.fingerprint for name, tokenizer in parts.tokenizers.items()},
        "generation": {target: entry.to_dict() for target, entry in parts.settings.items()},
        "grids": {name: list(grid) for name, grid in parts.grids.items()},
    }
    if parts.durations is not None:
        parts.durations.save(folder / "durations")
    fingerprint = save_bundle(folder, PIPELINE_KIND, config, {name: tensor.half() if half else tensor for name, tensor in state.items()})
    weights = read_bundle_record(folder)["files"][WEIGHTS_FILE]
    if parts.helpers.critic is not None:
        save_critic(parts.helpers.critic, folder / "critic", weights)
    if parts.helpers.shortcut is not None:
        parts.helpers.shortcut.save(folder / "shortcut", weights)
    return fingerprint


def write_specialists(folder: Path, names: Mapping[str, str]) -> None:
    """Write which models generate some targets in this one's place.

    Args:
        folder: Folder of the model.
        names: Target modality to a shipped name, a hub id or a path relative to the folder.
    """
    keys = {target: key for key, target in SPECIALIST_TARGETS.items()}
    content = {keys[target]: name for target, name in names.items()}
    write_atomic(folder / SPECIALISTS_FILE, f"{json.dumps(content, indent=1, sort_keys=True)}\n".encode())


def _settings(folder: Path, generation: Mapping[str, Mapping[str, Any]]) -> dict[str, GenerationSettings]:
    """The generation settings in a bundle.

    Raises:
        ValueError: If one of them is none.
    """
    found = {}
    for target, entry in generation.items():
        try:
            found[target] = GenerationSettings.from_dict(entry)
        except REFUSED as error:
            raise ValueError(f"{folder}: config.generation.{target} is no generation settings ({error}); export the model anew") from error
    return found


def _specialists(folder: Path) -> dict[str, Path | str]:
    """What a bundle's `specialists.json` names: {"image": "emoji-64", "speech": "heart-16k"}.

    Raises:
        ValueError: If the file is no such JSON.
    """
    path = folder / SPECIALISTS_FILE
    if not path.is_file():
        return {}
    try:
        names = {key: relative_place(name, str(path)) for key, name in json.loads(path.read_text(encoding="utf-8")).items()}
    except (UnicodeDecodeError, json.JSONDecodeError, AttributeError, RecursionError) as error:
        raise ValueError(f"{path} is no JSON that maps image and speech to names of models ({error}); mend or remove it") from error
    if unknown := sorted(set(names) - set(SPECIALIST_TARGETS)):
        raise ValueError(f"{path} names specialists for {', '.join(unknown)}; there can be some for image and speech")
    return {SPECIALIST_TARGETS[key]: folder / name if (folder / name).is_dir() else name for key, name in names.items()}


def _require_ours(folder: Path) -> None:
    """Say what lies in a folder of another library.

    Raises:
        ValueError: If the folder holds no bundle of maskgen.
    """
    if (folder / CONFIG_FILE).is_file():
        return
    for name, kind in FOREIGN.items():
        if (folder / name).is_file():
            raise ValueError(
                f"{folder} holds {kind} ({name}) of none of the families that maskgen runs ({', '.join(one.name for one in families())}); "
                f"its own models have a {CONFIG_FILE}"
            )
    raise ValueError(f"no bundle in {folder}: {CONFIG_FILE} is missing; give a folder written by maskgen or the name of a shipped model")


def _helpers(folder: Path, model: Any) -> Helpers:
    """The networks in a model's folder; each refuses another model than its own."""
    weights = read_bundle_record(folder)["files"][WEIGHTS_FILE]
    critic = load_critic(folder / "critic", model, weights) if (folder / "critic").is_dir() else None
    shortcut = ShortcutBlock.from_bundle(folder / "shortcut", weights) if (folder / "shortcut").is_dir() else None
    return Helpers(critic, shortcut)


def _fits_half(tensor: Tensor) -> bool:
    """Whether half precision holds every value of a tensor exactly."""
    return not tensor.is_floating_point() or bool(torch.equal(tensor.half().to(tensor.dtype), tensor))
