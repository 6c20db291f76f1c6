"""Audio tokenizer based on EnCodec from the package `encodec`, at 24 kHz or 48 kHz."""

import importlib
import importlib.util
import math
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from maskgen.io.bundle import load_bundle
from maskgen.io.fitting import fitted, refusing
from maskgen.io.schema import Items, Maybe, Real, Record, Text, Whole, record_of
from maskgen.tokenizers.chunking import Windows
from maskgen.tokenizers.external_codec import CodecTokenizer, chosen_levels, levels_of_bandwidth
from maskgen.tokens.space import MOST_CODES, MOST_LEVELS

_BUNDLE_KIND = "encodec_tokenizer"
PARTS = "_maskgen_encodec_parts"


@dataclass(frozen=True, kw_only=True)
class EncodecConfig:
    """Architecture of an EnCodec model.

    Args:
        sample_rate_hz: Sample rate.
        channels: Audio channels.
        bandwidths_kbps: Bandwidths that it was trained for, ascending; the last uses all levels.
        causal: Whether a frame depends only on earlier samples.
        norm: "weight_norm" or "time_group_norm".
        normalize: Whether each segment is divided by its RMS.
        segment_s: Length of a segment in seconds; None processes the whole audio at once.
        codebook_size: Number of codes per level, a power of 2.
        dim: Width of a frame.
        num_filters: Width of the first convolution.
        ratios: Strides of the decoder, first to last.
    """

    sample_rate_hz: int = 24_000
    channels: int = 1
    bandwidths_kbps: tuple[float, ...] = (1.5, 3.0, 6.0, 12.0, 24.0)
    causal: bool = True
    norm: str = "weight_norm"
    normalize: bool = False
    segment_s: float | None = None
    codebook_size: int = 1024
    dim: int = 128
    num_filters: int = 32
    ratios: tuple[int, ...] = (8, 5, 4, 2)

    @property
    def kbps_per_level(self) -> float:
        """Bandwidth of one level."""
        return math.ceil(self.sample_rate_hz / math.prod(self.ratios)) * math.log2(self.codebook_size) / 1000

    @property
    def max_levels(self) -> int:
        """Number of levels of the quantizer."""
        return math.floor(self.bandwidths_kbps[-1] / self.kbps_per_level)


ENCODEC_SCHEMA = Record(
    {
        "model": record_of(
            EncodecConfig,
            sample_rate_hz=Whole(1000, 1_000_000),
            channels=Whole(1, 16),
            bandwidths_kbps=Items(Real(0.001, 1e6), least=1, most=64),
            codebook_size=Whole(2, MOST_CODES),
            ratios=Items(Whole(1, 1024), least=1, most=16),
            segment_s=Maybe(Real(0.001, 1e6)),
            norm=Text(("weight_norm", "time_group_norm")),
        ),
        "num_levels": Whole(1, MOST_LEVELS),
    }
)

CONFIGS = {
    "24khz": EncodecConfig(),
    "48khz": EncodecConfig(
        sample_rate_hz=48_000,
        channels=2,
        bandwidths_kbps=(3.0, 6.0, 12.0, 24.0),
        causal=False,
        norm="time_group_norm",
        normalize=True,
        segment_s=1.0,
    ),
}
"""Architectures of the two published models, by name."""


def _architecture(model: str | EncodecConfig) -> EncodecConfig:
    if isinstance(model, EncodecConfig):
        return model
    if model not in CONFIGS:
        raise ValueError(f"there is no EnCodec model {model!r}; name one of {', '.join(CONFIGS)}")
    return CONFIGS[model]


def _parts() -> tuple[Any, Any]:
    """Import `encodec.modules` and `encodec.quantization` without running `encodec/__init__.py`.

    That file imports torchaudio, which the package needs for files, resampling and discriminators but not for its networks, and which
    must match the exact torch build. The two subpackages need only torch and einops. They are imported under a private name, so that a
    plain `import encodec` elsewhere is not affected.

    Raises:
        ImportError: If encodec or einops is not installed.
    """
    place = importlib.util.find_spec("encodec")
    if place is None or place.submodule_search_locations is None:
        raise ImportError("this tokenizer needs encodec: pip install maskgen[codecs]")
    if PARTS not in sys.modules:
        package = ModuleType(PARTS, "Folders of encodec that need no torchaudio.")
        package.__path__ = list(place.submodule_search_locations)
        sys.modules[PARTS] = package
    return importlib.import_module(f"{PARTS}.modules"), importlib.import_module(f"{PARTS}.quantization")


class EncodecNetwork(nn.Module):
    """EnCodec encoder, quantizer and decoder with random weights, and the parameter names of `encodec.EncodecModel`.

    Raises:
        ImportError: If encodec is not installed.
    """

    def __init__(self, config: EncodecConfig) -> None:
        super().__init__()
        modules, quantization = _parts()
        size = {"channels": config.channels, "dimension": config.dim, "n_filters": config.num_filters, "ratios": list(config.ratios)}
        self.encoder = modules.SEANetEncoder(**size, norm=config.norm, causal=config.causal)
        self.decoder = modules.SEANetDecoder(**size, norm=config.norm, causal=config.causal)
        self.quantizer = quantization.ResidualVectorQuantizer(dimension=config.dim, n_q=config.max_levels, bins=config.codebook_size)


class EncodecTokenizer(CodecTokenizer):
    """Audio tokenizer based on EnCodec: 75 frames per second at 24 kHz, 150 at 48 kHz.

    The 24 kHz model processes the whole audio at once: its LSTM keeps state from the first sample on, so any split would leave a seam.

    The 48 kHz model was trained on segments of 1 s, each divided by its RMS, and its normalization layers span the segment, decoder output
    included. So segments stay 1 s long, and the scale becomes the last level of the codes (see `CodecTokenizer`); without it, silence
    would be decoded as loud as speech. The package lets segments overlap by 1 %, 1.5 frames, and stores the codes of both; here
    they overlap by 2 whole frames and each keeps one of them, so that a frame has one column of codes. Up to 1 s, the codes equal
    the package's.

    Args:
        network: An `EncodecNetwork` with weights.
        config: Its architecture.
        num_levels: Number of levels to use, without the loudness level; None uses all.

    Raises:
        ValueError: If the model has fewer levels.
    """

    bundle_kind: ClassVar[str] = _BUNDLE_KIND

    def __init__(self, network: nn.Module, config: EncodecConfig, num_levels: int | None = None) -> None:
        hop = math.prod(config.ratios)
        windows = None
        if config.segment_s is not None:
            windows = Windows(length=int(config.segment_s * config.sample_rate_hz) // hop, context=1, fade=1)
        super().__init__(network, chosen_levels(num_levels, None, 1, config.max_levels), windows, config.normalize)
        self.config, self.codebook_size = config, config.codebook_size
        self.sample_rate_hz, self.channels, self.samples_per_frame = config.sample_rate_hz, config.channels, hop

    @classmethod
    def from_file(cls, path: Path | str, model: str | EncodecConfig, bandwidth_kbps: float | None = None) -> "EncodecTokenizer":
        """Load published weights from a file. Never accesses the network.

        Args:
            path: A state dict of `encodec.EncodecModel`, in safetensors or as torch saved it (`encodec_24khz-d7cc33bc.th`).
            model: Architecture of the weights: "24khz", "48khz" or another architecture.
            bandwidth_kbps: Bandwidth that determines the number of levels; None uses all.

        Raises:
            ImportError: If encodec is not installed.
            ValueError: If the file is missing, damaged or of another model, or there is no such model or bandwidth.
        """
        return cls._loaded(_read_weights(Path(path)), _architecture(model), bandwidth_kbps, str(path))

    @classmethod
    def from_package(cls, model: str, bandwidth_kbps: float | None = None, repository: Path | None = None) -> "EncodecTokenizer":
        """Load the published weights with the package, from the network or from a folder.

        The package unpickles the file after checking the hash in its name. `from_file` reads the same file as data only.

        Args:
            model: "24khz" or "48khz".
            bandwidth_kbps: Bandwidth that determines the number of levels; None uses all.
            repository: Folder with the package's weight files; None downloads them.

        Raises:
            ImportError: If encodec cannot be imported, usually because no torchaudio that matches torch is installed.
            ValueError: If there is no such model or bandwidth.
        """
        config = _architecture(model)
        try:
            package: Any = importlib.import_module("encodec")
        except (ImportError, OSError, RuntimeError) as error:
            raise ImportError(
                f"encodec cannot be imported whole ({error}); it needs a torchaudio of the same build as torch: "
                "pip install maskgen[codecs] torchaudio, or load a weight file with EncodecTokenizer.from_file"
            ) from error
        found = getattr(package.EncodecModel, f"encodec_model_{model}")(pretrained=True, repository=repository)
        return cls._loaded(found.state_dict(), config, bandwidth_kbps, f"encodec's {model} model")

    @classmethod
    def from_bundle(cls, folder: Path | str) -> "EncodecTokenizer":
        """Load a tokenizer that `save` wrote.

        Raises:
            ImportError: If encodec is not installed.
            ValueError: If the bundle is missing, of another kind or damaged.
        """
        bundle = load_bundle(folder, _BUNDLE_KIND, ENCODEC_SCHEMA)
        sizes: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in bundle.config["model"].items()}
        with refusing(str(folder)):
            config = EncodecConfig(**sizes)
        network = fitted(lambda: EncodecNetwork(config), bundle.tensors, str(folder))
        network.load_state_dict(bundle.tensors)
        with refusing(str(folder)):
            tokenizer = cls(network, config, bundle.config["num_levels"])
        tokenizer._fingerprint = bundle.fingerprint
        return tokenizer

    @classmethod
    def _loaded(cls, weights: dict[str, Tensor], config: EncodecConfig, bandwidth_kbps: float | None, source: str) -> "EncodecTokenizer":
        """Build a tokenizer from weights that must match the architecture exactly."""
        levels = None
        if bandwidth_kbps is not None:
            levels = levels_of_bandwidth(bandwidth_kbps, config.bandwidths_kbps, config.kbps_per_level)
        network = EncodecNetwork(config)
        try:
            network.load_state_dict(weights)
        except RuntimeError as error:
            reason = " ".join(str(error).split())[:200]
            raise ValueError(f"the weights of {source} are of another model ({reason}); name the model that they are of") from error
        return cls(network, config, levels)

    def _config(self) -> dict[str, Any]:
        """Return the architecture and the number of levels as plain data."""
        model = {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self.config).items()}
        return {"model": model, "num_levels": self.codec_levels}

    def _to_codes(self, samples: Float[Tensor, "1 channels samples"]) -> Int[Tensor, "level frames"]:
        """Encode with a given number of levels. The quantizer's own `encode` takes a bandwidth, and uses all levels if none is set."""
        network: Any = self.network
        codes: Tensor = network.quantizer.vq.encode(network.encoder(samples), n_q=self.codec_levels)
        return codes[:, 0]

    def _to_samples(self, codes: Int[Tensor, "1 level frames"]) -> Float[Tensor, "channels samples"]:
        network: Any = self.network
        samples: Tensor = network.decoder(network.quantizer.decode(codes.transpose(0, 1)))
        return samples[0]


def _read_weights(path: Path) -> dict[str, Tensor]:
    """Read a state dict from a file, as data only.

    Raises:
        ValueError: If the file is missing, damaged or holds anything else.
    """
    import pickle

    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if not path.is_file():
        raise ValueError(f"{path} does not exist or is no file; give weights of encodec, .safetensors or .th")
    try:
        found = load_file(path) if path.suffix == ".safetensors" else torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, pickle.UnpicklingError, RuntimeError, EOFError, ValueError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ValueError(f"{path} is damaged or holds no weights ({reason}); copy the file again") from error
    if not isinstance(found, dict) or not all(isinstance(value, Tensor) for value in found.values()):
        raise ValueError(f"{path} holds no state dict; give weights of encodec, tensors by name")
    return found
