"""Sentences spoken by a teacher: a source whose audio is synthesized when a shard is built."""

import gzip
import hashlib
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from functools import lru_cache
from pathlib import Path

from maskgen.data.sources.handles import MediaPart, within
from maskgen.data.sources.items import Attribute, Item, Source, checked_split, identity_of, text_part
from maskgen.data.sources.teachers import TeacherSpeech, load_teacher
from maskgen.io.files import write_atomic

SPEEDS = (0.85, 1.0, 1.0, 1.0, 1.0, 1.2)
"""Speeds of training sentences, chosen by the hash of their key."""


@lru_cache(maxsize=2)
def _said(name: str, text: str, speed: float, seed: int) -> TeacherSpeech:
    """The speech of a sentence; cached, because its audio and its facts are read one after the other."""
    speaker = load_teacher(name)
    spoken: TeacherSpeech = speaker.speak(speaker.phonemes(text), speed, seed)
    return spoken


@dataclass(frozen=True)
class SpokenPart(MediaPart):
    """A spoken sentence: 16-bit WAV bytes.

    Args:
        teacher: Name of the teacher.
        text: Text to speak.
        speed: 1 is the teacher's own speed.
        seed: Seed of the teacher's noise.
    """

    teacher: str
    text: str
    speed: float
    seed: int

    def read(self, limit: int) -> bytes:
        """See `MediaPart`."""
        import soundfile

        wave = _said(self.teacher, self.text, self.speed, self.seed).wave
        content = io.BytesIO()
        soundfile.write(content, wave.samples.T, wave.sample_rate_hz, format="WAV", subtype="PCM_16")
        return within(content.getvalue(), limit)

    def facts(self) -> Mapping[str, Attribute]:
        """Phonemes, and the frames of each, including the silence at both ends."""
        spoken = _said(self.teacher, self.text, self.speed, self.seed)
        return {
            "phonemes": spoken.phonemes,
            "durations": " ".join(map(str, spoken.durations)),
            "durations_per_s": spoken.frames_per_s,
            "speed": self.speed,
        }


@dataclass(frozen=True)
class SpokenSource(Source):
    """Sentences of a JSONL file (gzip if its name ends in .gz), spoken by a teacher.

    Each line is an object with "key", "text", "split" and any further attributes.

    Args:
        path: The file.
        teacher: Name of the teacher; see `maskgen.data.sources.teachers`.
        speaker: Value of the samples' attribute "speaker".
        weight: See `Source`.
    """

    path: Path
    _: KW_ONLY
    teacher: str = "hibari"
    speaker: str = "heart"
    weight: float = 1.0

    def items(self) -> Iterator[Item]:
        """See `Source`.

        Raises:
            ValueError: If the file is missing, or a line is not such an object.
        """
        for number, row in enumerate(read_sentences(self.path), start=1):
            if not {"key", "text", "split"} <= set(row):
                raise ValueError(f"line {number} of {self.path} lacks key, text or split; it has {', '.join(row)}")
            digest = hashlib.sha256(str(row["key"]).encode()).digest()
            speed = SPEEDS[digest[0] % len(SPEEDS)] if row["split"] == "train" else 1.0
            part = SpokenPart(self.teacher, str(row["text"]), speed, int.from_bytes(digest[1:5], "big"))
            facts = {name: value for name, value in row.items() if name not in ("key", "text", "split")}
            yield Item(
                key=str(row["key"]),
                parts={"text": text_part([str(row["text"])]), "audio": part},
                attributes={**facts, "speaker": self.speaker},
                split=checked_split(row["split"]),
                identity=identity_of(self.teacher, row["text"], speed),
            )


def read_sentences(path: Path) -> list[dict[str, Attribute]]:
    """Rows of a JSONL file.

    Raises:
        ValueError: If it is missing or damaged.
    """
    if not path.is_file():
        raise ValueError(f"{path} does not exist; give a JSONL file of sentences")
    try:
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        return [dict(json.loads(line)) for line in content.decode().splitlines() if line.strip()]
    except (OSError, EOFError, ValueError, TypeError) as error:
        raise ValueError(f"{path} is damaged or no JSONL ({error}); make it again") from error


def write_sentences(rows: Sequence[Mapping[str, Attribute]], path: Path) -> None:
    """Write rows as JSONL, compressed without a date if the name ends in .gz, so that the same rows give the same bytes."""
    content = "".join(json.dumps(dict(row), ensure_ascii=False) + "\n" for row in rows).encode()
    write_atomic(path, gzip.compress(content, mtime=0) if path.suffix == ".gz" else content)
