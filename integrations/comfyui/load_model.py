"""The node that loads a model."""

import hashlib
import re
from pathlib import Path
from typing import Any, ClassVar

import torch

from maskgen import Pipeline
from maskgen.io.shipped import model_folder, model_names

from .inputs import CATEGORY, PIPELINE, text_input

HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
DEVICES = ("auto", "cpu", "cuda", "mps")
PRECISIONS = ("float32", "auto", "bfloat16", "float16")


class MaskgenLoadModel:
    """Loads a model with its tokenizers and settings."""

    RETURN_TYPES = (PIPELINE,)
    RETURN_NAMES = ("pipeline",)
    FUNCTION = "load"
    CATEGORY = CATEGORY
    DESCRIPTION = "Loads a maskgen model, or a published one that maskgen knows, from its name, folder or hub id."
    OUTPUT_TOOLTIPS: ClassVar[tuple[str, ...]] = ("The model, for the other maskgen nodes.",)

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {
                "model": ([*_names()], {"tooltip": "Models that come with maskgen, and the folders in ComfyUI/models/maskgen."}),
            },
            "optional": {
                "path": text_input("Another model: its folder, or a hub id, owner/name. Takes the place of `model`.", multiline=False),
                "device": ([*DEVICES], {"default": "auto", "tooltip": "auto takes the device that ComfyUI uses."}),
                "dtype": ([*PRECISIONS], {"default": "float32", "tooltip": "auto measures whether bfloat16 is faster on this device."}),
            },
        }

    @classmethod
    def VALIDATE_INPUTS(cls, path: str | None = None) -> bool | str:
        """True, or what is wrong with a path."""
        if not (path := (path or "").strip()) or Path(path).expanduser().is_dir() or HUB_ID.fullmatch(path):
            return True
        return f"there is no model {path}; give an existing folder, or a hub id of the form owner/name"

    @classmethod
    def IS_CHANGED(cls, model: str | None = None, path: str | None = None, **_: Any) -> str:
        """Changes whenever a file of the model's folder does, so that a model that was exported again is loaded again."""
        place = _place(model or "", path or "")
        folder = Path(place) if Path(place).is_dir() else model_folder(place)
        if folder is None:
            return str(place)
        seen = [(one.name, one.stat().st_size, one.stat().st_mtime_ns) for one in sorted(folder.iterdir()) if one.is_file()]
        return hashlib.sha256(repr((str(folder), seen)).encode()).hexdigest()

    def load(self, model: str, path: str = "", device: str = "auto", dtype: str = "float32") -> tuple[Pipeline]:
        """The pipeline that the model is for.

        Raises:
            ValueError: If the model is missing or damaged, or the device cannot be used.
        """
        pipeline = Pipeline.from_pretrained(_place(model, path), device=_device(device), dtype=dtype)
        pipeline.set_progress_bar_config(disable=True)
        return (pipeline,)


def _own_models() -> Path | None:
    """The folder models/maskgen of ComfyUI."""
    try:
        import folder_paths
    except ImportError:
        return None
    return Path(folder_paths.models_dir) / "maskgen"


def _names() -> list[str]:
    """Models to choose from: those that are shipped first."""
    own, shipped = _own_models(), model_names()
    found = sorted(one.name for one in own.iterdir() if one.is_dir()) if own is not None and own.is_dir() else []
    return [*shipped, *(name for name in found if name not in shipped)]


def _place(model: str, path: str) -> str:
    """What is loaded: a folder, a shipped name or a hub id."""
    if path.strip():
        folder = Path(path.strip()).expanduser()
        return str(folder) if folder.is_dir() else path.strip()
    own = _own_models()
    return str(own / model) if own is not None and model not in model_names() else model


def _device(device: str) -> str:
    """The device of that name."""
    if device != "auto":
        return device
    try:
        from comfy.model_management import get_torch_device
    except ImportError:
        return "cuda" if torch.cuda.is_available() else "cpu"
    return str(get_torch_device())
