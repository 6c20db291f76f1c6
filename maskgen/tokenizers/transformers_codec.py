"""Audio tokenizer based on a codec of transformers: EnCodec, Mimi, DAC or Higgs Audio."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from maskgen.io.bundle import load_bundle
from maskgen.io.fitting import fitted, refusing
from maskgen.io.schema import Plain, Record, Table, Text, Whole
from maskgen.tokenizers.chunking import Windows
from maskgen.tokenizers.external_codec import CodecTokenizer, chosen_levels, levels_of_bandwidth
from maskgen.tokens.space import MOST_LEVELS

_BUNDLE_KIND = "transformers_codec_tokenizer"
CHUNK_S = 20.0
"""Length of the pieces that DAC processes at once, without context."""


@dataclass(frozen=True, kw_only=True)
class CodecFamily:
    """Properties in which the supported codecs differ.

    Args:
        model: Name of the model class in transformers.
        config: Name of its config class.
        max_levels: Returns the number of levels of a config.
        samples_per_frame: Returns the samples per frame of a config.
        windows: Returns how a config splits long audio.
        encode: Encodes samples [1, channels, samples] to codes [level, frames] with a given number of levels.
        decode: Decodes codes [1, level, frames] to samples [channels, samples].
        parts: Names of its encoder and its decoder.
        rate: Name of its sample rate in a config.
    """

    model: str
    config: str
    max_levels: Callable[[Any], int]
    samples_per_frame: Callable[[Any], int]
    windows: Callable[[Any], Windows | None]
    encode: Callable[[Any, Tensor, int], Tensor]
    decode: Callable[[Any, Tensor], Tensor]
    parts: tuple[str, str] = ("encoder", "decoder")
    rate: str = "sampling_rate"


def _encodec_windows(config: Any) -> Windows | None:
    """Return segments as in training, overlapping by whole frames and at least by the overlap in the config."""
    if config.chunk_length_s is None:
        return None
    length = config.chunk_length // config.hop_length
    context = max(1, math.ceil(length * (config.overlap or 0.0) / 2))
    return Windows(length=length, context=context, fade=context)


def _encodec_kbps_per_level(config: Any) -> float:
    return float(math.log2(config.codebook_size) * config.frame_rate / 1000)


def _encodec_encode(model: Any, samples: Tensor, levels: int) -> Tensor:
    """Encode with half a level more bandwidth: the quantizer rounds down to whole levels, so a rounding error can't lose one."""
    bandwidth = (levels + 0.5) * _encodec_kbps_per_level(model.config)
    codes: Tensor = model.quantizer.encode(model.encoder(samples), bandwidth)
    return codes[:, 0]


def _encodec_decode(model: Any, codes: Tensor) -> Tensor:
    samples: Tensor = model.decoder(model.quantizer.decode(codes.transpose(0, 1)))
    return samples[0]


def _mimi_encode(model: Any, samples: Tensor, levels: int) -> Tensor:
    codes: Tensor = model.encode(samples, num_quantizers=levels, return_dict=True).audio_codes
    return codes[0]


def _mimi_decode(model: Any, codes: Tensor) -> Tensor:
    samples: Tensor = model.decode(codes, return_dict=True).audio_values
    return samples[0]


def _dac_windows(config: Any) -> Windows:
    """Return pieces of `CHUNK_S` with enough context that no kept frame or sample depends on the border of its piece.

    Each block reaches 39 samples to each side (kernels of 7, dilations 1, 3 and 9), each strided convolution less than 2 strides.
    """
    hop, rate = config.hop_length, 1.0
    encoder, decoder = 3.0, 3.0
    for stride in config.downsampling_ratios:
        encoder, rate = encoder + rate * (39 + 2 * stride), rate * stride
    rate = 1.0
    for stride in config.upsampling_ratios:
        decoder, rate = decoder + 2 * rate + 39 * rate / stride, rate / stride
    context = math.ceil(max((encoder + hop) / hop, decoder + 3 * rate)) + 1
    return Windows(length=math.ceil(CHUNK_S * config.sampling_rate / hop) + 2 * context, context=context)


def _dac_encode(model: Any, samples: Tensor, levels: int) -> Tensor:
    """Encode after padding with zeros to a whole frame, as DAC's feature extractor does; DAC itself would drop the last frame."""
    padded = torch.nn.functional.pad(samples, (0, -samples.shape[-1] % model.config.hop_length))
    codes: Tensor = model.encode(padded, n_quantizers=levels, return_dict=True).audio_codes
    return codes[0]


def _dac_decode(model: Any, codes: Tensor) -> Tensor:
    samples: Tensor = model.decode(audio_codes=codes, return_dict=True).audio_values
    return samples


def _higgs_encode(model: Any, samples: Tensor, levels: int) -> Tensor:
    """Encode after padding with zeros to a whole frame. Its levels are residuals of each other, so the first ones are a prefix."""
    padded = torch.nn.functional.pad(samples, (0, -samples.shape[-1] % model.config.hop_length))
    codes: Tensor = model.encode(padded, return_dict=True).audio_codes
    return codes[0, :levels]


CODEC_FAMILIES = {
    "encodec": CodecFamily(
        model="EncodecModel",
        config="EncodecConfig",
        max_levels=lambda config: int(config.num_quantizers),
        samples_per_frame=lambda config: int(config.hop_length),
        windows=_encodec_windows,
        encode=_encodec_encode,
        decode=_encodec_decode,
    ),
    "mimi": CodecFamily(
        model="MimiModel",
        config="MimiConfig",
        max_levels=lambda config: int(config.num_quantizers),
        samples_per_frame=lambda config: math.prod(config.upsampling_ratios) * int(config.latent_stride),
        windows=lambda config: None,
        encode=_mimi_encode,
        decode=_mimi_decode,
    ),
    "dac": CodecFamily(
        model="DacModel",
        config="DacConfig",
        max_levels=lambda config: int(config.n_codebooks),
        samples_per_frame=lambda config: int(config.hop_length),
        windows=_dac_windows,
        encode=_dac_encode,
        decode=_dac_decode,
    ),
    "higgs_audio_v2_tokenizer": CodecFamily(
        model="HiggsAudioV2TokenizerModel",
        config="HiggsAudioV2TokenizerConfig",
        max_levels=lambda config: int(config.num_quantizers),
        samples_per_frame=lambda config: int(config.hop_length),
        windows=lambda config: None,
        encode=_higgs_encode,
        decode=_mimi_decode,
        parts=("acoustic_encoder", "acoustic_decoder"),
        rate="sample_rate",
    ),
}
"""Codecs by the `model_type` of their config."""
CODEC_SCHEMA = Record({"family": Text(tuple(CODEC_FAMILIES)), "model": Table(Plain()), "num_levels": Whole(1, MOST_LEVELS)})


def _plain(value: Any, general: Mapping[str, Any]) -> Any:
    """A value of a config as JSON has it; a config inside it without the fields that every config has, but with its type."""
    if isinstance(value, Mapping) and "model_type" in value:
        return {name: _plain(one, general) for name, one in value.items() if name not in general or name == "model_type"}
    return list(value) if isinstance(value, tuple) else value


def _transformers() -> Any:
    """Import transformers, or raise an ImportError that names the extra."""
    try:
        import transformers
    except ImportError as error:
        raise ImportError("this tokenizer needs transformers: pip install maskgen[codecs]") from error
    return transformers


class TransformersCodecTokenizer(CodecTokenizer):
    """Audio tokenizer based on an EncodecModel, MimiModel, DacModel or HiggsAudioV2TokenizerModel.

    EnCodec at 24 kHz, Mimi and Higgs Audio process the whole audio at once, because their LSTM and attention keep state. EnCodec with
    chunks (48 kHz) uses its chunks, which overlap by whole frames, 2 for its 1 %; each chunk's scale is the last level of the codes. DAC
    is purely convolutional: beyond 20 s it runs in pieces with enough context that codes and samples equal those of the whole audio.

    Args:
        model: The model. It is frozen, converted to float32 and set to evaluation mode.
        num_levels: Number of levels to use, without the loudness level; None uses all.
        bandwidth_kbps: Bandwidth that determines the number of levels, for EnCodec only.

    Raises:
        ValueError: If the model has another class, lacks its encoder or decoder, or has no such level or bandwidth.
    """

    bundle_kind: ClassVar[str] = _BUNDLE_KIND

    def __init__(self, model: Any, num_levels: int | None = None, bandwidth_kbps: float | None = None) -> None:
        config = model.config
        kind = getattr(config, "model_type", type(model).__name__)
        if kind not in CODEC_FAMILIES or any(getattr(model, name, None) is None for name in CODEC_FAMILIES[kind].parts):
            raise ValueError(f"the model is a {kind}, wanted a whole {', '.join(CODEC_FAMILIES)} with encoder and decoder")
        self.family = CODEC_FAMILIES[kind]
        lowest, highest = int(getattr(config, "num_semantic_quantizers", 1)), self.family.max_levels(config)
        levels = chosen_levels(num_levels, self._bandwidth_levels(kind, config, bandwidth_kbps), lowest, highest)
        super().__init__(model, levels, self.family.windows(config), bool(getattr(config, "normalize", False)))
        self.codebook_size, self.sample_rate_hz = int(config.codebook_size), int(getattr(config, self.family.rate))
        self.channels, self.samples_per_frame = int(getattr(config, "audio_channels", 1)), self.family.samples_per_frame(config)

    @staticmethod
    def _bandwidth_levels(kind: str, config: Any, bandwidth_kbps: float | None) -> int | None:
        if bandwidth_kbps is None:
            return None
        if kind != "encodec":
            raise ValueError(f"bandwidth_kbps is for encodec, this is a {kind}; give num_levels")
        return levels_of_bandwidth(bandwidth_kbps, config.target_bandwidths, _encodec_kbps_per_level(config))

    @classmethod
    def from_pretrained(
        cls,
        source: Path | str,
        num_levels: int | None = None,
        bandwidth_kbps: float | None = None,
        revision: str | None = None,
        local_files_only: bool = False,
    ) -> "TransformersCodecTokenizer":
        """Load a model in the format of transformers. Weights are read from safetensors only, and no code is run.

        Args:
            source: Folder with `config.json` and weights (never accesses the network), or a hub id such as "kyutai/mimi" (online).
            num_levels: Number of levels to use; None uses all.
            bandwidth_kbps: Bandwidth that determines the number of levels, for EnCodec only.
            revision: Branch, tag or commit of a hub id.
            local_files_only: Take a hub id from the cache alone and ask no server.

        Raises:
            ImportError: If transformers is not installed.
            ValueError: If there is no such model, it is of another class, damaged or incomplete, or has no such level or bandwidth.
        """
        from safetensors import SafetensorError

        package = _transformers()
        local = Path(source).is_dir()
        if not local and (isinstance(source, Path) or source.count("/") != 1 or source.startswith((".", "/", "~"))):
            raise ValueError(f"{source} is no folder; give a folder with a codec of transformers, or a hub id like owner/name")
        place = {"revision": revision or "main", "local_files_only": local or local_files_only}
        try:
            kind = package.PreTrainedConfig.get_config_dict(str(source), **place)[0].get("model_type")
            if kind not in CODEC_FAMILIES:
                found = f"a {kind}" if kind else "no config.json with a model_type"
                raise ValueError(f"{source} holds {found}, wanted {', '.join(CODEC_FAMILIES)}")
            model_class = getattr(package, CODEC_FAMILIES[kind].model)
            model, info = model_class.from_pretrained(
                str(source), use_safetensors=True, dtype=torch.float32, output_loading_info=True, **place
            )
        except (OSError, RuntimeError, SafetensorError) as error:
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise ValueError(f"no codec can be read from {source} ({reason}); give config.json and whole safetensors weights") from error
        # transformers only warns here and leaves those weights random.
        if lacking := sorted(map(str, [*info["missing_keys"], *info["mismatched_keys"]])):
            raise ValueError(f"the weights in {source} lack {len(lacking)} tensors, the first is {lacking[0]}; copy the model again")
        return cls(model, num_levels, bandwidth_kbps)

    @classmethod
    def from_bundle(cls, folder: Path | str) -> "TransformersCodecTokenizer":
        """Load a tokenizer that `save` wrote.

        Raises:
            ImportError: If transformers is not installed.
            ValueError: If the bundle is missing, of another kind or damaged.
        """
        package = _transformers()
        bundle = load_bundle(folder, _BUNDLE_KIND, CODEC_SCHEMA)
        family = CODEC_FAMILIES[bundle.config["family"]]
        with refusing(str(folder)):
            config = getattr(package, family.config)(**bundle.config["model"])
        model = fitted(lambda: getattr(package, family.model)(config), bundle.tensors, str(folder))
        model.load_state_dict(bundle.tensors)
        with refusing(str(folder)):
            tokenizer = cls(model, bundle.config["num_levels"])
        tokenizer._fingerprint = bundle.fingerprint
        return tokenizer

    def _config(self) -> dict[str, Any]:
        """Return the model's config as plain data and the number of levels.

        Fields that every transformers config has (version, path, labels) are omitted, because they must not change the fingerprint.
        """
        config: Any = self.network.config
        general = _transformers().PreTrainedConfig().to_dict()
        model = {name.lstrip("_"): _plain(value, general) for name, value in config.to_dict().items() if name not in general}
        return {"family": config.model_type, "model": model, "num_levels": self.codec_levels}

    def _to_codes(self, samples: Float[Tensor, "1 channels samples"]) -> Int[Tensor, "level frames"]:
        return self.family.encode(self.network, samples, self.codec_levels)

    def _to_samples(self, codes: Int[Tensor, "1 level frames"]) -> Float[Tensor, "channels samples"]:
        return self.family.decode(self.network, codes)
