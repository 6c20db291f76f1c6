"""What a published family of models says about itself, and how its files are read."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from maskgen.decoding.parts import Parts
from maskgen.io.files import write_atomic


@dataclass(frozen=True, kw_only=True)
class LoadOptions:
    """How weights are loaded.

    Args:
        dtype: Precision of the network that generates; tokenizers stay in float32, because rounding would change codes.
        device: Where the network goes; its weights are read straight to it.
        variant: Part of the name of the file that is meant, where a folder holds several models, such as "384_large".
        from_hub: Whether the model was named by a hub id, so that a part that is published in another repository may be downloaded.
        local_files_only: Whether such a part must be in the cache already.
    """

    dtype: torch.dtype = torch.float32
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    variant: str = ""
    from_hub: bool = False
    local_files_only: bool = False


@dataclass(frozen=True, kw_only=True)
class Family:
    """A family of published models that runs in maskgen's decode loop.

    Args:
        name: As its authors write it.
        hub_ids: Published models, to their number of parameters in millions, all networks together.
        makes: What it can do: "text to image", "inpaint", "class to image", "text to speech", "voice clone", "text", "caption".
        code_licence: Licence of the authors' code.
        weights_licence: Licence of the published weights.
        non_commercial: Whether that licence forbids commercial use; it is said once when such weights are loaded.
        recognises: Whether a folder holds a model of this family. Reads file names and small JSON files only.
        load: Reads a folder. Raises ValueError for a folder that is damaged or incomplete.
        export: Writes a model in the family's own layout, so that the authors' code loads it; None if that is not supported.
        source: Paper.
        hub_files: Patterns of the PyTorch files of a variant in the hub's repositories, for families that publish no safetensors. Raises
            ValueError if there is no such variant.
        variants: Models of a repository that holds several, to their number of parameters in millions; empty if it holds one.
        tokenizer_millions: Hub ids to those of the parameters that stay in float32 in every precision: the tokenizers'.
        download_gb: Hub ids, or variants, to the size of the files that are read, in GB, where it is known before the hub is asked.
    """

    name: str
    hub_ids: Mapping[str, float]
    makes: tuple[str, ...]
    code_licence: str
    weights_licence: str
    recognises: Callable[[Path], bool]
    load: Callable[[Path, LoadOptions], Parts]
    source: str
    non_commercial: bool = False
    export: Callable[[Parts, Path], None] | None = None
    hub_files: Callable[[str], tuple[str, ...]] | None = None
    variants: Mapping[str, float] = field(default_factory=dict)
    tokenizer_millions: Mapping[str, float] = field(default_factory=dict)
    download_gb: Mapping[str, float] = field(default_factory=dict)


def read_json(path: Path) -> Mapping[str, Any]:
    """Content of a JSON file with an object.

    Raises:
        ValueError: If the file is missing, or is no JSON object.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ValueError(f"{path} is missing; copy the whole folder of the model") from error
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"{path} can't be read as JSON ({error}); copy the model again") from error
    if not isinstance(found, dict):
        raise ValueError(f"{path} holds a {type(found).__name__}, wanted a JSON object; copy the model again")
    return found


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a JSON file, whole or not at all; its folder is made if missing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, f"{json.dumps(content, indent=2)}\n".encode())


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> None:
    """Write a safetensors file, whole or not at all, with metadata if given; its folder is made if missing."""
    from safetensors.torch import save

    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, save(dict(tensors), {"format": "pt", **(metadata or {})}))


def peek_json(path: Path) -> Mapping[str, Any]:
    """Content of a JSON file with an object; empty if there is none, to recognise a family by."""
    if not path.is_file() or path.stat().st_size > 10_000_000:
        return {}
    try:
        return read_json(path)
    except ValueError:
        return {}
