"""Tokenizer for time-aligned transcripts: the words of speech in slots along the time axis of the audio."""

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch

from maskgen.io.bundle import fingerprint_of, load_bundle, save_bundle
from maskgen.io.files import write_atomic
from maskgen.io.schema import Flag, Real, Record, Whole
from maskgen.tokenizers.base import Tokenizer
from maskgen.tokenizers.text import VOCABULARY_FILE, TextTokenizer
from maskgen.tokens.batch import Codes
from maskgen.tokens.space import Kind, Modality

_BUNDLE_KIND = "transcript_tokenizer"
TRANSCRIPT_SCHEMA = Record({"lowercase": Flag(), "slot_frames": Whole(1, 65_536), "frames_per_s": Real(0.001, 1e6)})
LARGEST_FILE_BYTES = 2**20


@dataclass(frozen=True)
class Transcript:
    """Words of a transcript with the start time of each.

    Args:
        words: Words without spaces, in order.
        starts_s: Start time of each word in seconds, ascending.
        seconds: Duration of the audio.

    Raises:
        ValueError: If there isn't one start per word, or starts don't ascend within the audio.
    """

    words: tuple[str, ...]
    starts_s: tuple[float, ...]
    seconds: float

    def __post_init__(self) -> None:
        ascending = all(a <= b for a, b in zip((0.0, *self.starts_s), (*self.starts_s, self.seconds), strict=True))
        if len(self.words) != len(self.starts_s) or not ascending:
            raise ValueError(
                f"a transcript needs one start a word, ascending from 0 to its {self.seconds:g} s; "
                f"got {len(self.words)} words and starts {list(self.starts_s)[:8]}"
            )

    @property
    def text(self) -> str:
        """Words joined by single spaces."""
        return " ".join(self.words)


class TranscriptTokenizer(Tokenizer):
    """Tokenizer for time-aligned transcripts: a row of equally long slots, each empty or holding the code that starts in it.

    The codes of a word are spread evenly over its duration. If a slot is taken, the code goes to the next free slot, so a transcript is
    restored completely if it has no more codes than slots. Because a code stands at its time, rotary attention alone finds it in the audio:
    a transcription model doesn't need to learn an alignment or predict a length.

    Args:
        text: Tokenizer of the words. Its code of byte 0 marks an empty slot.
        slot_frames: Audio frames per slot.
        frames_per_s: Audio frames per second.

    Raises:
        ValueError: If a size is not positive or the vocabulary has no code for byte 0.
    """

    kind: ClassVar[Kind] = "transcript"

    def __init__(self, text: TextTokenizer, slot_frames: int = 2, frames_per_s: float = 40.0) -> None:
        if slot_frames < 1 or frames_per_s <= 0 or text.end is None:
            raise ValueError(
                f"a transcript needs slots of at least a frame and a vocabulary with the byte 0, got slot_frames={slot_frames}, "
                f"frames_per_s={frames_per_s:g}, end={text.end}"
            )
        self.text, self.slot_frames, self.frames_per_s, self.empty = text, slot_frames, frames_per_s, text.end
        self.num_levels, self.codebook_size = 1, text.codebook_size

    @property
    def slots_per_s(self) -> float:
        """Slots per second."""
        return self.frames_per_s / self.slot_frames

    def slots(self, frames: int) -> int:
        """Return the number of slots for a number of audio frames."""
        return -(-frames // self.slot_frames)

    @classmethod
    def from_bundle(cls, folder: Path | str) -> "TranscriptTokenizer":
        """Load a tokenizer that `save` wrote.

        Raises:
            ValueError: If the bundle is missing, of another kind or damaged.
        """
        bundle = load_bundle(folder, _BUNDLE_KIND, TRANSCRIPT_SCHEMA)
        vocabulary = (bundle.folder / VOCABULARY_FILE).read_text(encoding="utf-8")
        text = TextTokenizer(vocabulary, bundle.config["lowercase"])
        return cls(text, bundle.config["slot_frames"], float(bundle.config["frames_per_s"]))

    @property
    def _config(self) -> dict[str, Any]:
        return {"lowercase": self.text.lowercase, "slot_frames": self.slot_frames, "frames_per_s": self.frames_per_s}

    @property
    def fingerprint(self) -> str:
        """Hash of vocabulary and slot settings."""
        return fingerprint_of(_BUNDLE_KIND, {**self._config, "text": self.text.fingerprint}, {})

    def save(self, folder: Path | str) -> str:
        """Write a bundle and return the fingerprint."""
        save_bundle(folder, _BUNDLE_KIND, self._config, {}, {VOCABULARY_FILE: self.text.vocabulary.encode()})
        return self.fingerprint

    def modality(self, name: str) -> Modality:
        """Describe this tokenizer as a modality of a token space. Its cells are one slot apart on the time axis of the audio."""
        return dataclasses.replace(super().modality(name), stride=self.slot_frames)

    def read(self, path: Path | str) -> Transcript:
        """Read a transcript from JSON: {"words": [...], "starts_s": [...], "seconds": ...}.

        Raises:
            ValueError: If the file is missing, too large or holds something else.
        """
        path = Path(path)
        if not path.is_file() or path.stat().st_size > LARGEST_FILE_BYTES:
            raise ValueError(f"{path} is no file of at most {LARGEST_FILE_BYTES} bytes; give a transcript as JSON")
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
            return Transcript(tuple(map(str, found["words"])), tuple(map(float, found["starts_s"])), float(found["seconds"]))
        except (UnicodeDecodeError, json.JSONDecodeError, KeyError, TypeError) as error:
            raise ValueError(f"{path} is no transcript ({error}); give JSON with words, starts_s and seconds") from error

    def write(self, media: Transcript, path: Path | str) -> None:
        """Write a transcript as JSON."""
        write_atomic(Path(path), f"{json.dumps(dataclasses.asdict(media), ensure_ascii=False)}\n".encode())

    def spelled(self, word: str) -> list[int]:
        """Return the codes of one word."""
        return [int(code) for code in self.text.encode([word])[0][0]]

    def encode(self, media: Sequence[Transcript]) -> list[Codes]:
        """Encode each transcript as codes of shape [1, slots].

        Raises:
            ValueError: If one has more codes than slots.
        """
        return [self._laid_out(one) for one in media]

    def _laid_out(self, transcript: Transcript) -> Codes:
        """Place the codes of one transcript in slots."""
        count = self.slots(round(transcript.seconds * self.frames_per_s))
        slots = torch.full((1, count), self.empty)
        ends = (*transcript.starts_s[1:], transcript.seconds)
        wanted: list[tuple[float, int]] = []
        for word, start_s, end_s in zip(transcript.words, transcript.starts_s, ends, strict=True):
            codes = self.spelled(word)
            wanted += [(start_s + (end_s - start_s) * number / len(codes), code) for number, code in enumerate(codes)]
        if len(wanted) > count:
            raise ValueError(f"{transcript.text[:60]!r} has {len(wanted)} codes, its {transcript.seconds:g} s have {count} slots")
        free = 0
        for number, (time_s, code) in enumerate(wanted):
            place = min(max(free, int(time_s * self.slots_per_s)), count - (len(wanted) - number))
            slots[0, place], free = code, place + 1
        return slots

    def decode(self, codes: Sequence[Codes]) -> list[Transcript]:
        """Decode each [1, slots] grid to a transcript. A word starts at the slot of its first code.

        Raises:
            ValueError: If codes have another shape, or are unknown or out of range.
        """
        return [self._read_off(grid) for grid in codes]

    def _read_off(self, grid: Codes) -> Transcript:
        """Return the words and times of one row of slots."""
        self.text.decode([grid])  # raises for invalid codes
        places = (grid[0] != self.empty).nonzero()[:, 0].tolist()
        words: list[tuple[list[int], int]] = []
        for place in places:
            code = int(grid[0, place])
            if not words or self.text.begins_word(code):
                words.append(([], place))
            words[-1][0].append(code)
        texts = self.text.decode([torch.tensor([codes]) for codes, _ in words])
        spoken = [(text.strip(), place / self.slots_per_s) for text, (_, place) in zip(texts, words, strict=True) if text.strip()]
        return Transcript(tuple(text for text, _ in spoken), tuple(start_s for _, start_s in spoken), grid.shape[1] / self.slots_per_s)
