"""MaskGCT's configuration: the authors' `maskgct.json`, or the published sizes where a folder has none."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from maskgen.autoencoders.amphion import AcousticCodecConfig, SemanticCodecConfig
from maskgen.interop.base import read_json

CONFIG_FILE = "maskgct.json"
_STAGE = {"num_layers": 16, "num_heads": 16, "cfg_scale": 0.15, "cond_codebook_size": 8192, "cond_dim": 1024}
_ACOUSTIC = {"hidden_size": 1024, "codebook_size": 1024, "mask_layer_schedule": "linear", **_STAGE}
_VOCOS = {"use_vocos": True, "vocos_dim": 512, "vocos_intermediate_dim": 4096, "vocos_num_layers": 30}
PUBLISHED: Mapping[str, Any] = {
    "t2s_model": {"hidden_size": 1536, **_STAGE},
    "s2a_model": {
        "s2a_1layer": {"num_quantizer": 1, **_ACOUSTIC, "predict_layer_1": True},
        "s2a_full": {"num_quantizer": 12, **_ACOUSTIC, "predict_layer_1": False},
    },
    "semantic_codec": {
        "codebook_size": 8192,
        "hidden_size": 1024,
        "codebook_dim": 8,
        "vocos_dim": 384,
        "vocos_intermediate_dim": 2048,
        "vocos_num_layers": 12,
    },
    "acoustic_codec": {
        "encoder": {"d_model": 96, "up_ratios": [3, 4, 5, 8], "out_channels": 256, "use_tanh": False},
        "decoder": {
            "in_channel": 256,
            "num_quantizers": 12,
            "codebook_size": 1024,
            "codebook_dim": 8,
            "quantizer_type": "fvq",
            "use_l2_normlize": True,
            **_VOCOS,
            "n_fft": 1920,
            "hop_size": 480,
            "padding": "same",
        },
    },
}
"""Sizes of the published model: the section `model` of `maskgct.json`."""
FIXED = {"quantizer_type": "fvq", "use_l2_normlize": True, "use_vocos": True, "padding": "same"}
"""Options of the acoustic codec that the published model has."""


def read_maskgct_config(folder: Path) -> Mapping[str, Any]:
    """Sizes of all networks in a folder.

    Raises:
        ValueError: If the file lacks a section.
    """
    path = folder / CONFIG_FILE
    if not path.is_file():
        return PUBLISHED
    found = read_json(path).get("model")
    if not isinstance(found, Mapping) or any(not isinstance(found.get(name), Mapping) for name in PUBLISHED):
        raise ValueError(f"{path} has no section model with {', '.join(PUBLISHED)}; copy the file again")
    for name in ("s2a_model", "acoustic_codec"):
        if lacking := [part for part in PUBLISHED[name] if not isinstance(found[name].get(part), Mapping)]:
            raise ValueError(f"{path} has no section {lacking[0]} in {name}; copy the file again")
    return found


def semantic_config(section: Mapping[str, Any], source: str) -> SemanticCodecConfig:
    """Size of the semantic codec.

    Raises:
        ValueError: If a size is missing or no positive whole number.
    """
    names = ("hidden_size", "codebook_size", "codebook_dim", "vocos_dim", "vocos_intermediate_dim", "vocos_num_layers")
    dim, codes, search, width, hidden, layers = (_size(section, name, source) for name in names)
    return SemanticCodecConfig(dim=dim, codebook_size=codes, codebook_dim=search, vocos_dim=width, vocos_hidden=hidden, vocos_layers=layers)


def acoustic_config(section: Mapping[str, Any], source: str) -> AcousticCodecConfig:
    """Size of the acoustic codec.

    Raises:
        ValueError: If a size is missing or no positive whole number, or an option has another value than the published model has.
    """
    encoder, decoder = section["encoder"], section["decoder"]
    for name, value in FIXED.items():
        if decoder.get(name, value) != value:
            raise ValueError(f"{source} has {name} {decoder[name]!r}, and maskgen knows this codec with {name} {value!r} alone")
    strides = encoder.get("up_ratios")
    if not isinstance(strides, list) or not strides or not all(isinstance(one, int) and one > 0 for one in strides):
        raise ValueError(f"{source} gives {strides!r} for up_ratios of the encoder, wanted positive whole numbers; copy the file again")
    names = ("num_quantizers", "codebook_size", "codebook_dim", "vocos_dim", "vocos_intermediate_dim", "vocos_num_layers", "n_fft")
    levels, codes, search, width, hidden, layers, window = (_size(decoder, name, source) for name in names)
    config = AcousticCodecConfig(
        encoder_dim=_size(encoder, "d_model", source),
        strides=tuple(strides),
        dim=_size(encoder, "out_channels", source),
        num_levels=levels,
        codebook_size=codes,
        codebook_dim=search,
        vocos_dim=width,
        vocos_hidden=hidden,
        vocos_layers=layers,
        window=window,
        tanh=bool(encoder.get("use_tanh", False)),
    )
    if config.hop != _size(decoder, "hop_size", source):
        raise ValueError(
            f"{source} has strides of {config.hop} samples a frame and a hop_size of {decoder['hop_size']}; copy the file again"
        )
    return config


def _size(section: Mapping[str, Any], name: str, source: str) -> int:
    """A size.

    Raises:
        ValueError: If it is missing or no positive whole number.
    """
    value = section.get(name)
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ValueError(f"{source} gives {value!r} for {name}, wanted a positive whole number; copy the file again")
    return value
