"""Speech as requests: text becomes timed phonemes beside blank frames; prompts, continuations and edits are frames that are known."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from maskgen.io.audio import Waveform
from maskgen.networks.durations import DurationPredictor, whole_frames
from maskgen.processors.base import required
from maskgen.processors.media import as_audio
from maskgen.processors.spoken import EditedSpan, PreparedSpeech, SpeechRequest, SpokenProcessor
from maskgen.processors.timing import PhonemeTiming, pauses
from maskgen.tokenizers.attribute import AttributeTokenizer
from maskgen.tokenizers.audio_base import SoundTokenizer
from maskgen.tokenizers.base import Tokenizer
from maskgen.tokenizers.phonemes import PhonemeTokenizer
from maskgen.tokens.batch import UNKNOWN, Codes

logger = logging.getLogger(__name__)
LONGEST_TEXT = 5_000
"""Characters of the longest text that is spoken in one call, about six minutes."""


@dataclass(frozen=True)
class Lead:
    """A recording before the speech.

    Args:
        codes: Its codes [level, frames].
        phones: Timed phonemes of what it says, or None where that is not known.
    """

    codes: Codes
    phones: Codes | None


class SpeechProcessor(SpokenProcessor):
    """Texts and recordings to cells, decoded rows to waveforms.

    Args:
        tokenizers: "phones", "speaker" and "audio" are used.
        durations: How long each phoneme lasts.
    """

    def __init__(self, tokenizers: Mapping[str, Tokenizer], durations: DurationPredictor) -> None:
        phones = required(tokenizers, "phones", PhonemeTokenizer)
        speakers = required(tokenizers, "speaker", AttributeTokenizer)
        codec = required(tokenizers, "audio", SoundTokenizer)  # type: ignore[type-abstract]  # an instance is looked for, none is made
        self.phones, self.speakers, self.codec, self.durations = phones, speakers, codec, durations
        self.timing = PhonemeTiming(phones, durations, codec.sample_rate_hz, codec.samples_per_frame)

    def phonemes(self, plan: PreparedSpeech) -> list[str]:
        """Phonemes of each sentence of a plan."""
        return [self.phones.decode([phones])[0] for phones in plan.phonemes]

    def prepare(self, request: SpeechRequest) -> PreparedSpeech:
        """Rows of known and blank cells; see `Processor.prepare`."""
        if request.span_s is not None:
            return self._edit(request)
        sentences = self._sentences(request.prompt)
        recording, what = (request.audio, "audio") if request.audio_prompt is None else (request.audio_prompt, "audio_prompt")
        if request.audio is not None and request.audio_prompt is not None:
            raise ValueError("audio is continued and audio_prompt lends its voice; give one of them")
        wave = None if recording is None else as_audio(recording, what)
        lead = self._lead(wave, request.audio_text)
        speakers = self.speakers.encode([request.speaker or self.speakers.values[0]])[0]
        spoken = self.timing.timed(sentences, int(speakers), request.seconds, request.speed)
        who = None if lead is not None and request.speaker is None else speakers
        rows = [{**request.known, **self._row(phones, who, lead)} for phones in spoken]
        return PreparedSpeech(
            rows=rows,
            seeds=range(len(rows)),
            sentences=sentences,
            phonemes=spoken,
            left_out=self.phones.left_out(request.prompt),
            seconds=request.seconds,
            cut=0 if lead is None else lead.codes.shape[1] * self.codec.samples_per_frame,
            before=None if wave is None or request.audio is None else self.fitted(wave),
        )

    def finish(self, plan: PreparedSpeech, media: Sequence[Any]) -> list[Waveform]:
        """A waveform a take: sentences joined, recordings and edits put together."""
        if plan.span is not None:
            return [self.wave(plan.span.pasted(made.samples, self.codec)) for made in media]
        count = len(plan.rows)
        takes = [media[start : start + count] for start in range(0, len(media), count)]
        return [self.joined([wave.samples[:, plan.cut :] for wave in take], plan.seconds, plan.before) for take in takes]

    def _edit(self, request: SpeechRequest) -> PreparedSpeech:
        """Rows in which a stretch of a recording is blank.

        The new part begins and ends at frames of the codec and is cross-faded over 10 ms inside itself.
        """
        given = {"speaker": request.speaker, "audio_prompt": request.audio_prompt, "audio_text": request.audio_text}
        if wrong := [name for name, value in given.items() if value is not None]:
            raise ValueError(f"an edit keeps the voice of its recording and takes no {' and no '.join(wrong)}")
        if request.audio is None:
            raise ValueError("span_s needs audio, the recording in which it is replaced")
        original = self.checked(as_audio(request.audio), "the recording")
        sentences = self._sentences(request.prompt)
        start, stop = self._span(request.span_s, original.shape[1])
        codes = self.codec.encode([self.wave(original)])[0]
        phones = torch.cat(self.timing.timed(sentences, 0, request.seconds, request.speed, edges=False), dim=1)
        new = int(phones[1].sum())
        blank = torch.full((self.codec.num_levels, new), UNKNOWN)
        row = {"phones": torch.cat([pauses(start), phones], dim=1), "audio": torch.cat([codes[:, :start], blank, codes[:, stop:]], dim=1)}
        return PreparedSpeech(
            rows=[{**request.known, **row}],
            seeds=[0],
            sentences=sentences,
            phonemes=[phones],
            left_out=self.phones.left_out(request.prompt),
            span=EditedSpan(original, start, start + new, stop),
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

    def _row(self, phones: Codes, speaker: Codes | None, lead: Lead | None) -> dict[str, Codes]:
        """Known and blank cells of one sentence."""
        blank = torch.full((self.codec.num_levels, int(phones[1].sum())), UNKNOWN)
        who = {} if speaker is None else {"speaker": speaker}
        if lead is None:
            return {"phones": phones, **who, "audio": blank}
        before = lead.phones if lead.phones is not None else pauses(lead.codes.shape[1])
        return {"phones": torch.cat([before, phones], dim=1), **who, "audio": torch.cat([lead.codes, blank], dim=1)}

    def _lead(self, wave: Waveform | None, text: str | None) -> Lead | None:
        """A recording as known cells.

        Raises:
            ValueError: If it cannot be used, or a text is given without it.
        """
        if wave is None:
            if text is not None:
                raise ValueError("audio_text needs audio or audio_prompt, the recording that says it")
            return None
        codes = self.codec.encode([self.wave(self.checked(wave, "the prompt"))])[0]
        if text is None:
            return Lead(codes, None)
        ids = torch.cat([self.phones.encode([sentence])[0][0] for sentence in self.phones.sentences(text)])
        return Lead(codes, torch.stack([ids, whole_frames(self.durations.frames(ids, 0), codes.shape[1])]))

    def _span(self, span_s: Any, samples: int) -> tuple[int, int]:
        """First frame that is regenerated and the first after it: every frame that the span touches.

        Raises:
            TypeError: If the span is no pair of numbers.
            ValueError: If the span does not lie in the recording.
        """
        if not isinstance(span_s, (tuple, list)) or len(span_s) != 2:
            raise TypeError(f"span_s must be (first second, last second), got {span_s!r}")
        length = samples / self.codec.sample_rate_hz
        if not 0 <= span_s[0] < span_s[1] <= length + 1e-9:
            raise ValueError(f"the span {span_s[0]:g} to {span_s[1]:g} s does not lie in the recording of {length:.2f} s")
        per_s = self.frames_per_s
        return int(span_s[0] * per_s), min(self.codec.frames(samples), int(np.ceil(span_s[1] * per_s - 1e-9)))
