"""What several verbs share: arguments for device and precision, lists of numbers."""

import argparse
import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from maskgen.pipelines.base import Pipeline


def add_machine(parser: argparse.ArgumentParser) -> None:
    """Where and how precisely the model runs."""
    parser.add_argument(
        "--variant", help="which of several published models in a folder or repository, by a part of its file's name: 384_large"
    )
    parser.add_argument("--revision", help="branch, tag or commit of a hub id (default: its main branch)")
    parser.add_argument("--local-files-only", action="store_true", help="take a hub id from the cache alone and ask no server")
    parser.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1 (default: %(default)s)")
    parser.add_argument(
        "--dtype",
        choices=("float32", "bfloat16", "float16", "auto"),
        default="float32",
        help="precision of the model; auto measures what is fast here (default: %(default)s)",
    )
    parser.add_argument("--int8", action="store_true", help="matrix products on 8-bit integers; approximate, needs maskgen[int8]")
    parser.add_argument("--compile", action="store_true", help="compile the model first; worth it for many images or sentences")


def add_specialists(parser: argparse.ArgumentParser) -> None:
    """Whether a model generates everything by itself."""
    parser.add_argument(
        "--no-specialists",
        dest="specialists",
        action="store_false",
        help="without the models that an any-to-any model's folder names for drawing and speaking",
    )


MOST_PACKED = 10**9
"""Weights of the largest model that is packed: while it is packed, it is in memory twice."""


def pipeline_of(args: argparse.Namespace, kind: str = "Pipeline", specialists: bool = False, default: str | None = None) -> Any:
    """The model that the arguments name, on the device and in the precision that they name.

    Args:
        args: Of `add_machine`, and `model`.
        kind: Pipeline class of `maskgen`.
        specialists: Load the specialists that the model's folder names.
        default: Model to load where `--model` was not given; None takes the default of the class.

    Raises:
        ValueError: If the model is missing, damaged or not of the class, the device cannot be used, or the model cannot be compiled.
        ImportError: If `--int8` needs a package that is missing.
    """
    if args.int8:
        need("torchao", "int8", "--int8")
    import maskgen

    kind_of = getattr(maskgen, kind)
    hub = {"revision": args.revision, "variant": args.variant, "local_files_only": args.local_files_only}
    pipeline = kind_of.from_pretrained(args.model or default, args.device, args.dtype, specialists=specialists, **hub)
    for one in (pipeline, *pipeline.specialists.values()):
        _accelerate(one, args)
    return pipeline


def _accelerate(pipeline: "Pipeline", args: argparse.Namespace) -> None:
    """Quantize, compile, or store the weights as this processor likes them."""
    import torch

    from maskgen.networks.packed_linear import has_onednn, num_weights

    if args.int8:
        pipeline.enable_int8()
    if args.compile:
        pipeline.enable_compile("reduce-overhead" if pipeline.device.type == "cuda" else None)
    plain = not args.int8 and not args.compile and num_weights(pipeline.model) <= MOST_PACKED
    if plain and pipeline.device.type == "cpu" and pipeline.dtype == torch.float32 and has_onednn():
        pipeline.enable_packed_weights()


def need(package: str, extra: str, what: str) -> None:
    """Name a missing extra before a model is loaded.

    Raises:
        ImportError: If the package is not installed.
    """
    if importlib.util.find_spec(package) is None:
        raise ImportError(f"{what} needs {package}; install it with: pip install maskgen[{extra}]")


def need_audio(*paths: Path | None) -> None:
    """Name the extra that reads and writes audio files, if one is given.

    Raises:
        ImportError: If soundfile is not installed.
    """
    for path in paths:
        if path is not None:
            need("soundfile", "audio", str(path))


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
