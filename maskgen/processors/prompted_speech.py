"""Speech from written prompts: language, description of the voice and text before the codes of a recording and of the speech."""

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float

from maskgen.io.audio import Waveform
from maskgen.phonetics.sentences import split_sentences
from maskgen.processors.base import required
from maskgen.processors.media import as_audio
from maskgen.processors.speaking_time import SAMPLE, SAMPLE_S, speaking_seconds, weight
from maskgen.processors.spoken import EditedSpan, PreparedSpeech, SpeechRequest, SpokenProcessor
from maskgen.processors.timing import PACES
from maskgen.processors.voice_description import HAN, described_voice
from maskgen.tokenizers.audio_base import SoundTokenizer
from maskgen.tokenizers.base import Tokenizer
from maskgen.tokenizers.transformers_text import TransformersTextTokenizer
from maskgen.tokens.batch import UNKNOWN, Codes

LONGEST_ROW_S, PIECE_S = 30.0, 15.0
"""Speech of one row at most, and the length of the pieces that longer speech is cut into."""
LOUDNESS = 0.1
"""Root mean square to which a quieter recording is raised before the model hears it."""
QUESTIONS, SURPRISES = ("en", "ah", "oh", "ei", "yi"), ("ah", "oh", "wa", "yo")
SOUNDS = (
    *("laughter", "sigh", "confirmation-en", "dissatisfaction-hnn"),
    *(f"question-{sound}" for sound in QUESTIONS),
    *(f"surprise-{sound}" for sound in SURPRISES),
)
"""What the model utters without words, written in brackets: [laughter]."""
_SOUND = re.compile(rf"(\[(?:{'|'.join(SOUNDS)})\])")
HOLE = "..."
"""Stands in `audio_text` for the words that an edit puts in."""
_LANGUAGE = re.compile(r"[a-z]{2,3}")


class PromptedSpeechProcessor(SpokenProcessor):
    """Texts and recordings to a prompt and cells of audio, in the layout of OmniVoice.

    Args:
        tokenizers: "prompt" and "audio" are used.

    Source: OmniVoice (k2-fsa). Differs: special tokens that a text spells out are plain text; a line break is a space and joins no words.
    The reference has no edits: here the codes around the new part are known cells, and the prompt says all of the edited recording.
    """

    def __init__(self, tokenizers: Mapping[str, Tokenizer]) -> None:
        self.text = required(tokenizers, "prompt", TransformersTextTokenizer)
        self.codec = required(tokenizers, "audio", SoundTokenizer)  # type: ignore[type-abstract]  # an instance is looked for, none is made

    def phonemes(self, plan: PreparedSpeech) -> list[str]:
        """None: the voice reads letters."""
        return []

    def prepare(self, request: SpeechRequest) -> PreparedSpeech:
        """Rows of known and blank cells; see `Processor.prepare`."""
        _check(request)
        if request.span_s is not None:
            return self._edit(request)
        recording, what = (request.audio, "audio") if request.audio_prompt is None else (request.audio_prompt, "audio_prompt")
        wave = None if recording is None else self.checked(as_audio(recording, what), what)
        said = None if request.audio_text is None else _ended(_plain(request.audio_text))
        text = _plain(request.prompt)
        pace = (SAMPLE, SAMPLE_S) if wave is None or said is None else (said, wave.shape[1] / self.codec.sample_rate_hz)
        pieces, frames = self._pieces(text, request, pace, alone=wave is None)
        heard, gain = (None, 1.0) if wave is None else self._heard(wave[:, : self._whole_frames(wave.shape[1])])
        rows = []
        for piece, count in zip(pieces, frames, strict=True):
            blank = torch.full((self.codec.num_levels, count), UNKNOWN)
            audio = blank if heard is None else torch.cat([heard, blank], dim=1)
            rows.append({**request.known, "prompt": self.prompt_codes(piece, said, request, heard is not None), "audio": audio})
        return PreparedSpeech(
            rows=rows,
            seeds=range(len(rows)),
            sentences=pieces,
            seconds=request.seconds,
            cut=0 if heard is None else heard.shape[1] * self.codec.samples_per_frame,
            before=None if wave is None or request.audio is None else wave,
            gain=gain,
        )

    def finish(self, plan: PreparedSpeech, media: Sequence[Any]) -> list[Waveform]:
        """A waveform a take: the pieces of the text joined, after the recording that they continue."""
        if plan.span is not None:
            return [self.wave(plan.span.pasted(wave.samples * plan.gain, self.codec)) for wave in media]
        count = len(plan.rows)
        takes = [media[start : start + count] for start in range(0, len(media), count)]
        return [self.joined([wave.samples[:, plan.cut :] * plan.gain for wave in take], plan.seconds, plan.before) for take in takes]

    def _edit(self, request: SpeechRequest) -> PreparedSpeech:
        """A row in which a stretch of a recording is blank, and a prompt of all that the edited recording says.

        Raises:
            ValueError: If the span does not lie in the recording, or the edited recording would be too long.
        """
        wave = self.checked(as_audio(request.audio, "audio"), "audio")
        start, stop = self.touched(request.span_s, wave.shape[1])
        codes, gain = self._heard(wave)
        text, around = _plain(request.prompt), [_plain(part) for part in (request.audio_text or HOLE).split(HOLE)]
        kept_s = (codes.shape[1] - (stop - start)) / self.frames_per_s
        pace = (" ".join(around), kept_s) if any(around) and kept_s else (SAMPLE, SAMPLE_S)
        seconds = speaking_seconds(text, *pace) / request.speed if request.seconds is None else request.seconds
        new = max(1, round(seconds * self.frames_per_s))
        if kept_s + new / self.frames_per_s > LONGEST_ROW_S:
            raise ValueError(
                f"the edited recording would last {kept_s + seconds:.1f} s, at most {LONGEST_ROW_S:g} s are made; edit a shorter part of it"
            )
        blank = torch.full((self.codec.num_levels, new), UNKNOWN)
        whole = _plain(" ".join([around[0], text, around[1]]))
        row = {
            "prompt": self.prompt_codes(whole, None, request, True),
            "audio": torch.cat([codes[:, :start], blank, codes[:, stop:]], dim=1),
        }
        return PreparedSpeech(
            rows=[{**request.known, **row}], seeds=[0], sentences=[text], span=EditedSpan(wave, start, start + new, stop), gain=gain
        )

    def prompt_codes(self, text: str, said: str | None, request: SpeechRequest, heard: bool) -> Codes:
        """Codes [1, n] of a prompt: language, voice, and what recording and speech say.

        Args:
            text: What is spoken.
            said: What the recording says, if that is known.
            request: Its speaker and language are used.
            heard: Whether a recording follows the prompt.

        Raises:
            ValueError: If the vocabulary lacks a token of the layout.
        """
        voice = described_voice(request.speaker, text) if request.speaker else ""
        ids = [self._special("denoise")] if heard else []
        ids += [self._special("lang_start"), *self._words(request.language or "None"), self._special("lang_end")]
        ids += [self._special("instruct_start"), *self._words(voice or "None"), self._special("instruct_end"), self._special("text_start")]
        for piece in _SOUND.split(_plain(text if said is None else f"{said} {text}")):
            ids += self._words(piece)
        return torch.tensor([[*ids, self._special("text_end")]])

    def _words(self, text: str) -> list[int]:
        """Codes of plain text."""
        found: list[int] = self.text.encode([text])[0][0].tolist()
        return found

    def _special(self, name: str) -> int:
        """Code of a token of the layout."""
        found = self.text.token(f"<|{name}|>")
        if found is None:
            raise ValueError(
                f"the text tokenizer has no token <|{name}|>, which prompts of speech need; copy the whole folder of the model"
            )
        return found

    def _pieces(self, text: str, request: SpeechRequest, pace: tuple[str, float], alone: bool) -> tuple[list[str], list[int]]:
        """What is spoken as one row each, and the frames of each.

        Raises:
            ValueError: If the speech is too long for one row and there is no recording whose voice all rows could have.
        """
        total_s = speaking_seconds(text, *pace) / request.speed if request.seconds is None else request.seconds
        pieces = [text]
        if total_s > LONGEST_ROW_S:
            if alone:
                raise ValueError(
                    f"the speech would last {total_s:.1f} s, at most {LONGEST_ROW_S:g} s are spoken without a recording; give "
                    "audio_prompt, whose voice all parts have, or a shorter text"
                )
            per_weight = total_s / weight(text)
            pieces = split_sentences(text, lambda part: math.ceil(weight(part) * per_weight * 100), round(PIECE_S * 100))
        per_s = self.codec.frames_per_s
        if request.seconds is None:
            return pieces, [max(1, int(speaking_seconds(piece, *pace) / request.speed * per_s)) for piece in pieces]
        wanted = -(-round(request.seconds * self.codec.sample_rate_hz) // self.codec.samples_per_frame)
        if wanted < len(pieces):
            raise ValueError(f"seconds is {request.seconds:g}, less than one frame of {1 / per_s:g} s a part of the text; ask for more")
        shares = np.cumsum([weight(piece) for piece in pieces])
        ends = np.rint(shares * wanted / shares[-1]).astype(int)
        return pieces, [max(1, int(count)) for count in np.diff(ends, prepend=0)]

    def _whole_frames(self, samples: int) -> int:
        """Samples without those of a last, incomplete frame; all of them where there is no whole frame."""
        return samples - samples % self.codec.samples_per_frame or samples

    def _heard(self, wave: Float[np.ndarray, "channels samples"]) -> tuple[Codes, float]:
        """Codes of a recording, and what brings speech at their loudness back to the recording's."""
        loudness = float(np.sqrt(np.mean(np.square(wave, dtype=np.float64))))
        gain = min(1.0, loudness / LOUDNESS)
        return self.codec.encode([self.wave((wave / gain).astype(np.float32))])[0], gain


def _check(request: SpeechRequest) -> None:
    """Refuse what this voice cannot do, and contradictions.

    Raises:
        ValueError: Says what is wrong.
    """
    if not _plain(request.prompt):
        raise ValueError("the text is empty; say what is to be spoken, for example: Hello there.")
    if request.span_s is not None:
        _check_edit(request)
    if request.audio is not None and request.audio_prompt is not None:
        raise ValueError("audio is continued and audio_prompt lends its voice; give one of them")
    if request.audio_text is not None and request.audio is None and request.audio_prompt is None:
        raise ValueError("audio_text needs audio or audio_prompt, the recording that says it")
    if not PACES[0] <= request.speed <= PACES[1]:
        raise ValueError(f"speed must lie in {PACES[0]:g} to {PACES[1]:g}, got {request.speed:g}")
    if request.seconds is not None and request.speed != 1.0:
        raise ValueError("seconds and speed both decide the pace; give one of them")
    if request.seconds is not None and not 0 < request.seconds < math.inf:
        raise ValueError(f"seconds must be a positive number, got {request.seconds:g}")
    if request.language is not None and not _LANGUAGE.fullmatch(request.language):
        raise ValueError(f"language must be a code of two or three letters, such as en, got {request.language!r}")


def _check_edit(request: SpeechRequest) -> None:
    """Refuse an edit without a recording, in another's voice, or with a text that does not say where the new words go.

    Raises:
        ValueError: Says what is wrong.
    """
    if request.audio is None:
        raise ValueError("span_s needs audio, the recording in which it is replaced")
    if request.audio_prompt is not None or request.speaker is not None:
        raise ValueError("an edit keeps the voice of its recording and takes no speaker and no audio_prompt")
    if request.audio_text is not None and request.audio_text.count(HOLE) != 1:
        raise ValueError(
            f"audio_text of an edit is what the recording says, with {HOLE} once, where the new words go, for example: I am {HOLE} today."
        )


def _plain(text: str) -> str:
    """A text in one line, with ASCII parentheses and without spaces around Chinese characters."""
    line = " ".join(text.replace("（", "(").replace("）", ")").split())
    return re.sub(rf"(?<=[{HAN}]) | (?=[{HAN}])", "", line)


def _ended(text: str) -> str:
    """What a recording says, with a full stop if it has no punctuation at its end: the speech is another sentence."""
    if not text or not text[-1].isalnum():
        return text
    return text + ("。" if re.match(f"[{HAN}]", text[-1]) else ".")
