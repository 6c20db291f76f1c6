"""`POST /v1/generate`: any known media to any target, in the words of a pipeline's call."""

import time
from collections.abc import Mapping
from typing import Annotated, Any

from fastapi import APIRouter, Body, Request
from fastapi.openapi.models import Example
from fastapi.responses import JSONResponse
from starlette.responses import Response

from maskgen.pipelines.options import settings_from
from maskgen.serving.calls import Made, artist_of, both, callbacks, decode_options
from maskgen.serving.errors import client_faults
from maskgen.serving.events import Emit, PreviewEvent, StepEvent, StepWatch, sse
from maskgen.serving.generate_calls import GenerateArguments, generate, generate_arguments
from maskgen.serving.jobs import JobStream, Running, run_job, sse_chunks
from maskgen.serving.media import audio_bytes, base64_text, image_bytes
from maskgen.serving.schemas import GenerateRequest
from maskgen.serving.served import Served
from maskgen.serving.service import ERRORS, STREAMED_ANSWER, Service
from maskgen.serving.subtitles import words_of
from maskgen.tokenizers.transcript import Transcript

EXAMPLES = {
    "draw": Example(summary="a text to an image", value={"target": "image", "prompt": "a red heart, flat style", "seed": 0}),
    "speak": Example(summary="a text to speech", value={"target": "audio", "prompt": "Good morning.", "seed": 0}),
    "known": Example(
        summary="known media, by modality, to a target", value={"target": "image", "known": {"text": {"text": "a red heart"}}, "seed": 0}
    ),
}


class GenerateRoutes:
    """The route of everything.

    Args:
        service: What all routes share.
    """

    def __init__(self, service: Service) -> None:
        self.service, self.router = service, APIRouter(tags=["generate"], responses=ERRORS)
        self.router.add_api_route(
            "/v1/generate",
            self.generate,
            methods=["POST"],
            summary="Any known media to any target",
            response_class=JSONResponse,
            responses=STREAMED_ANSWER,
        )

    async def generate(self, request: Request, body: Annotated[GenerateRequest, Body(openapi_examples=EXAMPLES)]) -> Response:
        """Media of a pipeline's call, or of its core where `known` is given. With `stream` steps and previews come before the answer."""
        limits, model = self.service.limits, self.service.catalogue.find(body.model, "generate")
        arguments = await self.service.uploads.decoded(lambda: generate_arguments(body, limits))
        with client_faults():
            limits.check_number("previews", body.previews, limits.max_previews)
            options = {**decode_options(body, limits), "num_outputs": body.num_outputs}

        def work(pipeline: Any, step: Any, emit: Any = None) -> dict[str, Any]:
            watch = None if emit is None else _watch(pipeline, arguments, body, options, emit)
            made = generate(pipeline, arguments, options, both(step, watch), callbacks(step, watch))
            return outputs_body(model, body, made)

        if not body.stream:
            return JSONResponse(self._counted(model, await run_job(request, model, work)))
        running = Running(model, work)
        await running.started(request.receive)
        return JobStream(
            running, sse_chunks(running, _told, lambda found: sse({"type": "completed", **self._counted(model, found)}, "completed"))
        )

    def _counted(self, model: Served, found: dict[str, Any]) -> dict[str, Any]:
        """The answer, added to the metrics."""
        self.service.metrics.images.labels(model.name).inc(sum("image" in one for one in found["outputs"]))
        self.service.metrics.audio_s.labels(model.name).inc(sum(one["audio"]["seconds"] for one in found["outputs"] if "audio" in one))
        return found


def _watch(pipeline: Any, arguments: GenerateArguments, body: GenerateRequest, options: Mapping[str, Any], emit: Emit) -> StepWatch:
    """What makes events of the steps of a stream; with previews where an image is made."""
    artist = pipeline if arguments.known is not None else artist_of(pipeline, body.source == "audio")
    if artist is None or "image" not in arguments.targets or "image" not in artist.tokenizers:
        return StepWatch(emit)
    changes = options if arguments.targets == ("image",) else {}
    settings = settings_from(artist.settings_of("image"), changes, len(artist.space.of("image")))
    return StepWatch(emit, artist, body.previews, settings)


def _told(event: Any) -> bytes:
    """An event of a decode."""
    if isinstance(event, StepEvent):
        return sse({"type": "progress", **event.data}, "progress")
    assert isinstance(event, PreviewEvent), "a decode tells of steps and previews"
    return sse({"type": "preview", "index": event.index, "image": _file(event.content, "png")}, "preview")


def outputs_body(model: Served, body: GenerateRequest, made: Made) -> dict[str, Any]:
    """The answer: an entry an output, with its seed and what was made."""
    outputs: list[dict[str, Any]] = [{"seed": seed} for seed in made.seeds]
    for output, picture in zip(outputs, made.images, strict=False):
        file = _file(image_bytes(picture, body.image_format), body.image_format)
        output["image"] = {**file, "width": picture.width, "height": picture.height}
    for output, wave in zip(outputs, made.audio, strict=False):
        file = _file(audio_bytes(wave, body.audio_format), body.audio_format)
        output["audio"] = {**file, "seconds": round(wave.seconds, 6), "sample_rate_hz": wave.sample_rate_hz}
    for output, text in zip(outputs, made.texts, strict=False):
        output["text"] = text
    for output, transcript in zip(outputs, made.transcripts, strict=False):
        output["transcript"] = _times(transcript)
    for output, medium in zip(outputs, made.media, strict=False):
        output["medium"] = str(medium)
    if body.return_codes:
        for output, codes in zip(outputs, made.codes, strict=False):
            output["codes"] = codes.tolist()
    targets = [body.target] if isinstance(body.target, str) else list(body.target)
    return {
        "created": int(time.time()),
        "model": model.name,
        "target": targets,
        "outputs": outputs,
        "steps": made.steps,
        "cost": made.usage,
    }


def _times(transcript: Transcript) -> dict[str, Any]:
    """A transcript as plain data."""
    return {"text": transcript.text, "words": words_of(transcript), "seconds": transcript.seconds}


def _file(content: bytes, kind: str) -> dict[str, Any]:
    """A file as plain data."""
    return {"format": kind, "base64": base64_text(content)}
