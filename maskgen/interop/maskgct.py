"""MaskGCT: zero-shot text to speech in two stages, from the files of its authors."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch

from maskgen.autoencoders.amphion import AcousticCodec
from maskgen.decoding.parts import Parts
from maskgen.decoding.settings import GenerationSettings
from maskgen.interop.base import Family, LoadOptions, write_json, write_tensors
from maskgen.interop.maskgct_config import CONFIG_FILE, acoustic_config, read_maskgct_config, semantic_config
from maskgen.interop.maskgct_network import (
    ACOUSTIC_STEPS,
    AUDIO,
    HEARD,
    PHONEMES,
    SEMANTIC,
    SEMANTIC_STEPS,
    VOICE,
    MaskGCTNetwork,
)
from maskgen.interop.maskgct_stages import PHONES, AcousticStage, SemanticStage, StageConfig
from maskgen.interop.speech_encoder import STATISTICS, WAV2VEC, read_semantic_tokenizer, statistics_file, wav2vec_folder
from maskgen.interop.weights import load_exactly, weight_files
from maskgen.tokenizers.amphion_codec import AmphionCodecTokenizer
from maskgen.tokenizers.phone_table import PhoneTableTokenizer, read_phone_table
from maskgen.tokenizers.semantic_speech import SemanticSpeechTokenizer
from maskgen.tokens.space import TokenSpace

FIRST, COARSE, FINE = "t2s_model", "s2a_model/s2a_model_1layer", "s2a_model/s2a_model_full"
SEMANTIC_CODEC, ACOUSTIC_CODEC = "semantic_codec", "acoustic_codec"
ENCODER_FILE, DECODER_FILE = "model.", "model_1."
"""Beginnings of the names of the acoustic codec's two files."""
VOCABULARY = "vocab.json"
UNUSED = "diff_estimator.embed_tokens.weight"
"""An empty table of the second stage that is in some files."""
AUTHORS = "models/tts/maskgct of open-mmlab/Amphion"
DEFAULT_FRAMES = 100
"""Frames of a target whose length is not said: 2 s."""
KEPT, GUIDANCE, RESCALE = 0.02, 2.5, 0.75
"""Share of the codes that may be drawn, and what the authors call `cfg` and `rescale_cfg`."""
OPTIONS = {"ranking": "share", "annealing": "lagged", "cooling": "lagged"}


def semantic_settings(codes: int = 8192) -> GenerationSettings:
    """How MaskGCT decodes semantic codes.

    Its guidance adds 2.5 (c - u) to c, which is a scale of 3.5; u sees the target alone. Hidden states are mixed and brought back to the
    spread of c. The temperature falls with the time, and the last step takes the likeliest codes.

    Args:
        codes: Semantic codes.

    Source: MaskGCT, arXiv:2409.00750. Differs: every step decodes a code at least.
    """
    return GenerationSettings(
        sampler_options=OPTIONS,
        steps=(SEMANTIC_STEPS,),
        temperature=(0.9,),
        choice_temperature=(1.0,),
        top_k=math.ceil(KEPT * codes),
        schedule="cosine",
        guidance_scale=1 + GUIDANCE,
        guidance_rescale=RESCALE,
    )


def acoustic_settings(codes: int = 1024) -> GenerationSettings:
    """How MaskGCT decodes acoustic codes; levels of a single step draw at a temperature of 0.2.

    Args:
        codes: Codes of a level.
    """
    return semantic_settings(codes).changed(steps=ACOUSTIC_STEPS, temperature=(1.5, 1.5, 0.2))


def holds_maskgct(folder: Path) -> bool:
    """Whether a folder holds MaskGCT."""
    return all((folder / name).is_dir() for name in (FIRST, COARSE, FINE, SEMANTIC_CODEC, ACOUSTIC_CODEC))


def load_maskgct(folder: Path, options: LoadOptions) -> Parts:
    """Read a folder of MaskGCT. What its hub repository lacks must lie in it too: `vocab.json`, the statistics, w2v-BERT 2.0.

    Raises:
        ImportError: If transformers is missing.
        ValueError: If a part is missing, damaged or of another kind.
    """
    table = next((path for path in (folder / VOCABULARY, folder / "g2p" / VOCABULARY) if path.is_file()), None)
    lacking = [f"{AUTHORS}/g2p/g2p/{VOCABULARY}"] if table is None else []
    lacking += [f"{AUTHORS}/ckpt/{STATISTICS}.pt"] if statistics_file(folder) is None else []
    if table is None or lacking:
        raise ValueError(f"{folder} lacks files that its authors keep in another place; copy {' and '.join(lacking)} into it")
    sizes, source = read_maskgct_config(folder), str(folder / CONFIG_FILE)
    semantic = read_semantic_tokenizer(folder, wav2vec_folder(folder, options), semantic_config(sizes["semantic_codec"], source))
    audio = AmphionCodecTokenizer(_acoustic_codec(folder, sizes["acoustic_codec"], source))
    phonemes = PhoneTableTokenizer(read_phone_table(table), PHONES)
    tokenizers = {PHONEMES: phonemes, HEARD: semantic, SEMANTIC: semantic, VOICE: audio, AUDIO: audio}
    space = TokenSpace([tokenizer.modality(name) for name, tokenizer in tokenizers.items()])
    second = sizes["s2a_model"]
    kinds = (
        (SemanticStage, sizes["t2s_model"], FIRST),
        (AcousticStage, second["s2a_1layer"], COARSE),
        (AcousticStage, second["s2a_full"], FINE),
    )
    first, coarse, fine = (
        _stage(kind, StageConfig.from_published(section, source), folder / name, options) for kind, section, name in kinds
    )
    return Parts(
        model=MaskGCTNetwork(first, coarse, fine, space).eval(),
        space=space,
        tokenizers=tokenizers,
        settings={SEMANTIC: semantic_settings(semantic.codebook_size), AUDIO: acoustic_settings(audio.codebook_size)},
        grids={SEMANTIC: (DEFAULT_FRAMES,), AUDIO: (DEFAULT_FRAMES,)},
        family=FAMILY.name,
    )


def export_maskgct(parts: Parts, folder: Path) -> None:
    """Write the model as a folder that the authors' classes load, with all that `load_maskgct` needs."""
    network = cast(MaskGCTNetwork, parts.model)
    semantic, audio = cast(SemanticSpeechTokenizer, parts.tokenizers[SEMANTIC]), cast(AmphionCodecTokenizer, parts.tokenizers[AUDIO])
    for name, stage in ((FIRST, network.semantic), (COARSE, network.coarse), (FINE, network.fine)):
        unused = {} if stage is network.semantic else {UNUSED: torch.zeros(0, 256)}
        write_tensors(folder / name / "model.safetensors", {**_tensors(stage), **unused})
    write_tensors(folder / SEMANTIC_CODEC / "model.safetensors", _tensors(semantic.network.codec))
    for name, half in ((ENCODER_FILE, audio.codec.encoder), (DECODER_FILE, audio.codec.decoder)):
        write_tensors(folder / ACOUSTIC_CODEC / f"{name}safetensors", _tensors(half))
    write_json(folder / CONFIG_FILE, {"model": _published_sizes(network, semantic, audio)})
    write_json(folder / VOCABULARY, {"vocab": cast(PhoneTableTokenizer, parts.tokenizers[PHONEMES]).vocabulary})
    statistics = {"mean": semantic.network.mean.cpu(), "var": semantic.network.std.cpu().square()}
    write_tensors(folder / f"{STATISTICS}.safetensors", statistics)
    encoder: Any = semantic.network.encoder
    encoder.save_pretrained(folder / WAV2VEC, safe_serialization=True)
    bank = {"feature_extractor_type": "SeamlessM4TFeatureExtractor", **semantic.extractor}
    write_json(folder / WAV2VEC / "preprocessor_config.json", bank)


def _stage(kind: type[Any], config: StageConfig, folder: Path, options: LoadOptions) -> Any:
    """One stage with its weights."""
    with torch.device("meta"):
        made = kind(config)
    load_exactly(
        made,
        weight_files(folder, "model."),
        source=str(folder),
        rename=lambda name: None if name == UNUSED else name,
        dtype=options.dtype,
        device=options.device,
    )
    return made


def _acoustic_codec(folder: Path, section: Mapping[str, Any], source: str) -> AcousticCodec:
    """The acoustic codec with its weights."""
    with torch.device("meta"):
        codec = AcousticCodec(acoustic_config(section, source))
    for stem, half in ((ENCODER_FILE, codec.encoder), (DECODER_FILE, codec.decoder)):
        place = folder / ACOUSTIC_CODEC
        load_exactly(half, weight_files(place, stem), source=f"{place}/{stem}*")
    return codec


def _tensors(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Tensors of a network for a file."""
    return {name: tensor.cpu().contiguous() for name, tensor in module.state_dict().items()}


def _published_sizes(network: MaskGCTNetwork, semantic: SemanticSpeechTokenizer, audio: AmphionCodecTokenizer) -> dict[str, Any]:
    """Sizes under the names of the authors' `maskgct.json`."""
    stages = []
    for stage in (network.semantic, network.coarse, network.fine):
        trunk = stage.config.trunk
        sizes: dict[str, Any] = {"hidden_size": trunk.dim, "num_layers": trunk.num_layers, "num_heads": trunk.num_heads, "cfg_scale": 0.15}
        sizes["cond_codebook_size"] = stage.config.semantic_codes
        acoustic = {"num_quantizer": stage.config.num_levels, "codebook_size": stage.config.codebook_size}
        stages.append(sizes | (acoustic | {"mask_layer_schedule": "linear"} if stage.config.num_levels else {}))
    codec, small = audio.codec.config, semantic.network.codec.config
    encoder = {"d_model": codec.encoder_dim, "up_ratios": list(codec.strides), "out_channels": codec.dim, "use_tanh": codec.tanh}
    decoder: dict[str, Any] = {"in_channels": codec.dim, "num_quantizers": codec.num_levels, "codebook_size": codec.codebook_size}
    decoder |= {"codebook_dim": codec.codebook_dim, "quantizer_type": "fvq", "use_l2_normlize": True, "use_vocos": True}
    decoder |= {"vocos_dim": codec.vocos_dim, "vocos_intermediate_dim": codec.vocos_hidden, "vocos_num_layers": codec.vocos_layers}
    decoder |= {"n_fft": codec.window, "hop_size": codec.hop, "padding": "same"}
    half = {"codebook_size": small.codebook_size, "hidden_size": small.dim, "codebook_dim": small.codebook_dim}
    half |= {"vocos_dim": small.vocos_dim, "vocos_intermediate_dim": small.vocos_hidden, "vocos_num_layers": small.vocos_layers}
    s2a = {"s2a_1layer": {**stages[1], "predict_layer_1": True}, "s2a_full": {**stages[2], "predict_layer_1": False}}
    return {"t2s_model": stages[0], "s2a_model": s2a, "semantic_codec": half, "acoustic_codec": {"encoder": encoder, "decoder": decoder}}


FAMILY = Family(
    name="MaskGCT",
    hub_ids={"amphion/MaskGCT": 746.40 + 330.35 + 353.44 + 44.29 + 42.54 + 128.20},
    tokenizer_millions={"amphion/MaskGCT": 44.29 + 42.54 + 128.20},
    makes=("text to speech", "voice clone"),
    code_licence="MIT",
    weights_licence="CC-BY-NC-4.0",
    non_commercial=True,
    recognises=holds_maskgct,
    load=load_maskgct,
    export=export_maskgct,
    source="arXiv:2409.00750",
)
