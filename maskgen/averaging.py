"""One model from several of one ancestry: the average of their weights."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from maskgen.nets.networks import own_tensors
from maskgen.pipeline import Pipeline


def average_models(shares: Mapping[Path | str, float]) -> Pipeline:
    """A pipeline whose weights are the weighted mean of the models' weights.

    Models that were trained on from the same weights often lie in one valley, and the mean then keeps much of what each learned at the
    price of one network: a model that was taught a new task and half forgot an old one gets the old one back by its ancestor's share.
    Models that were trained apart give nothing of use. Decode settings and grids are those of the first model that has them.

    Args:
        shares: Folder or shipped name of each model to its share; shares are divided by their sum.

    Raises:
        ValueError: If there are fewer than two models, a share is not a positive number, a model is missing, or they differ in network,
            token space or tokenizers.

    Source: WiSE-FT, arXiv:2109.01903 (two models); model soups, arXiv:2203.05482.
    """
    if len(shares) < 2:
        raise ValueError(f"an average needs at least two models, got {len(shares)}; name others beside it")
    if wrong := [f"{name}={share:g}" for name, share in shares.items() if not (math.isfinite(share) and share > 0)]:
        raise ValueError(f"shares are positive numbers, got {', '.join(wrong)}")
    parts = {name: Pipeline.from_pretrained(name) for name in shares}
    first, total = next(iter(parts)), sum(shares.values())
    for name, part in parts.items():
        _require_alike(first, parts[first], name, part)
    states = {name: part.model.state_dict() for name, part in parts.items()}
    made = parts[first]
    made.model.load_state_dict(
        {key: _mean([(state[key], shares[name] / total) for name, state in states.items()]) for key in states[first]}
    )
    for part in parts.values():
        made.settings, made.grids = {**part.settings, **made.settings}, {**part.grids, **made.grids}
    return made


def _mean(parts: Sequence[tuple[Tensor, float]]) -> Tensor:
    """Weighted sum in double precision, as the first tensor is."""
    return torch.stack([tensor.double() * share for tensor, share in parts]).sum(dim=0).to(parts[0][0].dtype)


def _require_alike(first: Path | str, wanted: Pipeline, name: Path | str, found: Pipeline) -> None:
    """Refuse models whose weights do not mean the same."""
    differences = {
        "network": found.model.config != wanted.model.config,
        "token space": found.space.to_dict() != wanted.space.to_dict(),
        "tokenizers": {key: one.fingerprint for key, one in found.tokenizers.items()}
        != {key: one.fingerprint for key, one in wanted.tokenizers.items()},
        "tensors": own_tensors(found.model).keys() != own_tensors(wanted.model).keys(),
    }
    if other := [what for what, differs in differences.items() if differs]:
        raise ValueError(f"{name} has another {' and '.join(other)} than {first}; average models that were trained on from one another")
