"""What several verbs share: arguments for device and precision, lists of numbers, checks of output paths, the progress bar."""

import argparse
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from maskgen.pipelines.base import Pipeline


def add_machine(parser: argparse.ArgumentParser) -> None:
    """Where and how precisely the model runs."""
    parser.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1 (default: %(default)s)")
    parser.add_argument(
        "--dtype", choices=("float32", "bfloat16", "float16"), default="float32", help="precision of the model (default: %(default)s)"
    )
    parser.add_argument("--int8", action="store_true", help="matrix products on 8-bit integers; approximate, needs maskgen[int8]")
    parser.add_argument("--compile", action="store_true", help="compile the model first; worth it for many pictures or sentences")


def pipeline_of(args: argparse.Namespace, default: str = "") -> "Pipeline":
    """The model that the arguments name, on the machine that they name.

    Args:
        args: Arguments of `add_machine`, and `model`.
        default: Folder or shipped name to load where `--model` was not given.
    """
    from maskgen.pipelines.base import Pipeline

    return placed(Pipeline.from_pretrained(args.model or default), args)


def placed(pipeline: "Pipeline", args: argparse.Namespace) -> "Pipeline":
    """A pipeline on the machine and in the precision that the arguments name.

    Raises:
        ValueError: If the device cannot be used, or the model cannot be compiled.
    """
    import torch

    from maskgen.networks.packed_linear import has_onednn

    try:
        device = torch.device(args.device)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"--device {args.device} is not usable here ({str(error).splitlines()[0]}); use cpu") from error
    if device.type == "mps":
        raise ValueError("--device mps has no float64, in which codes are drawn; use cpu")
    pipeline.to(device, getattr(torch, args.dtype))
    if args.int8:
        pipeline.quantize()
    if args.compile:
        pipeline.compile("reduce-overhead" if device.type == "cuda" else None)
    plain = not args.int8 and not args.compile
    if plain and device.type == "cpu" and args.dtype == "float32" and has_onednn():
        pipeline.pack()
    return pipeline


def numbers(kind: type) -> Callable[[str], Any]:
    """A parser of `3` or `3,2,1`."""

    def parse(text: str) -> Any:
        found = [kind(part) for part in text.split(",")]
        return found[0] if len(found) == 1 else found

    parse.__name__ = f"{kind.__name__} or list of {kind.__name__}"
    return parse


def named_folder(text: str) -> tuple[str, Path]:
    """NAME=FOLDER of the command line.

    Raises:
        argparse.ArgumentTypeError: If it has no such form.
    """
    name, equals, folder = text.partition("=")
    if not name or not equals or not folder:
        raise argparse.ArgumentTypeError(f"{text!r} is no NAME=FOLDER, for example audio=tokenizers/audio-speech16k/bundle")
    return name, Path(folder)


def check_writable(path: Path, endings: tuple[str, ...]) -> None:
    """Refuse an output that cannot be written, before any work is done."""
    if path.suffix.lower() not in endings:
        raise ValueError(f"cannot write {path}: its name must end in {' or '.join(endings)}")
    folder = path.parent
    if path.is_dir() or not folder.is_dir() or not os.access(path if path.exists() else folder, os.W_OK):
        raise ValueError(f"cannot write {path}: give a file name in an existing folder that you may write to")


class StepBar:
    """A progress bar over the steps of a decode, on a terminal only."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import Progress

        console = Console(stderr=True)
        self.bar = Progress(console=console, transient=True, disable=not console.is_terminal)

    def __enter__(self) -> "StepBar":
        self.bar.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.bar.stop()

    def __call__(self, state: Any) -> None:
        name = f"{state.segment.modality} level {state.segment.level}"
        if state.step == 1:
            self.task = self.bar.add_task(name, total=state.steps)
        self.bar.update(self.task, completed=state.step)
