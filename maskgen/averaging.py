"""One model from several of one ancestry: the average of their weights."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from maskgen.bundle import find_model
from maskgen.generation import GenerationSettings, needs_of
from maskgen.nets.networks import own_tensors
from maskgen.pipeline import Pipeline


def average_models(shares: Mapping[Path | str, float]) -> Pipeline:
    """A pipeline whose weights are the weighted mean of the models' weights; critics and shortcuts, which know one model, are left behind.

    Models that were trained on from the same weights often lie in one valley, and the mean then keeps much of what each learned at the
    price of one network: a model that was taught a new task and half forgot an old one gets the old one back by its ancestor's share.
    Models that were trained apart give nothing of use. Decode settings and grids are those of the first model that has them.

    Args:
        shares: Folder or shipped name of each model to its share; shares are divided by their sum.

    Raises:
        ValueError: If there are fewer than two models, a share is not a positive number, a model is missing, they differ in network, token
            space or tokenizers, or a model is decoded with a critic or a shortcut.

    Source: WiSE-FT, arXiv:2109.01903 (two models); model soups, arXiv:2203.05482.
    """
    if len(shares) < 2:
        raise ValueError(f"an average needs at least two models, got {len(shares)}; name others beside it")
    if len({find_model(name).resolve() for name in shares}) < len(shares):
        raise ValueError(f"each model is named once, got {', '.join(map(str, shares))}")
    if wrong := [f"{name}={share:g}" for name, share in shares.items() if not (math.isfinite(share) and share > 0)]:
        raise ValueError(f"shares are positive numbers, got {', '.join(wrong)}")
    parts = {name: Pipeline.from_pretrained(name) for name in shares}
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
    """Refuse settings that ask for a network trained beside one model."""
    if settings.shortcut > 1 or "critic" in needs_of(settings.at(0)):
        raise ValueError(
            f"{target} of {name} is decoded with a critic or a shortcut, which knows that model alone; give its bundle other settings first"
        )


def _mean(parts: Sequence[tuple[Tensor, float]]) -> Tensor:
    """Weighted sum in double precision, as the first tensor is."""
    return torch.stack([tensor.double() * share for tensor, share in parts]).sum(dim=0).to(parts[0][0].dtype)


def _require_alike(first: Path | str, wanted: Pipeline, name: Path | str, found: Pipeline) -> None:
    """Refuse models whose weights do not mean the same."""
    differences = {
        "network": found.model.config != wanted.model.config,
        "token space": len(found.space.modalities) != len(wanted.space.modalities) or not found.space.begins_with(wanted.space),
        "tokenizers": {key: one.fingerprint for key, one in found.tokenizers.items()}
        != {key: one.fingerprint for key, one in wanted.tokenizers.items()},
        "tensors": own_tensors(found.model).keys() != own_tensors(wanted.model).keys(),
    }
    if other := [what for what, differs in differences.items() if differs]:
        raise ValueError(f"{name} has another {' and '.join(other)} than {first}; average models that were trained on from one another")
