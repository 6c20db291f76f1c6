"""Low-rank adapters on the transformer: put in by peft, merged into plain weights, kept as a small bundle that knows its base."""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from maskgen.io.bundle import load_bundle, save_bundle
from maskgen.io.schema import Items, Real, Record, Table, Text, Whole
from maskgen.networks.transformer import MaskTransformer

ADAPTER_KIND = "lora_adapter"
PROJECTIONS = ("qkv", "into", "out")
"""Linear layers of a block, by the last part of their names: attention in and out, feed-forward in and out."""
LARGEST_RANK = 1024
ADAPTER_SCHEMA = Record(
    {"rank": Whole(1, LARGEST_RANK), "alpha": Real(0.0), "base": Text(), "base_weights": Text(), "values": Table(Items(Text()))}
)
ROWS, ROW_VALUES = "embed.rows", "embed.weight"
"""Which rows of the embedding table an adapter replaces, and by what; beside the low-rank factors of peft."""


@dataclass(frozen=True, kw_only=True)
class LoraSettings:
    """Size of an adapter.

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
        """Alpha, as peft takes it."""
        return self.alpha or 2.0 * self.rank


@dataclass(frozen=True)
class Adapter:
    """What a saved adapter holds.

    Args:
        settings: Its size.
        base: Name of the model that it was trained on, as it was asked for.
        weights: sha256 of the base's weights file.
        values: Attribute modality to all of its values, where the adapter knows more of them than the base.
        tensors: Factors by the names of peft, and the embedding rows.
    """

    settings: LoraSettings
    base: str
    weights: str
    values: dict[str, list[str]]
    tensors: dict[str, Tensor]


def add_lora(model: MaskTransformer, settings: LoraSettings, rows: Sequence[range] = (), seed: int = 0) -> None:
    """Put an untrained adapter into a model, which computes the same as before; all else of it is frozen.

    Args:
        model: Changed in place.
        settings: Size of the adapter.
        rows: Ids whose embeddings are trained too; the gradient of all others is zero, and an optimizer without weight decay leaves them.
        seed: Of the first factors; the global generator is left alone.

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
    """A plain model that computes what the adapted one does, up to rounding; the adapted one stays as it is.

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
    """What an adapted model has beside its base: the factors, and the embedding rows that training changed."""
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
    """Read what `save_adapter` wrote.

    Raises:
        ValueError: If the bundle is missing, of another kind or damaged, or names no base that could be loaded.
    """
    bundle = load_bundle(folder, ADAPTER_KIND, ADAPTER_SCHEMA)
    config: Mapping[str, Any] = bundle.config
    if not (isinstance(config["base"], str) and config["base"] and config["base"].isprintable()):
        raise ValueError(
            f"the adapter in {folder} names the base {str(config['base'])[:80]!r}, wanted the name or folder of a model; copy it again"
        )
    settings = LoraSettings(rank=config["rank"], alpha=config["alpha"])
    _require_factors(bundle.tensors, settings.rank, str(folder))
    return Adapter(settings, config["base"], config["base_weights"], dict(config["values"]), bundle.tensors)


def _require_factors(tensors: Mapping[str, Tensor], rank: int, source: str) -> None:
    """Raises ValueError for factors of another rank, or without the rows of the embedding table."""
    axes = {name: 0 if "lora_A" in name else 1 for name in tensors if "lora_" in name}
    other = [name for name, axis in axes.items() if tensors[name].ndim != 2 or tensors[name].shape[axis] != rank]
    if other:
        raise ValueError(f"{source} says rank {rank}, its {other[0]} has shape {list(tensors[other[0]].shape)}; copy the adapter again")
    rows, values = tensors.get(ROWS), tensors.get(ROW_VALUES)
    if rows is None or values is None or rows.ndim != 1 or values.ndim != 2 or len(rows) != len(values) or rows.is_floating_point():
        raise ValueError(f"{source} lacks rows of the embedding table with one value each ({ROWS}, {ROW_VALUES}); copy the adapter again")


def apply_adapter(model: MaskTransformer, weights: str, adapter: Adapter) -> None:
    """Put a trained adapter into the model that it was trained on.

    Args:
        model: Changed in place.
        weights: sha256 of the weights file that the model came from.
        adapter: As loaded.

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
