"""Music and sounds as requests: a text beside blank frames; recordings that are continued or edited are frames that are known."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from maskgen.io.audio import Waveform
from maskgen.processors.base import Prepared, Processor, required
from maskgen.processors.media import as_audio
from maskgen.processors.spoken import EditedSpan
from maskgen.processors.text import encoders_of, told_codes
from maskgen.tokenizers.audio_base import SoundTokenizer
from maskgen.tokenizers.base import Tokenizer
from maskgen.tokens.batch import UNKNOWN, Codes


@dataclass(frozen=True, kw_only=True)
class SoundRequest:
    """Audio that a text describes.

    Args:
        prompts: What each sounds like; an empty one asks for any audio.
        seeds: Seeds of the outputs of each prompt.
        negative_prompts: What guidance leads away from, one a prompt; None leads away from no text at all.
        seconds: Length of what is generated; None takes all that the model was trained on.
        audio: Recording that is continued, or with `span_s` edited.
        span_s: First and last second of `audio` that are generated anew.
    """

    prompts: Sequence[str]
    seeds: Sequence[Sequence[int]]
    negative_prompts: Sequence[str] | None = None
    seconds: float | None = None
    audio: Any = None
    span_s: Sequence[float] | None = None


@dataclass(frozen=True)
class PreparedSound(Prepared):
    """Rows of a request, and how their audio is cut and joined.

    Args:
        cut: Samples at the start of each row that are a recording's.
        samples: Samples that are kept behind them; None keeps all.
        before: Samples that stand before what was generated.
        span: The edit, if it is one.
    """

    cut: int = 0
    samples: int | None = None
    before: np.ndarray | None = None
    span: EditedSpan | None = None


class SoundProcessor(Processor[SoundRequest, PreparedSound]):
    """Texts and recordings to cells, decoded rows to waveforms.

    Args:
        tokenizers: "text", "audio" and frozen text encoders are used.
        longest: Frames of a row at most, recordings included.
    """

    def __init__(self, tokenizers: Mapping[str, Tokenizer], longest: int) -> None:
        self.readers, self.longest = {"text": tokenizers["text"], **encoders_of(tokenizers)}, longest
        self.codec = required(tokenizers, "audio", SoundTokenizer)  # type: ignore[type-abstract]  # an instance is looked for, none is made

    def prepare(self, request: SoundRequest) -> PreparedSound:
        """Rows of known and blank cells; see `Processor.prepare`."""
        frames, plan = self._edit(request) if request.span_s is not None else self._new(request)
        negatives = request.negative_prompts

        def rows(texts: Sequence[str]) -> list[Mapping[str, Codes]]:
            told = [told_codes(self.readers, text, allow_empty=True) for text in texts]
            return [{**text, "audio": frames} for text, seeds in zip(told, request.seeds, strict=True) for _ in seeds]

        return PreparedSound(
            rows=rows(request.prompts),
            seeds=[seed for seeds in request.seeds for seed in seeds],
            negative=None if negatives is None else rows(negatives),
            **plan,
        )

    def finish(self, plan: PreparedSound, media: Sequence[Waveform]) -> list[Waveform]:
        """A waveform a row: cut to the length asked for, behind the recording that it continues or inside the one that it edits."""
        return [Waveform(samples=self._finished(plan, made.samples), sample_rate_hz=self.codec.sample_rate_hz) for made in media]

    def _finished(self, plan: PreparedSound, made: np.ndarray) -> np.ndarray:
        if plan.span is not None:
            return plan.span.pasted(made, self.codec)
        new = made[:, plan.cut :][:, : plan.samples]
        return new if plan.before is None else np.concatenate([plan.before, new], axis=1)

    def _new(self, request: SoundRequest) -> tuple[Codes, dict[str, Any]]:
        """Cells of new audio, behind a recording if there is one.

        Raises:
            ValueError: If the length is out of range.
        """
        heard = torch.zeros(self.codec.num_levels, 0, dtype=torch.long)
        plan: dict[str, Any] = {}
        if request.audio is not None:
            before = self._recording(request.audio)
            whole = before.shape[1] - before.shape[1] % self.codec.samples_per_frame
            heard = self.codec.encode([self._wave(before[:, : whole or None])])[0]
            plan = {"before": before, "cut": heard.shape[1] * self.codec.samples_per_frame}
        if request.seconds is None:
            wanted = self.longest - heard.shape[1]
        elif not isinstance(request.seconds, int | float) or not 0 < request.seconds < math.inf:
            raise ValueError(f"seconds must be a positive number, got {request.seconds!r}")
        else:
            plan["samples"] = max(1, round(request.seconds * self.codec.sample_rate_hz))
            wanted = self.codec.frames(plan["samples"])
        if wanted < 1 or heard.shape[1] + wanted > self.longest:
            per_s, most = self.codec.frames_per_s, self.longest / self.codec.frames_per_s
            after = f" behind {heard.shape[1] / per_s:.2f} s of recording" if heard.shape[1] else ""
            raise ValueError(
                f"{max(wanted, 0) / per_s:.2f} s{after} are asked for, this model makes up to {most:g} s in all; ask for less, or give a "
                "shorter end of the recording"
            )
        return torch.cat([heard, torch.full((self.codec.num_levels, wanted), UNKNOWN)], dim=1), plan

    def _edit(self, request: SoundRequest) -> tuple[Codes, dict[str, Any]]:
        """Cells of a recording with a blank stretch.

        Raises:
            TypeError: If the span is no pair of numbers.
            ValueError: If it does not lie in the recording, there is none, or a length is given too.
        """
        span = request.span_s
        if not isinstance(span, tuple | list) or len(span) != 2 or not all(isinstance(one, int | float) for one in span):
            raise TypeError(f"span_s must be (first second, last second), got {span!r}")
        if request.audio is None or request.seconds is not None:
            raise ValueError("span_s needs audio, the recording in which it is generated anew, and goes without seconds")
        original = self._recording(request.audio)
        length_s, per_s = original.shape[1] / self.codec.sample_rate_hz, self.codec.frames_per_s
        if not 0 <= span[0] < span[1] <= length_s + 1e-9:
            raise ValueError(f"the span {span[0]:g} to {span[1]:g} s does not lie in the recording of {length_s:.2f} s")
        codes = self.codec.encode([self._wave(original)])[0].clone()
        start, stop = int(span[0] * per_s), min(codes.shape[1], math.ceil(span[1] * per_s - 1e-9))
        codes[:, start:stop] = UNKNOWN
        return codes, {"span": EditedSpan(original, start, stop, stop)}

    def _recording(self, audio: Any) -> np.ndarray:
        """Samples of a recording at the codec's rate.

        Raises:
            ValueError: If it is empty, longer than the model's rows, or not finite.
        """
        samples = self.codec.fitted([as_audio(audio)])[0].numpy()
        if self.codec.frames(samples.shape[1]) > self.longest:
            most = self.longest / self.codec.frames_per_s
            raise ValueError(
                f"the recording lasts {samples.shape[1] / self.codec.sample_rate_hz:.2f} s, at most {most:g} s are taken; cut it"
            )
        return samples

    def _wave(self, samples: np.ndarray) -> Waveform:
        return Waveform(samples=samples, sample_rate_hz=self.codec.sample_rate_hz)
