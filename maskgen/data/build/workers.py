"""Runs shard jobs on this machine: in this process, or in several that end with it."""

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
"""Yields the line of each job as it is done, in any order; closing it ends what still runs. The seam for other engines."""


def in_process(jobs: Sequence[ShardJob]) -> Lines:
    """Runs the jobs here, one after another."""
    for job in jobs:
        yield build_shard(job)


@dataclass(frozen=True)
class Processes:
    """Runs the jobs in several processes; they end when this one does, however it ends.

    Args:
        workers: Processes; 1 runs the jobs here.

    Raises:
        ValueError: If there is not at least one worker.
    """

    workers: int

    def __post_init__(self) -> None:
        if self.workers < 1:
            raise ValueError(f"workers must be at least 1, got {self.workers}")

    def __call__(self, jobs: Sequence[ShardJob]) -> Lines:
        """Yields the line of each job as it is done.

        Raises:
            ChildProcessError: If a worker dies; names the shard.
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
def _deaf_children() -> Iterator[None]:
    """Processes that start inside are deaf to Ctrl-C from birth, as it is the parent's; it hears what came meanwhile afterwards.

    A worker could ignore the signal only once its imports are done, and would end before that with a traceback.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _follow(watched: Connection) -> None:
    """Makes this worker end as soon as the other end of a pipe closes, which the parent's death does too."""

    def end() -> None:
        watched.poll(None)
        os._exit(1)

    threading.Thread(target=end, daemon=True).start()


def _spread(jobs: Sequence[ShardJob], pools: Sequence[ProcessPoolExecutor]) -> Lines:
    """Gives each pool its next job when it has done one."""
    waiting = iter(jobs)
    running: dict[Future[ManifestLine], tuple[int, ShardJob]] = {}

    def give(worker: int) -> None:
        job = next(waiting, None)
        if job is not None:
            with _deaf_children():
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
    """What a worker returned.

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
