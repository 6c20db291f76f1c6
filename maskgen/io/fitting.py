"""Building networks from an untrusted config: shapes are checked against the weights before memory is allocated."""

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
"""Exceptions that constructors raise for arguments they don't validate."""
MOST_UNSAVED = 2**24
"""Maximum elements in buffers that are not saved, such as windows, which depend only on the config."""
SPARE_PARTS = 1024
"""Modules and buffers without a saved tensor that every network is allowed."""


@contextmanager
def refusing(source: str) -> Iterator[None]:
    """Convert exceptions that constructors raise for invalid arguments into a ValueError that names the file.

    Args:
        source: Origin of the arguments, for the error message.

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
    """Build a network after checking that its sizes match its saved weights. The weights are not loaded.

    It is first built on torch's "meta" device, which allocates nothing, so that a mismatch costs neither memory nor time.

    Args:
        build: Builds the network; called twice.
        tensors: Saved weights by name.
        source: Origin of the config, for error messages.
        state: Returns the tensors of a network that are saved.

    Raises:
        ValueError: If the network cannot be built, or its names or shapes differ from those of the weights.
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
    """Raise ValueError for the first tensor that is missing, has another shape, or isn't part of the network."""
    for name in [*wanted, *found]:
        if wanted.get(name) != found.get(name):
            have, want = (str(list(shapes[name])) if name in shapes else "no such tensor" for shapes in (found, wanted))
            raise ValueError(
                f"the weights in {source} do not fit its configuration: {name} has {have}, the configuration wants {want}; "
                "copy the file again, or export it anew"
            )


@contextmanager
def _bounded(tensors: int, source: str) -> Iterator[None]:
    """Prevent this thread from building a network with many more parts than saved tensors."""
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
