"""`POST /v1/generate` as work for an engine: the call of a pipeline with the same words, or its core with any known media."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from PIL import Image

from maskgen.decoding.decoder import StepCallback
from maskgen.io.audio import Waveform, fit_audio
from maskgen.pipelines.any_to_any import AnyToAnyPipeline
from maskgen.pipelines.base import Pipeline
from maskgen.pipelines.options import num_outputs, seeds_of, settings_from
from maskgen.pipelines.outputs import GenerationOutput, SpeechOutput, TextOutput
from maskgen.processors.image import letterboxed
from maskgen.serving.calls import Made, made_images
from maskgen.serving.limits import ServeLimits
from maskgen.serving.media import bytes_of, mask_from, picture_from, recording_from
from maskgen.serving.schemas import GenerateRequest, KnownMedium
from maskgen.tokenizers.audio_base import SoundTokenizer
from maskgen.tokenizers.transcript import Transcript
from maskgen.tokens.batch import UNKNOWN, Codes

WORDS = (
    "prompt",
    "negative_prompt",
    "label",
    "strength",
    "width",
    "height",
    "seconds",
    "speed",
    "speaker",
    "language",
    "audio_text",
    "length",
    "source",
    "candidates",
)
"""Fields that go into a call as they are."""
TEXTS = ("prompt", "negative_prompt", "label", "speaker", "language", "audio_text", "guidance_schedule", "sampler")


@dataclass(frozen=True)
class GenerateArguments:
    """A request with its media decoded.

    Args:
        targets: What is generated.
        given: Arguments of the pipeline's call.
        known: Modality to its medium or codes, for the core; None for the call.
    """

    targets: tuple[str, ...]
    given: Mapping[str, Any] = field(default_factory=dict)
    known: Mapping[str, Any] | None = None


def generate_arguments(request: GenerateRequest, limits: ServeLimits) -> GenerateArguments:
    """Check a request against the limits and decode its media.

    Raises:
        ValueError: If something is too large or cannot be used.
    """
    for name in TEXTS:
        value = getattr(request, name)
        limits.check_text(name, value if isinstance(value, str) else None)
    limits.check_number("num_outputs", request.num_outputs, limits.max_outputs)
    limits.check_number("candidates", request.candidates, limits.max_candidates)
    limits.check_number("seconds", request.seconds, limits.max_speech_s)
    limits.check_number("length", request.length, limits.max_cells)
    given = {name: getattr(request, name) for name in WORDS if getattr(request, name) is not None}
    for name in ("image", "mask_image", "audio", "audio_prompt"):
        text = getattr(request, name)
        if text is not None:
            read = {"image": picture_from, "mask_image": mask_from}.get(name, recording_from)
            given[name] = read(bytes_of(text, name), limits.media, name)
    for name in ("outpaint", "span_s"):
        if getattr(request, name) is not None:
            given[name] = tuple(getattr(request, name))
    targets = (request.target,) if isinstance(request.target, str) else tuple(request.target)
    if not targets or len(set(targets)) != len(targets):
        raise ValueError(f"target must be one medium or several, each once, got {', '.join(targets) or 'none'}")
    if request.known is None:
        return GenerateArguments(targets, given)
    if given or len(targets) != 1:
        raise ValueError(f"known is for one target and goes without {' and '.join(given) or 'further targets'}; leave them out")
    known = {name: known_medium(name, medium, limits) for name, medium in request.known.items()}
    return GenerateArguments(targets, {}, known)


def known_medium(name: str, medium: KnownMedium, limits: ServeLimits) -> Any:
    """A known medium: a text, an image, a recording, a transcript or codes.

    Raises:
        ValueError: If there isn't exactly one, or it cannot be used.
    """
    given = [field for field in ("text", "image", "audio", "transcript", "codes") if getattr(medium, field) is not None]
    if len(given) != 1:
        raise ValueError(
            f"known.{name} must hold exactly one of text, image, audio, transcript and codes, got {' and '.join(given) or 'none'}"
        )
    place = f"known.{name}.{given[0]}"
    if medium.text is not None:
        limits.check_text(place, medium.text)
        return medium.text
    if medium.image is not None:
        return picture_from(bytes_of(medium.image, place), limits.media, place)
    if medium.audio is not None:
        return recording_from(bytes_of(medium.audio, place), limits.media, place)
    if medium.transcript is not None:
        limits.check_number(f"{place}.seconds", medium.transcript.seconds, limits.max_audio_s)
        return Transcript(tuple(medium.transcript.words), tuple(medium.transcript.starts_s), medium.transcript.seconds)
    return as_codes(medium.codes, place, limits)


def as_codes(value: Any, name: str, limits: ServeLimits) -> Codes:
    """Codes from nested lists of whole numbers.

    Raises:
        ValueError: If it is no such list, or has too many cells.
    """
    try:
        found = torch.tensor(value)
    except (ValueError, TypeError, OverflowError, RuntimeError) as error:
        raise ValueError(f"{name} must be nested lists of whole numbers, [level, *grid], of equal lengths") from error
    if found.is_floating_point() or found.dtype == torch.bool or not 2 <= found.ndim <= 4 or not found.numel():
        raise ValueError(f"{name} has the shape {list(found.shape)}, wanted whole numbers [level, *grid]")
    limits.check_number(f"the number of cells in {name}", found[0].numel(), limits.max_cells)
    return found


def generate(
    pipeline: Pipeline, arguments: GenerateArguments, options: Mapping[str, Any], step: StepCallback, steps: Mapping[str, Any]
) -> Made:
    """What a request asks for.

    Args:
        pipeline: Any pipeline.
        arguments: Of `generate_arguments`.
        options: Of `decode_options`, and `num_outputs`.
        step: Called after every step, for the core.
        steps: Of `callbacks`, for the call.

    Raises:
        ValueError: If the pipeline refuses.
        TypeError: If its call has no argument of a name.
    """
    if arguments.known is not None:
        return _core(pipeline, arguments.known, arguments.targets[0], options, step)
    given = {**arguments.given, **options, **steps}
    if isinstance(pipeline, AnyToAnyPipeline):
        return _any(pipeline(target=list(arguments.targets), **given))
    if pipeline.makes is None:
        raise ValueError(f"this model has no call of its own; give known, its modalities are {', '.join(pipeline.tokenizers)}")
    if arguments.targets != (pipeline.makes,):
        raise ValueError(f"this model generates {pipeline.makes} and not {', '.join(arguments.targets)}; give another target or model")
    if pipeline.makes == "audio" and "prompt" not in given:
        raise ValueError("the prompt is missing; say what is to be spoken")
    output = pipeline(**given)  # type: ignore[operator]
    if isinstance(output, SpeechOutput):
        return _costing(Made(output.seeds, audio=output.audio), output.generation)
    if isinstance(output, TextOutput):
        return _costing(Made(output.seeds, texts=output.texts, codes=output.generation.codes), output.generation)
    return made_images(output)


def _any(output: Any) -> Made:
    """The media of an any-to-any call."""
    return Made(
        output.seeds,
        images=output.images,
        audio=output.audio,
        texts=output.texts,
        transcripts=output.transcripts,
        steps=output.steps,
        model_calls=float(output.model_calls),
        elapsed_s=output.elapsed_s,
    )


def _core(pipeline: Pipeline, known: Mapping[str, Any], target: str, options: Mapping[str, Any], step: StepCallback) -> Made:
    """Any known media to one target."""
    for name, medium in known.items():
        _check_kind(pipeline, name, medium)
    pipeline.space.of(target)
    count = num_outputs(options)
    seeds = seeds_of(options, [1], count)[0]
    settings = settings_from(pipeline.settings_of(target), options, len(pipeline.space.of(target)))
    row = pipeline.encoded({name: _fitted(pipeline, name, medium) for name, medium in known.items()})
    if target in row and not bool((row[target] == UNKNOWN).any()):
        raise ValueError(f"known.{target} has no cell to generate; leave it out or give codes with -1")
    output = pipeline.generate([row] * count, target, seeds, settings, None, step)
    made = _costing(Made(output.seeds, codes=output.codes), output)
    lists: dict[type, list[Any]] = {Image.Image: made.images, Waveform: made.audio, str: made.texts, Transcript: made.transcripts}
    for medium in output.media:
        next((place for kind, place in lists.items() if isinstance(medium, kind)), made.media).append(medium)
    return made


def _check_kind(pipeline: Pipeline, name: str, medium: Any) -> None:
    """Refuse a medium of another kind than the modality's: a text must never reach the reader of files.

    Raises:
        ValueError: If the kinds differ, or the model has no such modality.
    """
    kind = pipeline.space.modality(name).kind
    wanted = {"image": Image.Image, "audio": Waveform, "transcript": Transcript}.get(kind, str)
    if not isinstance(medium, torch.Tensor | wanted):
        word = {"image": "an image", "audio": "audio", "transcript": "a transcript"}.get(kind, "a text")
        raise ValueError(f"known.{name} must be {word} or codes")


def _fitted(pipeline: Pipeline, name: str, medium: Any) -> Any:
    """An image at the model's size, audio at the codec's rate; other media as they are."""
    tokenizer = pipeline.tokenizers[name]
    if isinstance(medium, Image.Image):
        return letterboxed(medium, tokenizer, pipeline.grids.get(name))
    if isinstance(medium, Waveform) and isinstance(tokenizer, SoundTokenizer):
        return fit_audio(medium, tokenizer.sample_rate_hz, tokenizer.channels)[0]
    return medium


def _costing(made: Made, output: GenerationOutput) -> Made:
    """With the model calls and seconds of a decode."""
    made.model_calls, made.elapsed_s = float(sum(output.model_calls)), output.elapsed_s
    return made
