"""A voice: text in, speech out; continuing and editing recordings. One pipeline call with other known cells each time."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from maskgen.decoding.decoder import StepCallback
from maskgen.decoding.settings import GenerationSettings
from maskgen.io.audio import Waveform, fit_audio
from maskgen.io.bundle import find_model
from maskgen.networks.durations import DurationPredictor, whole_frames
from maskgen.pipelines.base import GenerationOutput, Pipeline
from maskgen.tokenizers.attribute import AttributeTokenizer
from maskgen.tokenizers.audio_base import SoundTokenizer
from maskgen.tokenizers.phonemes import PhonemeTokenizer
from maskgen.tokens.batch import UNKNOWN, Codes

logger = logging.getLogger(__name__)
DEFAULT_VOICE = "heart-16k"
LONGEST_TEXT = 5_000
"""Characters of the longest text that is spoken in one call, about six minutes."""
LONGEST_PROMPT_S = 30.0
SHORTEST_SPEECH_S = 0.3
"""A text whose phonemes would take less is spoken at this length."""
PACES = (0.25, 4.0)
"""Slowest and fastest pace, against the voice's own, at which phonemes can still be told apart."""
FADE_S = 0.01
"""Cross-fade at each joint of an edit, inside the part that is made anew."""
SILENCE = 1e-4
"""Root mean square under which a recording holds no voice."""


@dataclass(frozen=True)
class SpeechOutput:
    """What a voice said.

    Args:
        waves: One a take.
        seeds: Seed of each take.
        sentences: What was spoken as one row each.
        phonemes: Phonemes of each sentence.
        left_out: Characters of the text that cannot be spoken.
        steps: Decoding steps of each level.
        elapsed_s: Seconds in the model, the sampler and the codec.
        generation: Codes and trajectories of all rows, take after take.
    """

    waves: list[Waveform]
    seeds: list[int]
    sentences: list[str]
    phonemes: list[str]
    left_out: list[str]
    steps: list[int]
    elapsed_s: float
    generation: GenerationOutput

    @property
    def seconds(self) -> float:
        """Length of all takes together."""
        return float(sum(wave.samples.shape[1] / wave.sample_rate_hz for wave in self.waves))

    @property
    def passes_a_row(self) -> float:
        """Model passes of the average sentence."""
        return self.generation.passes_a_row

    @property
    def real_time_factor(self) -> float:
        """Seconds of work for a second of speech."""
        return self.elapsed_s / self.seconds


@dataclass(frozen=True)
class Prompt:
    """A recording that a voice goes on from.

    Args:
        codes: Its codes.
        phones: Timed phonemes of what it says, or nothing if that is not known.
    """

    codes: Codes
    phones: Codes | None


class Voice:
    """A pipeline that speaks.

    Args:
        pipeline: Its modalities are "phones", "speaker" and "audio".
        durations: How long each phoneme lasts.

    Raises:
        ValueError: If the pipeline lacks one of the modalities.
    """

    def __init__(self, pipeline: Pipeline, durations: DurationPredictor) -> None:
        names = [modality.name for modality in pipeline.space.modalities]
        if missing := {"phones", "speaker", "audio"} - set(names):
            raise ValueError(f"this model cannot speak: it has {', '.join(names)} and lacks {', '.join(sorted(missing))}")
        self.pipeline, self.durations = pipeline, durations
        phones, speakers, codec = (pipeline.tokenizers[name] for name in ("phones", "speaker", "audio"))
        assert isinstance(phones, PhonemeTokenizer), "phonemes have a tokenizer of their own"
        assert isinstance(speakers, AttributeTokenizer), "speakers have a tokenizer of their own"
        assert isinstance(codec, SoundTokenizer), "sound has a codec"
        self.phones, self.speakers, self.codec = phones, speakers, codec

    @classmethod
    def from_pretrained(cls, name: Path | str = DEFAULT_VOICE) -> "Voice":
        """Load a voice by its folder or its shipped name, without network.

        Raises:
            ValueError: If it is missing or damaged, or its model cannot speak.
        """
        folder = find_model(name)
        return cls(Pipeline.from_pretrained(folder), DurationPredictor.from_bundle(folder / "durations"))

    @property
    def frames_per_s(self) -> float:
        """Frames of codes a second."""
        return self.codec.frames_per_s

    def __call__(
        self,
        text: str,
        *,
        speaker: str | None = None,
        seconds: float | None = None,
        speed: float = 1.0,
        prompt: Waveform | None = None,
        prompt_text: str | None = None,
        keep_prompt: bool = False,
        beside: Mapping[str, Any] | None = None,
        seed: int = 0,
        num: int = 1,
        settings: GenerationSettings | None = None,
        callback: StepCallback | None = None,
    ) -> SpeechOutput:
        """Speak a text. Long texts are split at sentences, spoken in one batch and joined.

        Args:
            text: English; phonemes of the tokenizer's alphabet between slashes.
            speaker: One of the model's speakers; the first if None. A prompt takes its place.
            seconds: Length of the speech, without the prompt; the pace follows. None takes the predicted length.
            speed: Pace, 1 is the voice's own, 2 twice as fast; goes without `seconds` only.
            prompt: Recording of at most 30 s whose voice goes on; any rate and channels.
            prompt_text: What it says; helps.
            keep_prompt: Give the recording back before the speech, its samples unchanged (at the codec's rate).
            beside: Further media that the model knows of, by modality: a picture that is spoken of.
            seed: Take i has seed + i * sentences.
            num: Takes.
            settings: How to decode; the model's own if None.
            callback: Called after every step with the state of the decode.

        Returns:
            Waveforms at the codec's rate. With `seconds` each has round(seconds * rate) samples, the prompt not counted.

        Raises:
            ValueError: If the text has nothing to speak, or an argument is out of range or contradicts another.
        """
        if num < 1:
            raise ValueError(f"num must be at least 1, got {num}")
        sentences = self._sentences(text)
        known = self._prompt(prompt, prompt_text)
        speakers = self.speakers.encode([speaker or self.speakers.values[0]])[0]
        spoken = self._timed(sentences, int(speakers), seconds, speed)
        who = None if known is not None and speaker is None else speakers
        rows = [{**(beside or {}), **self._row(phones, who, known)} for phones in spoken]
        settings = settings or self.pipeline.settings_of("audio")
        seeds = [seed + number for number in range(num * len(rows))]
        output = self.pipeline.generate(rows * num, "audio", seeds, settings, callback=callback)
        given = None if prompt is None or not keep_prompt else fit_audio(prompt, self.codec.sample_rate_hz, self.codec.channels)[0].samples
        cut = 0 if known is None else known.codes.shape[1] * self.codec.samples_per_frame
        takes = [output.media[take * len(rows) : (take + 1) * len(rows)] for take in range(num)]
        return SpeechOutput(
            waves=[self._joined([wave.samples[:, cut:] for wave in take], seconds, given) for take in takes],
            seeds=seeds[:: len(rows)],
            sentences=sentences,
            phonemes=[self.phones.decode([phones])[0] for phones in spoken],
            left_out=self.phones.left_out(text),
            steps=[settings.at(level).steps for level in range(self.codec.num_levels)],
            elapsed_s=output.elapsed_s,
            generation=output,
        )

    def edit(
        self,
        recording: Waveform,
        span_s: tuple[float, float],
        text: str,
        *,
        seconds: float | None = None,
        speed: float = 1.0,
        seed: int = 0,
        settings: GenerationSettings | None = None,
        callback: StepCallback | None = None,
    ) -> SpeechOutput:
        """Replace a stretch of a recording by other words; all samples outside it stay as they are (at the codec's rate).

        The new part begins and ends at frames of the codec and is cross-faded over 10 ms inside itself.

        Args:
            recording: At most 30 s; any rate and channels.
            span_s: First and last second of what is replaced.
            text: What is said instead.
            seconds: Length of the new part; None takes the predicted length.
            speed: Pace of the new part, without `seconds` only.
            seed: Decides the take.
            settings: How to decode; the model's own if None.
            callback: Called after every step with the state of the decode.

        Raises:
            ValueError: If the span does not lie in the recording, or an argument is out of range.
        """
        original = self._checked(recording, "the recording")
        sentences = self._sentences(text)
        start, stop = self._span(span_s, original.shape[1])
        codes = self.codec.encode([Waveform(samples=original, sample_rate_hz=self.codec.sample_rate_hz)])[0]
        phones = torch.cat(self._timed(sentences, 0, seconds, speed, edges=False), dim=1)
        new = int(phones[1].sum())
        blank = torch.full((self.codec.num_levels, new), UNKNOWN)
        row = {"phones": torch.cat([_pauses(start), phones], dim=1), "audio": torch.cat([codes[:, :start], blank, codes[:, stop:]], dim=1)}
        settings = settings or self.pipeline.settings_of("audio")
        output = self.pipeline.generate([row], "audio", [seed], settings, callback=callback)
        edited = self._pasted(original, output.media[0].samples, start, start + new, stop)
        return SpeechOutput(
            waves=[Waveform(samples=edited, sample_rate_hz=self.codec.sample_rate_hz)],
            seeds=[seed],
            sentences=sentences,
            phonemes=[self.phones.decode([phones])[0]],
            left_out=self.phones.left_out(text),
            steps=[settings.at(level).steps for level in range(self.codec.num_levels)],
            elapsed_s=output.elapsed_s,
            generation=output,
        )

    def _sentences(self, text: str) -> list[str]:
        """What is spoken as one row each.

        Raises:
            ValueError: If the text is too long or has nothing to speak.
        """
        if len(text) > LONGEST_TEXT:
            raise ValueError(f"the text has {len(text)} characters, at most {LONGEST_TEXT} are spoken in one call; give it in parts")
        if not text.strip():
            raise ValueError("the text is empty; say what is to be spoken, for example: Hello there.")
        if left_out := self.phones.left_out(text):
            logger.warning("not spoken: %s", " ".join(left_out[:20]))
        return [text] if text.startswith("/") else self.phones.sentences(text)

    def _timed(self, sentences: Sequence[str], speaker: int, seconds: float | None, speed: float, edges: bool = True) -> list[Codes]:
        """Phonemes of each sentence with the frames that each lasts.

        Raises:
            ValueError: If the length or pace is out of range.
        """
        if not PACES[0] <= speed <= PACES[1]:
            raise ValueError(f"speed must lie in {PACES[0]:g} to {PACES[1]:g}, got {speed:g}")
        if seconds is not None and speed != 1.0:
            raise ValueError("seconds and speed both decide the pace; give one of them")
        codes = [self.phones.encode([sentence])[0][:, 0 if edges else 1 : None if edges else -1] for sentence in sentences]
        natural = [self.durations.frames(grid[0], speaker) * (self.frames_per_s / self.durations.config.frames_per_s) for grid in codes]
        floor = SHORTEST_SPEECH_S * self.frames_per_s
        natural = [frames * max(1.0, floor / float(frames.sum())) / speed for frames in natural]
        totals = self._totals(natural, seconds)
        return [torch.stack([grid[0], whole_frames(frames, total)]) for grid, frames, total in zip(codes, natural, totals, strict=True)]

    def _totals(self, natural: Sequence[Float[Tensor, " _"]], seconds: float | None) -> list[int]:
        """Frames of each sentence: as predicted, or sharing out the seconds asked for.

        Raises:
            ValueError: If so many seconds would be too fast or too slow to be understood.
        """
        lengths = [float(frames.sum()) for frames in natural]
        if seconds is None:
            return [max(1, round(length)) for length in lengths]
        own = sum(lengths) / self.frames_per_s
        if not own / PACES[1] <= seconds <= own / PACES[0]:
            raise ValueError(
                f"seconds is {seconds:g}; this text takes {own:.2f} s at the voice's own pace, "
                f"and {own / PACES[1]:.2f} to {own / PACES[0]:.2f} s are possible"
            )
        wanted = -(-round(seconds * self.codec.sample_rate_hz) // self.codec.samples_per_frame)
        ends = np.rint(np.cumsum(lengths) * wanted / sum(lengths)).astype(int)
        return [max(1, int(frames)) for frames in np.diff(ends, prepend=0)]

    def _row(self, phones: Codes, speaker: Codes | None, prompt: Prompt | None) -> dict[str, Codes]:
        """Known and blank cells of one sentence."""
        blank = torch.full((self.codec.num_levels, int(phones[1].sum())), UNKNOWN)
        who = {} if speaker is None else {"speaker": speaker}
        if prompt is None:
            return {"phones": phones, **who, "audio": blank}
        lead = prompt.phones if prompt.phones is not None else _pauses(prompt.codes.shape[1])
        return {"phones": torch.cat([lead, phones], dim=1), **who, "audio": torch.cat([prompt.codes, blank], dim=1)}

    def _prompt(self, prompt: Waveform | None, text: str | None) -> Prompt | None:
        """A recording as known cells.

        Raises:
            ValueError: If it cannot be used, or a text is given without it.
        """
        if prompt is None:
            if text is not None:
                raise ValueError("prompt_text needs prompt, the recording that says it")
            return None
        samples = self._checked(prompt, "the prompt")
        codes = self.codec.encode([Waveform(samples=samples, sample_rate_hz=self.codec.sample_rate_hz)])[0]
        if text is None:
            return Prompt(codes, None)
        ids = torch.cat([self.phones.encode([sentence])[0][0] for sentence in self.phones.sentences(text)])
        return Prompt(codes, torch.stack([ids, whole_frames(self.durations.frames(ids, 0), codes.shape[1])]))

    def codes_of(self, recording: Waveform) -> Codes:
        """Codes of a recording of at most 30 s, any rate and channels.

        Raises:
            ValueError: If it is empty, too long, silent, or holds NaN or infinity.
        """
        samples = self._checked(recording, "the recording")
        return self.codec.encode([Waveform(samples=samples, sample_rate_hz=self.codec.sample_rate_hz)])[0]

    def _checked(self, wave: Waveform, what: str) -> Float[np.ndarray, "channels samples"]:
        """Samples at the codec's rate.

        Raises:
            ValueError: If the recording is empty, too long, silent, or holds NaN or infinity.
        """
        seconds = wave.samples.shape[1] / wave.sample_rate_hz
        if not 0 < seconds <= LONGEST_PROMPT_S:
            raise ValueError(f"{what} lasts {seconds:.1f} s, at most {LONGEST_PROMPT_S:g} s are taken; cut it")
        if not np.isfinite(wave.samples).all():
            raise ValueError(f"{what} holds NaN or infinite samples; give a whole recording")
        if float(np.sqrt(np.mean(np.square(wave.samples, dtype=np.float64)))) < SILENCE:
            raise ValueError(f"{what} is silent; give a recording of a voice")
        return fit_audio(wave, self.codec.sample_rate_hz, self.codec.channels)[0].samples

    def _span(self, span_s: tuple[float, float], samples: int) -> tuple[int, int]:
        """First frame that is made anew and the first after it: every frame that the span touches.

        Raises:
            ValueError: If the span does not lie in the recording.
        """
        length = samples / self.codec.sample_rate_hz
        if not 0 <= span_s[0] < span_s[1] <= length + 1e-9:
            raise ValueError(f"the span {span_s[0]:g} to {span_s[1]:g} s does not lie in the recording of {length:.2f} s")
        per_s = self.frames_per_s
        return int(span_s[0] * per_s), min(self.codec.frames(samples), int(np.ceil(span_s[1] * per_s - 1e-9)))

    def _joined(self, parts: Sequence[np.ndarray], seconds: float | None, given: np.ndarray | None) -> Waveform:
        """Sentences behind each other, cut to the length asked for, with the prompt before them if it is to be kept."""
        samples = np.concatenate(parts, axis=1)
        if seconds is not None:
            samples = samples[:, : round(seconds * self.codec.sample_rate_hz)]
        if given is not None:
            samples = np.concatenate([given, samples], axis=1)
        return Waveform(samples=samples, sample_rate_hz=self.codec.sample_rate_hz)

    def _pasted(self, original: np.ndarray, made: np.ndarray, start: int, end: int, stop: int) -> Float[np.ndarray, "channels samples"]:
        """The original with frames `start` to `stop` replaced by the made frames `start` to `end`, faded in and out inside them."""
        per_frame, fade = self.codec.samples_per_frame, round(FADE_S * self.codec.sample_rate_hz)
        new = made[:, start * per_frame : end * per_frame].copy()
        fade = min(fade, new.shape[1] // 2, (stop - start) * per_frame // 2)
        ramp = np.linspace(0, 1, fade, endpoint=False, dtype=np.float32)
        after = min(stop * per_frame, original.shape[1])
        if start and fade:
            new[:, :fade] = new[:, :fade] * ramp + original[:, start * per_frame : start * per_frame + fade] * (1 - ramp)
        if after < original.shape[1] and fade:
            new[:, -fade:] = new[:, -fade:] * ramp[::-1] + original[:, after - fade : after] * (1 - ramp[::-1])
        return np.concatenate([original[:, : start * per_frame], new, original[:, after:]], axis=1)


def _pauses(frames: int) -> Codes:
    """So many frames as pauses of at most 127, which put what follows at its place in time."""
    lengths = [127] * (frames // 127) + [frames % 127] * (frames % 127 > 0)
    return torch.tensor([[0] * len(lengths), lengths], dtype=torch.long)
