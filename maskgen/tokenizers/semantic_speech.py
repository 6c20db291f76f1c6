"""Tokenizer from recordings to semantic codes: the features of a speech encoder, quantized."""

import dataclasses
import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from maskgen.autoencoders.amphion import SemanticCodec, SemanticCodecConfig
from maskgen.io.audio import Waveform, fit_audio, read_sound
from maskgen.io.bundle import WEIGHTS_FILE, fingerprint_of, load_bundle, save_bundle
from maskgen.io.fitting import fitted, refusing
from maskgen.io.schema import Plain, Record, Table, Whole, record_of
from maskgen.tokenizers.base import Tokenizer
from maskgen.tokens.batch import Codes
from maskgen.tokens.space import MOST_CODES, Kind

_BUNDLE_KIND = "semantic_speech_tokenizer"
LAYER = 17
"""Layer of w2v-BERT 2.0 whose output is quantized, counted from 1."""
SAMPLES_PER_STEP = 160
"""Samples from one frame of the filter bank to the next, at 16 kHz."""
LEAST_S = 0.1
"""Shortest recording that is encoded."""
_SIZE = Whole(1, 65_536)
_CODEC = record_of(
    SemanticCodecConfig,
    **dict.fromkeys(("dim", "codebook_dim", "vocos_dim", "vocos_hidden"), _SIZE),
    codebook_size=Whole(1, MOST_CODES),
    vocos_layers=Whole(1, 1024),
)
SCHEMA = Record({"codec": _CODEC, "encoder": Table(Plain()), "extractor": Table(Plain()), "layer": Whole(1, 1024)})


class SemanticNetwork(nn.Module):
    """A speech encoder, the statistics of its features, and the codec that quantizes them.

    Args:
        encoder: A Wav2Vec2BertModel.
        codec: The codec.
        layer: Layer of the encoder whose output is quantized.

    Raises:
        ValueError: If the encoder has fewer layers, or another width than the codec.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, encoder: Any, codec: SemanticCodec, layer: int = LAYER) -> None:
        super().__init__()
        layers, width = int(encoder.config.num_hidden_layers), int(encoder.config.hidden_size)
        if layers < layer or width != codec.config.dim:
            raise ValueError(
                f"the speech encoder has {layers} layers of width {width}, wanted at least {layer} layers of width {codec.config.dim}; "
                "copy w2v-BERT 2.0 and the codec again"
            )
        self.encoder, self.codec, self.layer = encoder, codec, layer
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("std", torch.ones(width))

    @torch.no_grad()
    def encode(self, features: Float[Tensor, "1 frames bins"], mask: Int[Tensor, "1 frames"]) -> Int[Tensor, " frames"]:
        """Codes of the filter bank of a recording."""
        found = self.encoder(input_features=features, attention_mask=mask, output_hidden_states=True).hidden_states[self.layer]
        codes: Tensor = self.codec.encode((found - self.mean) / self.std)[0]
        return codes

    @torch.no_grad()
    def decode(self, codes: Int[Tensor, "1 frames"]) -> Float[Tensor, "frames dim"]:
        """Features of the encoder's layer that codes stand for."""
        found: Tensor = self.codec(codes)[0]
        return found * self.std + self.mean


class SemanticSpeechTokenizer(Tokenizer):
    """Recordings to what is said and how, 50 codes a second: [1, frames]. The codes hold no voice, so no waveform comes back.

    A recording is brought to 16 kHz and one channel. Decoding gives features of the speech encoder, a tensor [frames, dim].

    Args:
        network: Encoder and codec.
        extractor: Arguments of the filter bank, a SeamlessM4TFeatureExtractor of transformers.

    Raises:
        ImportError: If transformers is missing.
        ValueError: If the arguments make no filter bank.

    Source: MaskGCT, arXiv:2409.00750 (semantic tokens of layer 17 of w2v-BERT 2.0).
    """

    kind: ClassVar[Kind] = "audio"
    num_levels = 1

    def __init__(self, network: SemanticNetwork, extractor: Mapping[str, Any]) -> None:
        from transformers import SeamlessM4TFeatureExtractor

        made: Any = SeamlessM4TFeatureExtractor
        with refusing("the filter bank"):
            self._bank = made(**extractor)
        self.network, self.extractor = network.float().eval().requires_grad_(False), dict(extractor)
        self.codebook_size, self.sample_rate_hz = network.codec.config.codebook_size, int(self._bank.sampling_rate)
        self.frames_per_s = self.sample_rate_hz / SAMPLES_PER_STEP / int(self._bank.stride)
        self._fingerprint = ""

    @classmethod
    def from_bundle(cls, folder: Path | str) -> "SemanticSpeechTokenizer":
        """Load a tokenizer that `save` wrote.

        Raises:
            ImportError: If transformers is missing.
            ValueError: If the bundle is missing, of another kind or damaged.
        """
        from transformers import Wav2Vec2BertConfig, Wav2Vec2BertModel

        bundle = load_bundle(folder, _BUNDLE_KIND, SCHEMA)
        sizes: Any = Wav2Vec2BertConfig
        with refusing(str(folder)):
            encoder = sizes(**bundle.config["encoder"])
            codec = SemanticCodecConfig(**bundle.config["codec"])
        network = fitted(
            lambda: SemanticNetwork(Wav2Vec2BertModel(encoder), SemanticCodec(codec), bundle.config["layer"]), bundle.tensors, str(folder)
        )
        network.load_state_dict(bundle.tensors)
        return cls(network, bundle.config["extractor"])

    @property
    def _config(self) -> dict[str, Any]:
        from transformers import PreTrainedConfig

        config: Any = self.network.encoder.config
        general = {*PreTrainedConfig().to_dict(), "model_type"}
        encoder = {
            name: list(value) if isinstance(value, tuple) else value for name, value in config.to_dict().items() if name not in general
        }
        codec = dataclasses.asdict(self.network.codec.config)
        return {"codec": codec, "encoder": encoder, "extractor": self.extractor, "layer": self.network.layer}

    @property
    def fingerprint(self) -> str:
        """Hash of config and weights, equal to the bundle's fingerprint."""
        if not self._fingerprint:
            from safetensors.torch import save

            digest = hashlib.sha256(save(self._tensors())).hexdigest()
            self._fingerprint = fingerprint_of(_BUNDLE_KIND, self._config, {WEIGHTS_FILE: digest})
        return self._fingerprint

    def _tensors(self) -> dict[str, Tensor]:
        return {name: tensor.detach().cpu().contiguous() for name, tensor in self.network.state_dict().items()}

    def save(self, folder: Path | str) -> str:
        """Write a bundle and return its fingerprint."""
        self._fingerprint = save_bundle(folder, _BUNDLE_KIND, self._config, self._tensors())
        return self._fingerprint

    def to(self, device: torch.device | str) -> None:
        """Move the networks to a device. Codes stay on the CPU."""
        self.network.to(device)

    def read(self, path: Path | str) -> Waveform:
        """Read an audio file; see `maskgen.io.audio.read_sound`."""
        return read_sound(path)

    def write(self, media: Any, path: Path | str) -> None:
        """Refuse: semantic codes hold no voice.

        Raises:
            ValueError: Always.
        """
        raise ValueError(f"semantic codes hold no voice and can't be written to {path} as sound; generate audio from them and write that")

    def encode(self, media: Sequence[Waveform]) -> list[Codes]:
        """Encode each recording as codes of shape [1, frames].

        Raises:
            ValueError: If a recording lasts less than 0.1 s, or holds NaN or infinity.
        """
        return [self._encoded(wave) for wave in media]

    def _encoded(self, wave: Waveform) -> Codes:
        """Codes of one recording."""
        if wave.seconds < LEAST_S:
            raise ValueError(f"a recording lasts {wave.seconds:.2f} s, semantic codes need at least {LEAST_S:g} s; give a longer one")
        samples = fit_audio(wave, self.sample_rate_hz, 1)[0].samples[0]
        bank = self._bank(samples, sampling_rate=self.sample_rate_hz, return_tensors="pt")
        if not bool(bank["input_features"].isfinite().all()):
            raise ValueError("a recording holds NaN or infinite samples; give sound of finite samples")
        device = self.network.mean.device
        return self.network.encode(bank["input_features"].to(device), bank["attention_mask"].to(device))[None].cpu()

    def decode(self, codes: Sequence[Codes]) -> list[Tensor]:
        """Features [frames, dim] of each code grid.

        Raises:
            ValueError: If codes have another shape or are out of range or unknown.
        """
        for grid in codes:
            if grid.ndim != 2 or grid.shape[0] != 1 or not grid.shape[1]:
                raise ValueError(f"semantic codes have shape {tuple(grid.shape)}, wanted [1, frames]")
            if not 0 <= int(grid.min()) <= int(grid.max()) < self.codebook_size:
                raise ValueError(f"semantic codes must lie in [0, {self.codebook_size}), got {int(grid.min())} to {int(grid.max())}")
        return [self.network.decode(grid.long().to(self.network.mean.device)).cpu() for grid in codes]
