"""The command line: finds the verb and runs it. torch is imported inside a verb, so that `maskgen --help` is fast."""

import argparse
import contextlib
import io
import logging
import sys
from collections.abc import Sequence

from maskgen.cli.bench import add_bench
from maskgen.cli.compare import add_compare
from maskgen.cli.data import add_data
from maskgen.cli.demo import add_demo
from maskgen.cli.evaluate_image import add_evaluate
from maskgen.cli.export import add_export
from maskgen.cli.finetune import add_finetune
from maskgen.cli.generate import add_generate
from maskgen.cli.models import add_models
from maskgen.cli.new import add_new
from maskgen.cli.score import add_score
from maskgen.cli.serve import add_serve
from maskgen.cli.tune import add_tune
from maskgen.io.shipped import find_path
from maskgen.version import __version__

PASSED_ON = ("fit", "validate", "test")
"""Verbs whose arguments LightningCLI parses."""


def main(args: Sequence[str] | None = None) -> None:
    """Run one verb. What a user can get wrong ends with one sentence and exit code 2, or the error's own `exit_code`."""
    given = list(sys.argv[1:] if args is None else args)
    logging.basicConfig(format="%(message)s", level=logging.INFO)
    try:
        if given and given[0] in PASSED_ON:
            from maskgen.training.runtime.fit import run

            run(_with_shipped_configs(given))
            return
        parsed = _parsed(given)
        parsed.verb(parsed)
    except (ValueError, FloatingPointError, OSError, ImportError) as error:
        print(f"maskgen: error: {' '.join(_sentence(error).split())}", file=sys.stderr)
        sys.exit(getattr(error, "exit_code", 2))
    except KeyboardInterrupt:
        sys.exit(130)


def _sentence(error: Exception) -> str:
    """What is wrong; of an error of the system, the file first and no number."""
    if isinstance(error, OSError) and error.filename is not None and error.strerror is not None:
        return f"{error.filename}: {error.strerror}"
    return str(error)


def _with_shipped_configs(given: list[str]) -> list[str]:
    """The arguments, with the place of a shipped configuration where there is no file of that name here."""
    found = list(given)
    for place, value in enumerate(given):
        if place and given[place - 1] in ("--config", "-c"):
            found[place] = str(find_path(value))
        if value.startswith("--config="):
            found[place] = f"--config={find_path(value.removeprefix('--config='))}"
    return found


def _parsed(given: list[str]) -> argparse.Namespace:
    """The arguments; argparse's usage and error become one sentence, but for a call without verb, which wants the usage.

    Raises:
        ValueError: If the arguments cannot be parsed.
    """
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            return build_parser().parse_args(given)
    except SystemExit as stop:
        usage, found, message = said.getvalue().rpartition(": error: ")
        if not found:
            raise
        if message.strip().endswith(("VERB", "WHAT")):
            print(usage.rpartition("\n")[0], file=sys.stderr)
        raise ValueError(f"{message.strip()}; see maskgen --help") from stop


def build_parser() -> argparse.ArgumentParser:
    """All verbs and their arguments."""
    parser = argparse.ArgumentParser(prog="maskgen", description="Masked generative transformers over text, image and audio tokens.")
    parser.add_argument("--version", action="version", version=f"maskgen {__version__}")
    verbs = parser.add_subparsers(title="verbs", required=True, metavar="VERB")
    add_generate(verbs)
    for verb in PASSED_ON:
        verbs.add_parser(verb, help=f"{verb} --config X.yaml [--allow PACKAGE]: LightningCLI", add_help=False)
    add_finetune(verbs)
    add_data(verbs)
    add_evaluate(verbs)
    add_score(verbs)
    add_serve(verbs)
    add_demo(verbs)
    add_bench(verbs)
    add_tune(verbs)
    add_compare(verbs)
    add_export(verbs)
    add_models(verbs)
    add_new(verbs)
    return parser
