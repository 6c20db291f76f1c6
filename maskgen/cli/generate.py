"""`maskgen generate`: one file a kind of output."""

from typing import Any

from maskgen.cli import generate_any, generate_image, generate_speech, generate_text


def add(verbs: Any) -> None:
    """Arguments of `generate ...`."""
    generate = verbs.add_parser("generate", help="generate images, speech and text from each other; edit them")
    kinds = generate.add_subparsers(required=True, metavar="WHAT", dest="what")
    for kind in (generate_image, generate_speech, generate_text, generate_any):
        kind.add(kinds)
