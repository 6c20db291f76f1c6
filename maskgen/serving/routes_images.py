"""`POST /v1/images/generations` and `/v1/images/edits`."""

import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse
from starlette.responses import Response

from maskgen.pipelines.options import settings_from
from maskgen.serving.calls import Made, artist_of, callbacks, decode_options, draw_images, edit_image
from maskgen.serving.errors import client_faults
from maskgen.serving.events import PreviewEvent, StepEvent, StepWatch, sse
from maskgen.serving.jobs import JobStream, Running, run_job, sse_chunks
from maskgen.serving.media import base64_text, image_bytes, mask_from, openai_mask, picture_and_holes
from maskgen.serving.schemas import ImageEditFields, ImageGenerationRequest
from maskgen.serving.served import Served
from maskgen.serving.service import ERRORS, STREAMED_ANSWER, Service, fields_of, file_of, form_body, read_form

Draw = Callable[[Any, str, Mapping[str, Any], Mapping[str, Any]], Made]
DEFAULT_STRENGTH = 0.5
"""Share of the cells that an edit without mask regenerates."""
FILES = {
    "image": "the image to edit; where no mask is sent, its transparent parts are regenerated",
    "mask": "as in OpenAI's API: what is transparent is regenerated; a mask without transparency is read as mask_image",
    "mask_image": "as in maskgen: what is white, or painted on transparency, is regenerated",
}


class ImageRoutes:
    """Routes of images.

    Args:
        service: What all routes share.
    """

    def __init__(self, service: Service) -> None:
        self.service, self.router = service, APIRouter(tags=["images"], responses=ERRORS)
        self.router.add_api_route(
            "/v1/images/generations",
            self.generations,
            methods=["POST"],
            summary="Images of a prompt",
            response_class=JSONResponse,
            responses=STREAMED_ANSWER,
        )
        self.router.add_api_route(
            "/v1/images/edits",
            self.edits,
            methods=["POST"],
            summary="An image edited: masked, varied or extended",
            response_class=JSONResponse,
            responses=STREAMED_ANSWER,
            openapi_extra=form_body(ImageEditFields, FILES, ("image",)),
        )

    async def generations(self, request: Request, body: ImageGenerationRequest) -> Response:
        """Images of a prompt, as base64. With `stream` previews are sent while they are made."""
        model = self.service.catalogue.find(body.model, "draw")
        with client_faults():
            given = size_of(body.size) | ({} if body.negative_prompt is None else {"negative_prompt": body.negative_prompt})
        return await self._answer(request, model, body, given, draw_images, "image_generation")

    async def edits(self, request: Request) -> Response:
        """One edit of an image: parts of a mask, `strength` or `outpaint`; without any of them half of the cells are regenerated."""
        limits = self.service.limits
        async with read_form(request, limits) as form:
            body = fields_of(form, ImageEditFields)
            model = self.service.catalogue.find(body.model, "edit")
            image = await file_of(form, "image", "image[]")
            mask, own = await file_of(form, "mask"), await file_of(form, "mask_image")

        def read() -> dict[str, Any]:
            return edit_arguments(body, image, mask, own, self.service)

        given = await self.service.uploads.decoded(read)
        return await self._answer(request, model, body, given, edit_image, "image_edit")

    async def _answer(
        self, request: Request, model: Served, body: ImageGenerationRequest, given: Mapping[str, Any], call: Draw, kind: str
    ) -> Response:
        """Run a call and send its images."""
        limits = self.service.limits
        with client_faults():
            limits.check_text("prompt", body.prompt)
            limits.check_text("negative_prompt", body.negative_prompt)
            limits.check_number("n", body.n, limits.max_outputs)
            limits.check_number("partial_images", body.partial_images, limits.max_previews)
            if body.response_format not in (None, "b64_json"):
                raise ValueError(
                    f"response_format must be b64_json, got {body.response_format!r:.40}; images are not stored, so there are no URLs"
                )
            options = {**decode_options(body, limits), "num_outputs": body.n}

        def work(pipeline: Any, step: Any, emit: Any = None) -> tuple[Made, list[bytes]]:
            made = call(pipeline, body.prompt, given, {**options, **callbacks(step, self._watch(pipeline, body, options, emit))})
            return made, [image_bytes(one, body.output_format, body.output_compression) for one in made.images]

        if not body.stream:
            made, files = await run_job(request, model, work)
            self.service.metrics.images.labels(model.name).inc(len(files))
            return JSONResponse(images_body(model, body, made, files))
        running = Running(model, work)
        await running.started(request.receive)
        return JobStream(
            running, sse_chunks(running, lambda event: _told(event, body, kind), lambda found: self._end(model, body, found, kind))
        )

    def _watch(self, pipeline: Any, body: ImageGenerationRequest, options: Mapping[str, Any], emit: Any) -> StepWatch | None:
        """What makes events of the steps of a stream."""
        artist = None if emit is None else artist_of(pipeline)
        if artist is None:
            return None
        settings = settings_from(artist.settings_of("image"), options, len(artist.space.of("image")))
        encode = partial(image_bytes, kind=body.output_format, quality=body.output_compression)
        return StepWatch(emit, artist, body.partial_images, settings, encode)

    def _end(self, model: Served, body: ImageGenerationRequest, found: tuple[Made, list[bytes]], kind: str) -> bytes:
        """The last events of a stream: the images."""
        made, files = found
        self.service.metrics.images.labels(model.name).inc(len(files))
        whole = images_body(model, body, made, files)
        shared = {"type": f"{kind}.completed", "created_at": whole["created"], "size": whole["size"], "output_format": body.output_format}
        return b"".join(sse({**shared, **one, "cost": whole["cost"]}, f"{kind}.completed") for one in whole["data"])


def _told(event: Any, body: ImageGenerationRequest, kind: str) -> bytes:
    """An event of a decode as OpenAI's API sends it; steps only where they are asked for."""
    if isinstance(event, StepEvent):
        return sse({"type": f"{kind}.progress", **event.data}, f"{kind}.progress") if body.progress else b""
    assert isinstance(event, PreviewEvent), "an image tells of steps and previews"
    shown = {
        "type": f"{kind}.partial_image",
        "partial_image_index": event.index,
        "b64_json": base64_text(event.content),
        "created_at": int(time.time()),
        "size": f"{event.size[0]}x{event.size[1]}",
        "output_format": body.output_format,
        "quality": "auto",
        "background": "opaque",
    }
    return sse(shown, f"{kind}.partial_image")


def images_body(model: Served, body: ImageGenerationRequest, made: Made, files: list[bytes]) -> dict[str, Any]:
    """The answer in OpenAI's form, with seeds and cost."""
    first = made.images[0]
    return {
        "created": int(time.time()),
        "model": model.name,
        "data": [{"b64_json": base64_text(file), "seed": seed} for file, seed in zip(files, made.seeds, strict=True)],
        "output_format": body.output_format,
        "size": f"{first.width}x{first.height}",
        "cost": made.usage,
    }


def size_of(size: str | None) -> dict[str, int]:
    """Width and height of "64x64"; nothing of "auto".

    Raises:
        ValueError: If it has another form.
    """
    if size is None or size == "auto":
        return {}
    width, cross, height = size.partition("x")
    if not cross or not all(side.isascii() and side.isdigit() and len(side) <= 6 for side in (width, height)):
        raise ValueError(f"size must be auto or WIDTHxHEIGHT in pixels, such as 64x64, got {size[:40]!r}")
    return {"width": int(width), "height": int(height)}


def edit_arguments(body: ImageEditFields, image: bytes | None, mask: bytes | None, own: bytes | None, service: Service) -> dict[str, Any]:
    """Arguments of an edit.

    Args:
        body: The form's texts.
        image: The file `image`.
        mask: The file `mask`.
        own: The file `mask_image`.
        service: Its limits are used.

    Raises:
        ValueError: If the image is missing, or a file cannot be used.
    """
    media = service.limits.media
    if image is None:
        raise ValueError("image is missing; upload the file to edit in the field image")
    if body.size not in (None, "auto"):
        raise ValueError("an edit has the size of its model; leave size out")
    picture, holes = picture_and_holes(image, media, "image")
    given: dict[str, Any] = {"image": picture}
    given |= {} if mask is None else {"mask_image": openai_mask(mask, media, "mask")}
    given |= {} if own is None else {"mask_image": mask_from(own, media, "mask_image")}
    given |= {} if body.strength is None else {"strength": body.strength}
    given |= {} if body.outpaint is None else {"outpaint": tuple(body.outpaint)}
    given |= {} if body.negative_prompt is None else {"negative_prompt": body.negative_prompt}
    if mask is not None and own is not None:
        raise ValueError("mask and mask_image are two forms of one thing; send one of them")
    if not {"mask_image", "strength", "outpaint"} & set(given):
        given |= {"strength": DEFAULT_STRENGTH} if holes is None else {"mask_image": holes}
    return given
