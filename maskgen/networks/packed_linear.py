"""Packed linear layers: faster matrix products for inference on a CPU, with the oneDNN library that PyTorch ships.

PyTorch uses MKL for float32 products, which leaves a part of the speed of an AMD processor unused; oneDNN does not. Both sum in float32,
in a different order. The operators are those that torch.compile writes into frozen graphs.
"""

import copy
from typing import TypeVar

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

PackedNetwork = TypeVar("PackedNetwork", bound=nn.Module)


def product(x: Float[Tensor, "*rows into"], weight: Float[Tensor, "out into"], bias: Tensor | None = None) -> Float[Tensor, "*rows out"]:
    """Compute x W' + b with oneDNN, or with `functional.linear` where that is as fast or gradients are needed."""
    if _by_onednn(x, weight):
        return _onednn(x, weight, bias)
    return functional.linear(x, weight, bias)


def linear(layer: nn.Module, x: Float[Tensor, "*rows into"]) -> Float[Tensor, "*rows out"]:
    """Apply a layer to x: a plain nn.Linear with `product`, any other layer (an adapter around one, for example) directly."""
    if type(layer) is nn.Linear:
        return product(x, layer.weight, layer.bias)
    found: Tensor = layer(x)
    return found


def packed(model: PackedNetwork, cells: int = 256) -> PackedNetwork:
    """Copy of a network for decoding on a CPU, with its weights in oneDNN's packed layout; equal up to rounding.

    `product` converts the weights to that layout at every call, which for a few hundred cells costs up to a third of the product. The copy
    can't be trained, moved to another device or saved as a bundle. Layers in other precisions are not packed.

    Args:
        model: Any network; not changed.
        cells: Number of cells per model call for which the layout is optimised; any number of cells works.

    Raises:
        ValueError: If PyTorch was built without oneDNN.
    """
    if not has_onednn():
        raise ValueError("PyTorch was built without oneDNN, or torch.backends.mkldnn is switched off; use the model as it is")
    layers = [module for module in model.modules() if type(module) is nn.Linear and _plain(module.weight)]
    replaced: dict[int, object] = {id(layer): _PackedLinear(layer, cells) for layer in layers}
    return copy.deepcopy(model, replaced).eval().requires_grad_(False)


def is_packed(model: nn.Module) -> bool:
    """Whether a network is a copy from `packed`."""
    return any(isinstance(module, _PackedLinear) for module in model.modules())


def num_weights(module: nn.Module) -> int:
    """Number of weights of a network, including packed layers."""
    packed_ones = sum(layer.count for layer in module.modules() if isinstance(layer, _PackedLinear))
    return packed_ones + sum(parameter.numel() for parameter in module.parameters())


class _PackedLinear(nn.Module):
    """Linear layer with a weight in oneDNN's layout. The weight is not a parameter, so nothing saves or moves it."""

    def __init__(self, layer: nn.Linear, cells: int) -> None:
        super().__init__()
        self._weight: Tensor = torch.ops.mkldnn._reorder_linear_weight(layer.weight.detach(), cells)
        self._bias = None if layer.bias is None else layer.bias.detach().clone()
        self.count = layer.weight.numel() + (0 if layer.bias is None else layer.bias.numel())

    @torch.no_grad()
    def forward(self, x: Float[Tensor, "*rows into"]) -> Float[Tensor, "*rows out"]:
        return _onednn(x, self._weight, self._bias)


def _onednn(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    found: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    return found


def _plain(weight: Tensor) -> bool:
    """Whether oneDNN supports a weight: float32 on a CPU, not the tensor of an 8-bit layer."""
    return weight.dtype == torch.float32 and weight.device.type == "cpu" and type(weight) in (Tensor, nn.Parameter)


def _by_onednn(x: Tensor, weight: Tensor) -> bool:
    """Whether oneDNN may compute the product: no gradient, autocast or tracing is active."""
    return (
        _plain(x)
        and _plain(weight)
        and x.numel() > 0
        and not torch.is_grad_enabled()
        and not torch.is_autocast_enabled("cpu")
        and not torch.compiler.is_compiling()
        and has_onednn()
    )


def has_onednn() -> bool:
    """Whether PyTorch was built with oneDNN and it is enabled."""
    return bool(torch.backends.mkldnn.is_available()) and bool(torch.backends.mkldnn.enabled)  # type: ignore[no-untyped-call]
