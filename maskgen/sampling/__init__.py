"""Samplers, one file each; the listing of this folder is the catalogue."""

import importlib
import inspect
import pkgutil

from maskgen.sampling.base import Sampler

SHARED = ("base", "contract", "draw")
"""Files of this folder that hold no sampler."""
NEED_EXTRAS = ("diffusers_scheduler",)
"""Samplers that need an optional package: found by name, not among `names`."""


def names() -> list[str]:
    """Names of the samplers that run without optional packages: the other files of this folder."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__) if module.name not in (*SHARED, *NEED_EXTRAS))


def by_name(name: str) -> type[Sampler]:
    """The sampler class of a file of this folder, for the command line; a YAML gives the class_path.

    Raises:
        ValueError: If there is no such file; the message lists the names.
    """
    if name not in (known := [*names(), *NEED_EXTRAS]):
        raise ValueError(f"no sampler is called {name!r}; choose one of {', '.join(known)}")
    module = importlib.import_module(f"{__name__}.{name}")
    found = [value for value in vars(module).values() if inspect.isclass(value) and issubclass(value, Sampler) and value is not Sampler]
    assert len(found) == 1, f"{module.__name__} must define exactly one sampler, it has {found}"
    return found[0]
