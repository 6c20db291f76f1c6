"""The tab that edits pictures: marked cells made anew, a wider picture, a variation."""

import time
from collections.abc import AsyncIterator, Sequence
from functools import partial
from typing import Any

import gradio as gr
from PIL import Image

from maskgen.decoding.settings import GenerationSettings
from maskgen.pipelines.any_to_any import AnyToAnyPipeline
from maskgen.pipelines.base import Pipeline
from maskgen.pipelines.options import settings_from
from maskgen.processors.image import letterboxed
from maskgen.serving.calls import Made, callbacks, draw_images, edit_image
from maskgen.serving.events import StepWatch
from maskgen.serving.media import image_bytes
from maskgen.serving.page.cell_painter import NO_PICTURE, cell_painter, painted_mask, painter_value
from maskgen.serving.page.controls import (
    EVENT,
    chosen_options,
    decode_controls,
    examples_of,
    follow_model,
    model_choice,
    picture_gallery,
    picture_upload,
    run_and_stop,
    settings_for,
    stop_by,
)
from maskgen.serving.page.draw_tab import drawn_words
from maskgen.serving.page.following import MOST_PREVIEWS, Live, followed, note_html, steps_in_all, telling, told_errors
from maskgen.serving.page.uploads import uploaded_picture
from maskgen.serving.served import Served
from maskgen.serving.service import Service
from maskgen.tokenizers.image_geometry import pixels_per_cell

PAINT, WIDEN, VARY = "Paint a mask", "Outpaint", "Variation"
EXAMPLE = "a red heart, flat style"
PROMPTS = ("a blue heart, flat style", "a red heart, 3d style", "a broken heart, noto style")
MOST_EDITS = 4
CELLS_TO_ADD = 4
"""Most cells that the page adds at one side."""


class EditTab:
    """Edits of pictures.

    Args:
        service: Models, limits and metrics.
        models: Those that edit.
    """

    def __init__(self, service: Service, models: list[Served]) -> None:
        self.service, self.models = service, models

    def settings_of(self, name: str) -> GenerationSettings:
        """How a model draws what is new."""
        return settings_for(self._artist(name), "image")

    def build(self) -> None:
        """Lay the tab out."""
        limits, first = self.service.limits, self.models[0].name
        side = self._side(first) or 8
        with gr.Row(elem_classes="mg-columns"):
            with gr.Column(scale=5, min_width=300):
                picture = picture_upload()
                example = gr.Button("Draw the example picture", size="sm", elem_classes="mg-small")
                kind = gr.Radio([PAINT, WIDEN, VARY], value=PAINT, label="Edit")
                with gr.Column(visible=True) as painting:
                    painter = cell_painter()
                with gr.Column(visible=False) as widening, gr.Row():
                    sides = [
                        gr.Slider(0, CELLS_TO_ADD * side, start, step=side, label=name, info="pixels", min_width=120)
                        for name, start in (("Left", 0), ("Top", 0), ("Right", 2 * side), ("Bottom", 0))
                    ]
                with gr.Column(visible=False) as varying:
                    strength = gr.Slider(0, 1, 0.5, step=0.05, label="Strength", info="share of random cells that are made anew")
                prompt = gr.Textbox(PROMPTS[0], label="Prompt", lines=2, max_length=limits.max_characters)
                run, stop = run_and_stop("Edit")
                examples_of(PROMPTS, prompt)
                model = model_choice(self.models)
                most = min(limits.max_outputs, MOST_EDITS)
                count = gr.Slider(1, most, min(2, most), step=1, label="Pictures")
                negative = gr.Textbox(label="Negative prompt", max_length=limits.max_characters)
                controls = decode_controls(self.settings_of(first), limits)
            with gr.Column(scale=7, min_width=300):
                live = gr.HTML(note_html("The edited pictures appear here. What is not marked comes back as it was, pixel for pixel."))
                gallery = picture_gallery("Edited pictures")
        follow_model(model, controls, self.settings_of)
        kind.change(self.parts, kind, [painting, widening, varying], **EVENT)
        gr.on([picture.change, model.change], self.shown, [model, picture], painter, **EVENT)
        example.click(telling(self.example, 1), model, [picture, live], **EVENT)
        inputs = [model, picture, kind, painter, *sides, strength, prompt, negative, count, *controls.all]
        started = run.click(telling(self.edit), inputs, [live, gallery, controls.seed], **EVENT)
        stop_by(stop, live, started)

    @staticmethod
    def parts(kind: str) -> list[Any]:
        """Which controls an edit has."""
        return [gr.update(visible=kind == name) for name in (PAINT, WIDEN, VARY)]

    async def shown(self, model: str, path: str | None) -> dict[str, Any]:
        """The picture under the painter.

        Raises:
            gr.Error: If the picture cannot be used.
        """
        if path is None:
            return NO_PICTURE
        with told_errors():
            artist = self._artist(model)
            if self._side(model) is None:
                return NO_PICTURE
            picture = await self.service.uploads.decoded(lambda: self._read(artist, path))
            rows, columns = self._grid(artist, picture)
        return painter_value(picture, rows, columns)

    async def example(self, model: str) -> AsyncIterator[tuple[Any, Any]]:
        """A picture that the model draws, to be edited."""
        with told_errors():
            served = self.service.catalogue.find(model, "edit")

        def work(pipeline: Any, step: Any, emit: Any) -> Made:
            return draw_images(pipeline, EXAMPLE, {}, {"seed": 0, **callbacks(step, StepWatch(emit))})

        live = Live(steps_in_all(self.settings_of(model), len(self._artist(model).space.of("image"))))
        async for shown, made in followed(served, work, live):
            yield (gr.skip(), shown) if made is None else (made.images[0], note_html("Mark what is to be made anew, then press Edit."))

    async def edit(
        self,
        model: str,
        path: str | None,
        kind: str,
        painted: Any,
        left: int | float,
        top: int | float,
        right: int | float,
        bottom: int | float,
        strength: int | float,
        prompt: str,
        negative: str,
        count: int | float,
        *chosen: Any,
    ) -> AsyncIterator[tuple[Any, Any, Any]]:
        """Edited pictures.

        Args:
            model: Name of the model.
            path: The uploaded picture.
            kind: One of the three edits.
            painted: Value of the painter.
            left: Pixels to add, as `top`, `right` and `bottom`.
            strength: Share of random cells that are made anew.
            prompt: What the picture shows.
            negative: What guidance leads away from; empty for nothing.
            count: Pictures.
            chosen: Values of the shared controls.

        Yields:
            What is shown while it decodes, the pictures, and the seed of the first.

        Raises:
            gr.Error: Says what went wrong.
        """
        limits, started_s = self.service.limits, time.perf_counter()
        with told_errors():
            served, artist = self.service.catalogue.find(model, "edit"), self._artist(model)
            limits.check_text("the prompt", prompt)
            limits.check_text("the negative prompt", negative)
            limits.check_number("the number of pictures", count, limits.max_outputs)
            own = self.settings_of(model)
            options = {**chosen_options(limits, own, *chosen), "num_outputs": int(count)}
            picture = await self.service.uploads.decoded(lambda: self._read(artist, path))
            given = self._given(artist, picture, kind, painted, (left, top, right, bottom), strength)
            given |= {"negative_prompt": negative} if negative.strip() else {}
            settings = settings_from(own, options, len(artist.space.of("image")))

        def work(pipeline: Any, step: Any, emit: Any) -> Made:
            watch = StepWatch(emit, artist, MOST_PREVIEWS, settings, partial(image_bytes, kind="webp"))
            return edit_image(pipeline, prompt, given, {**options, **callbacks(step, watch)})

        live = Live(steps_in_all(settings, len(artist.space.of("image"))))
        yield live.html, [], options["seed"]
        async for shown, made in followed(served, work, live):
            if made is None:
                yield shown, gr.skip(), gr.skip()
                continue
            self.service.metrics.images.labels(served.name).inc(len(made.images))
            pictures = [(one, f"seed {seed}") for one, seed in zip(made.images, made.seeds, strict=True)]
            yield note_html(drawn_words(made, time.perf_counter() - started_s)), pictures, gr.skip()

    def _given(
        self, artist: Pipeline, picture: Image.Image, kind: str, painted: Any, sides: Sequence[int | float], strength: int | float
    ) -> dict[str, Any]:
        """Arguments of the call for one of the three edits.

        Raises:
            ValueError: If nothing is marked, or more is added than the page allows.
        """
        if kind == PAINT:
            return {"image": picture, "mask_image": painted_mask(painted, picture.size, *self._grid(artist, picture))}
        if kind == VARY:
            return {"image": picture, "strength": float(strength)}
        added = tuple(int(side) for side in sides)
        self.service.limits.check_number("the pixels to add", added, CELLS_TO_ADD * pixels_per_cell(artist.tokenizers["image"]))
        return {"image": picture, "outpaint": added}

    def _artist(self, name: str) -> Pipeline:
        """The pipeline that edits for a model."""
        pipeline = self.service.catalogue.find(name, "edit").engine.pipeline
        return pipeline.specialists["image"] if isinstance(pipeline, AnyToAnyPipeline) else pipeline

    def _side(self, name: str) -> int | None:
        """Pixels of a cell; None where a model has no square cells."""
        try:
            return pixels_per_cell(self._artist(name).tokenizers["image"])
        except ValueError:
            return None

    def _read(self, artist: Pipeline, path: str | None) -> Image.Image:
        """The uploaded picture at the model's size."""
        return letterboxed(uploaded_picture(path, self.service.limits), artist.tokenizers["image"], artist.grids.get("image"))

    @staticmethod
    def _grid(artist: Pipeline, picture: Image.Image) -> tuple[int, int]:
        """Rows and columns of cells."""
        side = pixels_per_cell(artist.tokenizers["image"])
        return picture.height // side, picture.width // side
