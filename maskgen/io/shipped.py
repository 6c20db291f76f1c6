"""Locating files that ship with maskgen (models, tokenizers, configurations, recipes), in a clone or an installed wheel."""

import logging
from importlib.metadata import entry_points
from importlib.util import find_spec
from pathlib import Path, PurePath

from maskgen.io.files import write_atomic

GROUPS = ("configs", "data", "models", "tokenizers")
"""Repository folders that ship, under the same relative names in the wheel."""
MODEL_PACKAGES = {"any-64": "maskgen-any-64"}
"""Models of this repository that are separate distributions, by name, because the wheel would be too large with them."""
ENTRY_POINTS = "maskgen.models"
"""Entry point group for models of installed distributions: `any-64 = "maskgen_any_64"`, a package folder that holds the bundle."""

logger = logging.getLogger(__name__)


def shipped(group: str) -> Path:
    """Return the folder of one of `GROUPS`, in a clone or an installed wheel. It may not exist in other installations."""
    package = Path(__file__).resolve().parents[1]
    inside = package / "shipped" / group
    return inside if inside.is_dir() else package.parent / group


def shipped_path(name: Path | str) -> Path | None:
    """Return the file or folder that ships with maskgen under a relative path of the repository.

    Args:
        name: For example "configs/generation_emoji64.yaml". Everything up to the last ".." is ignored, because a bundle names its
            tokenizers relative to itself ("../../tokenizers/text-bpe/bundle") and may have been moved away from them.

    Returns:
        An existing file or folder, or None.
    """
    parts = PurePath(name).parts
    start = max((place + 1 for place, part in enumerate(parts) if part == ".."), default=0)
    group, *rest = parts[start:] or ("",)
    if group not in GROUPS:
        return None
    found = shipped(group).joinpath(*rest)
    return found if found.exists() else None


def find_path(name: Path | str) -> Path:
    """Return the path if it exists, else the shipped file of that name, else the path unchanged, so that the caller reports the error."""
    path = Path(name)
    return path if path.exists() else shipped_path(path) or path


def working_copy(name: Path | str) -> Path:
    """Return a recipe in a writable folder. Builds read and write next to the recipe, so a shipped one is copied to the working directory.

    Args:
        name: A file, or the relative name of a shipped one, for example "data/speech/recipe.yaml".

    Returns:
        The path itself if it exists; else the same relative path, after the shipped file and the files in its folder were
        copied there. Files that exist already are kept. If nothing ships under that name, the path unchanged.
    """
    path = Path(name)
    source = None if path.exists() or path.is_absolute() or ".." in path.parts else shipped_path(path)
    if source is None or not source.is_file():
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    for file in sorted(one for one in source.parent.iterdir() if one.is_file()):
        if not (path.parent / file.name).exists():
            write_atomic(path.parent / file.name, file.read_bytes())
    logger.info("copied the shipped recipe to %s", path.parent)
    return path


def installed_models() -> dict[str, Path]:
    """Return the folders of models in installed distributions, by name. No distribution is imported."""
    found = {}
    for entry in entry_points(group=ENTRY_POINTS):
        spec = find_spec(entry.value) if entry.value.isidentifier() else None
        for place in (spec.submodule_search_locations or []) if spec else []:
            found[entry.name] = Path(place)
    return found


def model_names() -> list[str]:
    """Return the names of the models that can be loaded without a download."""
    return sorted({path.parent.name for path in shipped("models").glob("*/bundle.json")} | set(installed_models()))


def model_folder(name: Path | str) -> Path | None:
    """Return the folder of a model that ships with maskgen or with an installed distribution.

    Returns:
        The folder, or None if there is no such model.

    Raises:
        ImportError: If the model is a separate distribution that isn't installed. The message names the pip command.
    """
    name = str(name).removeprefix("models/")
    folder = shipped("models") / name
    if len(PurePath(name).parts) == 1 and (folder / "bundle.json").is_file():
        return folder
    installed = installed_models().get(name)
    if installed is None and name in MODEL_PACKAGES:
        package = MODEL_PACKAGES[name]
        raise ImportError(f"the model {name!r} is not installed; install it with: pip install {package}", name=package.replace("-", "_"))
    return installed
