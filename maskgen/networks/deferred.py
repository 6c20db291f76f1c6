"""Networks built without memory for their weights: each weight's first values are drawn later, one weight at a time."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_parameter_registration_hook
from torch.utils._python_dispatch import TorchDispatchMode

Network = TypeVar("Network", bound=nn.Module)
DRAWS = ("normal_", "uniform_")
OVERWRITES = (*DRAWS, "zero_", "fill_")
"""In-place operations that leave nothing of what was there."""
_WANTED: ContextVar[bool] = ContextVar("deferred weights", default=False)


@dataclass(frozen=True)
class Fill:
    """One in-place operation on a weight or a view of it, with the state of the random generator before it; None where it draws nothing."""

    name: str
    size: torch.Size
    stride: tuple[int, ...]
    offset: int
    args: tuple[Any, ...]
    state: Tensor | None


@dataclass
class WeightRecipe:
    """How the first values of a weight come about."""

    size: torch.Size
    dtype: torch.dtype
    fills: list[Fill] = field(default_factory=list)

    def drawn(self) -> Tensor:
        """The whole weight, on the CPU: the same bits as if it had been drawn at once."""
        whole = torch.empty(self.size, dtype=self.dtype)
        for fill in self.fills:
            view, chance = whole.as_strided(fill.size, fill.stride, fill.offset), {}
            if fill.state is not None:
                chance["generator"] = torch.Generator()
                chance["generator"].set_state(fill.state)
            getattr(view, fill.name)(*fill.args, **chance)
        return whole


_RECIPES: WeakKeyDictionary[nn.Module, dict[str, WeightRecipe]] = WeakKeyDictionary()


@contextmanager
def deferring() -> Iterator[None]:
    """While it lasts, networks that `fresh` builds get no memory for their weights until `materialise` is called."""
    token = _WANTED.set(True)
    try:
        yield
    finally:
        _WANTED.reset(token)


def fresh(build: Callable[[], Network], whole: bool = False) -> Network:
    """A network with random weights; under `deferring` its weights are on the meta device until `materialise`.

    The random generator ends in the same state either way, so whatever is drawn next is the same too.

    Args:
        build: Makes the network. Weights may be filled by in-place draws and constants alone.
        whole: Build it with memory in any case, because weights are loaded into it.
    """
    if whole or not _WANTED.get():
        return build()
    noted = _Noted()
    handle = register_module_parameter_registration_hook(noted.to_meta)  # type: ignore[arg-type]
    try:
        with noted:
            network = build()
    finally:
        handle.remove()
    _RECIPES[network] = {name: noted.recipes[_storage(weight)] for name, weight in network.named_parameters()}
    return network


def materialise(network: nn.Module, device: torch.device | str = "cpu") -> None:
    """Give the weights of a network that `fresh` deferred memory and their values; does nothing for another.

    Of a sharded weight each rank keeps its rows. One whole weight at a time is on the CPU of a rank.

    Args:
        network: The network, sharded by `maskgen.networks.sharding.shard` or not.
        device: Where its weights go.
    """
    recipes = _RECIPES.pop(network, None)
    if recipes is None:
        return
    network._apply(lambda tensor: torch.empty_like(tensor, device=device) if tensor.is_meta else tensor)  # type: ignore[no-untyped-call]
    weights = dict(network.named_parameters())
    for name, recipe in recipes.items():
        fill_own(weights[name], recipe.drawn())


@torch.no_grad()
def fill_own(weight: Tensor, whole: Tensor) -> None:
    """Copy a whole tensor into a weight; into a sharded one this rank's rows."""
    from torch.distributed.tensor import DTensor

    if not isinstance(weight, DTensor):
        weight.copy_(whole)
        return
    own, mesh = weight.to_local(), weight.device_mesh
    start = min(mesh.get_local_rank() * -(-whole.shape[0] // mesh.size()), whole.shape[0])
    own.copy_(whole[start : start + len(own)])


class _Noted(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notes what is done to weights on the meta device, and moves the random generator as if it had been done."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.recipes: dict[int, WeightRecipe] = {}
        self._weights: list[Tensor] = []
        """Keeps storages alive, so that no two have one address."""

    def to_meta(self, module: nn.Module, name: str, weight: Any) -> nn.Parameter | None:
        """A new weight without memory, in place of one that is registered."""
        if weight is None or weight.is_meta:
            return None
        moved = nn.Parameter(torch.empty_like(weight, device="meta"), requires_grad=weight.requires_grad)
        self._weights.append(moved)
        self.recipes[_storage(moved)] = WeightRecipe(moved.shape, moved.dtype)
        return moved

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None) -> Any:
        name = func._schema.name.partition("::")[2]
        first = args[0] if args else None
        if name.endswith("_") and isinstance(first, Tensor) and first.is_meta and _storage(first) in self.recipes:
            self._note(name, first, args[1:], kwargs or {})
        return func(*args, **(kwargs or {}))

    def _note(self, name: str, view: Tensor, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Note one operation on a weight."""
        assert name in OVERWRITES, f"{name} on a weight that has no memory yet; build this network outside of `deferring`"
        recipe, state = self.recipes[_storage(view)], None
        if name in DRAWS:
            generator = kwargs.get("generator") or torch.default_generator
            state = generator.get_state()
            getattr(torch.empty(view.shape, dtype=view.dtype, device="cpu"), name)(*args, generator=generator)
        if view.numel() == recipe.size.numel():
            recipe.fills.clear()
        recipe.fills.append(Fill(name, view.size(), view.stride(), int(view.storage_offset()), args, state))


def _storage(tensor: Tensor) -> int:
    """What a tensor and its views have in common."""
    return int(tensor.untyped_storage()._cdata)
