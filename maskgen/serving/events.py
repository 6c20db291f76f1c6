"""What a decode tells a client while it runs: steps, previews, sentences of speech; and the form of server-sent events."""

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from PIL import Image

from maskgen.decoding.settings import GenerationSettings
from maskgen.io.audio import Waveform
from maskgen.masking.masks import level_groups
from maskgen.pipelines.base import Pipeline
from maskgen.processors.animation import preview
from maskgen.sampling.base import State
from maskgen.serving.media import image_bytes
from maskgen.tokens.packing import unpack


@dataclass(frozen=True)
class StepEvent:
    """A step of a decode is done.

    Args:
        modality: What is decoded.
        level: Level of its codes.
        step: Steps of the level that are done.
        steps: Steps of the level in all.
    """

    modality: str
    level: int
    step: int
    steps: int

    @property
    def data(self) -> dict[str, Any]:
        """Plain data."""
        return {"modality": self.modality, "level": self.level, "step": self.step, "steps": self.steps}


@dataclass(frozen=True)
class PreviewEvent:
    """The first image as it stands; cells that are not decided are grey.

    Args:
        index: Counts previews from 0.
        size: (width, height) in pixels.
        content: The image as a file.
    """

    index: int
    size: tuple[int, int]
    content: bytes


@dataclass(frozen=True)
class SentenceEvent:
    """A sentence of speech is made.

    Args:
        index: Counts sentences from 0.
        sentence: Its text.
        wave: Its audio.
    """

    index: int
    sentence: str
    wave: Waveform


Event = StepEvent | PreviewEvent | SentenceEvent
Emit = Callable[[Any], None]


class StepWatch:
    """Turns the steps of a decode into events; called with the state after every step.

    Args:
        emit: Takes the events.
        artist: Pipeline that decodes images, whose token space the states of an image have; None gives no previews.
        previews: Previews at most, spread evenly over the decode of the image.
        settings: How the image is decoded; None takes the pipeline's own.
        encode: Makes a file of a preview, in the thread of the decode.
    """

    def __init__(
        self,
        emit: Emit,
        artist: Pipeline | None = None,
        previews: int = 0,
        settings: GenerationSettings | None = None,
        encode: Callable[[Image.Image], bytes] | None = None,
    ) -> None:
        self.emit, self.artist, self.done, self.shown, self.due = emit, artist, 0, 0, list[int]()
        self.encode = encode or partial(image_bytes, kind="png")
        if artist is not None and previews:
            chosen, levels = settings or artist.settings_of("image"), len(artist.space.of("image"))
            total = sum(chosen.at(group[0]).steps for group in level_groups(chosen.groups, levels))
            self.due = sorted({math.ceil((place + 1) * total / (previews + 1)) for place in range(previews)} - {total})

    def __call__(self, state: State) -> None:
        """One step."""
        self.emit(StepEvent(state.segment.modality, state.segment.level, state.step, state.steps))
        if self.artist is None or state.segment.modality != "image":
            return
        self.done += 1
        if self.shown < len(self.due) and self.done >= self.due[self.shown]:
            picture = picture_of_state(self.artist, state)
            self.emit(PreviewEvent(self.shown, picture.size, self.encode(picture)))
            self.shown += 1


def picture_of_state(pipeline: Pipeline, state: State) -> Image.Image:
    """The first image of a decode as it stands."""
    first = state.batch.rows(torch.tensor([0], device=state.batch.ids.device)).to("cpu")
    tokenizer = pipeline.tokenizers["image"]
    show = getattr(tokenizer, "preview", None) or partial(preview, tokenizer)
    picture: Image.Image = show(unpack(first, pipeline.space)[0]["image"])
    return picture


def sse(data: Any, event: str | None = None) -> bytes:
    """One server-sent event."""
    name = "" if event is None else f"event: {event}\n"
    return f"{name}data: {json.dumps(data, separators=(',', ':'))}\n\n".encode()
