"""Speaker embeddings and their similarity: Resemblyzer's encoder, with its weights but without its imports."""

from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from maskgen.evaluation.speech.mel import mel_power
from maskgen.evaluation.speech.packages import package_file, package_module
from maskgen.io.audio import Waveform, fit_audio

RATE_HZ = 16_000
HOP = 160
WEIGHTS = ("resemblyzer", "pretrained.pt", "39373b86598fa3da9fcddee6142382efe09777e8d37dc9c0561f41f0070f134e")
PART_FRAMES = 160
PART_STEP = round(RATE_HZ / 1.3 / HOP)
LEAST_COVERAGE = 0.75
"""Share of the last window that must be covered by the clip."""
LOUDNESS_DB = -30.0
VOICE_WINDOW = 480
SMOOTHING = 8
LONGEST_PAUSE = 6


class SpeakerEncoder:
    """Maps an audio clip to a speaker embedding of 256 dimensions.

    Preprocessing follows Resemblyzer: quiet clips are amplified, long pauses are cut, embeddings of windows of 1.6 s are averaged.

    Source: Resemblyzer 0.1.4 (Apache-2.0), after GE2E, arXiv:1710.10467. Differs: resampling uses soxr's filter.
    """

    def __init__(self) -> None:
        """Load the weights.

        Raises:
            ImportError: If resemblyzer or webrtcvad-wheels is not installed.
            ValueError: If the package contains another file than the expected one.
        """
        self._vad: Any = package_module("webrtcvad")
        self._lstm = nn.LSTM(40, 256, 3, batch_first=True)
        self._linear = nn.Linear(256, 256)
        state = torch.load(package_file(*WEIGHTS), weights_only=True, map_location="cpu")["model_state"]
        for name, layer in (("lstm.", self._lstm), ("linear.", self._linear)):
            layer.load_state_dict({key.removeprefix(name): value for key, value in state.items() if key.startswith(name)})

    def __call__(self, wave: Waveform) -> Float[Tensor, "256"] | None:
        """The embedding of a clip, of unit length; None if no voice is found.

        Args:
            wave: Any audio clip; converted to 16 kHz mono.
        """
        samples = _louder(fit_audio(wave, RATE_HZ)[0].samples[0])
        kept = len(samples) - len(samples) % VOICE_WINDOW
        samples = samples[:kept][np.repeat(self._voiced(samples[:kept]), VOICE_WINDOW)]
        if not len(samples):
            return None
        starts = part_starts(len(samples))
        long_enough = np.pad(samples, (0, max(0, (starts[-1] + PART_FRAMES) * HOP - len(samples))))
        mels = mel_power(torch.from_numpy(long_enough), RATE_HZ, window=400, hop=HOP, num_mels=40).T
        with torch.inference_mode():
            _, (hidden, _) = self._lstm(torch.stack([mels[start : start + PART_FRAMES] for start in starts]))
            parts = nn.functional.normalize(self._linear(hidden[-1]).relu(), dim=-1)
        mean: Tensor = nn.functional.normalize(parts.mean(dim=0), dim=-1)
        return mean

    def _voiced(self, samples: Float[np.ndarray, " samples"]) -> Bool[np.ndarray, " windows"]:
        """Windows of 30 ms to keep: voiced ones after smoothing, and pauses of up to 6 windows around them."""
        if not len(samples):
            return np.zeros(0, bool)
        detector = self._vad.Vad(mode=3)
        whole = np.round(samples * 32767).astype(np.int16).reshape(-1, VOICE_WINDOW)
        flags = np.array([detector.is_speech(window.tobytes(), RATE_HZ) for window in whole], float)
        padded = np.pad(flags, ((SMOOTHING - 1) // 2, SMOOTHING // 2))
        smooth = np.convolve(padded, np.ones(SMOOTHING), mode="valid") / SMOOTHING
        near = np.convolve(np.round(smooth), np.ones(LONGEST_PAUSE + 1), mode="same") > 0
        # `same` cuts to the longer of the two; an audio clip shorter than the pause keeps its own length.
        extra = (len(near) - len(flags)) // 2
        voiced: np.ndarray = near[extra : extra + len(flags)]
        return voiced


def part_starts(length: int) -> list[int]:
    """First frame of each window of a clip; a last window that would be mostly padding is left out.

    Args:
        length: Samples at 16 kHz, at least 1.
    """
    frames = -(-(length + 1) // HOP)
    starts = list(range(0, max(1, frames - PART_FRAMES + PART_STEP + 1), PART_STEP))
    coverage = (length / HOP - starts[-1]) / PART_FRAMES
    return starts[:-1] if coverage < LEAST_COVERAGE and len(starts) > 1 else starts


def similarity(voice: Float[Tensor, "256"] | None, references: list[Float[Tensor, "256"]]) -> float:
    """Cosine similarity of a voice to the mean of a speaker's reference clips; 0 if no voice was found.

    Args:
        voice: Embedding from `SpeakerEncoder`.
        references: Embeddings of the speaker, at least one.

    Raises:
        ValueError: If there is no reference.
    """
    if not references:
        raise ValueError("no reference clip holds a voice; give clips in which the speaker can be heard")
    return 0.0 if voice is None else float(voice @ nn.functional.normalize(torch.stack(references).mean(dim=0), dim=-1))


def _louder(samples: Float[np.ndarray, " samples"]) -> Float[np.ndarray, " samples"]:
    """Amplified to at least -30 dB root mean square; silence is unchanged."""
    level = float(np.sqrt(np.mean(samples.astype(np.float64) ** 2)))
    wanted: float = 10 ** (LOUDNESS_DB / 20)
    return samples if level == 0 or level >= wanted else (samples * (wanted / level)).astype(np.float32)
