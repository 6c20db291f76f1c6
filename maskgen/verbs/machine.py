"""Arguments that several verbs share: where and how precisely a model runs, and lists of numbers."""

import argparse
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from maskgen.pipeline import Pipeline


def add_machine(parser: argparse.ArgumentParser) -> None:
    """Where and how precisely the model runs."""
    parser.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1, mps (default: %(default)s)")
    parser.add_argument(
        "--dtype", choices=("float32", "bfloat16", "float16"), default="float32", help="precision of the model (default: %(default)s)"
    )


def pipeline_of(args: argparse.Namespace) -> "Pipeline":
    """The model that the arguments name, on the machine that they name."""
    import torch

    from maskgen.pipeline import Pipeline

    try:
        device = torch.device(args.device)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"--device {args.device} is not usable here ({str(error).splitlines()[0]}); use cpu") from error
    return Pipeline.from_pretrained(args.model).to(device, getattr(torch, args.dtype))


def numbers(kind: type) -> Callable[[str], Any]:
    """A parser of `3` or `3,2,1`."""

    def parse(text: str) -> Any:
        found = [kind(part) for part in text.split(",")]
        return found[0] if len(found) == 1 else found

    parse.__name__ = f"{kind.__name__} or list of {kind.__name__}"
    return parse
