"""Requests as jobs of an engine: awaited or streamed, and cancelled when the client goes away."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable
from typing import Any, Generic, TypeVar

from anyio import CapacityLimiter, to_thread
from fastapi import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from maskgen.decoding.decoder import StepCallback
from maskgen.pipelines.base import Pipeline
from maskgen.serving.engine import Job
from maskgen.serving.errors import ApiError, api_error, client_faults
from maskgen.serving.events import Emit, sse
from maskgen.serving.served import Served

logger = logging.getLogger(__name__)
T = TypeVar("T")
DECODING_THREADS = 4
"""Uploads that are decoded at once."""
GONE = 499
"""Status of requests whose client went away; nobody receives it, metrics count it."""


class Uploads:
    """Decodes uploads in a few threads, so that neither the event loop nor the engine waits for them."""

    def __init__(self, threads: int = DECODING_THREADS) -> None:
        self.limiter = CapacityLimiter(threads)

    async def decoded(self, read: Callable[[], T]) -> T:
        """What a reader gives.

        Raises:
            ApiError: With status 400 if it refuses.
        """
        with client_faults():
            return await to_thread.run_sync(read, limiter=self.limiter)


async def run_job(request: Request, model: Served, work: Callable[[Pipeline, StepCallback], T]) -> T:
    """The result of some work; it is cancelled if the client goes away.

    Raises:
        ApiError: If the engine is full or closed, or the work failed.
    """
    running = Running(model, lambda pipeline, step, emit: work(pipeline, step))
    try:
        if await running.outlives(request.receive):
            raise ApiError(GONE, "the client went away")
    finally:
        running.job.cancel()
    return running.result()


class Running(Generic[T]):
    """A job that may tell events while it runs.

    Args:
        model: Whose engine runs it.
        work: Gets the pipeline, the engine's callback and a function that takes events.

    Raises:
        ApiError: If the engine is full or closed.
    """

    def __init__(self, model: Served, work: Callable[[Pipeline, StepCallback, Emit], T]) -> None:
        loop = asyncio.get_running_loop()
        self.queue: asyncio.Queue[Any] = asyncio.Queue()
        self.ended = asyncio.Event()

        def call(function: Callable[..., Any], *values: Any) -> None:
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody listens any more
                loop.call_soon_threadsafe(function, *values)

        def emit(event: Any) -> None:
            call(self.queue.put_nowait, event)

        def end(_job: Any) -> None:
            call(self.ended.set)
            call(self.queue.put_nowait, None)

        with client_faults():
            self.job: Job[T] = model.engine.submit(lambda pipeline, step: work(pipeline, step, emit))
        self.job.add_done_callback(end)

    async def outlives(self, receive: Receive) -> bool:
        """Wait until the job ended or the client went away; whether the client went away first."""
        waits = [asyncio.create_task(self.ended.wait()), asyncio.create_task(_gone(receive))]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            return not self.ended.is_set()
        finally:
            for wait in waits:
                wait.cancel()

    def result(self) -> T:
        """What the work gave.

        Raises:
            ApiError: If it failed.
        """
        try:
            return self.job.result(0.0)
        except Exception as error:
            raise api_error(error) from error

    async def events(self) -> AsyncIterator[Any]:
        """The events until the job ends."""
        while (event := await self.queue.get()) is not None:
            yield event

    async def started(self, receive: Receive) -> None:
        """Wait for the first event or the end; the event is still the first of `events`.

        Raises:
            ApiError: If the job failed before it told anything, or the client went away.
        """
        first, gone = asyncio.create_task(self.queue.get()), asyncio.create_task(_gone(receive))
        try:
            await asyncio.wait([first, gone], return_when=asyncio.FIRST_COMPLETED)
            if not first.done():
                self.job.cancel()
                raise ApiError(GONE, "the client went away")
            if first.result() is None:
                self.result()
            rest = [self.queue.get_nowait() for _ in range(self.queue.qsize())]
            for event in [first.result(), *rest]:
                self.queue.put_nowait(event)
        finally:
            first.cancel()
            gone.cancel()


class JobStream(Response):
    """An answer that is sent while its job runs; the job is cancelled when the client goes away.

    Args:
        running: The job.
        chunks: What is sent.
        media_type: Of the answer.
        headers: Further headers.
    """

    def __init__(
        self,
        running: Running[Any],
        chunks: AsyncIterator[bytes],
        media_type: str = "text/event-stream",
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(None, 200, {"Cache-Control": "no-store", "X-Accel-Buffering": "no", **(headers or {})}, media_type)
        del self.headers["content-length"]
        self.running, self.chunks = running, chunks

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the chunks until they end or the client goes away."""
        tasks = [asyncio.create_task(self._send(send)), asyncio.create_task(_gone(receive))]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self.running.job.cancel()
            for task in tasks:
                task.cancel()
            sent, _ = await asyncio.gather(*tasks, return_exceptions=True)
        if isinstance(sent, ApiError):  # the head is sent, so an incomplete body is what tells the client
            logger.warning("an answer was cut off while it was sent: %s", sent.message)
        elif isinstance(sent, Exception):
            raise sent

    async def _send(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        async for chunk in self.chunks:
            await send({"type": "http.response.body", "body": chunk, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})


async def sse_chunks(running: Running[Any], tell: Callable[[Any], bytes], finish: Callable[[Any], bytes]) -> AsyncIterator[bytes]:
    """Server-sent events of a job: one an event, one for the result, or one `error`.

    Args:
        running: The job.
        tell: An event as bytes; empty bytes send nothing.
        finish: The result as bytes.
    """
    async for event in running.events():
        if chunk := tell(event):
            yield chunk
    try:
        yield finish(running.result())
    except ApiError as error:
        yield sse(error.body, "error")


async def _gone(receive: Receive) -> None:
    """Return when the client goes away."""
    while (await receive())["type"] != "http.disconnect":
        pass
