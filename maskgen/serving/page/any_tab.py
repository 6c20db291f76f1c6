"""The tab that makes media of each other: a picture, a recording or a text gives the other two."""

import html
import time
from collections.abc import AsyncIterator
from functools import partial
from typing import Any

import gradio as gr

from maskgen.processors.spoken import SpeechRequest
from maskgen.serving.calls import Made, artist_of, both, callbacks, decode_options, draw_images, speak_text
from maskgen.serving.events import StepWatch
from maskgen.serving.generate_calls import GenerateArguments, generate
from maskgen.serving.media import image_bytes
from maskgen.serving.page.controls import EVENT, LARGEST_SEED, examples_of, model_choice, picture_upload, run_and_stop, stop_by
from maskgen.serving.page.following import MOST_PREVIEWS, Live, followed, note_html, telling, told_errors
from maskgen.serving.page.speech_tab import WAVE, playable
from maskgen.serving.page.uploads import uploaded_picture, uploaded_recording
from maskgen.serving.schemas import Decoding
from maskgen.serving.served import Served
from maskgen.serving.service import Service
from maskgen.serving.subtitles import words_of
from maskgen.tokenizers.transcript import Transcript

TEXT, PICTURE, RECORDING = "a text", "a picture", "a recording"
EXAMPLES = ("a red heart, flat style", "a yellow star, noto style", "a blue square, flat style")
MOST_CANDIDATES = 8


class AnyTab:
    """Any to any.

    Args:
        service: Models, limits and metrics.
        models: Those that go from any medium to any.
    """

    def __init__(self, service: Service, models: list[Served]) -> None:
        self.service, self.models = service, models

    def build(self) -> None:
        """Lay the tab out."""
        limits = self.service.limits
        with gr.Row(elem_classes="mg-columns"):
            with gr.Column(scale=5, min_width=300):
                source = gr.Radio([TEXT, PICTURE, RECORDING], value=TEXT, label="From")
                with gr.Column(visible=True) as texts:
                    text = gr.Textbox(EXAMPLES[0], label="Text", lines=2, max_length=limits.max_characters)
                    examples_of(EXAMPLES, text)
                with gr.Column(visible=False) as pictures:
                    picture = picture_upload()
                    drawn = gr.Button("Draw an example picture", size="sm", elem_classes="mg-small")
                with gr.Column(visible=False) as recordings:
                    recording = gr.Audio(
                        label="Recording",
                        type="filepath",
                        sources=["upload", "microphone"],
                        editable=False,
                        buttons=[],
                        waveform_options=WAVE,
                    )
                    spoken = gr.Button("Speak an example", size="sm", elem_classes="mg-small")
                run, stop = run_and_stop("Get the others")
                model = model_choice(self.models)
                with gr.Row():
                    fresh = gr.Checkbox(True, label="New seed each time", min_width=140)
                    seed = gr.Number(0, label="Seed", precision=0, minimum=0, maximum=LARGEST_SEED, min_width=120)
                most = min(limits.max_candidates, MOST_CANDIDATES)
                candidates = gr.Slider(
                    1, most, 1, step=1, label="Candidates", info="captions or transcripts, of which the likeliest is kept"
                )
            with gr.Column(scale=7, min_width=300):
                live = gr.HTML(note_html("The other media appear here, with the steps that led to them."))
                written = gr.Textbox(label="Text", interactive=False, lines=2, visible=False)
                shown = gr.Image(
                    label="Picture",
                    interactive=False,
                    format="png",
                    height=300,
                    buttons=["download", "fullscreen"],
                    alt_text="The picture that was made",
                    elem_classes="mg-picture",
                )
                heard = gr.Audio(label="Speech", interactive=False, format="wav", buttons=["download"], waveform_options=WAVE)
        source.change(self.parts, source, [texts, pictures, recordings, written, shown, heard], **EVENT)
        inputs = [model, source, text, picture, recording, fresh, seed, candidates]
        started = run.click(telling(self.others), inputs, [live, written, shown, heard, seed], **EVENT)
        drawn.click(telling(self.example_picture), model, [live, picture], **EVENT)
        spoken.click(telling(self.example_recording), model, [live, recording], **EVENT)
        stop_by(stop, live, started)

    @staticmethod
    def parts(source: str) -> list[Any]:
        """Which input is shown, and which outputs."""
        names = (TEXT, PICTURE, RECORDING)
        return [*(gr.update(visible=source == name) for name in names), *(gr.update(visible=source != name) for name in names)]

    async def others(
        self,
        model: str,
        source: str,
        text: str,
        picture: str | None,
        recording: str | None,
        fresh: bool,
        seed: int | float | None,
        candidates: int | float,
    ) -> AsyncIterator[tuple[Any, Any, Any, Any, Any]]:
        """The other media of one.

        Args:
            model: Name of the model.
            source: Which of the three is given.
            text: A text.
            picture: An uploaded picture.
            recording: An uploaded recording.
            fresh: Whether a seed is drawn.
            seed: Else the seed.
            candidates: Captions or transcripts of which the likeliest is kept.

        Yields:
            What is shown while it decodes, the text, the picture, the speech, and the seed.

        Raises:
            gr.Error: Says what went wrong.
        """
        limits, started_s = self.service.limits, time.perf_counter()
        with told_errors():
            served = self.service.catalogue.find(model, "transcribe")
            limits.check_text("the text", text)
            limits.check_number("candidates", candidates, limits.max_candidates)
            options = decode_options(Decoding.model_validate({"seed": None if fresh else int(seed or 0)}), limits)
            given, targets = await self.service.uploads.decoded(lambda: self._given(source, text, picture, recording))
            given["candidates"] = int(candidates)

        def work(pipeline: Any, step: Any, emit: Any) -> Made:
            watch = StepWatch(emit, artist_of(pipeline), MOST_PREVIEWS, None, partial(image_bytes, kind="webp"))
            return generate(pipeline, GenerateArguments(targets, given), options, both(step, watch), callbacks(step, watch))

        live = Live()
        yield live.html, "", None, None, options["seed"]
        async for update, made in followed(served, work, live):
            if made is None:
                yield update, gr.skip(), gr.skip(), gr.skip(), gr.skip()
                continue
            self.service.metrics.images.labels(served.name).inc(len(made.images))
            self.service.metrics.audio_s.labels(served.name).inc(sum(one.seconds for one in made.audio))
            yield (*made_values(made, time.perf_counter() - started_s), gr.skip())

    async def example_picture(self, model: str) -> AsyncIterator[tuple[Any, Any]]:
        """A picture that the model draws, to be described."""
        with told_errors():
            served = self.service.catalogue.find(model, "draw")

        def work(pipeline: Any, step: Any, emit: Any) -> Made:
            return draw_images(pipeline, EXAMPLES[0], {}, {"seed": 0, **callbacks(step, StepWatch(emit))})

        async for update, made in followed(served, work, Live()):
            yield (update, gr.skip()) if made is None else (note_html("Now get the others."), made.images[0])

    async def example_recording(self, model: str) -> AsyncIterator[tuple[Any, Any]]:
        """A sentence that the model speaks, to be heard."""
        with told_errors():
            served = self.service.catalogue.find(model, "speak")

        def work(pipeline: Any, step: Any, emit: Any) -> Any:
            request = SpeechRequest(prompt="This is a picture of a red heart.")
            return playable(speak_text(pipeline, request, {"seed": 0}, both(step, StepWatch(emit))))

        async for update, wave in followed(served, work, Live()):
            yield (update, gr.skip()) if wave is None else (note_html("Now get the others."), wave)

    def _given(self, source: str, text: str, picture: str | None, recording: str | None) -> tuple[dict[str, Any], tuple[str, ...]]:
        """Arguments of the call for what is given, and what is made of it."""
        if source == PICTURE:
            return {"image": uploaded_picture(picture, self.service.limits)}, ("text", "audio")
        if source == RECORDING:
            return {"audio": uploaded_recording(recording, self.service.limits)}, ("text", "image")
        if not text.strip():
            raise ValueError("the text is empty; write what is to be drawn and spoken")
        return {"prompt": text}, ("image", "audio")


def made_values(made: Made, elapsed_s: float) -> tuple[str, str, Any, Any]:
    """What was made as values of the outputs: how in words, the text, the picture and the speech."""
    steps = ", then ".join(step.replace(">", "to") for step in made.steps)
    said = note_html(f"{steps} in {elapsed_s:.1f} s, seed {made.seeds[0]}.") + (times_html(made.transcripts[0]) if made.transcripts else "")
    image = made.images[0] if made.images else None
    wave = playable(made.audio[0]) if made.audio else None
    return said, made.texts[0] if made.texts else "", image, wave


def times_html(transcript: Transcript) -> str:
    """Words and the times at which they begin."""
    words = "".join(f"<li><b>{html.escape(one['word'])}</b> {one['start']:.2f} s</li>" for one in words_of(transcript))
    return f'<ol class="mg-words" aria-label="Words and the second at which each begins">{words}</ol>'
