"""Errors of the HTTP server in the form that OpenAI's API gives them: {"error": {"message", "type", "param", "code"}}."""

import logging
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import ValidationError
from starlette.exceptions import HTTPException

from maskgen.serving.engine import Cancelled, EngineClosed, EngineFull

logger = logging.getLogger(__name__)
TYPES = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}
LONGEST_SENTENCE = 500
DRAIN_RETRY_S = 5
OWN_FAULT = "the server failed on this request; its log says why"
STATUS_SENTENCES = {
    404: "there is no such route; GET /openapi.json lists all of them",
    405: "this route does not take that method; GET /openapi.json lists what it takes",
}


class ApiError(Exception):
    """An answer that is an error.

    Args:
        status: HTTP status.
        message: One sentence.
        param: Field of the request that is meant.
        code: Short name of the error, for programs.
        headers: Further headers.
    """

    def __init__(
        self, status: int, message: str, *, param: str | None = None, code: str | None = None, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.param, self.code, self.headers = status, one_sentence(message), param, code, dict(headers or {})

    @property
    def body(self) -> dict[str, Any]:
        """The JSON body."""
        kind = TYPES.get(self.status, "invalid_request_error" if self.status < 500 else "server_error")
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}

    @property
    def response(self) -> JSONResponse:
        """The whole answer."""
        return JSONResponse(self.body, self.status, self.headers)


def one_sentence(text: str) -> str:
    """A text in one line of valid Unicode and limited length."""
    line = " ".join(text.encode("utf-8", "replace").decode("utf-8").split())
    return line if len(line) <= LONGEST_SENTENCE else f"{line[: LONGEST_SENTENCE - 3]}..."


def api_error(error: BaseException) -> ApiError:
    """What a client is told of an exception of a request: its sentence where the client can do something about it."""
    if isinstance(error, ApiError):
        return error
    if isinstance(error, ValidationError):
        return _invalid(error.errors(include_url=False, include_input=False, include_context=False))
    if isinstance(error, EngineFull):
        wait = {"Retry-After": str(max(1, math.ceil(error.retry_after_s)))}
        return ApiError(429, "the queue of this model is full; try again later", code="queue_full", headers=wait)
    if isinstance(error, EngineClosed):
        return ApiError(503, "the server is shutting down", code="shutting_down", headers={"Retry-After": str(DRAIN_RETRY_S)})
    if isinstance(error, (TimeoutError, Cancelled)):
        return ApiError(504, "the request took longer than this server allows; ask for fewer steps or outputs", code="timeout")
    if isinstance(error, (ValueError, TypeError, OverflowError)):
        return ApiError(400, str(error) or "the request cannot be used", code="invalid_value")
    logger.error("a request failed", exc_info=error)
    return ApiError(500, OWN_FAULT, code="internal_error")


@contextmanager
def client_faults() -> Iterator[None]:
    """Turn what a request got wrong into the answer that says so."""
    try:
        yield
    except (ValueError, TypeError, OverflowError, EngineFull, EngineClosed) as error:
        raise api_error(error) from error


def _invalid(errors: Any) -> ApiError:
    """The first of the faults that a validation found."""
    first = errors[0]
    place = ".".join(str(part) for part in first["loc"] if part != "body")
    more = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
    message = first["msg"].removeprefix("Value error, ")
    return ApiError(400, f"{place or 'the body'}: {message}{more}", param=place or None, code=first["type"])


def install_handlers(app: FastAPI) -> None:
    """Give every error of an application this form."""

    async def invalid(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, RequestValidationError), "registered for that type"
        return _invalid(error.errors()).response

    async def http(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, HTTPException), "registered for that type"
        sentence = STATUS_SENTENCES.get(error.status_code, str(error.detail))
        return ApiError(error.status_code, sentence, headers=error.headers).response

    async def own(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, ApiError), "registered for that type"
        return error.response

    async def failed(request: Request, error: Exception) -> JSONResponse:
        return ApiError(500, OWN_FAULT, code="internal_error").response

    app.add_exception_handler(RequestValidationError, invalid)
    app.add_exception_handler(HTTPException, http)
    app.add_exception_handler(ApiError, own)
    app.add_exception_handler(Exception, failed)
