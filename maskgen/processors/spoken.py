"""What all voices share: the request, its plan, and recordings at the rate of the codec."""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Float

from maskgen.io.audio import Waveform, fit_audio
from maskgen.processors.base import Prepared, Processor
from maskgen.tokenizers.audio_base import SoundTokenizer
from maskgen.tokens.batch import Codes

LONGEST_PROMPT_S = 30.0
FADE_S = 0.01
"""Cross-fade at each joint of an edit, inside the part that is regenerated."""
SILENCE = 1e-4
"""Root mean square under which a recording holds no voice."""


@dataclass(frozen=True, kw_only=True)
class SpeechRequest:
    """What a voice is asked for.

    Args:
        prompt: English text; phonemes of the tokenizer's alphabet between slashes.
        speaker: One of the model's speakers; the first if None. A recorded prompt takes its place.
        seconds: Length of the speech, recordings not counted; the pace follows. None takes the predicted length.
        speed: Pace: 1 is the voice's own, 2 twice as fast; goes without `seconds` only.
        audio: Recording to continue, or with `span_s` to edit; at most 30 s.
        span_s: First and last second of `audio` that are replaced by the prompt.
        audio_prompt: Recording of at most 30 s whose voice is taken up; it is not part of the output.
        audio_text: What `audio` (continued) or `audio_prompt` says; helps.
        known: Cells of other modalities beside every row: an image that is described.
        language: Code of the language, for voices that speak several.
    """

    prompt: str
    speaker: str | None = None
    seconds: float | None = None
    speed: float = 1.0
    audio: Any = None
    span_s: Sequence[float] | None = None
    audio_prompt: Any = None
    audio_text: str | None = None
    known: Mapping[str, Codes] = field(default_factory=dict)
    language: str | None = None


@dataclass(frozen=True)
class EditedSpan:
    """Frames of a recording that an edit replaces.

    Args:
        original: Samples of the recording at the codec's rate.
        start: First frame that is replaced.
        end: First frame after the new part, in the edited recording.
        stop: First frame after the replaced part, in the recording.
    """

    original: Float[np.ndarray, "channels samples"]
    start: int
    end: int
    stop: int

    def pasted(self, made: Float[np.ndarray, "channels made"], codec: SoundTokenizer) -> Float[np.ndarray, "channels edited"]:
        """The recording with frames `start` to `stop` replaced by the frames `start` to `end` of `made`, faded in and out inside them."""
        original, per_frame = self.original, codec.samples_per_frame
        new = made[:, self.start * per_frame : self.end * per_frame].copy()
        fade = min(round(FADE_S * codec.sample_rate_hz), new.shape[1] // 2, (self.stop - self.start) * per_frame // 2)
        ramp = np.linspace(0, 1, fade, endpoint=False, dtype=np.float32)
        before, after = self.start * per_frame, min(self.stop * per_frame, original.shape[1])
        if before and fade:
            new[:, :fade] = new[:, :fade] * ramp + original[:, before : before + fade] * (1 - ramp)
        if after < original.shape[1] and fade:
            new[:, -fade:] = new[:, -fade:] * ramp[::-1] + original[:, after - fade : after] * (1 - ramp[::-1])
        return np.concatenate([original[:, :before], new, original[:, after:]], axis=1)


@dataclass(frozen=True)
class PreparedSpeech(Prepared):
    """Rows of one take of a speech request, sentence after sentence, and what joins them. Seeds count from 0: a take adds its own.

    Args:
        sentences: What is spoken as one row each.
        phonemes: Timed phonemes of each sentence.
        left_out: Characters and markup that cannot be spoken.
        seconds: Length asked for.
        cut: Samples at the start of each row that are a recording's.
        before: Samples that stand before the speech in the output.
        span: The edit, if it is one.
        gain: What the speech is multiplied by.
    """

    sentences: Sequence[str] = ()
    phonemes: Sequence[Codes] = ()
    left_out: Sequence[str] = ()
    seconds: float | None = None
    cut: int = 0
    before: np.ndarray | None = None
    span: EditedSpan | None = None
    gain: float = 1.0


class SpokenProcessor(Processor[SpeechRequest, PreparedSpeech]):
    """Base class of the processors of voices.

    Attributes:
        codec: Tokenizer of the speech.
    """

    codec: SoundTokenizer

    @abstractmethod
    def phonemes(self, plan: PreparedSpeech) -> list[str]:
        """Phonemes of each sentence of a plan; empty for a voice that reads letters."""

    @property
    def frames_per_s(self) -> float:
        """Frames of codes a second."""
        return self.codec.frames_per_s

    def codes_of(self, audio: Waveform) -> Codes:
        """Codes [level, frames] of a recording of at most 30 s, any rate and channels.

        Raises:
            ValueError: If it is empty, too long, silent, or holds NaN or infinity.
        """
        return self.codec.encode([self.wave(self.checked(audio, "the recording"))])[0]

    def checked(self, wave: Waveform, what: str) -> Float[np.ndarray, "channels samples"]:
        """Samples at the codec's rate.

        Raises:
            ValueError: If the recording is empty, too long, silent, or holds NaN or infinity.
        """
        if not 0 < wave.seconds <= LONGEST_PROMPT_S:
            raise ValueError(f"{what} lasts {wave.seconds:.1f} s, at most {LONGEST_PROMPT_S:g} s are taken; cut it")
        if not np.isfinite(wave.samples).all():
            raise ValueError(f"{what} holds NaN or infinite samples; give a whole recording")
        if float(np.sqrt(np.mean(np.square(wave.samples, dtype=np.float64)))) < SILENCE:
            raise ValueError(f"{what} is silent; give a recording of a voice")
        return self.fitted(wave)

    def fitted(self, wave: Waveform) -> Float[np.ndarray, "channels samples"]:
        """Samples at the codec's rate and channels."""
        return fit_audio(wave, self.codec.sample_rate_hz, self.codec.channels)[0].samples

    def wave(self, samples: np.ndarray) -> Waveform:
        return Waveform(samples=samples, sample_rate_hz=self.codec.sample_rate_hz)

    def joined(self, parts: Sequence[np.ndarray], seconds: float | None, before: np.ndarray | None) -> Waveform:
        """Sentences one after another, cut to the length asked for, after the recording that they continue."""
        samples = np.concatenate(parts, axis=1)
        if seconds is not None:
            samples = samples[:, : round(seconds * self.codec.sample_rate_hz)]
        if before is not None:
            samples = np.concatenate([before, samples], axis=1)
        return self.wave(samples)
