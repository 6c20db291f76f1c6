"""The page on a server: which of its routes are open, what a request to them may hold, and when its streams end."""

import asyncio
import json
import os
import re
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from maskgen.serving.errors import DRAIN_RETRY_S, ApiError
from maskgen.serving.service import Service

GET_ROUTES = re.compile(
    r"/|/config|/theme\.css|/(assets|static|svelte)(/[\w@-][\w.@-]*)+|/favicon\.ico|/manifest\.json"
    r"|/gradio_api/(app_id|startup-events|queue/data|upload_progress|theme\.css|heartbeat/\w+|file=/.+)"
)
POST_ROUTES = re.compile(r"/gradio_api/(queue/join|upload|cancel|reset)/?")
"""Routes of the page; every other one belongs to the server, so that what Gradio offers beside them is closed."""
STREAMS = re.compile(r"/gradio_api/(queue/data|heartbeat/\w+)")
"""Answers that stay open as long as the page does."""
MOST_FILE_BYTES = 2**30
"""Size of all files of the page together above which uploads are refused."""
POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; media-src 'self' data: blob:; font-src 'self' data:; connect-src 'self' data: blob:; "
    "worker-src 'self' blob:; object-src 'none'; base-uri 'self'; form-action 'self'; frame-ancestors 'none'"
)
"""Content-Security-Policy: the browser asks this server alone, and no other site shows the page inside its own."""
LOOK_S = 0.25
"""How often an open stream looks whether the server has ended."""


@contextmanager
def page_folder() -> Iterator[Path]:
    """A folder for uploads and outputs of the page, which Gradio finds in its environment; it is deleted at the end."""
    changed = {"GRADIO_TEMP_DIR": "", "GRADIO_ANALYTICS_ENABLED": "False", "GRADIO_SSR_MODE": "False", "GRADIO_MCP_SERVER": "False"}
    before = {name: os.environ.get(name) for name in changed}
    with tempfile.TemporaryDirectory(prefix="maskgen-page-", ignore_cleanup_errors=True) as name:
        os.environ.update({**changed, "GRADIO_TEMP_DIR": name})
        try:
            yield Path(name)
        finally:
            for variable, value in before.items():
                if value is None:
                    os.environ.pop(variable, None)
                else:
                    os.environ[variable] = value


def page_application(service: Service) -> ASGIApp:
    """The page as an application of its own; call it inside `page_folder`.

    Args:
        service: Models, limits and metrics, shared with the routes of the server.
    """
    import gradio as gr

    from maskgen.serving.page.blocks import page_blocks
    from maskgen.serving.page.look import CSS, HEAD, page_theme

    app = FastAPI(openapi_url=None, docs_url=None, redoc_url=None)
    gr.mount_gradio_app(
        app,
        page_blocks(service),
        path="/",
        server_name="127.0.0.1",
        footer_links=[],
        run_history=False,
        ssr_mode=False,
        mcp_server=False,
        enable_monitoring=False,
        pwa=False,
        max_file_size=service.limits.max_body_bytes,
        theme=page_theme(),
        css_paths=CSS,
        head=HEAD,
    )
    return app


class PageGate:
    """ASGI middleware that sends requests for the page to it, after its own checks, and all others to the server.

    Args:
        app: The server's application.
        page: The page's, of `page_application`.
        folder: Of `page_folder`.
        ended: Whether the server ends and no request runs any more.
    """

    def __init__(self, app: ASGIApp, page: ASGIApp, folder: Path, ended: Callable[[], bool]) -> None:
        self.app, self.page, self.folder, self.ended = app, page, folder.resolve(), ended

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request, or the start and end of the server, which the page has to know."""
        if scope["type"] == "lifespan":
            await self.page(scope, receive, send)
            return
        routes = GET_ROUTES if scope["method"] in ("GET", "HEAD") else POST_ROUTES if scope["method"] == "POST" else None
        if routes is None or not routes.fullmatch(scope["path"]):
            await self.app(scope, receive, send)
            return
        try:
            receive = await self._checked(scope, receive)
        except ApiError as error:
            await error.response(scope, receive, send)
            return
        if STREAMS.fullmatch(scope["path"]):
            await self._streamed(scope, receive, send)
            return
        if scope["method"] == "POST":
            await self._posted(scope, receive, send)
            return
        await self.page(scope, receive, _guarded(send))

    async def _checked(self, scope: Scope, receive: Receive) -> Receive:
        """The rest of the request, after a look at what it names.

        Raises:
            ApiError: If it names a file that is not the page's, or there are too many files.
        """
        path = scope["path"]
        if path.startswith("/gradio_api/file="):
            self._check_file(path.partition("=")[2])
        if path.startswith("/gradio_api/upload") and scope["method"] == "POST" and _size(self.folder) > MOST_FILE_BYTES:
            raise ApiError(
                429, "the page holds too many files; try again in an hour", code="too_many_files", headers={"Retry-After": "3600"}
            )
        if not path.startswith("/gradio_api/queue/join"):
            return receive
        try:
            body = b"".join([part async for part in _parts(receive)])
            value = json.loads(body)
        except HTTPException as error:  # the guard's, of a body that is too large or too slow
            raise ApiError(error.status_code, str(error.detail), headers=error.headers) from error
        except (ValueError, RecursionError) as error:
            raise ApiError(400, "the body is no JSON; use the page itself", code="invalid_body") from error
        for found in _named_files(value):
            self._check_file(found)
        return _replayed(body, receive)

    def _check_file(self, name: str) -> None:
        """Refuse a file outside the page's folder, and a URL.

        Raises:
            ApiError: If it is one.
        """
        if "\0" in name or not name.startswith("/") or not Path(name).resolve().is_relative_to(self.folder):
            raise ApiError(403, "that is no file of the page; upload the file itself", code="unknown_file")

    async def _posted(self, scope: Scope, receive: Receive, send: Send) -> None:
        """A request of the page's scripts; what Gradio fails on is a mistake of the request, such as an event that the page has not."""
        failed = False

        async def sending(message: Message) -> None:
            nonlocal failed
            failed = failed or (message["type"] == "http.response.start" and message["status"] >= 500)
            if not failed:
                await send(message)

        try:
            await self.page(scope, receive, sending)
        except Exception:  # what it answered with a status above
            if not failed:
                raise
        if failed:
            await ApiError(400, "this is no event of the page; reload it", code="unknown_event").response(scope, receive, send)

    async def _streamed(self, scope: Scope, receive: Receive, send: Send) -> None:
        """An answer that stays open, until the page or the server ends."""
        begun = False

        async def sending(message: Message) -> None:
            nonlocal begun
            begun = True
            await send(message)

        task = asyncio.ensure_future(self.page(scope, receive, sending))
        while not task.done() and not self.ended():
            await asyncio.wait([task], timeout=LOOK_S)
        if task.done():
            task.result()
            return
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        if begun:
            await send({"type": "http.response.body", "body": b"", "more_body": False})
            return
        ended = ApiError(503, "the server is shutting down", code="shutting_down", headers={"Retry-After": str(DRAIN_RETRY_S)})
        await ended.response(scope, receive, send)


def _guarded(send: Send) -> Send:
    """Send the headers that keep the browser with this server."""

    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            own = [(b"content-security-policy", POLICY.encode()), (b"referrer-policy", b"no-referrer")]
            message = {**message, "headers": [*message["headers"], *own]}
        await send(message)

    return sending


async def _parts(receive: Receive) -> AsyncIterator[bytes]:
    """The body of a request, part by part."""
    while True:
        message = await receive()
        yield message.get("body", b"")
        if message["type"] != "http.request" or not message.get("more_body", False):
            return


def _replayed(body: bytes, receive: Receive) -> Receive:
    """A body that was read already, then what comes after it."""
    left = [{"type": "http.request", "body": body, "more_body": False}]

    async def again() -> Message:
        return left.pop() if left else await receive()

    return again


def _named_files(value: Any) -> Iterator[str]:
    """Every path that a body names, and every picture that it holds as a URL."""
    left = [value]
    while left:
        one = left.pop()
        if isinstance(one, dict):
            path, url = one.get("path"), one.get("url")
            if isinstance(path, str):
                yield path
            if isinstance(url, str) and url.startswith("data:"):
                yield url
        left.extend(one.values() if isinstance(one, dict) else one if isinstance(one, list) else ())


def _size(folder: Path) -> int:
    """Bytes of all files in a folder; files that vanish meanwhile do not count."""
    total = 0
    for place, _, names in os.walk(folder):
        for name in names:
            with suppress(OSError):
                total += os.stat(os.path.join(place, name)).st_size
    return total
