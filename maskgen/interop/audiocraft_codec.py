"""The EnCodec that audiocraft exports beside its models, as transformers' EncodecModel."""

from pathlib import Path
from typing import Any

from torch import Tensor, nn

from maskgen.interop.audiocraft_config import WEIGHTS, Exported, read_exported, write_exported
from maskgen.interop.weights import read_pickle
from maskgen.io.fitting import fitted, refusing
from maskgen.tokenizers.transformers_codec import TransformersCodecTokenizer

SIZES = {
    "hidden_size": "seanet.dimension",
    "num_filters": "seanet.n_filters",
    "num_residual_layers": "seanet.n_residual_layers",
    "upsampling_ratios": "seanet.ratios",
    "norm_type": "seanet.norm",
    "kernel_size": "seanet.kernel_size",
    "last_kernel_size": "seanet.last_kernel_size",
    "residual_kernel_size": "seanet.residual_kernel_size",
    "dilation_growth_rate": "seanet.dilation_base",
    "use_causal_conv": "seanet.causal",
    "pad_mode": "seanet.pad_mode",
    "compress": "seanet.compress",
    "num_lstm_layers": "seanet.lstm",
    "trim_right_ratio": "seanet.decoder.trim_right_ratio",
    "audio_channels": "seanet.channels",
    "codebook_size": "rvq.bins",
    "sampling_rate": "encodec.sample_rate",
}
"""Fields of transformers' configuration to the names of audiocraft's."""
WANTED = {
    "compression_model": "encodec",
    "encodec.autoencoder": "seanet",
    "encodec.quantizer": "rvq",
    "encodec.renormalize": False,
    "seanet.activation": "ELU",
    "seanet.disable_norm_outer_blocks": 0,
}
"""Choices of audiocraft that transformers' EncodecModel implements."""


def read_audiocraft_codec(path: Path) -> tuple[TransformersCodecTokenizer, str]:
    """Read an exported EnCodec.

    Returns:
        The tokenizer, and the YAML of the file to write it again.

    Raises:
        ImportError: If transformers is missing.
        ValueError: If the file is missing or damaged, or holds another codec.
    """
    exported = read_exported(path)
    for name, wanted in WANTED.items():
        if exported.get(name, wanted) != wanted:
            raise ValueError(f"{path} has {name} {exported.get(name)!r}, wanted {wanted!r}; take a model with EnCodec")
    tensors = read_pickle(path)[WEIGHTS]

    def published(model: nn.Module) -> dict[str, Tensor]:
        names = published_names(model)
        return {names[name]: tensor for name, tensor in model.state_dict().items()}

    model = fitted(lambda: _model(exported), tensors, str(path), published)
    model.load_state_dict({name: tensors[theirs] for name, theirs in published_names(model).items()})
    return TransformersCodecTokenizer(model, exported.get("rvq.n_q")), exported.text


def write_audiocraft_codec(codec: TransformersCodecTokenizer, text: str, path: Path) -> None:
    """Write an EnCodec as audiocraft exports it.

    Args:
        codec: Result of `read_audiocraft_codec`.
        text: Its YAML.
        path: The file.
    """
    names = published_names(codec.network)
    write_exported(path, {names[name]: tensor for name, tensor in codec.network.state_dict().items()}, text)


def published_names(model: nn.Module) -> dict[str, str]:
    """Names of the tensors of an EncodecModel, to those that audiocraft gives them."""
    found = {}
    for name in model.state_dict():
        theirs = name.replace("coder.layers.", "coder.model.").replace("quantizer.layers.", "quantizer.vq.layers.")
        theirs = theirs.replace(".codebook.", "._codebook.")
        theirs = theirs.replace("parametrizations.weight.original0", "weight_g").replace("parametrizations.weight.original1", "weight_v")
        place = name.split(".conv.")[0]
        if place != name:
            upwards = isinstance(model.get_submodule(f"{place}.conv"), nn.ConvTranspose1d)
            theirs = theirs.replace(".conv.", ".convtr.convtr." if upwards else ".conv.conv.")
        found[name] = theirs
    return found


def _model(exported: Exported) -> Any:
    """An EncodecModel of the sizes in a configuration, with random weights.

    Raises:
        ValueError: If a size is missing or of another kind.
    """
    try:
        from transformers import EncodecConfig, EncodecModel
    except ImportError as error:
        raise ImportError("EnCodec needs transformers: pip install maskgen[codecs]") from error
    sizes: dict[str, Any] = {ours: value for ours, theirs in SIZES.items() if (value := exported.get(theirs)) is not None}
    with refusing(str(exported.path)):
        config: Any = EncodecConfig(**sizes, use_conv_shortcut=not exported.get("seanet.true_skip", True))
        # half a level more: transformers rounds the number of levels down
        config.target_bandwidths = [(int(exported.get("rvq.n_q", 0)) + 0.5) * config.frame_rate * config.codebook_nbits / 1000]
        return EncodecModel(config)
