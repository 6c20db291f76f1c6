"""Phoneme durations: a small predictor network, and rounding of durations to whole frames with a given total."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from maskgen.autoencoders.audio import ConvNeXtBlock
from maskgen.io.bundle import load_bundle, save_bundle
from maskgen.io.fitting import fitted
from maskgen.io.schema import Real, record_of

DURATIONS_KIND = "duration_predictor"


@dataclass(frozen=True, kw_only=True)
class DurationConfig:
    """Configuration of the duration predictor.

    Args:
        vocab_size: Number of phoneme ids.
        num_speakers: Number of speakers.
        dim: Width.
        num_layers: Number of blocks.
        frames_per_s: Frame rate of the predicted durations.
    """

    vocab_size: int = 128
    num_speakers: int = 64
    dim: int = 160
    num_layers: int = 5
    frames_per_s: float = 40.0


DURATIONS_SCHEMA = record_of(DurationConfig, frames_per_s=Real(1.0, 1000.0))


class DurationPredictor(nn.Module):
    """Predict the natural logarithm of each phoneme's duration in frames, at the speaker's own pace.

    Args:
        config: Configuration of the network.

    Source: FastSpeech 2, arXiv:2006.04558 (convolutions over phonemes, logarithm of the duration), with ConvNeXt blocks.
    """

    def __init__(self, config: DurationConfig) -> None:
        super().__init__()
        self.config = config
        self.embed = nn.Embedding(config.vocab_size, config.dim)
        self.embed_speaker = nn.Embedding(config.num_speakers, config.dim)
        self.blocks = nn.ModuleList(ConvNeXtBlock(config.dim) for _ in range(config.num_layers))
        self.norm = nn.LayerNorm(config.dim)
        self.out = nn.Linear(config.dim, 1)
        nn.init.normal_(self.embed_speaker.weight, std=0.02)
        nn.init.constant_(self.out.bias, 0.7)

    def forward(
        self, ids: Int[Tensor, "batch length"], speaker: Int[Tensor, " batch"], valid: Bool[Tensor, "batch length"]
    ) -> Float[Tensor, "batch length"]:
        """Log-duration of each phoneme in frames; values at padding are undefined and don't affect the others.

        Args:
            ids: Phoneme ids.
            speaker: Speaker of each row.
            valid: False for padding.
        """
        x = self.embed(ids) + self.embed_speaker(speaker)[:, None]
        for block in self.blocks:
            x = block(x * valid[..., None])
        found: Tensor = self.out(self.norm(x))[..., 0]
        return found

    @torch.no_grad()
    def frames(self, ids: Int[Tensor, " length"], speaker: int) -> Float[Tensor, " length"]:
        """Duration in frames of each phoneme of one utterance, not rounded, at least half a frame."""
        found = self(ids[None], torch.tensor([speaker]), torch.ones(1, len(ids), dtype=torch.bool))
        frames: Tensor = found[0].float().exp().clamp(0.5, 120.0)
        return frames

    def save(self, folder: Path | str) -> str:
        """Write a bundle in half precision and return its fingerprint."""
        return save_bundle(folder, DURATIONS_KIND, asdict(self.config), {name: tensor.half() for name, tensor in self.state_dict().items()})

    @classmethod
    def from_bundle(cls, folder: Path | str) -> "DurationPredictor":
        """Load a predictor that `save` wrote.

        Raises:
            ValueError: If the bundle is missing, damaged, or holds something else.
        """
        bundle = load_bundle(folder, DURATIONS_KIND, DURATIONS_SCHEMA)
        return cls.of(bundle.config, {name: tensor.float() for name, tensor in bundle.tensors.items()}, str(folder))

    @classmethod
    def of(cls, config: Mapping[str, Any], tensors: Mapping[str, Tensor], source: str = "a duration predictor") -> "DurationPredictor":
        """Create a predictor in evaluation mode from its configuration and weights.

        Args:
            config: Fields of `DurationConfig`.
            tensors: Its weights.
            source: Origin of both, for error messages.

        Raises:
            ValueError: If the configuration is invalid or does not match the weights.
        """
        DURATIONS_SCHEMA.check(config, f"{source}: config")
        network = fitted(lambda: cls(DurationConfig(**config)), tensors, source)
        network.load_state_dict(dict(tensors))
        return network.eval().requires_grad_(False)


def whole_frames(frames: Float[Tensor, " length"], total: int | None = None, longest: int = 127) -> Int[Tensor, " length"]:
    """Round durations to whole frames. Each boundary is rounded separately, so errors do not accumulate.

    Args:
        frames: Durations, not rounded.
        total: Total number of frames, to which the durations are scaled evenly. None keeps their pace.
        longest: Maximum frames of one phoneme; the excess goes to the others.

    Returns:
        Whole numbers that sum to `total` (or to the rounded sum).

    Raises:
        ValueError: If the phonemes cannot share that number of frames.
    """
    wanted = int(frames.double().sum().round()) if total is None else total
    if not 0 < wanted <= longest * len(frames):
        raise ValueError(f"{len(frames)} phonemes cannot last {wanted} frames; 1 to {longest * len(frames)} are possible")
    shares = frames.double() * (wanted / float(frames.double().sum()))
    for _ in range(len(frames)):
        over = shares > longest
        if not bool(over.any()):
            break
        spare = float((shares - longest).clamp(min=0).sum())
        rest = ~over & (shares < longest)
        shares = torch.where(over, torch.full_like(shares, float(longest)), shares)
        shares = torch.where(rest, shares * (1 + spare / float(shares[rest].sum())), shares)
    ends = shares.cumsum(dim=0).round().long()
    ends[-1] = wanted
    return torch.diff(ends, prepend=torch.zeros(1, dtype=torch.long))
