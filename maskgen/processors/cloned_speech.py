"""Speech in the voice of a recording, in two stages: semantic codes of what is said, then acoustic codes."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from maskgen.io.audio import Waveform
from maskgen.phonetics.sentences import split_sentences
from maskgen.processors.base import required
from maskgen.processors.media import as_audio
from maskgen.processors.spoken import PreparedSpeech, SpeechRequest, SpokenProcessor
from maskgen.processors.timing import PACES
from maskgen.tokenizers.audio_base import SoundTokenizer
from maskgen.tokenizers.base import Tokenizer
from maskgen.tokenizers.phone_table import ENGLISH, PhoneTableTokenizer
from maskgen.tokenizers.phonemes import between_slashes
from maskgen.tokens.batch import UNKNOWN, Codes

LONGEST_SPEECH_S, PART_S = 30.0, 15.0
"""Speech of one row at most, and the length of the parts that longer speech is cut into."""


@dataclass(frozen=True)
class _Heard:
    """A recording: its phones, its codes of both kinds, one of each a frame, and how long it lasts."""

    wave: Waveform
    phones: Sequence[str]
    semantic: Codes
    acoustic: Codes


class ClonedSpeechProcessor(SpokenProcessor):
    """Texts and a recording to the cells of MaskGCT's two stages.

    Args:
        tokenizers: "phonemes", "semantic" and "audio" are used.

    Source: MaskGCT, arXiv:2409.00750. Differs: of a recording as many frames are used as both kinds of codes have, so speech has exactly
    the frames that are asked for; long texts are spoken in parts.
    """

    def __init__(self, tokenizers: Mapping[str, Tokenizer]) -> None:
        self.text = required(tokenizers, "phonemes", PhoneTableTokenizer)
        self.codec = required(tokenizers, "audio", SoundTokenizer)  # type: ignore[type-abstract]  # an instance is looked for, none is made
        self.semantic = tokenizers["semantic"]

    def phonemes(self, plan: PreparedSpeech) -> list[str]:
        """Phones of each part, between slashes."""
        return self.text.decode(plan.phonemes)

    def prepare(self, request: SpeechRequest) -> PreparedSpeech:
        """Rows of the first stage, with the acoustic codes of the recording for the second; see `Processor.prepare`."""
        _check(request)
        language = request.language or ENGLISH
        heard = self._heard(request, language)
        parts, frames = self._parts(request, heard, language)
        rows, phonemes = list[dict[str, Codes]](), list[Codes]()
        for part, count in zip(parts, frames, strict=True):
            phones = self.text.phones(part, language)
            phonemes.append(self.text.codes_of(phones))
            blank = torch.full((1, count), UNKNOWN)
            told = self.text.codes_of([*heard.phones, *phones])
            rows.append({"phonemes": told, "heard": heard.semantic, "voice": heard.acoustic, "semantic": blank})
        before = None if request.audio is None else self.fitted(heard.wave)
        return PreparedSpeech(rows=rows, seeds=range(len(rows)), sentences=parts, phonemes=phonemes, seconds=request.seconds, before=before)

    def second_stage(self, plan: PreparedSpeech, semantic: Sequence[Codes]) -> PreparedSpeech:
        """The plan with the rows of the second stage.

        Args:
            plan: The result of `prepare`.
            semantic: Semantic codes of each row.
        """
        levels = self.codec.num_levels
        rows = [
            {name: codes for name, codes in row.items() if name != "phonemes"}
            | {"semantic": codes, "audio": torch.full((levels, codes.shape[1]), UNKNOWN)}
            for row, codes in zip(plan.rows, semantic, strict=True)
        ]
        return replace(plan, rows=rows)

    def finish(self, plan: PreparedSpeech, media: Sequence[Any]) -> list[Waveform]:
        """A waveform a take: the parts of the text joined, after the recording that they continue."""
        count = len(plan.rows)
        takes = [media[start : start + count] for start in range(0, len(media), count)]
        return [self.joined([wave.samples for wave in take], plan.seconds, plan.before) for take in takes]

    def _heard(self, request: SpeechRequest, language: str) -> _Heard:
        """The recording of a request.

        Raises:
            ValueError: If it is empty, too long or silent, or what it says can't be read.
        """
        given, what = (request.audio, "audio") if request.audio_prompt is None else (request.audio_prompt, "audio_prompt")
        wave = as_audio(given, what)
        acoustic = self.codec.encode([self.wave(self.checked(wave, what))])[0]
        semantic = self.semantic.encode([wave])[0]
        frames = min(acoustic.shape[1], semantic.shape[1])
        assert request.audio_text is not None, "checked at the door"
        phones = self.text.phones(request.audio_text, language)
        return _Heard(wave, phones, semantic[:, :frames], acoustic[:, :frames])

    def _parts(self, request: SpeechRequest, heard: _Heard, language: str) -> tuple[list[str], list[int]]:
        """What is spoken as one row each, and the frames of each."""
        text, rate = request.prompt.strip(), self.frames_per_s
        phones = len(self.text.phones(text, language))
        pace = heard.wave.seconds / len(heard.phones) / request.speed
        total_s = phones * pace if request.seconds is None else request.seconds
        parts = [text]
        if total_s > LONGEST_SPEECH_S and not between_slashes(text):
            most = max(1, int(PART_S / total_s * phones))
            parts = _merged(split_sentences(text, lambda part: self._length(part, language), most), self._length, most, language)
        shares = np.cumsum([self._length(part, language) for part in parts])
        if request.seconds is None:
            return parts, [max(1, int(count * pace * rate + 1e-6)) for count in np.diff(shares, prepend=0)]
        wanted = -(-round(request.seconds * self.codec.sample_rate_hz) // self.codec.samples_per_frame)
        if wanted < len(parts):
            raise ValueError(f"seconds is {request.seconds:g}, less than one frame of {1 / rate:g} s a part of the text; ask for more")
        ends = np.rint(shares * wanted / shares[-1]).astype(int)
        return parts, [max(1, int(count)) for count in np.diff(ends, prepend=0)]

    def _length(self, text: str, language: str) -> int:
        """Phones of a part of a text; 0 if it has none."""
        try:
            return len(self.text.phones(text, language))
        except ValueError:
            return 0


def _merged(sentences: Sequence[str], length: Callable[[str, str], int], most: int, language: str) -> list[str]:
    """Neighbouring sentences as one part while that has no more than `most` phones."""
    found = list[str]()
    for sentence in sentences:
        if found and length(f"{found[-1]} {sentence}", language) <= most:
            found[-1] = f"{found[-1]} {sentence}"
        else:
            found.append(sentence)
    return found


def _check(request: SpeechRequest) -> None:
    """Refuse what this voice cannot do, and contradictions.

    Raises:
        ValueError: Says what is wrong.
    """
    if not request.prompt.strip():
        raise ValueError("the text is empty; say what is to be spoken, for example: Hello there.")
    if request.speaker is not None:
        raise ValueError("this voice is that of a recording and can't be described; leave speaker out and give audio_prompt")
    if request.span_s is not None:
        raise ValueError("this voice continues recordings and does not edit them; leave span_s out")
    if (request.audio is None) == (request.audio_prompt is None):
        raise ValueError("this voice needs one recording: audio_prompt, whose voice the speech takes up, or audio, which it continues")
    if not (request.audio_text or "").strip():
        raise ValueError("this voice needs audio_text, what the recording says: it decides voice and pace")
    if not PACES[0] <= request.speed <= PACES[1]:
        raise ValueError(f"speed must lie in {PACES[0]:g} to {PACES[1]:g}, got {request.speed:g}")
    if request.seconds is not None and request.speed != 1.0:
        raise ValueError("seconds and speed both decide the pace; give one of them")
    if request.seconds is not None and not 0 < request.seconds < math.inf:
        raise ValueError(f"seconds must be a positive number, got {request.seconds:g}")
