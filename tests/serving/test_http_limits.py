"""Limits of the server: queue, bodies, time, slow and hostile clients; a client that goes away; a shutdown that finishes what runs."""

import asyncio
import json
import re
import signal
import socket
import struct
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any

import pytest
from builders.media import png_of
from builders.served import LIMITS, Running, running

from maskgen.pipelines.base import Pipeline
from maskgen.sampling.base import State
from maskgen.serving import jobs, routes_images
from maskgen.serving.app import create_app
from maskgen.serving.engine import EngineLimits
from maskgen.serving.errors import ApiError
from maskgen.serving.limits import ServeLimits
from maskgen.serving.media import base64_text

PROMPT = "a red heart, flat style"
DRAW = {"prompt": PROMPT, "seed": 0}
MODELS = dict[str, Pipeline]


class Gate:
    """Holds drawings between two steps until it is opened."""

    def __init__(self, pipeline: Any) -> None:
        self.open, self.inside, states = threading.Event(), threading.Semaphore(0), list[State]()
        pipeline(
            PROMPT,
            callback_on_step_end=lambda _p, _s, _t, given: states.append(given["state"]),
            callback_on_step_end_tensor_inputs=["state"],
        )
        self.state = states[0]

    def draw(self, pipeline: Any, prompt: str, given: Any, options: Any) -> Any:
        self.inside.release()
        while not self.open.wait(0.005):
            options["callback_on_step_end"](pipeline, 0, 1, {"state": self.state})
        return DRAWN(pipeline, prompt, given, options)


DRAWN = routes_images.draw_images


@pytest.fixture
def gate(models: MODELS, monkeypatch: pytest.MonkeyPatch) -> Iterator[Gate]:
    found = Gate(models["pictures"])
    monkeypatch.setattr(routes_images, "draw_images", found.draw)
    yield found
    found.open.set()


def one(models: MODELS, **limits: Any) -> AbstractContextManager[Running]:
    """A server of one model whose engine has these limits."""
    return running({"pictures": models["pictures"]}, engine=EngineLimits(**limits))


def until(true: Callable[[], bool]) -> None:
    """Wait for something that must happen soon."""
    end = time.monotonic() + 10
    while not true():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.005)


def drawing(server: Running, pool: ThreadPoolExecutor) -> Future[tuple[int, Any]]:
    return pool.submit(server.post, "/v1/images/generations", DRAW)


def sent(server: Running, content: bytes) -> socket.socket:
    found = socket.create_connection(("127.0.0.1", server.port), timeout=10)
    found.sendall(content)
    return found


def status_of(connection: socket.socket) -> int | None:
    """Status of the answer; None if the connection was closed without one."""
    answer = whole(connection)
    return int(answer.split(b" ")[1]) if answer.startswith(b"HTTP/1.1 ") else None


def whole(connection: socket.socket) -> bytes:
    """What comes until the server ends the answer or the connection."""
    found = b""
    try:
        while part := connection.recv(65536):
            found += part
            head, _, body = found.partition(b"\r\n\r\n")
            length = re.search(rb"content-length: (\d+)", head)
            if length is not None and len(body) >= int(length[1]):
                break
    except ConnectionResetError:
        found = found or b"reset"
    connection.close()
    return found


def test_a_full_queue_is_429_with_the_time_to_wait(models: MODELS, gate: Gate) -> None:
    with (
        running({"pictures": models["pictures"]}, engine=EngineLimits(max_running=1, max_waiting=1)) as server,
        ThreadPoolExecutor(4) as pool,
    ):
        first = drawing(server, pool)
        assert gate.inside.acquire(timeout=10)
        second = drawing(server, pool)
        until(lambda: server.catalogue.models["pictures"].engine.stats.waiting == 1)
        connection = sent(server, _post("/v1/images/generations", DRAW))
        answer = whole(connection).lower()
        assert answer.startswith(b"http/1.1 429")
        assert b"retry-after: " in answer
        assert b"the queue of this model is full; try again later" in answer
        assert server.call("GET", "/healthz")[0] == 200
        gate.open.set()
        assert [first.result()[0], second.result()[0]] == [200, 200]
        assert b'maskgen_engine_refused_total{model="pictures"} 1.0' in server.call("GET", "/metrics")[1]


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_goes_away_frees_its_place(models: MODELS, gate: Gate, stream: bool) -> None:
    with one(models, max_running=1, max_waiting=1) as server:
        stats = server.catalogue.models["pictures"].engine.stats
        connection = sent(server, _post("/v1/images/generations", {**DRAW, "stream": stream, "progress": True}))
        assert gate.inside.acquire(timeout=10)
        if stream:
            assert b"image_generation.progress" in connection.recv(65536) + connection.recv(65536)
        connection.close()
        until(lambda: stats.running == 0)
        assert stats.cancelled == 1
        gate.open.set()
        assert server.post("/v1/images/generations", DRAW)[0] == 200


def test_a_request_out_of_time_is_504(models: MODELS, gate: Gate) -> None:
    with one(models, timeout_s=0.2) as server:
        status, answer = server.post("/v1/images/generations", DRAW)
        assert (status, answer["error"]["code"]) == (504, "timeout")


def test_a_shutdown_finishes_what_runs_and_refuses_the_rest(models: MODELS, gate: Gate) -> None:
    with (
        running({"pictures": models["pictures"]}, engine=EngineLimits(max_running=1, max_waiting=4)) as server,
        ThreadPoolExecutor(4) as pool,
    ):
        first = drawing(server, pool)
        assert gate.inside.acquire(timeout=10)
        second = drawing(server, pool)
        until(lambda: server.catalogue.models["pictures"].engine.stats.waiting == 1)
        kept = sent(server, b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n")
        server.server.handle_exit(signal.SIGTERM, None)
        kept.sendall(b"\r\n")
        assert status_of(kept) in (503, None)
        time.sleep(0.05)
        gate.open.set()
        assert first.result()[0] == 200
        assert second.result()[0] == 503
        server.thread.join(10)
        with pytest.raises(OSError, match=r"refused|reset"):
            server.call("GET", "/healthz")


@pytest.fixture(scope="module")
def strict(models: MODELS) -> Iterator[Running]:
    limits = replace(LIMITS, max_body_bytes=4096, max_requests=3, body_timeout_s=0.3, header_timeout_s=0.3)
    with running({"pictures": models["pictures"]}, limits) as found:
        yield found


def _post(path: str, value: Any, *more: str) -> bytes:
    body = json.dumps(value).encode()
    head = [f"POST {path} HTTP/1.1", "Host: localhost", "Content-Type: application/json", f"Content-Length: {len(body)}", *more]
    return "\r\n".join([*head, "", ""]).encode() + body


def test_bodies_above_the_limit_are_413(strict: Running) -> None:
    status, answer = strict.post("/v1/images/generations", {"prompt": "a" * 5000})
    assert (status, answer["error"]["message"]) == (413, "the body is larger than the 4096 bytes that this server takes")
    for path, kind in (("/v1/generate", "application/json"), ("/v1/images/edits", "multipart/form-data; boundary=x")):
        head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: {kind}\r\nTransfer-Encoding: chunked\r\n\r\n"
        assert status_of(sent(strict, head.encode() + b"2000\r\n" + b" " * 0x2000 + b"\r\n0\r\n\r\n")) == 413


def test_slow_bodies_and_slow_heads_are_given_up(strict: Running) -> None:
    body = sent(strict, b"POST /v1/generate HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 50\r\n\r\n{")
    silent, head = sent(strict, b""), sent(strict, b"GET /healthz HTTP/1.1\r\nHost:")
    assert status_of(body) == 408
    assert status_of(silent) is None
    assert status_of(head) is None
    again = sent(strict, b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
    answer = b""
    while b'"ok"' not in answer:
        answer += again.recv(65536)
    again.sendall(b"GET /healthz HTTP/1.1\r\n")
    assert again.recv(65536) == b""
    again.close()


def test_more_open_requests_than_allowed_are_429(strict: Running) -> None:
    begun = b"POST /v1/generate HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 50\r\n\r\n{"
    slow = [sent(strict, begun) for _ in range(3)]
    until(lambda: strict.server.guard.open == 3)
    assert strict.call("GET", "/v1/models")[0] == 429
    assert strict.call("GET", "/healthz")[0] == 200
    assert [status_of(one) for one in slow] == [408] * 3


@pytest.mark.parametrize(
    "content",
    [
        b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nX: " + b"a" * 100_000 + b"\r\n\r\n",
        b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\n" + b"".join(b"X%d: a\r\n" % number for number in range(5000)) + b"\r\n",
        b"\0\xff\r\n\r\n",
        b"POST /v1/generate HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"POST /v1/generate HTTP/1.1\r\nHost: localhost\r\nContent-Length: -5\r\n\r\n",
        b"GET http://[ HTTP/1.1\r\nHost: [\r\n\r\n",
    ],
)
def test_hostile_heads_are_refused(strict: Running, content: bytes) -> None:
    assert status_of(sent(strict, content)) in (400, 403, 404, 413, 415, 431, None)
    assert strict.call("GET", "/healthz")[0] == 200


def test_bombs_are_refused_before_they_are_decoded(server: Running) -> None:
    """A picture of 256 megapixels in a few kilobytes, a recording whose header claims an hour, lists inside lists."""
    bomb = base64_text(png_of(16_000, 16_000))
    form = struct.pack("<IHHIIHH", 16, 1, 1, 8000, 8000, 1, 8)
    hour = b"RIFF" + struct.pack("<I", 28_800_036) + b"WAVEfmt " + form + b"data" + struct.pack("<I", 28_800_000) + bytes(1000)
    began = time.perf_counter()
    status, answer = server.post("/v1/generate", {"target": "image", "prompt": PROMPT, "image": bomb, "strength": 0.5})
    assert (status, answer["error"]["message"]) == (400, "image cannot be used as a picture: 256000000 pixels, at most 1048576")
    assert server.post("/v1/generate", {"model": "both", "target": "text", "audio": base64_text(hour)})[0] == 400
    assert server.post("/v1/generate", {"target": ["image"] * 1000})[0] == 400
    assert server.call("POST", "/v1/generate", b"[" * 100_000, {"Content-Type": "application/json"})[0] == 400
    assert time.perf_counter() - began < 10


def test_a_client_that_does_not_take_its_answer_is_given_up(server: Running) -> None:
    """Below the sockets, whose buffers hold every answer of a test: a send that never ends."""

    async def ask() -> None:
        async def receive() -> dict[str, Any]:
            return {"type": "http.request", "body": b"", "more_body": False}

        async def send(message: Any) -> None:
            await asyncio.sleep(60)

        scope = {"type": "http", "method": "GET", "path": "/v1/models", "headers": [], "query_string": b"", "http_version": "1.1"}
        await create_app(server.catalogue, replace(LIMITS, send_timeout_s=0.05))(scope, receive, send)

    with pytest.raises(TimeoutError):
        asyncio.run(ask())


def test_limits_are_positive() -> None:
    with pytest.raises(ValueError, match="max_steps must be above 0, got 0"):
        ServeLimits(max_steps=0)


def test_a_stream_out_of_time_is_cut_off_without_an_end(server: Running, caplog: pytest.LogCaptureFixture) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        yield b"first"
        raise ApiError(504, "out of time")

    async def receive() -> dict[str, Any]:
        return await asyncio.Future()

    told: list[dict[str, Any]] = []

    async def send(message: Any) -> None:
        told.append(message)

    async def stream() -> None:
        running = jobs.Running(server.catalogue.models["pictures"], lambda pipeline, step, emit: None)
        await jobs.JobStream(running, chunks())({"type": "http"}, receive, send)

    asyncio.run(stream())
    assert [message.get("body") for message in told] == [None, b"first"]
    assert [record.getMessage() for record in caplog.records] == ["an answer was cut off while it was sent: out of time"]
