"""`maskgen fit`: LightningCLI with a list of allowed class paths and floating-point settings for the machine."""

import sys
import warnings
from argparse import ArgumentError
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

from maskgen.training.runtime.allowed import allowed_paths
from maskgen.training.runtime.console import say_once
from maskgen.training.runtime.refusals import refusal

FLAGS = ("--estimate", "--estimate-gb", "--smoke")
"""Options of `maskgen fit` that LightningCLI does not know."""
OPTIONS_HELP = "--allow PACKAGE (several times): let class_path name classes of your package, installed or in the working directory; \
--estimate [--estimate-gb N]: print memory per part, the largest batch in N GB and FLOPs, and stop; --smoke: two steps, shrunk, on a CPU"
DEFAULT_CLASSES = {
    "model": "maskgen.training.modules.masked.MaskedTokenModule",
    "data": "maskgen.data.loading.token_data.TokenData",
}
"""What `--print_config` prints the arguments of where no class is named."""


@contextmanager
def class_paths(own: Sequence[str] = ()) -> Iterator[None]:
    """While it lasts configurations may name allowed classes only; anything else is refused before it is imported.

    Args:
        own: Packages of the user that are allowed besides; they are looked for in the working directory too, behind installed ones.

    Raises:
        ValueError: If one is no name of a package.
    """
    from jsonargparse import set_parsing_settings

    for name in own:
        if not all(part.isidentifier() for part in name.split(".")) or name.split(".")[0] == "jsonargparse":
            raise ValueError(f"--allow takes the name of a package such as my_package, got {name!r}")
    set_parsing_settings(import_path_denylist=["*"], import_path_allowlist=allowed_paths(own))
    here = str(Path.cwd())
    added = bool(own) and here not in sys.path
    if added:
        sys.path.append(here)
    try:
        yield
    finally:
        set_parsing_settings(import_path_denylist=[name for name in own if name not in allowed_paths()])
        if added:
            sys.path.remove(here)


def run(args: Sequence[str]) -> Any:
    """Run LightningCLI on `fit --config ...` and give the CLI object back.

    Every run has the checkpoint writer and the callbacks that `SurvivingCLI` adds.

    Args:
        args: What follows `maskgen`, from the verb on. `--allow PACKAGE`, any number of times, lets `class_path` name the user's classes.

    Raises:
        ValueError: For a configuration that cannot be parsed, or a class that is not allowed.
    """
    rest, own = _allowed(args)
    if any(arg.partition("=")[0] in FLAGS for arg in rest):
        from maskgen.training.runtime.rehearsal import rehearse

        with class_paths(own):
            return rehearse(rest, lambda changed: _run(changed, own))
    with class_paths(own):
        return _run(_with_defaults(rest), own)


def _run(args: Sequence[str], own: Sequence[str]) -> Any:
    """Parse with the class paths that are allowed, and run."""
    import torch

    from maskgen.training.runtime.lightning_cli import SurvivingCLI

    say_once()
    torch.set_float32_matmul_precision("high")
    # Before any worker thread exists, because each inherits the setting. Gradients and moments decay to denormal numbers, which a CPU
    # multiplies a hundred times slower.
    torch.set_flush_denormal(True)
    _check_config_files(args)
    parser = {"parser_mode": "yaml", "exit_on_error": False, "epilog": OPTIONS_HELP}
    warnings.filterwarnings("ignore", message="LightningCLI's args parameter")  # it is handed what it could read itself, without --allow
    try:
        return SurvivingCLI(
            args=list(args),
            seed_everything_default=0,
            save_config_kwargs={"overwrite": True},
            parser_kwargs={**parser, **{verb: parser for verb in SurvivingCLI.subcommands()}},
        )
    except (ArgumentError, ValueError) as error:
        said = refusal(error, args[0], own)
        if said is None:
            raise
        raise ValueError(said) from error


def _allowed(args: Sequence[str]) -> tuple[list[str], list[str]]:
    """The command line without `--allow`, and the packages that it names.

    Raises:
        ValueError: If a name is missing.
    """
    rest, own = list[str](), list[str]()
    given = iter(args)
    for arg in given:
        flag, equals, value = arg.partition("=")
        if flag != "--allow":
            rest.append(arg)
        elif value := value if equals else next(given, ""):
            own.append(value)
        else:
            raise ValueError("--allow takes the name of a package such as my_package, got none")
    return rest, own


def _with_defaults(args: list[str]) -> list[str]:
    """For `--print_config` without any configuration: classes whose arguments can be printed."""
    named = {arg.partition("=")[0] for arg in args}
    if not any(name.startswith("--print_config") for name in named) or named & {"--config", "-c"}:
        return args
    extra = [part for key, path in DEFAULT_CLASSES.items() if f"--{key}" not in named for part in (f"--{key}", path)]
    return [args[0], *extra, *args[1:]]


def _check_config_files(args: Sequence[str]) -> None:
    """Raise a clear error for a missing configuration file."""
    named = [value for flag, value in pairwise(args) if flag in ("--config", "-c")]
    named += [flag.removeprefix("--config=") for flag in args if flag.startswith("--config=")]
    for path in named:
        if not Path(path).is_file():
            raise ValueError(f"configuration {path} does not exist; see the folder configs/ for those that ship")
