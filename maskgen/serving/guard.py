"""What every request passes before its route: number and size of requests, time, host, origin and key; and what is counted of it."""

import asyncio
import time
import uuid
from collections.abc import Collection
from urllib.parse import urlsplit

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from maskgen.serving.errors import DRAIN_RETRY_S, ApiError
from maskgen.serving.jobs import GONE
from maskgen.serving.keys import ApiKeys
from maskgen.serving.limits import ServeLimits
from maskgen.serving.metrics import Metrics

LARGEST_HEAD_BYTES = 16 * 1024
"""Names and values of headers."""
OPEN_PATHS = ("/healthz",)
"""Paths that need no key and are answered however many requests there are."""


class Guard:
    """ASGI middleware around an application.

    Args:
        app: The application.
        limits: Of the server.
        keys: Of which every request must bring one.
        metrics: Counts requests.
        hosts: Names that the header Host may have; none allows all. They keep pages of other sites from reaching a local server by a name
            that resolves to it.
        origins: Origins of pages that may call the server beside its own.
        basic: Whether a browser may ask its user for a key, as the password of HTTP's Basic scheme.
    """

    def __init__(
        self,
        app: ASGIApp,
        limits: ServeLimits,
        keys: ApiKeys,
        metrics: Metrics,
        hosts: Collection[str] = (),
        origins: Collection[str] = (),
        basic: bool = False,
    ) -> None:
        self.app, self.limits, self.keys, self.metrics, self.basic = app, limits, keys, metrics, basic
        self.hosts, self.origins = {host.lower() for host in hosts}, set(origins)
        self.draining, self.open, self.held_bytes = False, 0, 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] != "http":
            await (self.app(scope, receive, send) if scope["type"] == "lifespan" else send({"type": "websocket.close", "code": 1008}))
            return
        started, seen, body = time.perf_counter(), {"status": GONE}, _Body(self, receive)

        async def sending(message: Message) -> None:
            if message["type"] == "http.response.start":
                seen["status"] = message["status"]
                own = [(b"x-request-id", uuid.uuid4().hex.encode()), (b"x-content-type-options", b"nosniff")]
                message = {**message, "headers": [*message["headers"], *own]}
            async with asyncio.timeout(self.limits.send_timeout_s):
                await send(message)

        self.open += 1
        self.metrics.open.set(self.open)
        try:
            refusal = self._refusal(scope)
            await (self.app(scope, body.receive, sending) if refusal is None else refusal.response(scope, receive, sending))
        finally:
            self.open -= 1
            self.held_bytes -= body.size
            self.metrics.open.set(self.open)
            route = getattr(scope.get("route"), "path", "other")
            self.metrics.requests.labels(route, str(seen["status"])).inc()
            self.metrics.latency.labels(route).observe(time.perf_counter() - started)

    def _refusal(self, scope: Scope) -> ApiError | None:
        """Why a request is refused before its body is read."""
        headers = {name: value for name, value in scope["headers"]}
        free = scope["path"] in OPEN_PATHS
        if self.draining and not free:
            wait = {"Retry-After": str(DRAIN_RETRY_S), "Connection": "close"}
            return ApiError(503, "the server is shutting down", code="shutting_down", headers=wait)
        if not free and not self._knows_host(headers.get(b"host", b"").decode("latin-1")):
            return ApiError(403, "this server does not answer to that host name; add it with --host-name", code="unknown_host")
        if not self._knows_origin(headers):
            return ApiError(403, "pages of that origin may not call this server; allow it with --cors", code="unknown_origin")
        if sum(len(name) + len(value) for name, value in scope["headers"]) > LARGEST_HEAD_BYTES:
            return ApiError(431, f"the headers have more than {LARGEST_HEAD_BYTES} bytes; send fewer", code="head_too_large")
        preflight = bool(self.origins) and scope["method"] == "OPTIONS" and b"access-control-request-method" in headers
        if not free and not preflight and not self.keys.allows(headers.get(b"authorization"), self.basic):
            wanted = {"WWW-Authenticate": 'Basic realm="maskgen: any name, an API key as password"' if self.basic else "Bearer"}
            return ApiError(401, "a valid API key is needed; send Authorization: Bearer KEY", code="invalid_api_key", headers=wanted)
        if self.open > self.limits.max_requests and not free:
            return ApiError(
                429, "the server has too many open requests; try again later", code="too_many_requests", headers={"Retry-After": "1"}
            )
        length = headers.get(b"content-length", b"0")
        if not length.isdigit() or int(length[:20]) > self.limits.max_body_bytes:
            return self.too_large
        return None

    @property
    def too_large(self) -> ApiError:
        """The answer to a body that is too large."""
        return ApiError(
            413, f"the body is larger than the {self.limits.max_body_bytes} bytes that this server takes", code="body_too_large"
        )

    def _knows_host(self, host: str) -> bool:
        return not self.hosts or (urlsplit(f"//{host}").hostname or "").lower() in self.hosts if _is_netloc(host) else not self.hosts

    def _knows_origin(self, headers: dict[bytes, bytes]) -> bool:
        """Whether a request is from no page, from the server's own or from one that is allowed."""
        origin = headers.get(b"origin")
        if origin is None or "*" in self.origins or origin.decode("latin-1") in self.origins:
            return True
        return origin.partition(b"://")[2] == headers.get(b"host", b"")


class _Body:
    """The body of one request: counted, and within its time."""

    def __init__(self, guard: Guard, receive: Receive) -> None:
        self.guard, self.source, self.size, self.whole = guard, receive, 0, False
        self.end = asyncio.get_running_loop().time() + guard.limits.body_timeout_s

    async def receive(self) -> Message:
        """The next part.

        Raises:
            HTTPException: If the body is too large or too slow.
        """
        if self.whole:
            return await self.source()
        try:
            async with asyncio.timeout_at(self.end):
                message = await self.source()
        except TimeoutError as error:
            raise HTTPException(408, f"the body did not arrive within {self.guard.limits.body_timeout_s:g} seconds") from error
        if message["type"] == "http.request":
            self._count(len(message.get("body", b"")))
        self.whole = not message.get("more_body", False)
        return message

    def _count(self, size: int) -> None:
        self.size += size
        self.guard.held_bytes += size
        if self.size > self.guard.limits.max_body_bytes:
            raise HTTPException(413, self.guard.too_large.message)
        if self.guard.held_bytes > self.guard.limits.max_bodies_bytes:
            raise HTTPException(429, "the server holds too many uploads; try again later", {"Retry-After": "1"})


def _is_netloc(host: str) -> bool:
    """Whether a header Host can be split into name and port."""
    try:
        urlsplit(f"//{host}").port  # noqa: B018
    except ValueError:
        return False
    return True
