"""`maskgen generate`: one file a kind of output."""

from typing import Any

from maskgen.cli.generate_any import add_generate_any
from maskgen.cli.generate_audio import add_generate_audio
from maskgen.cli.generate_image import add_generate_image
from maskgen.cli.generate_speech import add_generate_speech
from maskgen.cli.generate_text import add_generate_text


def add_generate(verbs: Any) -> None:
    """Arguments of `generate ...`."""
    generate = verbs.add_parser("generate", help="generate images, speech, other audio and text from each other; edit them")
    kinds = generate.add_subparsers(required=True, metavar="WHAT", dest="what")
    for add_kind in (add_generate_image, add_generate_speech, add_generate_audio, add_generate_text, add_generate_any):
        add_kind(kinds)
