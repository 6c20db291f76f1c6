"""Inputs that several nodes have, and how their values become arguments of a pipeline's call."""

from collections.abc import Callable, Mapping
from typing import Any

from maskgen import Pipeline

from .watching import Watch

CATEGORY = "maskgen"
PIPELINE = "MASKGEN_PIPELINE"
SETTINGS = "MASKGEN_SETTINGS"
DECODE = "MASKGEN_DECODE"
SEEDS = 2**63 - 2**16
"""Seeds of maskgen that leave room for 65,536 outputs, each of which takes the next seed."""
MODEL_INPUT = (PIPELINE, {"tooltip": "From maskgen Load Model."})
SETTINGS_INPUT = (SETTINGS, {"tooltip": "From maskgen Sampling; the model's own settings without."})
SEED_INPUT = (
    "INT",
    {
        "default": 0,
        "min": 0,
        "max": 2**64 - 1,
        "control_after_generate": True,
        "tooltip": "The same seed gives the same result; output i of a batch has seed + i.",
    },
)
PREVIEWS_INPUT = ("INT", {"default": 4, "min": 0, "max": 64, "tooltip": "Previews shown during a decode, at most."})


def text_input(tooltip: str, multiline: bool = True, default: str = "") -> tuple[str, dict[str, Any]]:
    """A text; ComfyUI expands {this|that} in those of several lines."""
    return ("STRING", {"default": default, "multiline": multiline, "dynamicPrompts": multiline, "tooltip": tooltip})


def seed_of(seed: int) -> int:
    """maskgen's seed for one of ComfyUI's: the same number, but those of 2**63 - 2**16 and above begin again at 0."""
    return seed % SEEDS


def call_options(
    pipeline: Pipeline,
    seed: int,
    settings: Mapping[str, Any] | None,
    previews: int = 0,
    decoder_of: Callable[[str], Pipeline] | None = None,
) -> dict[str, Any]:
    """Arguments that all calls share; `decoder_of` for a pipeline that lets others decode some modalities."""
    return {"seed": seed_of(seed), **(settings or {}), **Watch(decoder_of or (lambda _: pipeline), previews).options}


def given(**values: Any) -> dict[str, Any]:
    """The arguments that are set: an empty text, a 0 where 0 means nothing, and None are left out."""
    return {name: value for name, value in values.items() if value not in (None, "", 0)}


def refuse_other(pipeline: Any, kinds: tuple[type, ...], node: str, does: str) -> None:
    """Refuse a model that is for something else.

    Raises:
        TypeError: Names the model and what the node needs.
    """
    if not isinstance(pipeline, kinds):
        raise TypeError(f"{node} needs a model for {does}, got {pipeline!r}; choose another one in maskgen Load Model")
