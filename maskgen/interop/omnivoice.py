"""OmniVoice: text to speech and voice cloning, from the folder of its authors."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch

from maskgen.decoding.parts import Parts
from maskgen.decoding.settings import GenerationSettings
from maskgen.interop.base import Family, LoadOptions, peek_json, read_json, write_json, write_tensors
from maskgen.interop.omnivoice_network import AUDIO, PROMPT, OmniVoiceNetwork
from maskgen.interop.weights import load_exactly, weight_files
from maskgen.io.files import write_atomic
from maskgen.networks.backbone import read_vocabulary
from maskgen.tokenizers.text import VOCABULARY_FILE
from maskgen.tokenizers.transformers_codec import TransformersCodecTokenizer
from maskgen.tokenizers.transformers_text import TransformersTextTokenizer
from maskgen.tokens.space import TokenSpace

CODEC_FOLDER = "audio_tokenizer"
DEFAULT_FRAMES = 50
"""Frames of a target whose length is not said: 2 s."""


def omnivoice_settings(levels: int) -> GenerationSettings:
    """How OmniVoice decodes: all levels together, coarse ones first, few codes at first; the likeliest codes at places that noise varies.

    Its guidance adds 2 (c - u) to c, which is a scale of 3; u sees the target alone.

    Args:
        levels: Levels of the codes.
    """
    return GenerationSettings(
        sampler="confidence",
        sampler_options={"annealing": "constant", "level_penalty": 5.0},
        steps=(32,),
        temperature=(0.0,),
        choice_temperature=(5.0,),
        schedule="linear",
        time_shift=0.1,
        guidance_scale=3.0,
        null="alone",
        groups=(tuple(range(levels)),),
    )


def holds_omnivoice(folder: Path) -> bool:
    """Whether a folder holds OmniVoice."""
    return peek_json(folder / "config.json").get("model_type") == "omnivoice"


def load_omnivoice(folder: Path, options: LoadOptions) -> Parts:
    """Read the folder of OmniVoice.

    Raises:
        ImportError: If transformers or torchaudio is missing.
        ValueError: If a part is missing, damaged or of another kind.
    """
    config = read_json(folder / "config.json")
    _check(config, folder / "config.json")
    if not (folder / CODEC_FOLDER).is_dir():
        raise ValueError(f"{folder} has no folder {CODEC_FOLDER}, which turns codes into sound; copy the whole folder of the model")
    audio = TransformersCodecTokenizer.from_pretrained(folder / CODEC_FOLDER, int(config["num_audio_codebook"]))
    text = _text_tokenizer(folder, int(config["llm_config"]["vocab_size"]))
    space = TokenSpace([text.modality(PROMPT), audio.modality(AUDIO)])
    with torch.device("meta"):
        model = OmniVoiceNetwork(config, space)
    load_exactly(model, weight_files(folder, "model"), source=str(folder), dtype=options.dtype, device=options.device)
    return Parts(
        model=model,
        space=space,
        tokenizers={PROMPT: text, AUDIO: audio},
        settings={AUDIO: omnivoice_settings(audio.num_levels)},
        grids={AUDIO: (DEFAULT_FRAMES,)},
        family=FAMILY.name,
    )


def export_omnivoice(parts: Parts, folder: Path) -> None:
    """Write the model as a folder that the authors' code loads."""
    network, audio = cast(OmniVoiceNetwork, parts.model), cast(TransformersCodecTokenizer, parts.tokenizers[AUDIO])
    text, model = cast(TransformersTextTokenizer, parts.tokenizers[PROMPT]), cast(Any, audio.network)
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {name: tensor.cpu().contiguous() for name, tensor in network.state_dict().items()}
    write_tensors(folder / "model.safetensors", tensors)
    write_json(folder / "config.json", network.published)
    write_json(folder / "tokenizer_config.json", {"tokenizer_class": "Qwen2TokenizerFast"})
    write_atomic(folder / VOCABULARY_FILE, text.vocabulary.encode())
    model.save_pretrained(folder / CODEC_FOLDER, safe_serialization=True)
    sound = {"feature_extractor_type": "DacFeatureExtractor", "feature_size": 1, "padding_value": 0.0}
    sound |= {"hop_length": audio.samples_per_frame, "sampling_rate": audio.sample_rate_hz}
    write_json(folder / CODEC_FOLDER / "preprocessor_config.json", sound)


def _check(config: Mapping[str, Any], path: Path) -> None:
    """Refuse a configuration that lacks what the network is made of.

    Raises:
        ValueError: Names what is missing.
    """
    wanted = ("audio_vocab_size", "audio_mask_id", "num_audio_codebook", "llm_config")
    if missing := [name for name in wanted if name not in config]:
        raise ValueError(f"{path} lacks {', '.join(missing)}; copy the whole folder of the model")
    trunk = config["llm_config"]
    kind = trunk.get("model_type") if isinstance(trunk, Mapping) else type(trunk).__name__
    if kind != "qwen3":
        raise ValueError(f"{path} has a trunk of type {kind}, wanted qwen3; copy the whole folder of the model")


def _text_tokenizer(folder: Path, size: int) -> TransformersTextTokenizer:
    """The folder's text tokenizer, without an end: a prompt ends with a token of its own."""
    found = read_vocabulary(str(folder))
    if found is None:
        raise ValueError(f"{folder} has no {VOCABULARY_FILE}; copy the whole folder of the model")
    return TransformersTextTokenizer(found.text, None, size)


FAMILY = Family(
    name="OmniVoice",
    hub_ids={"k2-fsa/OmniVoice": 612.58 + 161.36},
    tokenizer_millions={"k2-fsa/OmniVoice": 161.36},
    makes=("text to speech", "voice clone"),
    code_licence="Apache-2.0",
    weights_licence="Apache-2.0",
    recognises=holds_omnivoice,
    load=load_omnivoice,
    export=export_omnivoice,
    source="k2-fsa/OmniVoice",
)
