"""What all routes share: models, limits, metrics; and the reading of forms."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

from fastapi import Request
from pydantic import BaseModel
from starlette.datastructures import FormData, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect

from maskgen.serving.errors import ApiError, client_faults
from maskgen.serving.jobs import GONE, Uploads
from maskgen.serving.limits import ServeLimits
from maskgen.serving.metrics import Metrics
from maskgen.serving.served import Catalogue

Fields = TypeVar("Fields", bound=BaseModel)
MOST_FILES, MOST_FIELDS = 8, 64
LISTS = ("timestamp_granularities",)
"""Fields of forms that may come several times, also as `name[]`."""
FORM_ERRORS = (MultiPartException, LookupError, ValueError, TypeError, AttributeError, AssertionError)
"""What the parser of forms raises on damaged bodies."""


class ErrorDetail(BaseModel):
    """What went wrong: a sentence, and names for programs."""

    message: str
    type: str
    param: str | None = None
    code: str | None = None


class ErrorBody(BaseModel):
    """The body of every error."""

    error: ErrorDetail


ERRORS: dict[int | str, dict[str, Any]] = {
    "4XX": {"model": ErrorBody, "description": "The request cannot be used, is not allowed, or comes at a bad time (429: Retry-After)."},
    "5XX": {"model": ErrorBody, "description": "The server failed, ran out of time or is shutting down."},
}
"""Answers of every route beside the good one."""
EVENT = {
    "type": "object",
    "properties": {"event": {"type": "string"}, "data": {"type": "string", "description": "JSON."}},
    "required": ["data"],
}
"""One server-sent event."""
EVENTS: dict[str, Any] = {"text/event-stream": {"schema": EVENT}}
"""What a route that can stream answers with beside its own form."""
STREAMED_ANSWER: dict[int | str, dict[str, Any]] = {200: {"description": "The answer, or with `stream` events of it.", "content": EVENTS}}


@dataclass(frozen=True)
class Service:
    """What all routes share.

    Args:
        catalogue: The models.
        limits: Of the server.
        metrics: What is counted.
        uploads: Decodes uploaded media.
    """

    catalogue: Catalogue
    limits: ServeLimits
    metrics: Metrics
    uploads: Uploads = field(default_factory=Uploads)


class _MemoryParser(MultiPartParser):
    """A parser of forms that writes no file: bodies are small enough for memory."""

    spool_max_size = 2**40


@asynccontextmanager
async def read_form(request: Request, limits: ServeLimits) -> AsyncIterator[FormData]:
    """The form of a request; its files are closed at the end.

    Raises:
        ApiError: If the body is no form.
    """
    if not request.headers.get("content-type", "").lower().startswith("multipart/form-data"):
        raise ApiError(415, "the body must be a form; send multipart/form-data", code="invalid_form")
    sizes = {"max_files": MOST_FILES, "max_fields": MOST_FIELDS, "max_part_size": 4 * limits.max_characters + 64}
    try:
        form = await _MemoryParser(request.headers, request.stream(), **sizes).parse()
    except ClientDisconnect as error:
        raise ApiError(GONE, "the client went away") from error
    except FORM_ERRORS as error:
        raise ApiError(400, f"the body is no valid form ({error}); send multipart/form-data", code="invalid_form") from error
    try:
        yield form
    finally:
        await form.close()


def fields_of(form: FormData, kind: type[Fields]) -> Fields:
    """The text fields of a form.

    Raises:
        ApiError: If one is wrong.
    """
    given: dict[str, Any] = {}
    for name, value in form.multi_items():
        name = name.removesuffix("[]")
        if isinstance(value, str) and name in kind.model_fields:
            given[name] = [*given.get(name, []), value] if name in LISTS else value
    with client_faults():
        return kind.model_validate(given)


async def file_of(form: FormData, *names: str) -> bytes | None:
    """The content of the first file of one of some names; None where there is none.

    Raises:
        ApiError: If a text stands where a file is wanted, or several files where one is.
    """
    for name in names:
        values = form.getlist(name)
        if len(values) > 1:
            raise ApiError(400, f"{name} has {len(values)} files, one is taken; send one", param=name)
        if values and not isinstance(values[0], UploadFile):
            raise ApiError(400, f"{name} must be an uploaded file, and a text was sent; paths and URLs are not read", param=name)
        if values and isinstance(values[0], UploadFile):
            return await values[0].read()
    return None


def form_body(kind: type[BaseModel], files: Mapping[str, str], required: tuple[str, ...]) -> dict[str, Any]:
    """The description of a form in an OpenAPI document.

    Args:
        kind: Its text fields.
        files: Names of its files to their descriptions.
        required: Names that must be there.
    """
    schema = kind.model_json_schema()
    binary = {name: {"type": "string", "format": "binary", "description": text} for name, text in files.items()}
    whole = {"type": "object", "title": kind.__name__, "properties": {**binary, **schema["properties"]}, "required": list(required)}
    return {"requestBody": {"required": True, "content": {"multipart/form-data": {"schema": whole}}}}
