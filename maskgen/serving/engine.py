"""Step-level batching: requests that decode at the same time share the forward passes of one model."""

import copy
import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import CancelledError
from dataclasses import replace
from typing import Any, TypeVar

import torch
from torch import Tensor

from maskgen.decoding.runner import ModelRunner
from maskgen.networks.joined import ForwardCall
from maskgen.pipelines.base import Pipeline
from maskgen.serving.forwards import EngineStats, Forwards
from maskgen.serving.work import Cancelled, EngineClosed, EngineFull, EngineLimits, Job, TimedOut
from maskgen.tokens.batch import TokenBatch

__all__ = ["Cancelled", "Engine", "EngineClosed", "EngineFull", "EngineLimits", "EngineStats", "Job", "TimedOut"]
logger = logging.getLogger(__name__)
T = TypeVar("T")
STOPPING_S = 10.0
"""How long `Engine.close` waits for threads that were told to stop."""


class Engine:
    """Runs requests in threads of their own and joins their model calls into common forward passes.

    A request is an ordinary call of the pipeline. Its sampler, steps, guidance, length, seed and edits are its own; a request that arrives
    joins the others at the next pass. In float32 on a CPU its result is bit-identical to the one it gets alone.

    Args:
        pipeline: What the requests call; it must not be moved or packed as long as the engine runs.
        limits: How much runs and waits at once.

    Attributes:
        stats: What it did and does.
    """

    def __init__(self, pipeline: Pipeline, limits: EngineLimits = EngineLimits()) -> None:  # noqa: B008 (frozen)
        self.pipeline, self.limits, self.stats = pipeline, limits, EngineStats()
        self._threads = torch.get_num_threads()
        self._forwards = Forwards(limits.max_rows, self.stats, self._threads)
        self._changed = threading.Condition()
        self._waiting: deque[Job[Any]] = deque()
        self._running: list[Job[Any]] = []
        self._workers: list[threading.Thread] = []
        self._free = 0
        self._seconds_each = 1.0
        """Mean seconds of recent requests in their places."""
        self._closed = False
        self._watch = threading.Thread(target=self._watched, name="maskgen-clock", daemon=True)
        self._watch.start()

    def submit(self, work: Callable[[Pipeline, Any], T]) -> Job[T]:
        """Queue a request.

        Args:
            work: Runs in a thread of the engine. It gets a view of the pipeline, which shares its weights, and a callback to hand on as the
                step callback of its decodes, which raises `Cancelled` after `Job.cancel` or a time-out.

        Raises:
            EngineFull: If `limits.max_waiting` requests wait already.
            EngineClosed: If the engine is shutting down.
        """
        with self._changed:
            if self._closed:
                raise EngineClosed("the engine is shutting down; ask another one")
            idle = max(0, self.limits.max_running - len(self._running))
            if len(self._waiting) >= self.limits.max_waiting + idle:
                self.stats.refused += 1
                retry_after_s = max(1.0, self._seconds_each * len(self._waiting) / self.limits.max_running)
                raise EngineFull(f"{len(self._waiting)} requests wait already; try again in {retry_after_s:.0f} s", retry_after_s)
            job: Job[T] = Job(work, self.limits.timeout_s, self._given_up)
            self._waiting.append(job)
            self._count()
            if self._free < len(self._waiting) and len(self._workers) < self.limits.max_running:
                self._workers.append(threading.Thread(target=self._work, name=f"maskgen-work-{len(self._workers)}", daemon=True))
                self._workers[-1].start()
            self._changed.notify_all()
        return job

    def close(self, drain_s: float | None = None) -> None:
        """Finish the requests that run, refuse those that wait and all new ones, and end the threads.

        Args:
            drain_s: Seconds after which running requests are cancelled; None waits until they are done.
        """
        with self._changed:
            self._closed = True
            refused = list(self._waiting)
            self._waiting.clear()
            self._count()
            self._changed.notify_all()
        for job in refused:
            job.settle(error=EngineClosed("the engine was closed before the request ran; ask another one"))
        with self._changed:
            self._changed.wait_for(lambda: not self._running, drain_s)
            left = list(self._running)
        for job in left:
            job.cancel()
        until_s = time.monotonic() + STOPPING_S
        for thread in [*self._workers, self._watch]:
            thread.join(max(0.0, until_s - time.monotonic()))
        self._forwards.close(max(0.0, until_s - time.monotonic()))
        if stuck := [thread.name for thread in self._workers if thread.is_alive()]:
            logger.warning("%d requests do not stop within %g s; their threads end with the process", len(stuck), STOPPING_S)

    def _work(self) -> None:
        """One thread: request after request."""
        torch.set_num_threads(self._threads)
        while (job := self._next()) is not None:
            started_s = time.monotonic()
            job.run(_view(self.pipeline, _JobRunner(self._forwards, job)))
            self._forwards.forget(job)
            with self._changed:
                self._running.remove(job)
                self._seconds_each += 0.2 * (time.monotonic() - started_s - self._seconds_each)
                self._count()
                self._changed.notify_all()
            del job  # or the thread would hold its result while it waits

    def _next(self) -> Job[Any] | None:
        """The oldest waiting request, or None when the engine is closed."""
        with self._changed:
            self._free += 1
            self._changed.wait_for(lambda: self._waiting or self._closed)
            self._free -= 1
            if not self._waiting:
                return None
            job = self._waiting.popleft()
            self._running.append(job)
            self._count()
            return job

    def _given_up(self, job: Job[Any]) -> None:
        """A request was cancelled or ran out of time."""
        with self._changed:
            self.stats.cancelled += 1
            if job in self._waiting:
                self._waiting.remove(job)
            self._count()
            self._changed.notify_all()

    def _watched(self) -> None:
        """Gives up requests whose time is over, until the engine is closed."""
        while True:
            with self._changed:
                jobs = [job for job in (*self._waiting, *self._running) if not job.done]
                if self._closed and not self._running:
                    return
                now_s = time.monotonic()
                late = [job for job in jobs if job.deadline_s <= now_s]
                if not late:
                    self._changed.wait(min((job.deadline_s for job in jobs), default=now_s + 3600.0) - now_s)
            for job in late:
                job.expire()

    def _count(self) -> None:
        self.stats.running, self.stats.waiting = len(self._running), len(self._waiting)


class _JobRunner(ModelRunner):
    """Hands the model calls of one request to the engine's model thread."""

    def __init__(self, forwards: Forwards, job: Job[Any]) -> None:
        self.forwards, self.job = forwards, job

    def shared(self, model: Any, batch: TokenBatch, window: Tensor | None) -> Tensor:
        self.job.check()
        hidden: Tensor = self._waited(lambda: self.forwards.hidden(self.job, model, ForwardCall(batch, window)))
        return hidden

    def apart(self, rows: int, call: Callable[[], Any]) -> Any:
        self.job.check()
        return self._waited(lambda: self.forwards.apart(self.job, rows, call))

    def _waited(self, queued: Callable[[], Any]) -> Any:
        """The result of a queued call, unless the request ended meanwhile."""
        try:
            return self.job.wait_for(queued())
        except CancelledError as error:
            raise Cancelled("the request was cancelled") from error


def _view(pipeline: Pipeline, runner: ModelRunner) -> Pipeline:
    """The same pipeline with its model calls by a runner and without a progress bar."""
    view = copy.copy(pipeline)
    view.helpers = replace(pipeline.helpers, runner=runner)
    view.settings, view.grids, view.tokenizers = dict(pipeline.settings), dict(pipeline.grids), dict(pipeline.tokenizers)
    view.specialists = {target: _view(one, runner) for target, one in pipeline.specialists.items()}
    view.set_progress_bar_config(disable=True)
    return view
