"""Tokenizer for maskgen's own learned audio codec."""

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from maskgen.autoencoders.audio import STEPS_PER_FRAME, AudioAutoencoder, AudioAutoencoderConfig, Voice
from maskgen.autoencoders.spectra import pulses
from maskgen.io.audio import Waveform
from maskgen.io.bundle import load_bundle, save_bundle
from maskgen.io.checkpoint import read_checkpoint, weights
from maskgen.io.fitting import fitted
from maskgen.io.schema import Record, Text, Whole, record_of
from maskgen.tokenizers.audio_base import SoundTokenizer
from maskgen.tokenizers.image import QUANTIZER_SCHEMA, QUANTIZERS
from maskgen.tokens.batch import Codes

_BUNDLE_KIND = "audio_tokenizer"
CHUNK_FRAMES = 1200
"""Frames that the networks process at a time."""
CONTEXT_FRAMES = 64
"""Context frames on each side of a chunk. They exceed the receptive field of the convolutions, so that chunks join without a seam."""
NOISE_SEED = 20_305


AUDIO_SCHEMA = Record(
    {
        "autoencoder": record_of(
            AudioAutoencoderConfig,
            sample_rate_hz=Whole(1000, 1_000_000),
            samples_per_frame=Whole(2, 65_536),
            window=Whole(4, 65_536),
            mel_bands=Whole(1, 1024),
            encoder_layers=Whole(0, 1024),
            decoder_layers=Whole(0, 1024),
        ),
        **QUANTIZER_SCHEMA,
    }
)


def build_audio_network(config: Mapping[str, Any]) -> AudioAutoencoder:
    """Build an untrained codec from the config in a bundle or checkpoint.

    Raises:
        ValueError: If the quantizer is unknown.
    """
    if config["quantizer"] not in QUANTIZERS:
        raise ValueError(f"no quantizer is called {config['quantizer']!r}; this maskgen has {', '.join(QUANTIZERS)}; update maskgen")
    quantizer = QUANTIZERS[config["quantizer"]](**config["quantizer_args"])
    return AudioAutoencoder(AudioAutoencoderConfig(**config["autoencoder"]), quantizer)


def audio_codes_fingerprint(config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> str:
    """Hash everything that determines the codes of audio: sizes and weights of encoder and quantizer."""
    sizes = {name: value for name, value in config["autoencoder"].items() if not name.startswith(("decoder", "window"))}
    digest = hashlib.sha256(json.dumps([_BUNDLE_KIND, sizes, config["quantizer"], config["quantizer_args"]], sort_keys=True).encode())
    for name, tensor in sorted(tensors.items()):
        if not name.startswith("decoder."):
            value = tensor.float() if tensor.is_floating_point() else tensor
            digest.update(name.encode() + value.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


class AudioTokenizer(SoundTokenizer):
    """Tokenizer for mono audio of any length, based on maskgen's learned audio codec.

    Long audio is processed in chunks with enough context that the result equals processing the whole. The decoder's noise is the
    same in every call, so the same codes give the same samples.

    Args:
        network: Trained encoder, quantizer and decoder.
    """

    channels = 1

    def __init__(self, network: AudioAutoencoder) -> None:
        self.network = network.eval().requires_grad_(False)
        self.num_levels, self.codebook_size = network.quantizer.num_levels, network.quantizer.codebook_size
        self.sample_rate_hz, self.samples_per_frame = network.config.sample_rate_hz, network.config.samples_per_frame
        self._fingerprint = ""

    @classmethod
    def from_bundle(cls, folder: Path | str) -> "AudioTokenizer":
        """Load a tokenizer that `save` wrote.

        Raises:
            ValueError: If the bundle is missing, of another kind or damaged.
        """
        bundle = load_bundle(folder, _BUNDLE_KIND, AUDIO_SCHEMA)
        network = fitted(lambda: build_audio_network(bundle.config), bundle.tensors, str(folder))
        network.load_state_dict({name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in bundle.tensors.items()})
        return cls(network)

    @classmethod
    def from_checkpoint(cls, path: Path | str) -> "AudioTokenizer":
        """Load the tokenizer from a checkpoint of AudioAutoencoderModule.

        Raises:
            ValueError: If the checkpoint is missing, damaged or of another module.
        """
        checkpoint = read_checkpoint(path, _BUNDLE_KIND)
        made, found = checkpoint["maskgen"], weights(checkpoint, "network.")
        Record(AUDIO_SCHEMA.needed, {"kind": Text()}).check(made, str(path))
        network = fitted(lambda: build_audio_network(made), found, str(path))
        network.load_state_dict(found)
        return cls(network)

    @property
    def device(self) -> torch.device:
        """Device that the network runs on."""
        return next(self.network.parameters()).device

    def to(self, device: torch.device | str) -> None:
        """Move the network to a device. Codes and waveforms are still returned on the CPU."""
        self.network.to(device)

    @property
    def fingerprint(self) -> str:
        """Hash of encoder and quantizer, which determine the codes. Training the decoder further doesn't change it."""
        if not self._fingerprint:
            self._fingerprint = audio_codes_fingerprint(self._config(), self.network.state_dict())
        return self._fingerprint

    def _config(self) -> dict[str, Any]:
        """Return the config that `from_bundle` needs in addition to the weights."""
        quantizer = self.network.quantizer
        return {
            "autoencoder": dataclasses.asdict(self.network.config),
            "quantizer": type(quantizer).__name__,
            "quantizer_args": quantizer.args,
        }

    def save(self, folder: Path | str, half: bool = False) -> str:
        """Write a bundle and return the fingerprint of the saved tokenizer.

        Args:
            folder: Created if missing.
            half: Store floating-point weights in half precision, which changes the fingerprint.
        """
        tensors = {name: t.half() if half and t.is_floating_point() else t for name, t in self.network.state_dict().items()}
        save_bundle(folder, _BUNDLE_KIND, self._config(), tensors)
        return audio_codes_fingerprint(self._config(), tensors)

    def encode(self, media: Sequence[Waveform]) -> list[Codes]:
        """Encode each waveform as codes of shape [level, frames].

        Raises:
            ValueError: If a waveform is empty or holds NaN or infinity.
        """
        return [self._encoded(samples[0]) for samples in self.fitted(media)]

    @torch.no_grad()
    def _encoded(self, samples: Float[Tensor, " samples"]) -> Codes:
        """Encode one waveform chunk by chunk."""
        per_frame, parts = self.samples_per_frame, []
        frames = self.frames(len(samples))
        for start in range(0, frames, CHUNK_FRAMES):
            before, stop = max(0, start - CONTEXT_FRAMES), min(frames, start + CHUNK_FRAMES)
            piece = samples[before * per_frame : min(frames, stop + CONTEXT_FRAMES) * per_frame]
            found = self.network.codes(piece[None].to(self.device))[0]
            parts.append(found[:, start - before : stop - before].cpu())
        return torch.cat(parts, dim=1)

    def decode(self, codes: Sequence[Codes], samples: Sequence[int] | None = None) -> list[Waveform]:
        """Decode grids to waveforms; see `SoundTokenizer.decode`. With a residual quantizer, fewer levels give coarser audio."""
        self.checked(codes)
        return self.cut([self._decoded(grid)[None] for grid in codes], samples)

    @torch.no_grad()
    def _decoded(self, grid: Codes) -> Float[Tensor, " samples"]:
        """Decode one grid. Pitch and excitations span the whole waveform; their filters are computed chunk by chunk."""
        config = self.network.config
        values = self.network.quantizer.lookup(grid[None].to(self.device)).float()
        steps = STEPS_PER_FRAME * values.shape[1]
        voices = [self._voice(values, start) for start in range(0, values.shape[1], CHUNK_FRAMES)]
        pitch_hz = torch.cat([voice.log_pitch for voice in voices], dim=1).exp().clamp(50.0, 600.0)
        voiced = torch.cat([voice.voicing for voice in voices], dim=1) > 0
        source = pulses(pitch_hz, voiced, config.sample_rate_hz, config.hop)
        noise = torch.randn(1, steps * config.hop, generator=torch.Generator().manual_seed(NOISE_SEED)).to(self.device)
        if len(voices) == 1:
            return self.network.filtered(voices[0].shape, source, noise)[0].cpu()
        shape = torch.cat([voice.shape for voice in voices], dim=1)
        return torch.cat([self._stretch(shape, source, noise, start) for start in range(0, steps, STEPS_PER_FRAME * CHUNK_FRAMES)])

    def _voice(self, values: Float[Tensor, "1 frames dim"], start: int) -> Voice:
        """Run the decoder on one chunk."""
        before, stop = max(0, start - CONTEXT_FRAMES), min(values.shape[1], start + CHUNK_FRAMES)
        voice = self.network.decoder(values[:, before : stop + CONTEXT_FRAMES])
        kept = slice(STEPS_PER_FRAME * (start - before), STEPS_PER_FRAME * (stop - before))
        return Voice(*(part[:, kept] for part in voice))

    def _stretch(self, shape: Tensor, source: Tensor, noise: Tensor, start: int) -> Float[Tensor, " samples"]:
        """Return the samples of one chunk without its context. The context frames are filtered too and then cut off."""
        hop, steps, reach = self.network.config.hop, shape.shape[1], 2 * self.network.config.window // self.network.config.hop
        before, stop = max(0, start - reach), min(steps, start + STEPS_PER_FRAME * CHUNK_FRAMES)
        after = min(steps, stop + reach)
        piece = slice(before * hop, after * hop)
        found = self.network.filtered(shape[:, before:after], source[:, piece], noise[:, piece])[0]
        return found[(start - before) * hop : (stop - before) * hop].cpu()
