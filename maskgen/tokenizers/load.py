"""The tokenizer in a bundle, whatever its kind."""

from pathlib import Path
from typing import Any

from maskgen.bundle import read_record
from maskgen.tokenizers.base import Tokenizer
from maskgen.tokenizers.diffusers_vq import DiffusersVQTokenizer
from maskgen.tokenizers.image import ImageTokenizer
from maskgen.tokenizers.text import TextTokenizer

TOKENIZER_KINDS: dict[str, Any] = {
    "text_tokenizer": TextTokenizer,
    "image_tokenizer": ImageTokenizer,
    "diffusers_vq_tokenizer": DiffusersVQTokenizer,
}


def load_tokenizer(folder: Path | str) -> Tokenizer:
    """The tokenizer in a bundle, whatever its kind.

    Raises:
        ValueError: If the folder is no tokenizer bundle, or damaged.
    """
    kind = read_record(folder)["kind"]
    if kind not in TOKENIZER_KINDS:
        raise ValueError(f"{folder} holds a bundle of kind {kind!r}, wanted a tokenizer: {' or '.join(TOKENIZER_KINDS)}")
    tokenizer: Tokenizer = TOKENIZER_KINDS[kind].from_bundle(folder)
    return tokenizer
