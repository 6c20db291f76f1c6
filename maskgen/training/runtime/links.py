"""Values of a configuration that follow from others, so that they are written once: the schedule's length and the model's shards."""

from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from maskgen.data.loading.mixture import Part, folders_of

STEPS, SHARDS = "model.init_args.max_steps", "model.init_args.shards"
SOURCES = {STEPS: ("trainer.max_steps", "model"), SHARDS: ("data", "model")}
"""Linked value to what it is computed from."""


def schedule_steps(max_steps: int, model: Any) -> Any:
    """Length of the learning-rate schedule of a module: the steps of the run, so that the learning rate ends with it.

    A module with a discriminator steps twice from `adversarial_from` on, and the trainer counts both.

    Args:
        max_steps: Of the trainer; -1 is no limit, which leaves the module's own value.
        model: The module's configuration: class_path and init_args.
    """
    given = _init_args(model)
    if max_steps < 1:
        return given.get("max_steps")
    first = given.get("adversarial_from")
    if given.get("discriminator") is None or first is None or max_steps <= first:
        return max_steps
    return (max_steps + first) // 2


def shard_folders(data: Any, model: Any) -> Any:
    """Folders of shards whose token space a module has: those that the data's parts read, in their order.

    Args:
        data: Configuration of the data module. One without `parts` leaves the module's own value.
        model: Configuration of the module.
    """
    parts = _init_args(data).get("parts")
    if not parts:
        return _init_args(model).get("shards")
    if isinstance(parts, str):
        return parts
    given = [part.get("init_args") or part for part in parts]
    folders = folders_of([Part(folder=part["folder"], join=part.get("join")) for part in given])
    return folders[0] if len(folders) == 1 else folders


COMPUTED = {STEPS: schedule_steps, SHARDS: shard_folders}


def require_equal(args: Sequence[str], config: Any) -> None:
    """Refuse a linked value that was given as well and differs from what it follows from.

    Args:
        args: The command line from the verb on.
        config: What was parsed from it, links applied.

    Raises:
        ValueError: With both values and which to leave out.
    """
    for key, sources in SOURCES.items():
        given, linked = given_value(args, key), config.get(key)
        if given is not None and linked is not None and _as_list(given) != _as_list(linked):
            raise ValueError(
                f"{key} is {_shown(given)}, but {sources[0]} makes it {_shown(linked)}; leave {key} out: it follows from {sources[0]}"
            )


def given_value(args: Sequence[str], key: str) -> Any:
    """The value that a command line or its configuration files give to a key, the last one; None without any."""
    found, short = None, key.replace(".init_args", "")
    for number, arg in enumerate(args):
        flag, equals, value = arg.partition("=")
        value = value if equals else next(iter(args[number + 1 : number + 2]), "")
        if flag in ("--config", "-c"):
            with open(value, encoding="utf-8") as file:
                nested = yaml.safe_load(file)
            for part in key.split("."):
                nested = nested.get(part) if isinstance(nested, Mapping) else None
            found = found if nested is None else nested
        elif flag in (f"--{key}", f"--{short}"):
            found = yaml.safe_load(value)
    return found


def _init_args(configured: Any) -> Any:
    """Arguments of a configured class; none where no class is named."""
    return (configured.get("init_args") if configured else None) or {}


def _as_list(value: Any) -> list[Any]:
    return list(value) if isinstance(value, (list, tuple)) else [value]


def _shown(value: Any) -> str:
    return ", ".join(map(str, _as_list(value)))
