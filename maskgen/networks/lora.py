"""LoRA adapters for the transformer: add them with peft, merge them into plain weights, save them as bundles that name their base."""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from maskgen.io.bundle import load_bundle, save_bundle
from maskgen.io.schema import Items, Real, Record, Table, Text, Whole
from maskgen.networks.published import PublishedNetwork
from maskgen.networks.transformer import MaskTransformer

ADAPTER_KIND = "lora_adapter"
PROJECTIONS = ("qkv", "into", "out")
"""Linear layers of a block, by the last part of their names: attention in and out, feed-forward in and out."""
LARGEST_RANK = 1024
ADAPTER_SCHEMA = Record(
    {"rank": Whole(1, LARGEST_RANK), "alpha": Real(0.0), "base": Text(), "base_weights": Text(), "values": Table(Items(Text()))}
)
ROWS, ROW_VALUES = "embed.rows", "embed.weight"
"""Tensor names of the embedding rows that an adapter replaces (indices and values), stored with the low-rank factors of peft."""


@dataclass(frozen=True, kw_only=True)
class LoraSettings:
    """Configuration of an adapter.

    Args:
        rank: Rows of each low-rank factor.
        alpha: The product of the factors is scaled by alpha / rank; 0 takes twice the rank.

    Raises:
        ValueError: If the rank is below 1 or so large that full training would be cheaper.

    Source: LoRA, arXiv:2106.09685.
    """

    rank: int = 8
    alpha: float = 0.0

    def __post_init__(self) -> None:
        if not 1 <= self.rank <= LARGEST_RANK:
            raise ValueError(f"the rank of LoRA must lie in 1 to {LARGEST_RANK}, got {self.rank}; leave it out to train all weights")
        if self.alpha < 0:
            raise ValueError(f"alpha of LoRA must be at least 0, got {self.alpha:g}")

    @property
    def scale(self) -> float:
        """Alpha in the form that peft expects."""
        return self.alpha or 2.0 * self.rank


@dataclass(frozen=True)
class Adapter:
    """Content of a saved adapter.

    Args:
        settings: Its configuration.
        base: Name of the model that it was trained on, as the user gave it.
        weights: sha256 of the base's weights file.
        values: Attribute modality to all of its values, where the adapter has more of them than the base.
        tensors: Low-rank factors by the names of peft, and the embedding rows.
    """

    settings: LoraSettings
    base: str
    weights: str
    values: dict[str, list[str]]
    tensors: dict[str, Tensor]


def add_lora(model: MaskTransformer, settings: LoraSettings, rows: Sequence[range] = (), seed: int = 0) -> None:
    """Add an untrained adapter to a model and freeze everything else; the model's output does not change.

    Args:
        model: Changed in place.
        settings: Configuration of the adapter.
        rows: Ids whose embeddings train too; the gradient of all others is zero, and an optimizer without weight decay leaves them.
        seed: Seed of the initial factors; the global random generator is not used.

    Raises:
        ImportError: If peft is missing.
    """
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError as error:
        raise ImportError("LoRA needs the package peft: pip install maskgen[finetune]") from error
    config = LoraConfig(r=settings.rank, lora_alpha=settings.scale, target_modules=list(PROJECTIONS), lora_dropout=0.0)  # type: ignore[arg-type]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        inject_adapter_in_model(config, model)
    if not rows:
        return
    shown = torch.zeros(model.vocab_size, 1)
    for part in rows:
        shown[part.start : part.stop] = 1
    model.embed.weight.requires_grad_(True)
    model.embed.weight.register_hook(lambda gradient: gradient * shown.to(gradient))  # type: ignore[no-untyped-call]


def merge_lora(model: MaskTransformer) -> MaskTransformer:
    """Plain model with the adapter merged into its weights, equal up to rounding; the adapted model is not changed.

    Raises:
        RuntimeError: If the factors hold NaN or infinity.
    """
    plain = copy.deepcopy(model)
    for block in plain.blocks:
        for part in block.children():
            layers: list[tuple[str, Any]] = list(part.named_children())
            for name, layer in layers:
                if hasattr(layer, "get_base_layer"):
                    layer.merge(safe_merge=True)
                    setattr(part, name, layer.get_base_layer())
    return plain.eval().requires_grad_(False)


def adapter_tensors(model: MaskTransformer, base: MaskTransformer) -> dict[str, Tensor]:
    """Tensors that an adapted model adds to its base: the low-rank factors, and the embedding rows that training changed."""
    from peft import get_peft_model_state_dict

    found = {name: tensor for name, tensor in get_peft_model_state_dict(model).items() if "lora_" in name}
    ours, theirs = model.embed.weight.detach().cpu(), base.embed.weight.detach().cpu()
    rows = (ours != theirs).any(dim=1).nonzero()[:, 0]
    return {**found, ROWS: rows, ROW_VALUES: ours[rows]}


def save_adapter(folder: Path | str, adapter: Adapter) -> str:
    """Write an adapter as a bundle and return its fingerprint."""
    config = {
        "rank": adapter.settings.rank,
        "alpha": adapter.settings.scale,
        "base": adapter.base,
        "base_weights": adapter.weights,
        "values": adapter.values,
    }
    return save_bundle(folder, ADAPTER_KIND, config, adapter.tensors)


def load_adapter(folder: Path | str) -> Adapter:
    """Load an adapter that `save_adapter` wrote.

    Raises:
        ValueError: If the bundle is missing or damaged, holds something else, or names no valid base model.
    """
    bundle = load_bundle(folder, ADAPTER_KIND, ADAPTER_SCHEMA)
    config: Mapping[str, Any] = bundle.config
    if not (isinstance(config["base"], str) and config["base"] and config["base"].isprintable()):
        raise ValueError(
            f"the adapter in {folder} names the base {str(config['base'])[:80]!r}, wanted the name or folder of a model; copy it again"
        )
    settings = LoraSettings(rank=config["rank"], alpha=float(config["alpha"]))
    _require_factors(bundle.tensors, settings.rank, str(folder))
    return Adapter(settings, config["base"], config["base_weights"], dict(config["values"]), bundle.tensors)


def _require_factors(tensors: Mapping[str, Tensor], rank: int, source: str) -> None:
    """Raise ValueError for factors of another rank, or without the rows of the embedding table."""
    axes = {name: 0 if "lora_A" in name else 1 for name in tensors if "lora_" in name}
    other = [name for name, axis in axes.items() if tensors[name].ndim != 2 or tensors[name].shape[axis] != rank]
    if other:
        raise ValueError(f"{source} says rank {rank}, its {other[0]} has shape {list(tensors[other[0]].shape)}; copy the adapter again")
    rows, values = tensors.get(ROWS), tensors.get(ROW_VALUES)
    if rows is None or values is None or rows.ndim != 1 or values.ndim != 2 or len(rows) != len(values) or rows.is_floating_point():
        raise ValueError(f"{source} lacks rows of the embedding table with one value each ({ROWS}, {ROW_VALUES}); copy the adapter again")


def apply_adapter(model: MaskTransformer, weights: str, adapter: Adapter) -> None:
    """Add a trained adapter to the model that it was trained on.

    Args:
        model: Changed in place.
        weights: sha256 of the weights file of the model.
        adapter: The loaded adapter.

    Raises:
        ValueError: If it was trained on other weights.
    """
    if weights != adapter.weights:
        raise ValueError(
            f"this adapter was trained on {adapter.base} with the weights {adapter.weights[:12]}…, this model has the weights "
            f"{weights[:12]}…; give the model that it was trained on"
        )
    add_lora(model, adapter.settings)
    from peft import set_peft_model_state_dict

    set_peft_model_state_dict(model, {name: tensor for name, tensor in adapter.tensors.items() if "lora_" in name})
    with torch.no_grad():
        model.embed.weight[adapter.tensors[ROWS]] = adapter.tensors[ROW_VALUES].to(model.embed.weight)


def adapt_published(network: PublishedNetwork, settings: LoraSettings | None, seed: int = 0) -> None:
    """Make the part of a published network that generates trainable: by an untrained adapter, which changes no output, or whole.

    Args:
        network: Changed in place.
        settings: Configuration of the adapter; None trains all weights of the network's own.
        seed: Seed of the initial factors; the global random generator is not used.

    Raises:
        ImportError: If an adapter is wanted and peft is missing.
    """
    network.requires_grad_(False)
    if settings is None:
        for part in network.trained_parts():
            part.requires_grad_(True)
        return
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError as error:
        raise ImportError("LoRA needs the package peft: pip install maskgen[finetune]") from error
    config = LoraConfig(r=settings.rank, lora_alpha=settings.scale, target_modules=network.adapted, lora_dropout=0.0)  # type: ignore[arg-type]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        inject_adapter_in_model(config, network)


def merge_published(network: PublishedNetwork) -> None:
    """Merge the adapter of a published network into its weights, in place; without an adapter nothing changes.

    Raises:
        ValueError: If the factors hold NaN or infinity.
    """
    layers: list[tuple[str, Any]] = list(network.named_modules())
    for name, layer in layers:
        if hasattr(layer, "get_base_layer"):
            layer.merge(safe_merge=True)
            *path, last = name.split(".")
            setattr(network.get_submodule(".".join(path)), last, layer.get_base_layer())
    network.kept.clear()
    network.eval().requires_grad_(False)
