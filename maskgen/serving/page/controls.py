"""Controls that several tabs share: the model, the seed and how it decodes; and their values as options of a call."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import gradio as gr

from maskgen.decoding.settings import GenerationSettings
from maskgen.pipelines.base import Pipeline
from maskgen.sampling import names
from maskgen.serving.calls import decode_options
from maskgen.serving.limits import ServeLimits
from maskgen.serving.page.following import note_html
from maskgen.serving.schemas import Decoding
from maskgen.serving.served import Served

OWN = "model's own"
"""Choice that leaves a setting as the model has it."""
MOST_SHOWN_STEPS = 64
"""Largest value of the sliders for steps; a model whose own number is larger gets that."""
LARGEST_SEED = 2**31 - 1
EVENT: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden", "concurrency_limit": None}
"""Options of every event: no route of its own, no veil over what it changes, and the engine's queue in place of Gradio's."""


@dataclass(frozen=True)
class DecodeControls:
    """Controls of a decode.

    Args:
        seed: Seed of the first output.
        drawn: Whether a seed is drawn.
        steps: Steps of the coarsest level.
        guidance: Guidance scale.
        temperature: Divides the logits of the coarsest level.
        sampler: Name, or `OWN`.
    """

    seed: gr.Number
    drawn: gr.Checkbox
    steps: gr.Slider
    guidance: gr.Slider
    temperature: gr.Slider
    sampler: gr.Dropdown

    @property
    def all(self) -> list[Any]:
        """As inputs of an event, in the order of the arguments of `chosen_options`."""
        return [self.seed, self.drawn, self.steps, self.guidance, self.temperature, self.sampler]


def model_choice(models: Sequence[Served]) -> gr.Dropdown:
    """Which model does it; hidden where there is one."""
    found = [one.name for one in models]
    return gr.Dropdown(found, value=found[0], label="Model", visible=len(found) > 1, interactive=True)


def decode_controls(settings: GenerationSettings, limits: ServeLimits, open_: bool = False) -> DecodeControls:
    """Seed, steps, guidance, temperature and sampler, with a model's own values.

    Args:
        settings: How the model decodes unless told otherwise.
        limits: Of the server.
        open_: Whether they are shown at first.
    """
    steps, guidance, temperature = own_values(settings)
    most = min(limits.max_steps, max(MOST_SHOWN_STEPS, steps))
    with gr.Accordion("How it is decoded", open=open_):
        with gr.Row():
            drawn = gr.Checkbox(True, label="New seed each time", min_width=140)
            seed = gr.Number(0, label="Seed", precision=0, minimum=0, maximum=LARGEST_SEED, min_width=120)
        with gr.Row():
            steps_slider = gr.Slider(1, most, steps, step=1, label="Steps", info="coarsest level", min_width=140)
            scale = gr.Slider(0, 10, guidance, step=0.1, label="Guidance", info="scale; 1 is off", min_width=140)
        with gr.Row():
            heat = gr.Slider(0, 2, temperature, step=0.05, label="Temperature", info="0: likeliest", min_width=140)
            sampler = gr.Dropdown([OWN, *names()], value=OWN, label="Sampler", info=f"the model's: {settings.sampler}", min_width=140)
    return DecodeControls(seed, drawn, steps_slider, scale, heat, sampler)


def run_and_stop(words: str) -> tuple[gr.Button, gr.Button]:
    """The button that begins a decode, and the one that ends it."""
    with gr.Row():
        return gr.Button(words, variant="primary", scale=3, min_width=120), gr.Button("Stop", scale=1, min_width=80)


def stop_by(stop: gr.Button, live: gr.HTML, *started: Any) -> None:
    """Let a button end decodes.

    Args:
        stop: The button.
        live: Says that they were stopped.
        started: The events that begin them.
    """
    stop.click(lambda: note_html("Stopped."), None, live, cancels=list(started), **EVENT)


def examples_of(texts: Sequence[str], box: gr.Textbox) -> None:
    """Texts to click on, which go into a box."""
    gr.Examples([[one] for one in texts], [box], label="Examples", api_visibility="private")


def picture_gallery(label: str) -> gr.Gallery:
    """A gallery of finished pictures."""
    return gr.Gallery(
        label=label,
        columns=2,
        format="png",
        type="filepath",
        object_fit="contain",
        interactive=False,
        buttons=["download", "fullscreen"],
        elem_classes="mg-gallery",
    )


def picture_upload(height: int = 220) -> gr.Image:
    """Where a picture is dropped. Gradio hands its path on; `uploaded_picture` decodes it."""
    return gr.Image(
        label="Picture",
        type="filepath",
        image_mode=None,
        format="png",
        sources=["upload", "clipboard"],
        height=height,
        buttons=[],
        elem_classes="mg-picture",
    )


def own_values(settings: GenerationSettings) -> tuple[int, float, float]:
    """Steps and temperature of the coarsest level and the guidance scale, as a model has them."""
    return settings.steps[0], settings.guidance_scale, settings.temperature[0]


def follow_model(model: gr.Dropdown, controls: DecodeControls, settings_of: Callable[[str], GenerationSettings]) -> None:
    """Set the controls to the values of the model that is chosen.

    Args:
        model: The choice.
        controls: What is set.
        settings_of: How a model of a name decodes.
    """

    def chosen(name: str) -> list[Any]:
        settings = settings_of(name)
        steps, guidance, temperature = own_values(settings)
        most = max(controls.steps.maximum, steps)
        return [gr.update(value=steps, maximum=most), guidance, temperature, gr.update(value=OWN, info=f"the model's: {settings.sampler}")]

    model.change(
        chosen,
        model,
        [controls.steps, controls.guidance, controls.temperature, controls.sampler],
        **EVENT,
    )


def chosen_options(
    limits: ServeLimits,
    settings: GenerationSettings,
    seed: int | float | None,
    drawn: bool,
    steps: int | float,
    guidance: int | float,
    temperature: int | float,
    sampler: str,
) -> dict[str, Any]:
    """Options of a pipeline's call from the values of controls; what is as the model has it is left out.

    Args:
        limits: Of the server.
        settings: How the model decodes unless told otherwise.
        seed: Of `DecodeControls`, as the others.

    Raises:
        ValueError: If a value is out of range.
    """
    given: dict[str, Any] = {"num_inference_steps": steps, "guidance_scale": guidance, "temperature": temperature}
    own = dict(zip(given, own_values(settings), strict=True))
    changed = {name: value for name, value in given.items() if not math.isclose(float(value), float(own[name]), abs_tol=1e-6)}
    if sampler != OWN:
        changed["sampler"] = sampler
    return decode_options(Decoding.model_validate({**changed, "seed": None if drawn else int(seed or 0)}), limits)


def settings_for(pipeline: Pipeline | None, target: str) -> GenerationSettings:
    """How a pipeline decodes a target."""
    assert pipeline is not None, "only models with the task are asked"
    return pipeline.settings_of(target)
