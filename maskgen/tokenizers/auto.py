"""Loading a tokenizer of any kind from its bundle."""

from pathlib import Path
from typing import Any

from maskgen.io.bundle import CONFIG_FILE, read_bundle_record
from maskgen.tokenizers.attribute import AttributeTokenizer
from maskgen.tokenizers.audio import AudioTokenizer
from maskgen.tokenizers.base import Tokenizer
from maskgen.tokenizers.diffusers_vq import DiffusersVQTokenizer
from maskgen.tokenizers.encodec import EncodecTokenizer
from maskgen.tokenizers.image import ImageTokenizer
from maskgen.tokenizers.phonemes import PhonemeTokenizer
from maskgen.tokenizers.text import VOCABULARY_FILE, TextTokenizer
from maskgen.tokenizers.transcript import TranscriptTokenizer
from maskgen.tokenizers.transformers_codec import TransformersCodecTokenizer
from maskgen.tokenizers.transformers_text import TransformersTextTokenizer

TOKENIZER_KINDS: dict[str, Any] = {
    "text_tokenizer": TextTokenizer,
    "image_tokenizer": ImageTokenizer,
    "phoneme_tokenizer": PhonemeTokenizer,
    "audio_tokenizer": AudioTokenizer,
    "transcript_tokenizer": TranscriptTokenizer,
    "attribute_tokenizer": AttributeTokenizer,
    "diffusers_vq_tokenizer": DiffusersVQTokenizer,
    "encodec_tokenizer": EncodecTokenizer,
    "transformers_codec_tokenizer": TransformersCodecTokenizer,
    "transformers_text_tokenizer": TransformersTextTokenizer,
}


def load_tokenizer(folder: Path | str) -> Tokenizer:
    """Load a tokenizer of any kind from its bundle, or the fast text tokenizer from a folder in the format of transformers.

    Raises:
        ValueError: If the folder isn't a tokenizer bundle or is damaged.
    """
    if not (Path(folder) / CONFIG_FILE).is_file() and (Path(folder) / VOCABULARY_FILE).is_file():
        return TransformersTextTokenizer.from_transformers(folder)
    kind = read_bundle_record(folder)["kind"]
    if kind not in TOKENIZER_KINDS:
        raise ValueError(f"{folder} holds a bundle of kind {kind!r}, wanted a tokenizer: {' or '.join(TOKENIZER_KINDS)}")
    tokenizer: Tokenizer = TOKENIZER_KINDS[kind].from_bundle(folder)
    return tokenizer
