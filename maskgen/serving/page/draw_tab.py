"""The tab that draws pictures of a text."""

import time
from collections.abc import AsyncIterator
from functools import partial
from typing import Any

import gradio as gr

from maskgen.decoding.settings import GenerationSettings
from maskgen.pipelines.options import settings_from
from maskgen.serving.calls import Made, artist_of, callbacks, draw_images
from maskgen.serving.events import StepWatch
from maskgen.serving.media import image_bytes
from maskgen.serving.page.controls import (
    EVENT,
    chosen_options,
    decode_controls,
    examples_of,
    follow_model,
    model_choice,
    picture_gallery,
    run_and_stop,
    settings_for,
    stop_by,
)
from maskgen.serving.page.following import MOST_PREVIEWS, Live, followed, note_html, steps_in_all, telling, told_errors
from maskgen.serving.served import Served
from maskgen.serving.service import Service

EXAMPLES = (
    "a red heart, flat style",
    "a woman firefighter with dark skin, 3d style",
    "a snowman, noto style",
    "a cat face with tears of joy, color style",
)
MOST_PICTURES = 9


class DrawTab:
    """Text to image.

    Args:
        service: Models, limits and metrics.
        models: Those that draw.
    """

    def __init__(self, service: Service, models: list[Served]) -> None:
        self.service, self.models = service, models

    def settings_of(self, name: str) -> GenerationSettings:
        """How a model draws."""
        return settings_for(artist_of(self.service.catalogue.find(name, "draw").engine.pipeline), "image")

    def build(self) -> None:
        """Lay the tab out."""
        limits = self.service.limits
        with gr.Row(elem_classes="mg-columns"):
            with gr.Column(scale=5, min_width=300):
                prompt = gr.Textbox(EXAMPLES[0], label="Prompt", lines=2, max_length=limits.max_characters, placeholder="What to draw")
                run, stop = run_and_stop("Draw")
                examples_of(EXAMPLES, prompt)
                model = model_choice(self.models)
                most = min(limits.max_outputs, MOST_PICTURES)
                count = gr.Slider(1, most, min(4, most), step=1, label="Pictures")
                negative = gr.Textbox(label="Negative prompt", max_length=limits.max_characters, placeholder="What to lead away from")
                controls = decode_controls(self.settings_of(self.models[0].name), limits)
            with gr.Column(scale=7, min_width=300):
                live = gr.HTML(note_html("Pictures appear here; while they are decoded, the first one is shown as it stands."))
                gallery = picture_gallery("Pictures")
        follow_model(model, controls, self.settings_of)
        inputs, outputs = [model, prompt, negative, count, *controls.all], [live, gallery, controls.seed]
        started = [run.click(telling(self.draw), inputs, outputs, **EVENT), prompt.submit(telling(self.draw), inputs, outputs, **EVENT)]
        stop_by(stop, live, *started)

    async def draw(self, model: str, prompt: str, negative: str, count: int | float, *chosen: Any) -> AsyncIterator[tuple[Any, Any, Any]]:
        """Pictures of a prompt.

        Args:
            model: Name of the model.
            prompt: What they show.
            negative: What guidance leads away from; empty for nothing.
            count: Pictures.
            chosen: Values of the shared controls.

        Yields:
            What is shown while it decodes, the pictures, and the seed of the first.

        Raises:
            gr.Error: Says what went wrong.
        """
        service, started_s = self.service, time.perf_counter()
        with told_errors():
            served = service.catalogue.find(model, "draw")
            service.limits.check_text("the prompt", prompt)
            service.limits.check_text("the negative prompt", negative)
            service.limits.check_number("the number of pictures", count, service.limits.max_outputs)
            own = self.settings_of(model)
            options = {**chosen_options(service.limits, own, *chosen), "num_outputs": int(count)}
            given = {"negative_prompt": negative} if negative.strip() else {}
            artist = artist_of(served.engine.pipeline)
            assert artist is not None, "the model draws"
            levels = len(artist.space.of("image"))
            settings = settings_from(own, options, levels)

        def work(pipeline: Any, step: Any, emit: Any) -> Made:
            watch = StepWatch(emit, artist, MOST_PREVIEWS, settings, partial(image_bytes, kind="webp"))
            return draw_images(pipeline, prompt, given, {**options, **callbacks(step, watch)})

        live = Live(steps_in_all(settings, levels))
        yield live.html, [], options["seed"]
        async for shown, made in followed(served, work, live):
            if made is None:
                yield shown, gr.skip(), gr.skip()
                continue
            service.metrics.images.labels(served.name).inc(len(made.images))
            words = drawn_words(made, time.perf_counter() - started_s)
            yield note_html(words), [(one, f"seed {seed}") for one, seed in zip(made.images, made.seeds, strict=True)], gr.skip()


def drawn_words(made: Made, elapsed_s: float) -> str:
    """What was drawn, in words."""
    number = len(made.images)
    size = f"{made.images[0].width} x {made.images[0].height} pixels"
    return f"{number} picture{'s' * (number != 1)} of {size} in {elapsed_s:.1f} s, {made.model_calls:g} model calls, seed {made.seeds[0]}."
