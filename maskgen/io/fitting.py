"""Networks built from a configuration of a file: first as empty shapes beside the weights, then for real."""

import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.modules import module as registration

Built = TypeVar("Built", bound=nn.Module)
CONSTRUCTION_ERRORS: tuple[type[Exception], ...] = (
    TypeError,
    LookupError,
    AttributeError,
    RuntimeError,
    ArithmeticError,
    AssertionError,
)
"""What a constructor raises for arguments that it does not check."""
MOST_UNSAVED = 2**24
"""Numbers in buffers that are not saved, such as windows: they follow from the configuration alone."""
SPARE_PARTS = 1024
"""Modules and buffers without a saved tensor that any network may have."""


@contextmanager
def refusing(source: str) -> Iterator[None]:
    """Turns what constructors raise for absurd arguments into a ValueError that names the file.

    Args:
        source: Where the arguments come from.

    Raises:
        ValueError: If the body raises one of `CONSTRUCTION_ERRORS`.
    """
    hub = getattr(sys.modules.get("huggingface_hub.errors"), "StrictDataclassError", None)  # of the configurations of transformers
    refused = (*CONSTRUCTION_ERRORS, hub) if hub else CONSTRUCTION_ERRORS
    try:
        yield
    except refused as error:
        reason = (str(error).strip().splitlines() or [""])[0][:200]
        raise ValueError(
            f"the configuration in {source} makes no network ({type(error).__name__}: {reason}); copy the file again, or export it anew"
        ) from error


def fitted(
    build: Callable[[], Built],
    tensors: Mapping[str, Tensor],
    source: str,
    state: Callable[[Built], Mapping[str, Tensor]] = nn.Module.state_dict,
) -> Built:
    """A network whose sizes are those of its saved weights, which are not loaded yet.

    It is built on torch's "meta" device first, where nothing is allocated, so that sizes that do not fit cost neither memory nor time.

    Args:
        build: Makes the network; it is called twice.
        tensors: Saved weights by name.
        source: Where the configuration comes from, for the errors.
        state: What of a network is saved.

    Raises:
        ValueError: If no network can be built, or if names or shapes are not those of the weights.
    """
    with refusing(source):
        with torch.device("meta"), _bounded(len(tensors), source):
            shapes = build()
        wanted = {name: tuple(tensor.shape) for name, tensor in state(shapes).items()}
        _require_shapes(wanted, {name: tuple(tensor.shape) for name, tensor in tensors.items()}, source)
        saved = shapes.state_dict().keys()
        unsaved = sum(buffer.numel() for name, buffer in shapes.named_buffers() if name not in saved)
        if unsaved > MOST_UNSAVED:
            raise ValueError(f"the configuration in {source} asks for {unsaved} numbers beside its weights, wanted at most {MOST_UNSAVED}")
        return build()


def _require_shapes(wanted: Mapping[str, tuple[int, ...]], found: Mapping[str, tuple[int, ...]], source: str) -> None:
    """Raises ValueError for the first tensor that is missing, of another shape, or not of the network."""
    for name in [*wanted, *found]:
        if wanted.get(name) != found.get(name):
            have, want = (str(list(shapes[name])) if name in shapes else "no such tensor" for shapes in (found, wanted))
            raise ValueError(
                f"the weights in {source} do not fit its configuration: {name} has {have}, the configuration wants {want}; "
                "copy the file again, or export it anew"
            )


@contextmanager
def _bounded(tensors: int, source: str) -> Iterator[None]:
    """Stops this thread from building a network of many more parts than there are saved tensors."""
    most, thread, parts = SPARE_PARTS + 8 * tensors, threading.get_ident(), 0

    def count(module: nn.Module, name: str, part: Any) -> None:
        nonlocal parts
        parts += threading.get_ident() == thread
        if parts > most:
            raise ValueError(
                f"the configuration in {source} wants a network of over {most} parts, its weights are {tensors} tensors; "
                "copy the file again, or export it anew"
            )

    hooks = [
        registration.register_module_module_registration_hook(count),
        registration.register_module_parameter_registration_hook(count),
        registration.register_module_buffer_registration_hook(count),
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
