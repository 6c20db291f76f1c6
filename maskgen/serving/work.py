"""A request of an engine: its result, its end, and the errors that an engine raises."""

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, InvalidStateError
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from maskgen.decoding.decoder import StepCallback
from maskgen.pipelines.base import Pipeline
from maskgen.sampling.base import State

T = TypeVar("T")
Work = Callable[[Pipeline, StepCallback], T]
"""What a request does: it gets a view of the pipeline and the callback for its decodes."""


@dataclass(frozen=True, kw_only=True)
class EngineLimits:
    """How much an engine takes on.

    Args:
        max_running: Requests that decode at once.
        max_waiting: Requests that wait for a place; more are refused.
        timeout_s: Seconds from submission after which a request is given up.
        max_rows: Rows of one forward pass; a request with more has a pass of its own.
    """

    max_running: int = 16
    max_waiting: int = 64
    timeout_s: float = 120.0
    max_rows: int = 64

    def __post_init__(self) -> None:
        if min(self.max_running, self.max_rows) < 1 or self.max_waiting < 0 or not self.timeout_s > 0:
            raise ValueError(f"limits of an engine must be positive, max_waiting at least 0, got {self}")


class EngineFull(RuntimeError):
    """Too many requests wait.

    Args:
        message: What is full.
        retry_after_s: When there may be a place.
    """

    def __init__(self, message: str, retry_after_s: float) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class EngineClosed(RuntimeError):
    """The engine is shutting down, or was shut down."""


class Cancelled(RuntimeError):
    """The request was cancelled."""


class TimedOut(Cancelled, TimeoutError):
    """The request was given up because it took longer than the engine's `timeout_s`."""


class Job(Generic[T]):
    """A request of an engine.

    Args:
        work: What it does.
        timeout_s: Seconds after which it is given up.
        cancelled: Called once if it is cancelled or given up.
    """

    def __init__(self, work: Work[T], timeout_s: float, cancelled: Callable[["Job[T]"], None]) -> None:
        self.timeout_s, self.deadline_s = timeout_s, time.monotonic() + timeout_s
        self._work: Work[T] | None = work
        self._outcome: Future[T] = Future()
        self._cancelled, self._lock = cancelled, threading.Lock()
        self._call: Future[Any] | None = None
        """The model call that it waits for."""

    def result(self, timeout_s: float | None = None) -> T:
        """What the work returned.

        Args:
            timeout_s: Seconds to wait; None waits until it is done.

        Raises:
            TimeoutError: If it is not done in time, or was given up (`TimedOut`).
            Cancelled: If it was cancelled.
            EngineClosed: If the engine was closed before it ran.
            BaseException: Whatever the work raised.
        """
        return self._outcome.result(timeout_s)

    @property
    def done(self) -> bool:
        """Whether it has a result or an error."""
        return self._outcome.done()

    def add_done_callback(self, fn: Callable[["Job[T]"], None]) -> None:
        """Call a function with this job once it is done, in the thread that ends it; at once if it is done already."""
        self._outcome.add_done_callback(lambda _: fn(self))

    def cancel(self) -> None:
        """End it with `Cancelled`; a running one frees its place at its next step. Nothing happens if it is done."""
        self.give_up(Cancelled("the request was cancelled"))

    def expire(self) -> None:
        """End it because its time is over."""
        self.give_up(TimedOut(f"the request took longer than {self.timeout_s:g} s; ask for less, or try again later"))

    def give_up(self, error: Exception) -> None:
        """End it with an error, if it is not done."""
        if not self.settle(error=error):
            return
        with self._lock:
            call = self._call
        if call is not None:
            call.cancel()
        self._cancelled(self)

    def settle(self, result: Any = None, error: BaseException | None = None) -> bool:
        """End it; returns whether it was not done before."""
        try:
            if error is None:
                self._outcome.set_result(result)
            else:
                self._outcome.set_exception(error)
        except InvalidStateError:
            return False
        return True

    def run(self, pipeline: Pipeline) -> None:
        """Do the work, in the thread of the caller."""
        work, self._work = self._work, None
        assert work is not None, "a job runs once"
        try:
            self.check()
            self.settle(work(pipeline, self.step))
        except BaseException as error:  # it belongs to whoever asks for the result
            self.settle(error=error)

    def step(self, state: State) -> State | None:
        """The callback of its decodes.

        Raises:
            Cancelled: If it was cancelled or its time is over.
        """
        self.check()
        return None

    def check(self) -> None:
        """Stop the work if nobody waits for it any more.

        Raises:
            Cancelled: If it was cancelled or its time is over.
        """
        if time.monotonic() > self.deadline_s:
            self.expire()
        if self.done:
            error = self._outcome.exception(0)
            raise type(error)(*error.args) if isinstance(error, Cancelled) else Cancelled("the request was cancelled")

    def wait_for(self, call: "Future[T]") -> T:
        """Result of a model call; cancelling the job ends the wait.

        Raises:
            Cancelled: If the job ended meanwhile.
        """
        with self._lock:
            self._call = call
        try:
            if self.done:
                call.cancel()
            found = call.result()
        finally:
            with self._lock:
                self._call = None
        return found
