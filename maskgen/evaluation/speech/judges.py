"""All judges of speech, with a cache of their findings keyed by the audio."""

import functools
import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from maskgen.evaluation.cache import digest
from maskgen.evaluation.speech.asr import whisper_base, whisper_tiny_english
from maskgen.evaluation.speech.quality import Dnsmos, Opinion, SpeechDetector
from maskgen.evaluation.speech.speaker_similarity import SpeakerEncoder
from maskgen.io.audio import Waveform
from maskgen.io.files import write_atomic

logger = logging.getLogger(__name__)

Judge = Callable[[Waveform], Any]
JUDGES: dict[str, Callable[[], Judge]] = {
    "whisper_base": whisper_base,
    "whisper_tiny_en": whisper_tiny_english,
    "speaker": SpeakerEncoder,
    "dnsmos": Dnsmos,
    "speech": SpeechDetector,
}
VERSION = "whisper-base d01c3014 beam 5, tiny.en 1a5afae0 greedy, fp32; resemblyzer 0.1.4; speechmos 0.0.1.1; silero-vad 6.2.3; soxr HQ; 1"
"""What the findings depend on besides the audio; a change invalidates the cache."""


@dataclass(frozen=True, kw_only=True, eq=False)
class SpeechVerdict:
    """Findings of the judges for one audio clip; None for a judge that was not used.

    Args:
        seconds: Length.
        transcripts: Recogniser ("whisper_base", "whisper_tiny_en") to its transcript.
        voice: Speaker embedding of unit length; None also if no voice is found.
        opinion: DNSMOS.
        speech_ratio: Share of the audio that is speech, in [0, 1].
    """

    seconds: float
    transcripts: dict[str, str]
    voice: Float[Tensor, " dim"] | None
    opinion: Opinion | None
    speech_ratio: float | None


class SpeechPanel:
    """Judges that are loaded on first use and whose findings are cached.

    Args:
        judges: Some of `JUDGES`.
        cache: Folder of findings, one small file per audio clip; None disables caching.

    Raises:
        ValueError: If a judge is unknown, or none is named.
    """

    def __init__(self, judges: Sequence[str] = tuple(JUDGES), cache: Path | None = None) -> None:
        """See the class."""
        unknown = [name for name in judges if name not in JUDGES]
        if unknown or not judges:
            raise ValueError(f"found judge(s) {unknown or 'none'}, wanted some of {list(JUDGES)}")
        self.judges = tuple(judges)
        self._folder = None if cache is None else cache / f"speech-{digest(VERSION)[:8]}"
        self._load = functools.cache(lambda name: JUDGES[name]())

    def load(self) -> None:
        """Load every judge now, so that a missing package is reported before the work starts.

        Raises:
            ImportError: If a package of the extra `speech-eval` is not installed; the message names it.
            ValueError: If a package contains other weights than the expected ones.
        """
        for name in self.judges:
            self._load(name)

    def __call__(self, wave: Waveform) -> SpeechVerdict:
        """Judge an audio clip.

        Args:
            wave: Any audio clip.

        Raises:
            ValueError: If the audio has no sample, or samples outside [-1, 1].
            ImportError: If a package is missing.
        """
        check_sound(wave)
        findings = self._findings(wave)
        voice, opinion = findings.get("speaker"), findings.get("dnsmos")
        return SpeechVerdict(
            seconds=seconds_of(wave),
            transcripts={name: findings[name] for name in self.judges if name.startswith("whisper")},
            voice=None if voice is None else torch.tensor(voice),
            opinion=None if opinion is None else Opinion(**opinion),
            speech_ratio=findings.get("speech"),
        )

    def _findings(self, wave: Waveform) -> dict[str, Any]:
        """Findings as JSON data, from the cache; missing ones are computed and added to it."""
        known: dict[str, Any] = {}
        path = None
        if self._folder is not None:
            self._folder.mkdir(parents=True, exist_ok=True)
            samples = torch.from_numpy(np.ascontiguousarray(wave.samples))
            path = self._folder / f"{digest(samples, str(wave.sample_rate_hz))[:32]}.json"
            known = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        missing = [name for name in self.judges if name not in known]
        known.update({name: _plain(self._load(name)(wave)) for name in missing})
        if path is not None and missing:
            write_atomic(path, json.dumps(known).encode())
        return {name: known[name] for name in self.judges}


def seconds_of(wave: Waveform) -> float:
    """Length of an audio clip in seconds."""
    return float(wave.samples.shape[1] / wave.sample_rate_hz)


def check_sound(wave: Waveform) -> None:
    """Refuse audio that cannot be judged.

    Raises:
        ValueError: If the audio has no sample, or samples that are not in [-1, 1].
    """
    if not wave.samples.size:
        raise ValueError("a sound without samples cannot be judged; give silence if nothing was spoken")
    loudest = float(np.abs(wave.samples).max())
    if not loudest <= 1:  # NaN fails too
        raise ValueError(f"a sound has samples up to {loudest}, wanted [-1, 1]; scale or clip it before judging")


def _plain(finding: Any) -> Any:
    """A finding as JSON data."""
    if isinstance(finding, Tensor):
        return finding.tolist()
    return asdict(finding) if isinstance(finding, Opinion) else finding
