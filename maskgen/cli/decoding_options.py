"""Arguments that say how a modality is decoded; every verb that generates takes the same ones."""

import argparse
from typing import TYPE_CHECKING, Any

import yaml

from maskgen.cli.options import numbers

if TYPE_CHECKING:
    from maskgen.decoding.settings import GenerationSettings

NAMED = ("num_inference_steps", "guidance_scale", "guidance_schedule", "temperature", "choice_temperature", "top_k", "top_p", "sampler")

MOST_LEVELS = 64


def add_decoding(parser: argparse.ArgumentParser) -> None:
    """The arguments; what is not given stays as the model's bundle has it."""
    parser.add_argument(
        "--num-inference-steps", type=numbers(int), metavar="N[,N...]", help="decode steps, one number a level or the coarsest alone"
    )
    parser.add_argument("--guidance-scale", type=float, help="1 is off")
    parser.add_argument("--guidance-schedule", help="constant, linear, cosine, mask_rate, linear_ahead, cosine_ahead or falling")
    parser.add_argument("--temperature", type=numbers(float), metavar="T[,T...]", help="divides the logits; 0 takes the likeliest code")
    parser.add_argument("--choice-temperature", type=numbers(float), metavar="T[,T...]", help="noise in the sampler's ranking")
    parser.add_argument("--top-k", type=int, help="draw from the K likeliest codes; 0 is all")
    parser.add_argument("--top-p", type=float, help="draw from the likeliest codes that hold this share")
    parser.add_argument("--sampler", help="confidence, halton, random_order, ... (docs/samplers.md lists them)")
    parser.add_argument(
        "--set",
        action="append",
        type=assignment,
        default=[],
        metavar="NAME=VALUE",
        help="any other generation setting, value in YAML: --set refresh=2 --set sampler_options='{eta: 0.02}'; several times",
    )


def call_options(args: argparse.Namespace, settings: "GenerationSettings") -> dict[str, Any]:
    """What the arguments change, as options of a pipeline's call.

    Args:
        args: Of `add_decoding`.
        settings: The model's own, which `--set` changes.

    Raises:
        ValueError: If a setting is unknown, given twice, or out of range.
    """
    options = {name: getattr(args, name) for name in NAMED if getattr(args, name) is not None}
    changes: dict[str, Any] = {}
    for name, value in args.set:
        if name in changes or name in options or (name == "steps" and "num_inference_steps" in options):
            raise ValueError(f"{name} is set twice; give it once")
        changes[name] = value
    return {**options, "settings": settings.changed(**changes)} if changes else options


def decoded_as(settings: "GenerationSettings", args: argparse.Namespace, levels: int | None = None) -> "GenerationSettings":
    """The settings with what the arguments change.

    Args:
        settings: The model's own.
        args: Of `add_decoding`.
        levels: Levels of what is decoded, to refuse more entries than that; None leaves it unchecked.

    Raises:
        ValueError: If a setting is unknown, given twice, or out of range.
    """
    from maskgen.pipelines.options import settings_from

    return settings_from(settings, call_options(args, settings), levels or MOST_LEVELS)


def assignment(text: str) -> tuple[str, Any]:
    """NAME=VALUE of the command line, the value read as YAML.

    Raises:
        argparse.ArgumentTypeError: If it has no such form.
    """
    name, equals, value = text.partition("=")
    try:
        return name.strip().replace("-", "_"), _given(name, equals, value)
    except yaml.YAMLError as error:
        raise argparse.ArgumentTypeError(f"the value of {text!r} is no YAML") from error


def _given(name: str, equals: str, value: str) -> Any:
    found = yaml.safe_load(value) if name.strip() and equals else None
    if found is None:
        raise argparse.ArgumentTypeError(f"{name + equals + value!r} is no NAME=VALUE, for example refresh=2")
    return found
