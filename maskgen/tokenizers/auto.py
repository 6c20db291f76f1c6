"""Loading a tokenizer of any kind from its bundle."""

import json
from pathlib import Path
from typing import Any

from maskgen.io.bundle import CONFIG_FILE, read_bundle_record
from maskgen.io.names import file_name
from maskgen.tokenizers.amphion_codec import AmphionCodecTokenizer
from maskgen.tokenizers.attribute import AttributeTokenizer
from maskgen.tokenizers.audio import AudioTokenizer
from maskgen.tokenizers.base import Tokenizer
from maskgen.tokenizers.codes import ImageCodesTokenizer, TextCodesTokenizer
from maskgen.tokenizers.diffusers_vq import DiffusersVQTokenizer
from maskgen.tokenizers.encodec import EncodecTokenizer
from maskgen.tokenizers.image import ImageTokenizer
from maskgen.tokenizers.llamagen_vq import LlamaGenVQTokenizer
from maskgen.tokenizers.magvit2 import CLASS_NAME as MAGVIT2
from maskgen.tokenizers.magvit2 import Magvit2Tokenizer
from maskgen.tokenizers.micro import MicroTokenizer
from maskgen.tokenizers.phone_table import PhoneTableTokenizer
from maskgen.tokenizers.phonemes import PhonemeTokenizer
from maskgen.tokenizers.pixels import PixelTokenizer
from maskgen.tokenizers.semantic_speech import SemanticSpeechTokenizer
from maskgen.tokenizers.text import VOCABULARY_FILE, TextTokenizer
from maskgen.tokenizers.text_encoder import TextEncoder
from maskgen.tokenizers.titok import TiTokTokenizer, is_titok
from maskgen.tokenizers.transcript import TranscriptTokenizer
from maskgen.tokenizers.transformers_codec import CODEC_FAMILIES, TransformersCodecTokenizer
from maskgen.tokenizers.transformers_text import TransformersTextTokenizer

TOKENIZER_KINDS: dict[str, Any] = {
    "text_tokenizer": TextTokenizer,
    "image_tokenizer": ImageTokenizer,
    "phoneme_tokenizer": PhonemeTokenizer,
    "audio_tokenizer": AudioTokenizer,
    "transcript_tokenizer": TranscriptTokenizer,
    "attribute_tokenizer": AttributeTokenizer,
    "micro_tokenizer": MicroTokenizer,
    "diffusers_vq_tokenizer": DiffusersVQTokenizer,
    "magvit2_tokenizer": Magvit2Tokenizer,
    "llamagen_vq_tokenizer": LlamaGenVQTokenizer,
    "titok_tokenizer": TiTokTokenizer,
    "encodec_tokenizer": EncodecTokenizer,
    "transformers_codec_tokenizer": TransformersCodecTokenizer,
    "transformers_text_tokenizer": TransformersTextTokenizer,
    "amphion_codec_tokenizer": AmphionCodecTokenizer,
    "semantic_speech_tokenizer": SemanticSpeechTokenizer,
    "phone_table_tokenizer": PhoneTableTokenizer,
    "pixel_tokenizer": PixelTokenizer,
    "image_codes_tokenizer": ImageCodesTokenizer,
    "text_codes_tokenizer": TextCodesTokenizer,
    "text_encoder": TextEncoder,
}


_PIPELINE_FILE, _MODEL_FILE = "model_index.json", "config.json"


def load_tokenizer(folder: Path | str) -> Tokenizer:
    """Load a tokenizer of any kind from its bundle, or from a folder of another library.

    Other folders are a VQModel of diffusers or a pipeline with one, the MAGVIT-v2 of Show-o, a TiTok tokenizer, an EnCodec, Mimi or DAC of
    transformers, and a fast text tokenizer of transformers. They are read from safetensors and JSON only.

    Raises:
        ValueError: If the folder holds no tokenizer or is damaged.
        ImportError: If it is of a library that is not installed.
    """
    folder = Path(folder)
    if not (folder / CONFIG_FILE).is_file() and (foreign := _of_other_libraries(folder)) is not None:
        return foreign
    kind = read_bundle_record(folder)["kind"]
    if kind not in TOKENIZER_KINDS:
        raise ValueError(f"{folder} holds a bundle of kind {kind!r}, wanted a tokenizer: {' or '.join(TOKENIZER_KINDS)}")
    tokenizer: Tokenizer = TOKENIZER_KINDS[kind].from_bundle(folder)
    return tokenizer


def _of_other_libraries(folder: Path) -> Tokenizer | None:
    """Load the tokenizer in a folder of diffusers or transformers; None if the folder is of neither.

    Raises:
        ValueError: If the folder holds a model that isn't a tokenizer, or is damaged.
    """
    if (folder / VOCABULARY_FILE).is_file():
        return TransformersTextTokenizer.from_transformers(folder)
    parts = _plain(folder / _PIPELINE_FILE)
    if place := next((name for name, value in parts.items() if isinstance(value, list) and value[-1:] == ["VQModel"]), None):
        return DiffusersVQTokenizer.from_pretrained(folder, subfolder=file_name(place, str(folder / _PIPELINE_FILE)))
    model = _plain(folder / _MODEL_FILE)
    if model.get("_class_name") == "VQModel":
        return DiffusersVQTokenizer.from_pretrained(folder)
    if model.get("_class_name") == MAGVIT2:
        return Magvit2Tokenizer.from_pretrained(folder)
    if "model" in model and is_titok(folder):
        return TiTokTokenizer.from_pretrained(folder)
    if model.get("model_type") in CODEC_FAMILIES:
        return TransformersCodecTokenizer.from_pretrained(folder)
    if found := parts.get("_class_name") or model.get("_class_name") or model.get("model_type"):
        raise ValueError(
            f"{folder} holds a {found}, wanted a tokenizer: a bundle of maskgen, a VQModel of diffusers, or of transformers an "
            f"{', '.join(CODEC_FAMILIES)} or a fast text tokenizer ({VOCABULARY_FILE})"
        )
    return None


def _plain(path: Path) -> dict[str, Any]:
    """Read a JSON object; empty if there is no such file.

    Raises:
        ValueError: If it is damaged.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is damaged: it is no JSON ({error}); copy the folder again") from error
    if not isinstance(found, dict):
        raise ValueError(f"{path} is damaged: it holds no JSON object; copy the folder again")
    return found
