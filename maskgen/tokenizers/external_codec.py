"""Base class for adapters of external audio codecs: exact lengths, windows, loudness and bundles."""

import hashlib
import math
from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from maskgen.io.audio import Waveform
from maskgen.io.bundle import WEIGHTS_FILE, fingerprint_of, save_bundle
from maskgen.tokenizers.audio_base import SoundTokenizer
from maskgen.tokenizers.chunking import Windows, joined, spans
from maskgen.tokens.batch import Codes

QUIETEST_DB = -100.0
"""Loudness of code 0, below the smallest 16-bit step. The largest code is 0 dB, an RMS of 1."""
USUAL_DB = -20.0
"""Loudness for codes without the loudness level."""


def levels_of_bandwidth(bandwidth_kbps: float, offered_kbps: Sequence[float], kbps_per_level: float) -> int:
    """Return the number of levels for a bandwidth.

    Raises:
        ValueError: If the codec was not trained for that bandwidth.
    """
    if bandwidth_kbps not in offered_kbps:
        raise ValueError(f"the codec has no bandwidth of {bandwidth_kbps} kbps, it has {', '.join(f'{one:g}' for one in offered_kbps)}")
    return max(1, math.floor(bandwidth_kbps / kbps_per_level))


def chosen_levels(num_levels: int | None, bandwidth_levels: int | None, lowest: int, highest: int) -> int:
    """Return the number of levels to use: the requested number, the number for a bandwidth, or all.

    Raises:
        ValueError: If both are given, or the codec doesn't have that number of levels.
    """
    if num_levels is not None and bandwidth_levels is not None:
        raise ValueError("num_levels and bandwidth_kbps say the same; give one of them")
    chosen = next((choice for choice in (num_levels, bandwidth_levels) if choice is not None), highest)
    if not lowest <= chosen <= highest:
        raise ValueError(f"num_levels must lie in {lowest} to {highest} for this codec, got {chosen}")
    return chosen


class CodecTokenizer(SoundTokenizer):
    """Base class of tokenizers for residual codecs of other packages, in float32.

    Each waveform is processed on its own, so that other items of a batch never change its codes. Audio longer than `windows` is split into
    windows; without windows it is processed at once, and memory grows with its length.

    A codec that divides each window by its RMS returns a scale in addition to the codes. Because only codes are stored, the scale becomes
    one extra level, the last: the loudness of the window in equal decibel steps, constant over the frames of the window. Decoding
    multiplies a window by the median of its frames' loudness. Codes without that level decode at -20 dB.

    Attributes:
        network: The codec, frozen and in evaluation mode.
        windows: How long audio is split, or None.
        loudness: Whether the last level is the loudness.
        bundle_kind: Kind of the bundle that `save` writes.
    """

    bundle_kind: ClassVar[str]

    def __init__(self, network: nn.Module, num_levels: int, windows: Windows | None, loudness: bool) -> None:
        self.network = network.float().eval().requires_grad_(False)
        self.codec_levels, self.num_levels = num_levels, num_levels + loudness
        self.windows, self.loudness = windows, loudness
        self._fingerprint = ""

    @abstractmethod
    def _config(self) -> dict[str, Any]:
        """Return the plain data that rebuilds the tokenizer, without its weights."""

    @abstractmethod
    def _to_codes(self, samples: Float[Tensor, "1 channels samples"]) -> Int[Tensor, "level frames"]:
        """Encode samples with the network, `codec_levels` codes per frame."""

    @abstractmethod
    def _to_samples(self, codes: Int[Tensor, "1 level frames"]) -> Float[Tensor, "channels samples"]:
        """Decode codes with the network. The number of samples may be off by less than a frame."""

    @property
    def device(self) -> torch.device:
        """Device that the network runs on."""
        return next(self.network.parameters()).device

    def to(self, device: torch.device | str) -> None:
        """Move the network to a device. Codes and waveforms stay on the CPU."""
        self.network.to(device)

    @property
    def fingerprint(self) -> str:
        """Hash of config and weights, equal to the bundle's fingerprint."""
        if not self._fingerprint:
            from safetensors.torch import save

            digest = hashlib.sha256(save(self._tensors())).hexdigest()
            self._fingerprint = fingerprint_of(self.bundle_kind, self._config(), {WEIGHTS_FILE: digest})
        return self._fingerprint

    def _tensors(self) -> dict[str, Tensor]:
        """Return the weights as contiguous tensors for safetensors."""
        return {name: tensor.detach().cpu().contiguous() for name, tensor in self.network.state_dict().items()}

    def save(self, folder: Path | str) -> str:
        """Write a bundle and return its fingerprint."""
        self._fingerprint = save_bundle(folder, self.bundle_kind, self._config(), self._tensors())
        return self._fingerprint

    def encode(self, media: Sequence[Waveform]) -> list[Codes]:
        """Encode each waveform as codes of shape [level, frames].

        Raises:
            ValueError: If a waveform is empty or holds NaN or infinity.
        """
        return [self._encode_one(wave) for wave in self.fitted(media)]

    def decode(self, codes: Sequence[Codes], samples: Sequence[int] | None = None) -> list[Waveform]:
        """Decode grids to waveforms; see `SoundTokenizer.decode`. Fewer levels than `num_levels` are allowed."""
        self.checked(codes)
        lengths = [None] * len(codes) if samples is None else list(samples)
        if len(lengths) != len(codes):
            raise ValueError(f"{len(codes)} sounds need as many lengths, got {len(lengths)}")
        # One by one, because the type check of `cut` binds one number of samples per call.
        pairs = zip(codes, lengths, strict=True)
        return [self.cut([self._decode_one(grid)], None if length is None else [length])[0] for grid, length in pairs]

    @torch.no_grad()
    def _encode_one(self, wave: Float[Tensor, "channels samples"]) -> Int[Tensor, "level frames"]:
        hop, kept = self.samples_per_frame, []
        for place in spans(self.frames(wave.shape[1]), self.windows):
            codes = self._encode_window(wave[:, place.start * hop : place.stop * hop])
            kept.append(codes[:, place.first - place.start : place.last - place.start])
        return torch.cat(kept, dim=1)

    def _encode_window(self, wave: Float[Tensor, "channels samples"]) -> Int[Tensor, "level frames"]:
        frames = self.frames(wave.shape[1])
        scale = float(wave.mean(dim=0).square().mean().sqrt()) + 1e-8 if self.loudness else 1.0
        codes = self._to_codes((wave / scale)[None].to(self.device)).long().cpu()
        assert codes.shape == (self.codec_levels, frames), (
            f"the codec gave codes of shape {tuple(codes.shape)}, not {self.codec_levels} levels of {frames} frames"
        )
        return torch.cat([codes, torch.full((1, frames), self._loudness_code(scale))]) if self.loudness else codes

    @torch.no_grad()
    def _decode_one(self, codes: Int[Tensor, "level frames"]) -> Float[Tensor, "channels samples"]:
        places = spans(codes.shape[1], self.windows)
        pieces = []
        for place in places:
            piece = self._whole_frames(self._to_samples(codes[None, : self.codec_levels, place.start : place.stop].long().to(self.device)))
            pieces.append(piece[:, : (place.stop - place.start) * self.samples_per_frame] * self._gain(codes[:, place.first : place.last]))
        return joined(places, pieces, self.samples_per_frame, self.windows.fade if self.windows else 0)

    def _whole_frames(self, samples: Float[Tensor, "channels decoded"]) -> Float[Tensor, "channels samples"]:
        """Pad with zeros to a whole frame: transposed convolutions of odd stride return a few samples too few."""
        return nn.functional.pad(samples, (0, -samples.shape[1] % self.samples_per_frame))

    def _loudness_code(self, scale: float) -> int:
        """Return the loudness code of an RMS, clamped to the range of codes."""
        share = 1 - 20 * math.log10(scale) / QUIETEST_DB
        return round(min(max(share, 0.0), 1.0) * (self.codebook_size - 1))

    def _gain(self, codes: Int[Tensor, "level frames"]) -> float:
        """Return the gain that a decoded window is multiplied by."""
        if not self.loudness:
            return 1.0
        has_loudness = len(codes) == self.num_levels
        decibels = QUIETEST_DB * (1 - int(codes[-1].median()) / (self.codebook_size - 1)) if has_loudness else USUAL_DB
        return float(10 ** (decibels / 20))
