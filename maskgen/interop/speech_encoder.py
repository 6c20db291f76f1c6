"""w2v-BERT 2.0 with the statistics of its features: what MaskGCT's semantic codes are made of."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from maskgen.autoencoders.amphion import SemanticCodec, SemanticCodecConfig
from maskgen.interop.base import LoadOptions, read_json
from maskgen.interop.weights import load_exactly, read_pickle, weight_files
from maskgen.io.hub import local_folder
from maskgen.tokenizers.semantic_speech import SemanticNetwork, SemanticSpeechTokenizer

STATISTICS = "wav2vec2bert_stats"
WAV2VEC, WAV2VEC_ID = "w2v-bert-2.0", "facebook/w2v-bert-2.0"
CODEC_FOLDER = "semantic_codec"
EXTRACTOR = ("feature_size", "sampling_rate", "num_mel_bins", "padding_value", "padding_side", "stride", "return_attention_mask")
"""Arguments of the filter bank that are read from `preprocessor_config.json`."""


def statistics_file(folder: Path) -> Path | None:
    """File of the mean and the variance of the features in a folder; None if there is none."""
    places = [place / f"{STATISTICS}{ending}" for ending in (".safetensors", ".pt") for place in (folder, folder / "ckpt")]
    return next((path for path in places if path.is_file()), None)


def wav2vec_folder(folder: Path, options: LoadOptions) -> Path:
    """Folder of w2v-BERT 2.0: in a model's folder, beside it, or downloaded where the model was.

    Raises:
        ValueError: If it is nowhere.
    """
    for place in (folder / WAV2VEC, folder.parent / WAV2VEC):
        if (place / "config.json").is_file():
            return place
    if options.from_hub:
        return local_folder(WAV2VEC_ID, local_files_only=options.local_files_only, about="the speech encoder of MaskGCT")
    raise ValueError(f"{folder} lacks the speech encoder that makes codes of recordings; copy {WAV2VEC_ID} to {folder / WAV2VEC}")


def read_semantic_tokenizer(folder: Path, encoder: Path, config: SemanticCodecConfig) -> SemanticSpeechTokenizer:
    """The tokenizer of recordings.

    Args:
        folder: Folder of the model, with the statistics and the codec.
        encoder: Folder of w2v-BERT 2.0.
        config: Size of the codec.

    Raises:
        ImportError: If transformers is missing.
        ValueError: If a part is missing, damaged or of another kind.
    """
    with torch.device("meta"):
        codec = SemanticCodec(config)
    load_exactly(codec, weight_files(folder / CODEC_FOLDER, "model."), source=str(folder / CODEC_FOLDER))
    network = SemanticNetwork(_encoder(encoder), codec)
    mean, variance = _statistics(folder, config.dim)
    network.mean.copy_(mean)
    network.std.copy_(variance.sqrt())
    found = read_json(encoder / "preprocessor_config.json")
    return SemanticSpeechTokenizer(network, {name: found[name] for name in EXTRACTOR if name in found})


def _encoder(folder: Path) -> Any:
    """A Wav2Vec2BertModel.

    Raises:
        ValueError: If it is another model, or its weights are damaged or incomplete.
    """
    from safetensors import SafetensorError

    try:
        from transformers import Wav2Vec2BertModel
    except ImportError as error:
        raise ImportError("recordings are encoded by transformers: pip install maskgen[codecs]") from error
    kind = read_json(folder / "config.json").get("model_type")
    if kind != "wav2vec2-bert":
        raise ValueError(f"{folder} holds a {kind}, wanted a wav2vec2-bert; copy {WAV2VEC_ID} there")
    made: Any = Wav2Vec2BertModel
    try:
        model, info = made.from_pretrained(
            str(folder), use_safetensors=True, dtype=torch.float32, local_files_only=True, output_loading_info=True
        )
    except (OSError, RuntimeError, SafetensorError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ValueError(f"no speech encoder can be read from {folder} ({reason}); copy {WAV2VEC_ID} there again") from error
    if lacking := sorted(map(str, [*info["missing_keys"], *info["mismatched_keys"]])):
        raise ValueError(f"the weights in {folder} lack {len(lacking)} tensors, the first is {lacking[0]}; copy the model again")
    return model


def _statistics(folder: Path, dim: int) -> tuple[Tensor, Tensor]:
    """Mean and variance of each channel.

    Raises:
        ValueError: If the file has others.
    """
    path = statistics_file(folder)
    assert path is not None, "checked when the folder was opened"
    found: Any = _safe(path) if path.suffix == ".safetensors" else read_pickle(path)
    parts: list[Any] = [found.get(name) if isinstance(found, dict) else None for name in ("mean", "var")]
    for part in parts:
        if not isinstance(part, Tensor) or part.shape != (dim,) or not part.isfinite().all():
            raise ValueError(f"{path} has no mean and var of {dim} channels; copy it again")
    if not bool((parts[1] > 0).all()):
        raise ValueError(f"{path} has a var that is not positive; copy it again")
    return parts[0].float(), parts[1].float()


def _safe(path: Path) -> dict[str, Tensor]:
    """Tensors of a safetensors file.

    Raises:
        ValueError: If it is damaged.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path} is no whole safetensors file ({error}); copy it again") from error
