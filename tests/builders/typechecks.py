"""Checks of annotations in tests: types by beartype at every call, shapes by jaxtyping at a function's first calls and some later."""

import dataclasses
import functools
import inspect
import re
from collections.abc import Callable
from typing import Any

import jaxtyping
import torch
from beartype import BeartypeConf, beartype
from jaxtyping import install_import_hook, jaxtyped

FIRST, EVERY = 30, 30
"""Shapes are checked in so many first calls of a function in a process, then in one call of so many: a check takes 0.1 ms."""

TYPES = BeartypeConf(violation_type=TypeError)


def install(package: str) -> None:
    """Check the functions and dataclasses of a package that is not imported yet."""
    jaxtyping.jaxtyped = _checked
    install_import_hook(package, "beartype.beartype")


def _checked(thing: Any = None, *, typechecker: Any) -> Any:
    """The decorator that jaxtyping's import hook puts on functions and dataclasses."""
    if thing is None:
        return functools.partial(_checked, typechecker=typechecker)
    if dataclasses.is_dataclass(thing):
        thing.__init__ = _checked(thing.__init__, typechecker=typechecker)  # type: ignore[misc]
    if inspect.isclass(thing):
        return thing
    return _sampled(thing, jaxtyped(thing, typechecker=typechecker)) if _has_shapes(thing) else beartype(thing, conf=TYPES)


def _has_shapes(thing: Any) -> bool:
    """Whether an annotation names a shape; a string may, and jaxtyping alone reads those that name nothing at run time."""
    given = thing.__annotations__.values()
    return any(isinstance(one, str) or re.search(r"\b(Float|Int|Bool|Shaped|UInt8|Num|Complex)\d*\[", repr(one)) for one in given)


def _sampled(function: Callable[..., Any], checked: Callable[..., Any]) -> Callable[..., Any]:
    calls = 0

    @functools.wraps(function)
    def called(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        if torch.compiler.is_compiling():
            return function(*args, **kwargs)
        calls += 1
        return (checked if calls <= FIRST or calls % EVERY == 0 else function)(*args, **kwargs)

    return called
