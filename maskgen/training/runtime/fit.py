"""`maskgen fit`: LightningCLI, with class paths held to a list and floating-point set-up for the machine."""

import sys
from argparse import ArgumentError
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

ALLOWED_PATHS = ["maskgen", "torch.optim", "torch.nn", "lightning.pytorch"]
"""What a `class_path` in a configuration may name. Everything else is refused before it is imported."""


def restrict_class_paths() -> None:
    """Let configurations name allowed classes only; anything else is refused before it is imported."""
    from jsonargparse import set_parsing_settings

    set_parsing_settings(import_path_denylist=["*"], import_path_allowlist=ALLOWED_PATHS)


def run(args: Sequence[str]) -> Any:
    """Run LightningCLI on `fit --config ...` and give the CLI object back.

    Every run has the checkpoint writer and the callbacks that `SurvivingCLI` adds.

    Args:
        args: What follows `maskgen`, from the verb on.

    Raises:
        ValueError: For a configuration that cannot be parsed.
    """
    import torch

    restrict_class_paths()
    from maskgen.training.runtime.lightning_cli import SurvivingCLI

    torch.set_float32_matmul_precision("high")
    # Before any worker thread exists, because each inherits the setting: gradients and moments fade into denormal numbers, which a CPU
    # multiplies a hundred times slower.
    torch.set_flush_denormal(True)
    _check_config_files(args)
    parser = {"parser_mode": "yaml", "exit_on_error": False}
    try:
        return SurvivingCLI(
            args=None if list(args) == sys.argv[1:] else list(args),  # Lightning warns where it is handed what it could read itself
            seed_everything_default=0,
            save_config_kwargs={"overwrite": True},
            parser_kwargs={**parser, **{verb: parser for verb in SurvivingCLI.subcommands()}},
        )
    except ArgumentError as error:
        raise ValueError(f"{_innermost(str(error))}; see maskgen {args[0]} --help and the folder configs/") from error


def _innermost(message: str) -> str:
    """The sentence that matters of jsonargparse's nested ones: the last problem named, without the type that it is not either."""
    text = " ".join(line.strip(" -") for line in message.splitlines() if line.strip(" -"))
    problem = text[max(text.rfind("Problem with given class_path"), 0) :]
    return problem.split(" Expected a <class 'NoneType'>")[0]


def _check_config_files(args: Sequence[str]) -> None:
    """A missing configuration file gets a sentence of its own."""
    named = [value for flag, value in pairwise(args) if flag in ("--config", "-c")]
    named += [flag.removeprefix("--config=") for flag in args if flag.startswith("--config=")]
    for path in named:
        if not Path(path).is_file():
            raise ValueError(f"configuration {path} does not exist; see the folder configs/ for those that ship")
