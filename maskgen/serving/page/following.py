"""A decode as the page shows it: the job of an engine, its steps as they come, and its errors as messages."""

import asyncio
import contextlib
import html
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import gradio as gr

from maskgen.decoding.decoder import StepCallback
from maskgen.decoding.settings import GenerationSettings
from maskgen.masking.masks import level_groups
from maskgen.pipelines.base import Pipeline
from maskgen.serving.errors import api_error
from maskgen.serving.events import Emit, PreviewEvent, StepEvent
from maskgen.serving.jobs import Running
from maskgen.serving.media import base64_text
from maskgen.serving.served import Served

T = TypeVar("T")
TICK_S = 0.5
"""Longest time between two updates; a person who left is noticed at the next one."""
PAUSE_S = 0.15
"""Shortest time between two updates while a decode goes on; each costs the server as much as a small step."""
MOST_PREVIEWS = 8
"""Previews of a decode, each of which decodes a whole picture."""
KINDS = {"image": "picture", "audio": "speech", "text": "text", "transcript": "transcript"}
"""Modalities as the page calls them."""


@contextmanager
def told_errors() -> Iterator[None]:
    """Turn an error into a message of the page: one sentence, the one that clients of the server get."""
    try:
        yield
    except gr.Error:
        raise
    except Exception as error:
        raise gr.Error(html.escape(api_error(error).message), print_exception=False) from error


class Live:
    """A decode as it stands, as HTML: a progress bar, a line of words and the newest preview.

    Args:
        total: Steps of the whole decode; 0 if they are not known, then each level fills the bar.
    """

    def __init__(self, total: int = 0) -> None:
        self.total, self.done, self.share = total, 0, 0.0
        self.line, self.preview = "Starting", b""

    def add(self, event: Any) -> None:
        """Take an event of the decode."""
        if isinstance(event, StepEvent):
            self.done += 1
            self.share = min(1.0, self.done / self.total if self.total else event.step / event.steps)
            kind = KINDS.get(event.modality, event.modality)
            self.line = f"Decoding {kind}: step {event.step} of {event.steps}, level {event.level + 1}"
        if isinstance(event, PreviewEvent):
            self.preview = event.content

    def wait(self, before: int) -> None:
        """Say how many requests wait."""
        if not self.done:
            self.line = f"Waiting for a place, {before} in the queue" if before else "Starting"

    @property
    def html(self) -> str:
        """All of it."""
        percent = round(100 * self.share)
        bar = (
            f'<div class="mg-bar" role="progressbar" aria-label="Progress of the decode" aria-valuemin="0" aria-valuemax="100" '
            f'aria-valuenow="{percent}"><i style="width:{percent}%"></i></div>'
        )
        shown = picture_html(self.preview, "The picture as it stands; what is not decided is grey", "mg-preview") if self.preview else ""
        return f'<div class="mg-live">{bar}<p>{html.escape(self.line)}</p>{shown}</div>'


def picture_html(content: bytes, words: str, style: str) -> str:
    """A WebP or PNG file as an element."""
    kind = "webp" if content[8:12] == b"WEBP" else "png"
    return f'<img class="{style}" alt="{html.escape(words)}" src="data:image/{kind};base64,{base64_text(content)}">'


def note_html(words: str) -> str:
    """A finished decode in words; screen readers say it."""
    return f'<div class="mg-note" role="status">{html.escape(words)}</div>'


def error_html(words: str) -> str:
    """What went wrong, where the decode would stand; it stays when the message of the page has gone."""
    return f'<div class="mg-note mg-error" role="alert">{words}</div>'


def telling(updates: Callable[..., AsyncIterator[tuple[Any, ...]]], place: int = 0) -> Callable[..., AsyncIterator[tuple[Any, ...]]]:
    """The same updates; an error of them also takes the place of the HTML of the decode.

    Args:
        updates: Function of an event.
        place: Place of that HTML among its outputs.
    """

    async def told(*values: Any) -> AsyncIterator[tuple[Any, ...]]:
        shown: tuple[Any, ...] = ()
        try:
            async for shown in updates(*values):
                yield shown
        except gr.Error as error:
            if shown:
                blank = [gr.skip()] * len(shown)
                yield (*blank[:place], error_html(str(error.message)), *blank[place + 1 :])
            raise

    return told


def steps_in_all(settings: GenerationSettings, levels: int) -> int:
    """Steps of a decode over all levels."""
    return sum(settings.at(group[0]).steps for group in level_groups(settings.groups, levels))


async def followed(model: Served, work: Callable[[Pipeline, StepCallback, Emit], T], live: Live) -> AsyncIterator[tuple[str, T | None]]:
    """Run some work as a job of a model's engine; it is cancelled when the iteration is closed.

    Args:
        model: Whose engine runs it.
        work: Gets the pipeline, the engine's callback and a function that takes events.
        live: Takes the events.

    Yields:
        (HTML of the decode, None) as it goes on, at last with the result.

    Raises:
        gr.Error: If the queue is full, the time is over, or the work fails.
    """
    with told_errors():
        running = Running(model, work)
    try:
        while (events := await _next_events(running)) is not None:
            live.wait(model.engine.stats.waiting)
            for event in events:
                live.add(event)
            yield live.html, None
        with told_errors():
            result = running.result()
        yield live.html, result
    finally:
        running.job.cancel()


async def _next_events(running: Running[Any]) -> list[Any] | None:
    """What happened since the last call, after a short while nothing; None at the end."""
    try:
        async with asyncio.timeout(TICK_S):
            events = [await running.queue.get()]
    except TimeoutError:
        return []
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(PAUSE_S):
            await running.ended.wait()
    while not running.queue.empty() and events[-1] is not None:
        events.append(running.queue.get_nowait())
    if events[-1] is not None:
        return events
    if len(events) == 1:
        return None
    running.queue.put_nowait(None)
    return events[:-1]
