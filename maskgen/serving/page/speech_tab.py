"""The tab that speaks: a text with a voice, and a span of a recording spoken anew."""

import time
from collections.abc import AsyncIterator
from typing import Any

import gradio as gr

from maskgen.decoding.settings import GenerationSettings
from maskgen.io.audio import Waveform, sixteen_bits
from maskgen.pipelines.options import settings_from
from maskgen.processors.spoken import SpeechRequest
from maskgen.serving.calls import both, speak_text, voice_of
from maskgen.serving.events import StepWatch
from maskgen.serving.page.controls import (
    EVENT,
    chosen_options,
    decode_controls,
    examples_of,
    follow_model,
    model_choice,
    run_and_stop,
    settings_for,
    stop_by,
)
from maskgen.serving.page.following import Live, followed, note_html, steps_in_all, telling, told_errors
from maskgen.serving.page.uploads import uploaded_recording
from maskgen.serving.page.wave_span import NO_RECORDING, chosen_span, span_value, wave_span
from maskgen.serving.served import Served
from maskgen.serving.service import Service

EXAMPLES = (
    "Good morning. This is a picture of a red heart.",
    "The library speaks, draws and listens.",
    "It is late, and the last train has gone.",
)
WORDS = ("a blue star", "a small dog", "the evening train")
WAVE = gr.WaveformOptions(waveform_color="#a5b4fc", waveform_progress_color="#4f46e5", show_recording_waveform=True)


class SpeechTab:
    """Text to speech and edits of speech.

    Args:
        service: Models, limits and metrics.
        models: Those that speak.
    """

    def __init__(self, service: Service, models: list[Served]) -> None:
        self.service, self.models = service, models

    def settings_of(self, name: str) -> GenerationSettings:
        """How a model speaks."""
        return settings_for(voice_of(self.service.catalogue.find(name, "speak").engine.pipeline).pipeline, "audio")

    def build(self) -> None:
        """Lay the tab out."""
        limits, first = self.service.limits, self.models[0]
        with gr.Row(elem_classes="mg-columns"):
            with gr.Column(scale=5, min_width=300):
                text = gr.Textbox(EXAMPLES[0], label="Text", lines=3, max_length=limits.max_characters, placeholder="What to say")
                run, stop = run_and_stop("Speak")
                examples_of(EXAMPLES, text)
                model = model_choice(self.models)
                voice = gr.Dropdown(list(first.voices), value=_first_voice(first), label="Voice", visible=len(first.voices) > 1)
                with gr.Row():
                    speed = gr.Slider(0.5, 2, 1, step=0.05, label="Speed", min_width=140)
                    seconds = gr.Slider(
                        0, limits.max_speech_s, 0, step=0.1, label="Length", info="seconds; 0 follows the speed", min_width=140
                    )
                with gr.Accordion("Voice prompt", open=False):
                    prompt = gr.Audio(
                        label="Recording whose voice is taken up", type="filepath", sources=["upload", "microphone"], buttons=[]
                    )
                    said = gr.Textbox(label="What it says", info="helps; may be left empty", max_length=limits.max_characters)
                controls = decode_controls(self.settings_of(first.name), limits)
            with gr.Column(scale=7, min_width=300):
                live = gr.HTML(note_html("Speech appears here."))
                player = gr.Audio(label="Speech", interactive=False, format="wav", buttons=["download"], waveform_options=WAVE)
                with gr.Column(elem_classes="mg-card"):
                    gr.Markdown("### Edit a span\nReplace a part of a recording; every sample outside it comes back unchanged.")
                    take = gr.Button("Take the speech above", size="sm", elem_classes="mg-small")
                    recording = gr.Audio(
                        label="Recording",
                        type="filepath",
                        sources=["upload", "microphone"],
                        editable=False,
                        buttons=[],
                        waveform_options=WAVE,
                    )
                    span = wave_span()
                    words = gr.Textbox(WORDS[0], label="New words of the span", max_length=limits.max_characters)
                    change = gr.Button("Replace the span", variant="primary")
                    examples_of(WORDS, words)
                    edited = gr.Audio(label="Edited speech", interactive=False, format="wav", buttons=["download"], waveform_options=WAVE)
        follow_model(model, controls, self.settings_of)
        model.change(self.voices, model, voice, **EVENT)
        inputs = [model, text, voice, speed, seconds, prompt, said, *controls.all]
        started = run.click(telling(self.speak), inputs, [live, player, controls.seed], **EVENT)
        take.click(lambda path: path, player, recording, **EVENT)
        recording.change(self.spanned, recording, span, **EVENT)
        changing = change.click(telling(self.edit), [model, recording, span, words, *controls.all], [live, edited, controls.seed], **EVENT)
        stop_by(stop, live, started, changing)

    def voices(self, model: str) -> Any:
        """The voices of a model."""
        with told_errors():
            served = self.service.catalogue.find(model, "speak")
        return gr.update(choices=list(served.voices), value=_first_voice(served), visible=len(served.voices) > 1)

    async def spanned(self, path: str | None) -> dict[str, Any]:
        """The waveform of a recording with a span on it.

        Raises:
            gr.Error: If the recording cannot be used.
        """
        if path is None:
            return NO_RECORDING
        with told_errors():
            return span_value(await self._recording(path))

    async def speak(
        self,
        model: str,
        text: str,
        voice: str | None,
        speed: int | float,
        seconds: int | float,
        prompt: str | None,
        said: str,
        *chosen: Any,
    ) -> AsyncIterator[tuple[Any, Any, Any]]:
        """Speech of a text.

        Args:
            model: Name of the model.
            text: What is said.
            voice: A speaker of the model; None takes its first.
            speed: Pace.
            seconds: Length; 0 follows the pace.
            prompt: An uploaded recording whose voice is taken up.
            said: What it says.
            chosen: Values of the shared controls.

        Yields:
            What is shown while it decodes, the speech, and the seed.

        Raises:
            gr.Error: Says what went wrong.
        """
        limits = self.service.limits
        with told_errors():
            limits.check_text("the text", text)
            limits.check_text("what the voice prompt says", said)
            limits.check_number("the length", seconds, limits.max_speech_s)
            heard = None if prompt is None else await self._recording(prompt, "the voice prompt")
            request = SpeechRequest(
                prompt=text,
                speaker=None if heard is not None else voice or None,
                seconds=float(seconds) or None,
                speed=1.0 if seconds else float(speed),
                audio_prompt=heard,
                audio_text=said.strip() or None if heard is not None else None,
            )
        async for update in self._spoken(model, request, chosen):
            yield update

    async def edit(self, model: str, path: str | None, span: Any, words: str, *chosen: Any) -> AsyncIterator[tuple[Any, Any, Any]]:
        """A recording with a span of it spoken anew.

        Args:
            model: Name of the model.
            path: The recording.
            span: Value of the waveform.
            words: What is said in the span.
            chosen: Values of the shared controls.

        Yields:
            As `speak`.

        Raises:
            gr.Error: Says what went wrong.
        """
        with told_errors():
            self.service.limits.check_text("the new words", words)
            wave = await self._recording(path)
            request = SpeechRequest(prompt=words, audio=wave, span_s=chosen_span(span, wave))
        async for update in self._spoken(model, request, chosen):
            yield update

    async def _spoken(self, model: str, request: SpeechRequest, chosen: tuple[Any, ...]) -> AsyncIterator[tuple[Any, Any, Any]]:
        """The speech of a request, as it is made."""
        started_s = time.perf_counter()
        with told_errors():
            served = self.service.catalogue.find(model, "speak")
            own = self.settings_of(model)
            options = chosen_options(self.service.limits, own, *chosen)
            levels = len(voice_of(served.engine.pipeline).pipeline.space.of("audio"))
            live = Live(steps_in_all(settings_from(own, options, levels), levels))

        def work(pipeline: Any, step: Any, emit: Any) -> Waveform:
            return speak_text(pipeline, request, options, both(step, StepWatch(emit)))

        yield live.html, gr.skip(), options["seed"]
        async for shown, wave in followed(served, work, live):
            if wave is None:
                yield shown, gr.skip(), gr.skip()
                continue
            self.service.metrics.audio_s.labels(served.name).inc(wave.seconds)
            elapsed_s = time.perf_counter() - started_s
            said = f"{wave.seconds:.2f} s of speech in {elapsed_s:.1f} s, {wave.sample_rate_hz} Hz, seed {options['seed']}."
            yield note_html(said), playable(wave), gr.skip()

    async def _recording(self, path: str | None, name: str = "the recording") -> Waveform:
        return await self.service.uploads.decoded(lambda: uploaded_recording(path, self.service.limits, name))


def playable(wave: Waveform) -> tuple[int, Any]:
    """Audio as a player takes it: rate and 16-bit samples [sample, channel]."""
    return wave.sample_rate_hz, sixteen_bits(wave).T


def _first_voice(model: Served) -> str | None:
    return model.voices[0] if model.voices else None
