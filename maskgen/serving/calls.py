"""What routes ask of a pipeline, as work for an engine: plain arguments in, media out. Runs in a thread of the engine."""

import dataclasses
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from PIL import Image

from maskgen.decoding.decoder import StepCallback
from maskgen.io.audio import Waveform
from maskgen.pipelines.any_to_any import AnyToAnyPipeline
from maskgen.pipelines.base import Pipeline
from maskgen.pipelines.options import settings_from
from maskgen.pipelines.prompted_speech import PromptedSpeechPipeline
from maskgen.pipelines.text_to_image import TextToImagePipeline
from maskgen.pipelines.text_to_speech import TextToSpeechPipeline, speech_of
from maskgen.processors.spoken import PreparedSpeech, SpeechRequest, SpokenProcessor
from maskgen.sampling.base import State
from maskgen.serving.events import Emit, SentenceEvent
from maskgen.serving.limits import ServeLimits
from maskgen.serving.schemas import Decoding
from maskgen.tokenizers.transcript import Transcript
from maskgen.tokens.batch import Codes

DECODE_FIELDS = (
    "num_inference_steps",
    "guidance_scale",
    "guidance_schedule",
    "temperature",
    "choice_temperature",
    "top_k",
    "top_p",
    "sampler",
)
OPENAI_VOICES = ("alloy", "ash", "ballad", "cedar", "coral", "echo", "fable", "marin", "nova", "onyx", "sage", "shimmer", "verse")
"""Names that clients of OpenAI's API send; a model's first speaker answers to them."""
DRAWN_SEED_BITS = 31


@dataclass
class Made:
    """What a request made; lists have an entry an output, or are empty.

    Args:
        seeds: Seed of each output.
        images: Images.
        audio: Speech.
        texts: Texts.
        transcripts: Words and their times.
        media: What the core generated of a modality without a list of its own.
        codes: Codes of each output.
        steps: The decodes of a chain.
        model_calls: Calls of the model.
        elapsed_s: Seconds in model and sampler.
    """

    seeds: list[int]
    images: list[Image.Image] = field(default_factory=list)
    audio: list[Waveform] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    transcripts: list[Transcript] = field(default_factory=list)
    media: list[Any] = field(default_factory=list)
    codes: list[Codes] = field(default_factory=list)
    steps: list[str] = field(default_factory=list)
    model_calls: float = 0.0
    elapsed_s: float = 0.0

    @property
    def usage(self) -> dict[str, float]:
        """What it cost."""
        return {"model_calls": self.model_calls, "elapsed_s": round(self.elapsed_s, 6)}


def decode_options(request: Decoding, limits: ServeLimits) -> dict[str, Any]:
    """Options of a pipeline's call from a request; a seed is drawn where it names none.

    Raises:
        ValueError: If there are more steps than the server allows.
    """
    limits.check_number("num_inference_steps", request.num_inference_steps, limits.max_steps)
    seed = secrets.randbits(DRAWN_SEED_BITS) if request.seed is None else request.seed
    given = {name: getattr(request, name) for name in DECODE_FIELDS if getattr(request, name) is not None}
    return {"seed": seed, **given}


def callbacks(step: StepCallback, watch: Any = None) -> dict[str, Any]:
    """The options of a call that run the engine's callback, and then another, after every step."""

    def at_end(_pipeline: Any, _step: int, _left: int, given: Mapping[str, Any]) -> None:
        both(step, watch)(given["state"])

    return {"callback_on_step_end": at_end, "callback_on_step_end_tensor_inputs": ["state"]}


def both(step: StepCallback, watch: Any = None) -> StepCallback:
    """The engine's callback, and then another."""

    def at_end(state: State) -> State | None:
        step(state)
        if watch is not None:
            watch(state)
        return None

    return at_end


def artist_of(pipeline: Pipeline, from_audio: bool = False) -> Pipeline | None:
    """The pipeline that decodes images of a call; None for a model without images."""
    if isinstance(pipeline, AnyToAnyPipeline):
        return pipeline.decoder_of("image", from_audio)
    return pipeline if "image" in pipeline.tokenizers else None


def draw_images(pipeline: Pipeline, prompt: str, given: Mapping[str, Any], options: Mapping[str, Any]) -> Made:
    """Images of a prompt.

    Args:
        pipeline: An image or any-to-any pipeline.
        prompt: What they show.
        given: Fields of the call that are set: width, height, negative_prompt.
        options: Of `decode_options` and `callbacks`, and `num_outputs`.

    Raises:
        ValueError: If the pipeline refuses.
    """
    if not isinstance(pipeline, AnyToAnyPipeline):
        return made_images(pipeline(prompt, **given, **options))  # type: ignore[operator]
    if given:
        raise ValueError(f"this any-to-any model takes no {' and no '.join(given)}; leave it out or name a text-to-image model")
    output = pipeline(prompt, target="image", **options)
    return Made(output.seeds, images=output.images, steps=output.steps, model_calls=output.model_calls, elapsed_s=output.elapsed_s)


def edit_image(pipeline: Pipeline, prompt: str, given: Mapping[str, Any], options: Mapping[str, Any]) -> Made:
    """An image, edited: by an image pipeline, or by an any-to-any model's specialist for images."""
    artist = pipeline.specialists["image"] if isinstance(pipeline, AnyToAnyPipeline) else pipeline
    assert isinstance(artist, TextToImagePipeline), "only models with the task edit are asked"
    return made_images(artist(prompt, **given, **options))


def made_images(output: Any) -> Made:
    """The images of a text-to-image call."""
    return Made(
        output.seeds, images=output.images, codes=output.codes, model_calls=float(sum(output.model_calls)), elapsed_s=output.elapsed_s
    )


@dataclass(frozen=True)
class Speaking:
    """What speaks: a pipeline and its processor."""

    pipeline: Pipeline
    processor: SpokenProcessor


def voice_of(pipeline: Pipeline) -> Speaking:
    """What speaks for a pipeline: itself, or an any-to-any model's specialist."""
    voice = pipeline.specialists.get("audio")
    speaker = voice if isinstance(pipeline, AnyToAnyPipeline) and isinstance(voice, TextToSpeechPipeline) else pipeline
    if isinstance(speaker, TextToSpeechPipeline):
        return Speaking(speaker, speaker.processor)
    assert isinstance(speaker, AnyToAnyPipeline), "only models with the task speak are asked"
    return Speaking(speaker, speaker.speech)


def speak_text(
    pipeline: Pipeline, request: SpeechRequest, options: Mapping[str, Any], step: StepCallback, emit: Emit | None = None
) -> Waveform:
    """Speech of a text: all sentences in one decode, or one after another as `emit` takes them. Both give the same samples where rows keep
    the bits that they have alone.

    Args:
        pipeline: A speech or any-to-any pipeline.
        request: What is spoken.
        options: Of `decode_options`.
        step: Called after every step.
        emit: Takes a `SentenceEvent` as soon as a sentence is made.

    Returns:
        All of the speech.

    Raises:
        ValueError: If the pipeline refuses.
    """
    voice = voice_of(pipeline)
    if request.language is not None and not isinstance(voice.pipeline, PromptedSpeechPipeline):
        raise ValueError("this voice speaks one language; leave language out")
    settings = settings_from(voice.pipeline.settings_of("audio"), options, len(voice.pipeline.space.of("audio")))
    plan = voice.processor.prepare(request)
    if emit is None:
        return speech_of(voice.pipeline, voice.processor, [(plan, options["seed"])], settings, step).audio[0]
    parts: list[Any] = []
    left = None if plan.seconds is None else round(plan.seconds * voice.processor.codec.sample_rate_hz)
    for place, sentence in enumerate(plan.sentences):
        part = speech_of(voice.pipeline, voice.processor, [(_part(plan, place), options["seed"])], settings, step)
        samples = part.audio[0].samples if left is None else part.audio[0].samples[:, :left]
        left = None if left is None else left - samples.shape[1]
        parts.append(samples)
        emit(SentenceEvent(place, sentence, voice.processor.wave(samples)))
    return voice.processor.joined(parts, None, None)


def _part(plan: PreparedSpeech, place: int) -> PreparedSpeech:
    """One sentence of a plan."""
    only = slice(place, place + 1)
    rows, phonemes = list(plan.rows)[only], list(plan.phonemes)[only]
    return dataclasses.replace(plan, rows=rows, seeds=[place], sentences=list(plan.sentences)[only], phonemes=phonemes, seconds=None)


def speech_request(request: Any, limits: ServeLimits) -> SpeechRequest:
    """What `POST /v1/audio/speech` asks of a voice.

    Raises:
        ValueError: If the text is too long, or more seconds are asked for than the server allows.
    """
    limits.check_text("input", request.input)
    limits.check_number("seconds", request.seconds, limits.max_speech_s)
    name = request.voice if isinstance(request.voice, str) and request.voice.lower() not in OPENAI_VOICES else None
    return SpeechRequest(prompt=request.input, speaker=name, seconds=request.seconds, speed=request.speed, language=request.language)


def transcribe(pipeline: Pipeline, wave: Waveform, candidates: int, options: Mapping[str, Any]) -> Transcript:
    """The words of a recording and their times."""
    assert isinstance(pipeline, AnyToAnyPipeline), "only models with the task transcribe are asked"
    transcript = pipeline(audio=wave, target="text", candidates=candidates, **options).transcript
    assert transcript is not None, "a recording was given"
    return transcript
