"""Runs shard jobs on this machine: in this process, or in worker processes that end with it."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection

from maskgen.data.build.job import ShardJob, build_shard
from maskgen.data.shards.manifest import ManifestLine

Lines = Generator[ManifestLine, None, None]
Runner = Callable[[Sequence[ShardJob]], Lines]
"""Yields the manifest line of each job when it is done, in any order; closing it stops running jobs. Other engines implement it."""


def in_process(jobs: Sequence[ShardJob]) -> Lines:
    """Run the jobs in this process, one after another."""
    for job in jobs:
        yield build_shard(job)


@dataclass(frozen=True)
class Processes:
    """Runs jobs in worker processes, which end when this process ends, however it ends.

    Args:
        workers: Number of processes; 1 runs the jobs in this process.

    Raises:
        ValueError: If workers is below 1.
    """

    workers: int

    def __post_init__(self) -> None:
        if self.workers < 1:
            raise ValueError(f"workers must be at least 1, got {self.workers}")

    def __call__(self, jobs: Sequence[ShardJob]) -> Lines:
        """Yield the manifest line of each job when it is done.

        Raises:
            ChildProcessError: If a worker dies; the message names the shard.
        """
        if min(self.workers, len(jobs)) <= 1:
            yield from in_process(jobs)
            return
        context = multiprocessing.get_context("spawn")
        watched, held = context.Pipe(duplex=False)
        # One pool a worker: a pool of several does not say which job its dead process had.
        pools = [
            ProcessPoolExecutor(1, mp_context=context, initializer=_follow, initargs=(watched,))
            for _ in range(min(self.workers, len(jobs)))
        ]
        try:
            yield from _spread(jobs, pools)
        finally:
            held.close()
            for pool in pools:
                pool.shutdown(wait=True, cancel_futures=True)
            watched.close()


@contextmanager
def _interrupts_ignored() -> Iterator[None]:
    """Workers started in this context ignore SIGINT from the moment they start; the parent handles a pending one afterwards.

    A worker that ignored the signal by itself could only do so after its imports, and would end with a traceback before that.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _follow(watched: Connection) -> None:
    """End this worker when the other end of a pipe closes, which also happens when the parent dies."""

    def end() -> None:
        watched.poll(None)
        os._exit(1)

    threading.Thread(target=end, daemon=True).start()


def _spread(jobs: Sequence[ShardJob], pools: Sequence[ProcessPoolExecutor]) -> Lines:
    """Give each pool its next job when it has finished one."""
    waiting = iter(jobs)
    running: dict[Future[ManifestLine], tuple[int, ShardJob]] = {}

    def give(worker: int) -> None:
        job = next(waiting, None)
        if job is not None:
            with _interrupts_ignored():
                running[pools[worker].submit(build_shard, job.placed(worker))] = worker, job

    for worker in range(len(pools)):
        give(worker)
    while running:
        for future in wait(running, return_when=FIRST_COMPLETED).done:
            worker, job = running.pop(future)
            line = _result(future, job)
            give(worker)
            yield line


def _result(future: Future[ManifestLine], job: ShardJob) -> ManifestLine:
    """The result of a worker.

    Raises:
        ChildProcessError: If it died.
    """
    try:
        return future.result()
    except BrokenProcessPool as error:
        raise ChildProcessError(
            f"the worker that built {job.name} died, killed from outside or for want of memory; finished shards are kept: "
            "run it again, with fewer --workers if memory is short"
        ) from error
