"""The tab that shows how a decode went: order of reveal, confidence, and the picture after every step."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import gradio as gr
from PIL import Image

from maskgen.decoding.settings import GenerationSettings
from maskgen.io.audio import Waveform
from maskgen.pipelines.any_to_any import AnyToAnyPipeline
from maskgen.pipelines.base import Pipeline
from maskgen.pipelines.options import settings_from
from maskgen.pipelines.outputs import GenerationOutput
from maskgen.pipelines.text_to_speech import speech_of
from maskgen.processors.animation import decode_frames
from maskgen.processors.spoken import SpeechRequest
from maskgen.serving.calls import artist_of, both, callbacks, voice_of
from maskgen.serving.events import StepWatch
from maskgen.serving.page.controls import (
    EVENT,
    chosen_options,
    decode_controls,
    examples_of,
    follow_model,
    run_and_stop,
    settings_for,
    stop_by,
)
from maskgen.serving.page.following import Live, followed, note_html, steps_in_all, telling, told_errors
from maskgen.serving.page.reveal import STEP_HEADERS, Reveal, reveal_of, step_rows
from maskgen.serving.page.reveal_html import bars_html, maps_html, strip_html
from maskgen.serving.page.speech_tab import WAVE, playable
from maskgen.serving.served import Served
from maskgen.serving.service import Service

PICTURE, SPEECH = "picture", "speech"
EXAMPLES = {PICTURE: ("a red heart, flat style", "a snowman, noto style"), SPEECH: ("Good morning.", "The last train has gone.")}


@dataclass(frozen=True)
class Inspected:
    """A decode to look at.

    Args:
        reveal: How it went.
        frames: The picture after each step; none of speech.
        picture: What was drawn.
        wave: What was spoken.
    """

    reveal: Reveal
    frames: list[Image.Image]
    picture: Image.Image | None = None
    wave: Waveform | None = None


class InspectTab:
    """How a decode went.

    Args:
        service: Models, limits and metrics.
        draws: Models that draw.
        speaks: Models that speak.
    """

    def __init__(self, service: Service, draws: list[Served], speaks: list[Served]) -> None:
        self.service = service
        self.choices = {f"{one.name}: {kind}": (kind, one) for kind, models in ((PICTURE, draws), (SPEECH, speaks)) for one in models}

    def settings_of(self, choice: str) -> GenerationSettings:
        """How a choice decodes."""
        kind, served = self.choices[choice]
        pipeline = served.engine.pipeline
        return settings_for(artist_of(pipeline), "image") if kind == PICTURE else settings_for(voice_of(pipeline).pipeline, "audio")

    def build(self) -> None:
        """Lay the tab out."""
        limits, first = self.service.limits, next(iter(self.choices))
        examples = [one for kind in dict.fromkeys(kind for kind, _ in self.choices.values()) for one in EXAMPLES[kind]]
        with gr.Row(elem_classes="mg-columns"):
            with gr.Column(scale=5, min_width=300):
                choice = gr.Dropdown(list(self.choices), value=first, label="Model and what it makes")
                text = gr.Textbox(examples[0], label="Prompt", lines=2, max_length=limits.max_characters)
                run, stop = run_and_stop("Decode and inspect")
                examples_of(examples, text)
                controls = decode_controls(self.settings_of(first), limits, open_=True)
                picture = gr.Image(
                    label="Result",
                    interactive=False,
                    format="png",
                    height=220,
                    buttons=["download"],
                    alt_text="The picture that was made",
                    elem_classes="mg-picture",
                )
                player = gr.Audio(
                    label="Result", interactive=False, format="wav", visible=False, buttons=["download"], waveform_options=WAVE
                )
            with gr.Column(scale=7, min_width=300):
                live = gr.HTML(note_html("See in which order cells are fixed, and how sure the model is of each."))
                seen = gr.HTML(label="Maps, pictures and bars")
                with gr.Accordion("Steps in numbers", open=False):
                    table = gr.Dataframe(headers=list(STEP_HEADERS), interactive=False, label="Steps", max_height=320)
        follow_model(choice, controls, self.settings_of)
        choice.change(self.example_of, [choice, text], text, **EVENT)
        outputs = [live, picture, player, seen, table, controls.seed]
        started = run.click(telling(self.inspect), [choice, text, *controls.all], outputs, **EVENT)
        stop_by(stop, live, started)

    def example_of(self, choice: str, text: str) -> str:
        """An example for what a choice makes, in place of one for the other."""
        with told_errors():
            kind = self._chosen(choice)[0]
        others = [one for other, texts in EXAMPLES.items() if other != kind for one in texts]
        return EXAMPLES[kind][0] if text in others else text

    async def inspect(self, choice: str, text: str, *chosen: Any) -> AsyncIterator[tuple[Any, ...]]:
        """A decode and how it went.

        Args:
            choice: Model and what it makes.
            text: Prompt, or what is said; of several sentences the first is shown.
            chosen: Values of the shared controls.

        Yields:
            What is shown while it decodes, the picture, the speech, how it was decoded as pictures and as a table, and the seed.

        Raises:
            gr.Error: Says what went wrong.
        """
        with told_errors():
            kind, served = self._chosen(choice)
            self.service.limits.check_text("the prompt", text)
            own = self.settings_of(choice)
            options = chosen_options(self.service.limits, own, *chosen)
            decoder = artist_of(served.engine.pipeline) if kind == PICTURE else voice_of(served.engine.pipeline).pipeline
            assert decoder is not None, "the choice draws or speaks"
            levels = len(decoder.space.of("image" if kind == PICTURE else "audio"))
            live = Live(steps_in_all(settings_from(own, options, levels), levels))

        def work(pipeline: Any, step: Any, emit: Any) -> Inspected:
            run = inspected_picture if kind == PICTURE else inspected_speech
            return run(pipeline, text, options, both(step, StepWatch(emit)))

        yield live.html, *[gr.skip()] * 4, options["seed"]
        async for update, found in followed(served, work, live):
            yield (update, *[gr.skip()] * 5) if found is None else (*shown_values(found), gr.skip())

    def _chosen(self, choice: str) -> tuple[str, Served]:
        if choice not in self.choices:
            raise ValueError(f"there is no {choice[:80]!r} to inspect; choose one of {', '.join(self.choices)}")
        return self.choices[choice]


def inspected_picture(pipeline: Pipeline, prompt: str, options: dict[str, Any], step: Any) -> Inspected:
    """A picture of a prompt and how it was decoded."""
    artist = artist_of(pipeline)
    assert artist is not None, "only models that draw are asked"
    if isinstance(pipeline, AnyToAnyPipeline):
        output: GenerationOutput = pipeline(prompt, target="image", **options, **callbacks(step)).generations[-1]
    else:
        output = pipeline(prompt, **options, **callbacks(step))  # type: ignore[operator]
    frames = decode_frames(artist.tokenizers["image"], output.codes[0].cpu(), output.trajectories, output.media[0])
    return Inspected(reveal_of(output), frames[:-1], picture=output.media[0])


def inspected_speech(pipeline: Pipeline, text: str, options: dict[str, Any], step: Any) -> Inspected:
    """Speech of a text and how its first sentence was decoded."""
    voice = voice_of(pipeline)
    settings = settings_from(voice.pipeline.settings_of("audio"), options, len(voice.pipeline.space.of("audio")))
    plan = voice.processor.prepare(SpeechRequest(prompt=text))
    spoken = speech_of(voice.pipeline, voice.processor, [(plan, options["seed"])], settings, step)
    return Inspected(reveal_of(spoken.generation), [], wave=spoken.audio[0])


def shown_values(found: Inspected) -> tuple[Any, ...]:
    """Values of the outputs of `InspectTab.inspect` but the seed."""
    reveal = found.reveal
    said = f"{len(reveal.steps)} steps over {len(reveal.order)} levels; mean confidence {float(reveal.confidence.mean()):.2f}."
    return (
        note_html(said),
        gr.update(value=found.picture, visible=found.picture is not None),
        gr.update(value=None if found.wave is None else playable(found.wave), visible=found.wave is not None),
        f'<div class="mg-seen">{maps_html(reveal)}{strip_html(found.frames, reveal.steps)}{bars_html(reveal.steps)}</div>',
        step_rows(reveal.steps),
    )
