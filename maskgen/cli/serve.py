"""`maskgen serve`: models over HTTP."""

import argparse
import dataclasses
import logging
import re
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from maskgen.cli.options import add_machine, add_specialists, need, pipeline_of

if TYPE_CHECKING:
    from maskgen.serving.limits import ServeLimits
    from maskgen.serving.served import Served

logger = logging.getLogger(__name__)
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
LOCAL_HOSTS = ("127.0.0.1", "::1", "localhost")
LIMITS = {
    "max_requests": "open requests, of all models together",
    "max_body_bytes": "bytes of a body",
    "body_timeout_s": "seconds in which a body must have arrived",
    "max_pixels": "pixels of an uploaded image",
    "max_audio_s": "seconds of an uploaded recording",
    "max_speech_s": "seconds of speech that are asked for",
    "max_characters": "characters of a text",
    "max_steps": "decode steps of a level",
    "max_outputs": "outputs of a request",
    "max_candidates": "captions or transcripts that are decoded to choose one",
}
"""Fields of `ServeLimits` that the command line sets."""
ENGINE_LIMITS = {
    "max_running": (int, 16, "requests that decode at once, of each model"),
    "max_waiting": (int, 64, "requests that wait, of each model; more get status 429"),
    "timeout_s": (float, 120.0, "seconds of a request"),
    "max_rows": (int, 64, "rows in one forward pass"),
}
"""Fields of `EngineLimits` to their type and default."""


def add_serve(verbs: Any) -> None:
    """Add `serve`.

    Args:
        verbs: Subparsers of the whole command.
    """
    parser = verbs.add_parser("serve", help="models over HTTP: OpenAI's routes and /v1/generate; needs maskgen[serve]")
    parser.add_argument(
        "--model",
        action="append",
        required=True,
        metavar="[NAME=]MODEL",
        help="name, folder or hub id of a model and its name in requests; repeatable, the first that can do a task is its default",
    )
    parser.add_argument("--host", default="127.0.0.1", help="address to listen at; 0.0.0.0 is every one (default: %(default)s)")
    parser.add_argument("--port", type=int, default=8000, help="0 takes a free one (default: %(default)s)")
    parser.add_argument("--api-keys", type=Path, metavar="FILE", help="file with one key a line; MASKGEN_API_KEYS holds further ones")
    parser.add_argument("--cors", action="append", default=[], metavar="ORIGIN", help="origin of pages that may call; repeatable, * is all")
    parser.add_argument(
        "--host-name", action="append", default=[], metavar="NAME", help="name that the header Host may have; localhost alone on localhost"
    )
    parser.add_argument("--page", action="store_true", help="with the page of `maskgen demo` at /; needs maskgen[demo]")
    parser.add_argument("--drain-s", type=float, default=30.0, help="seconds that running requests get at SIGTERM (default: %(default)s)")
    add_specialists(parser)
    add_machine(parser)
    group = parser.add_argument_group("limits")
    for name, about in LIMITS.items():
        group.add_argument(f"--{name.replace('_', '-')}", type=float if name.endswith("_s") else int, metavar="N", help=about)
    for name, (kind, default, about) in ENGINE_LIMITS.items():
        group.add_argument(f"--{name.replace('_', '-')}", type=kind, default=default, metavar="N", help=f"{about} (default: %(default)s)")
    parser.set_defaults(verb=_serve)


def _serve(args: argparse.Namespace) -> None:
    """Load the models and answer requests until a signal ends the server."""
    shown = ", its page is at /" if args.page else ""
    serve_models(args, f"maskgen serves {{models}} at {{address}}; its API is described at /docs{shown}")


def serve_models(args: argparse.Namespace, words: str) -> None:
    """Load models and serve them until a signal ends the server.

    Args:
        args: Of `maskgen serve`.
        words: Printed when it listens, with {models} and {address}.
    """
    named = [named_model(one) for one in args.model]
    for package in ("fastapi", "uvicorn", "multipart", "prometheus_client"):
        need(package, "serve", "maskgen serve")
    if args.page:
        need("gradio", "demo", "the page")
    from maskgen.serving.app import create_app
    from maskgen.serving.keys import read_keys
    from maskgen.serving.served import Catalogue
    from maskgen.serving.server import make_server, run_server

    keys, limits = read_keys(args.api_keys), limits_of(args)
    hosts = args.host_name or (LOCAL_HOSTS if args.host in LOCAL_HOSTS else ())
    if args.host not in LOCAL_HOSTS and not len(keys):
        logger.warning("the server listens at %s without API keys: whoever reaches it may use it; see --api-keys", args.host)
    catalogue = Catalogue([_loaded(name, model, args) for name, model in named])

    def started(port: int) -> None:
        host = f"[{args.host}]" if ":" in args.host else args.host
        print(words.format(models=", ".join(catalogue.models), address=f"http://{host}:{port}"), flush=True)

    with _page_files(args.page) as page:
        app = create_app(catalogue, limits, keys, hosts, args.cors, page)
        run_server(make_server(app, catalogue, args.host, args.port, args.drain_s), started)


def _page_files(page: bool) -> AbstractContextManager[Path | None]:
    """A folder for the files of the page; nothing without it."""
    if not page:
        return nullcontext()
    from maskgen.serving.page.mounting import page_folder

    return page_folder()


def named_model(text: str) -> tuple[str, str]:
    """NAME=MODEL of the command line; without a name it is the last part of the model's.

    Raises:
        ValueError: If the name holds other characters than letters, digits and . _ -.
    """
    name, equals, model = text.partition("=")
    model = model if equals else text
    name = name if equals else Path(text).resolve().name if text in (".", "..") else Path(text).name
    if not NAME.fullmatch(name):
        raise ValueError(f"{name!r} is no name of a model for requests; write --model NAME={model} with letters, digits and . _ -")
    return name, model


def limits_of(args: argparse.Namespace) -> "ServeLimits":
    """The limits that the arguments set."""
    from maskgen.serving.limits import ServeLimits

    given = {name: getattr(args, name) for name in LIMITS if getattr(args, name) is not None}
    return dataclasses.replace(ServeLimits(), **given)


def _loaded(name: str, model: str, args: argparse.Namespace) -> "Served":
    """A model with its engine."""
    from maskgen.serving.engine import EngineLimits
    from maskgen.serving.served import serve_pipeline

    pipeline = pipeline_of(argparse.Namespace(**{**vars(args), "model": model}), specialists=args.specialists)
    logger.info("loaded %s: %r", name, pipeline)
    return serve_pipeline(name, pipeline, EngineLimits(**{field: getattr(args, field) for field in ENGINE_LIMITS}))
