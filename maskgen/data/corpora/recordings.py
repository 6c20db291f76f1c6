"""Timing of recordings with transcripts: phoneme lengths are predicted from the text and stretched over the voiced part."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from maskgen.data.build.plan import Plan
from maskgen.data.build.readers import ItemOrigin
from maskgen.data.sources.handles import BadPart, MediaPart
from maskgen.data.sources.items import Attribute, Item
from maskgen.data.sources.media import decode_text
from maskgen.io.audio import decode_audio, fit_audio, mixed_down
from maskgen.io.bundle import read_bundle_record
from maskgen.io.limits import BadMedia, MediaLimits
from maskgen.networks.durations import DurationPredictor, whole_frames
from maskgen.tokenizers.phonemes import LONGEST_DURATION, PhonemeTokenizer

SPEAKER = "speaker"
QUIET = 0.03
"""Frames at both ends whose root mean square is below this share of the loudest frame's count as silence."""
PACES = (0.4, 2.5)
"""Range of the speed relative to the predictor; outside of it, the recording probably does not match its text."""


@dataclass(frozen=True)
class Timing:
    """Settings for timing the phonemes of recordings.

    Args:
        phones: Folder of the phoneme tokenizer.
        durations: Folder of the duration predictor.
        sample_rate_hz: Sample rate of the codec.
        channels: Channels of the codec.
        samples_per_frame: Samples per frame of the codec.
        speaker: Code of a speaker that the predictor knows; the lengths are stretched anyway.
    """

    phones: Path
    durations: Path
    sample_rate_hz: int
    channels: int
    samples_per_frame: int
    speaker: int = 0


@lru_cache(maxsize=2)
def _phones(folder: Path) -> PhonemeTokenizer:
    return PhonemeTokenizer.from_bundle(folder)


@lru_cache(maxsize=2)
def _durations(folder: Path) -> DurationPredictor:
    return DurationPredictor.from_bundle(folder)


@dataclass(frozen=True)
class RecordedPart(MediaPart):
    """A recording with its transcript.

    Args:
        sound: The recording.
        text: Its transcript.
        timing: Settings for timing it.
    """

    sound: MediaPart
    text: MediaPart
    timing: Timing

    def read(self, limit: int) -> bytes:
        """See `MediaPart`."""
        return self.sound.read(limit)

    def facts(self) -> Mapping[str, Attribute]:
        """Phonemes, and the frames of each, including the silence at both ends.

        Raises:
            BadMedia: If the text cannot be spoken, or the recording does not match it.
        """
        limits, how = MediaLimits(), self.timing
        said = decode_text(self.text.read(limits.max_bytes), limits)
        if len(said) > 1:
            raise BadMedia(f"{len(said)} different texts belong to the recording, wanted one transcript")
        sound = decode_audio(self.sound.read(limits.max_bytes), limits, _said_elsewhere)
        wave, _ = fit_audio(sound, how.sample_rate_hz, how.channels, _said_elsewhere)
        try:
            phonemes, ids = spoken(_phones(how.phones), said[0])
        except ValueError as error:
            raise BadMedia(str(error)) from error
        predictor = _durations(how.durations)
        pace = how.sample_rate_hz / how.samples_per_frame / predictor.config.frames_per_s
        frames = fitted_frames(predictor.frames(ids, how.speaker) * pace, voiced_part(wave.samples, how.samples_per_frame))
        return {
            "phonemes": phonemes,
            "durations": " ".join(map(str, frames.tolist())),
            "durations_per_s": how.sample_rate_hz / how.samples_per_frame,
        }


def _said_elsewhere(remark: str) -> None:
    """Drop a remark about a recording: the build decodes it again, and counts the remark there."""


def spoken(phones: PhonemeTokenizer, text: str) -> tuple[str, Int[Tensor, " length"]]:
    """Phonemes of a text, and their ids including the pauses at both ends.

    Raises:
        ValueError: If the text holds nothing that can be spoken.
    """
    phonemes = "||".join(phones.phonemes(sentence) for sentence in phones.sentences(text))
    return phonemes, phones.codes_of(phonemes)[0]


def voiced_part(samples: Float[np.ndarray, "channels samples"], per_frame: int) -> tuple[int, int, int]:
    """First voiced frame, end of the last voiced frame, and total number of frames.

    Args:
        samples: A recording.
        per_frame: Samples per frame.

    Raises:
        BadMedia: If it is silent.
    """
    count = -(-samples.shape[1] // per_frame)
    padded = np.zeros(count * per_frame)
    padded[: samples.shape[1]] = mixed_down(samples, _said_elsewhere)[0]
    loudness = np.sqrt((padded.reshape(count, per_frame) ** 2).mean(axis=1))
    heard = np.flatnonzero(loudness > max(QUIET * float(loudness.max(initial=0.0)), 1e-4))
    if not len(heard):
        raise BadMedia("the recording is silent")
    return int(heard[0]), int(heard[-1]) + 1, count


def fitted_frames(natural: Float[Tensor, " length"], part: tuple[int, int, int]) -> Int[Tensor, " length"]:
    """Whole frames of each phoneme: the first and last pause get the silence, the others share the voiced part as predicted.

    Args:
        natural: Predicted frames of each phoneme, including the pauses at both ends.
        part: Result of `voiced_part`.

    Raises:
        BadMedia: If the voiced part is too long or short for the phonemes, or the silence is too long for a pause.
    """
    start, stop, count = part
    inner, predicted = stop - start, float(natural[1:-1].sum())
    if not predicted / PACES[1] <= inner <= predicted / PACES[0]:
        raise BadMedia(f"the voice is heard for {inner} frames and its text would take {predicted:.0f}; does it say what the text says?")
    if max(start, count - stop) > LONGEST_DURATION:
        raise BadMedia(f"{max(start, count - stop)} frames of silence at one end, at most {LONGEST_DURATION}; cut them off")
    return torch.cat([torch.tensor([start]), whole_frames(natural[1:-1], inner), torch.tensor([count - stop])])


def timed(plan: Plan, timing: Timing, speaker: str) -> Plan:
    """The same plan with timed recordings of one speaker.

    Args:
        plan: Plan of items with audio and text.
        timing: Settings for timing them.
        speaker: Name of the speaker.
    """
    shards = tuple(dataclasses.replace(shard, origin=_timed(shard.origin, timing, speaker)) for shard in plan.shards)
    prints = {"phones": read_bundle_record(timing.phones)["fingerprint"], "durations": read_bundle_record(timing.durations)["fingerprint"]}
    return dataclasses.replace(plan, shards=shards, facts={**plan.facts, "timing": {**prints, SPEAKER: speaker}})


def _timed(origin: object, timing: Timing, speaker: str) -> ItemOrigin:
    """The items of a shard."""
    assert isinstance(origin, ItemOrigin), "a recipe's samples come from items"
    items = tuple((_recorded(item, timing, speaker), source) for item, source in origin.items)
    return dataclasses.replace(origin, items=items)


def _recorded(item: Item, timing: Timing, speaker: str) -> Item:
    """An item whose audio part gives timed phonemes; an item without audio is unchanged, and the build refuses it."""
    parts = dict(item.parts)
    if "audio" in parts:
        parts["audio"] = RecordedPart(parts["audio"], parts.get("text", BadPart("there is no text beside the recording")), timing)
    return dataclasses.replace(item, parts=parts, attributes={**item.attributes, SPEAKER: speaker})
