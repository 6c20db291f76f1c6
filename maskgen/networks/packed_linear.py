"""Matrix products of inference on a CPU, by the faster of the two libraries that PyTorch ships for them.

PyTorch gives float32 products to MKL, which leaves a part of the speed of an AMD processor unused; oneDNN does not. Both sum in float32,
in another order. The operators are those that torch.compile writes into frozen graphs.
"""

import copy
from typing import TypeVar

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

PackedNetwork = TypeVar("PackedNetwork", bound=nn.Module)


def product(x: Float[Tensor, "*rows into"], weight: Float[Tensor, "out into"], bias: Tensor | None = None) -> Float[Tensor, "*rows out"]:
    """x W' + b by oneDNN; `functional.linear` itself where that is as fast or gradients are wanted."""
    if _by_onednn(x, weight):
        return _onednn(x, weight, bias)
    return functional.linear(x, weight, bias)


def linear(layer: nn.Module, x: Float[Tensor, "*rows into"]) -> Float[Tensor, "*rows out"]:
    """The layer on x: a plain nn.Linear through `product`, anything else (an adapter around one, for example) as it is."""
    if type(layer) is nn.Linear:
        return product(x, layer.weight, layer.bias)
    found: Tensor = layer(x)
    return found


def packed(model: PackedNetwork, cells: int = 256) -> PackedNetwork:
    """A copy for decoding on a CPU whose linear layers keep their weights in oneDNN's own order; exact but for rounding.

    `product` brings the weights into that order at every call, which for a few hundred cells costs as much as a third of the product.
    The copy neither trains nor moves to another device nor goes into a bundle; layers in other precisions stay as they are.

    Args:
        model: Any network; not changed.
        cells: Cells of a pass for which the order is chosen; any number works.

    Raises:
        ValueError: If PyTorch has no oneDNN.
    """
    if not has_onednn():
        raise ValueError("PyTorch was built without oneDNN, or torch.backends.mkldnn is switched off; use the model as it is")
    layers = [module for module in model.modules() if type(module) is nn.Linear and _plain(module.weight)]
    replaced: dict[int, object] = {id(layer): _PackedLinear(layer, cells) for layer in layers}
    return copy.deepcopy(model, replaced).eval().requires_grad_(False)


def is_packed(model: nn.Module) -> bool:
    """Whether a network is a copy that `packed` made."""
    return any(isinstance(module, _PackedLinear) for module in model.modules())


def num_weights(module: nn.Module) -> int:
    """Numbers that a network holds, those of packed layers included."""
    packed_ones = sum(layer.count for layer in module.modules() if isinstance(layer, _PackedLinear))
    return packed_ones + sum(parameter.numel() for parameter in module.parameters())


class _PackedLinear(nn.Module):
    """A linear layer whose weight only oneDNN reads; it is no parameter, so that nothing saves or moves it."""

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
    """Whether a weight is one that oneDNN knows: float32 on a CPU, not the tensor of an 8-bit layer."""
    return weight.dtype == torch.float32 and weight.device.type == "cpu" and type(weight) in (Tensor, nn.Parameter)


def _by_onednn(x: Tensor, weight: Tensor) -> bool:
    """Whether oneDNN's product may stand in: nothing to differentiate, cast or trace."""
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
    """Whether PyTorch was built with oneDNN, and nobody switched it off."""
    return bool(torch.backends.mkldnn.is_available()) and bool(torch.backends.mkldnn.enabled)  # type: ignore[no-untyped-call]
