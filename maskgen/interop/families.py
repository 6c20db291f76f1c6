"""The families of published models that maskgen runs, and the one that a folder belongs to."""

import hashlib
import logging
from functools import cache
from importlib import import_module
from pathlib import Path

from maskgen.decoding.parts import Parts
from maskgen.interop.base import Family, LoadOptions
from maskgen.io.files import file_sha256

logger = logging.getLogger(__name__)
MODULES = (
    *("amused", "halton", "meissonic", "omnivoice", "titok", "mmada", "lumina_dimoo", "showo", "llada", "maskgen_vq"),
    *("mdlm", "omni_diffusion", "dream", "magnet", "maskgct", "fourm"),
)
"""Modules of this folder with a `FAMILY`. A folder is asked for in this order."""
_said: set[str] = set()


@cache
def families() -> tuple[Family, ...]:
    """All families."""
    return tuple(import_module(f"maskgen.interop.{name}").FAMILY for name in MODULES)


def published_family(folder: Path) -> Family | None:
    """The family that a folder's files belong to; None if it is none of them."""
    return next((family for family in families() if family.recognises(folder)), None)


def hub_patterns(name: Path | str, variant: str = "") -> tuple[str, ...]:
    """Patterns of the PyTorch files that are downloaded of a published model, beside safetensors and plain data.

    Raises:
        ValueError: If the model has no such variant.
    """
    found = next((family.hub_files for family in families() if str(name) in family.hub_ids and not Path(name).is_dir()), None)
    return () if found is None else found(variant)


def load_family(family: Family, folder: Path, options: LoadOptions) -> Parts:
    """Read a published model. A licence that forbids commercial use is said once a process.

    Raises:
        ValueError: If the folder is damaged or incomplete.
        ImportError: If a package that the family needs is missing.
    """
    if family.non_commercial and family.name not in _said:
        _said.add(family.name)
        logger.warning("the weights of %s are licensed %s: no commercial use", family.name, family.weights_licence)
    return family.load(folder, options)


def export_family(parts: Parts, folder: Path) -> str:
    """Write a published model, perhaps trained further, in its family's own layout.

    Returns:
        Hash of the names and the contents of the files.

    Raises:
        ValueError: If the family has no way to write its layout.
    """
    family = next(one for one in families() if one.name == parts.family)
    if family.export is None:
        raise ValueError(f"maskgen does not write the layout of {family.name} yet; keep the folder that the model was loaded from")
    family.export(parts, folder)
    digest = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        digest.update(f"{path.relative_to(folder)} {file_sha256(path)}\n".encode())
    return digest.hexdigest()
