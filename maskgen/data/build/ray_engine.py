"""Runs shard jobs on a Ray cluster: Ray Data schedules the workers, our own writer writes the shards, so the bytes are the same."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from maskgen.data.build.job import ShardJob, build_shard
from maskgen.data.build.workers import Lines
from maskgen.data.shards.manifest import ManifestLine


class ShardBuilder:
    """An actor that builds shards and keeps its loaded tokenizers from one shard to the next."""

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        job: ShardJob = row["job"]
        return {"line": build_shard(job.placed(0)).to_json()}


@dataclass(frozen=True)
class RayWorkers:
    """Runs jobs in actors of Ray Data; sources and the output folder must be on a file system shared by all nodes.

    Args:
        workers: Number of actors.
        gpus_each: GPUs reserved for each actor; it sees no others.
        address: Cluster to join; None joins the one in RAY_ADDRESS, or starts one on this machine.

    Raises:
        ValueError: If workers is below 1.
    """

    workers: int
    gpus_each: float = 0.0
    address: str | None = None

    def __post_init__(self) -> None:
        if self.workers < 1:
            raise ValueError(f"workers must be at least 1, got {self.workers}")

    def __call__(self, jobs: Sequence[ShardJob]) -> Lines:
        """Yield the manifest line of each job when it is done.

        Raises:
            ImportError: If Ray is missing.
            ChildProcessError: If an actor dies or a job fails; finished shards are kept.
        """
        if not jobs:
            return
        try:
            import ray
        except ImportError as error:
            raise ImportError("--engine ray needs Ray: pip install maskgen[ray]") from error
        if not ray.is_initialized():
            ray.init(address=self.address, log_to_driver=False, include_dashboard=False, logging_level=logging.WARNING)
        try:
            yield from self._lines(ray.data, jobs)
        except ray.exceptions.RayError as error:
            raise ChildProcessError(
                f"a Ray worker failed ({_last_line(error)}); finished shards are kept: mend the cause and run it again"
            ) from error

    def _lines(self, ray_data: Any, jobs: Sequence[ShardJob]) -> Lines:
        """Manifest lines, through a Ray data set with one row per job."""
        ray_data.DataContext.get_current().enable_progress_bars = False
        rows = ray_data.from_items([{"job": job} for job in jobs], override_num_blocks=len(jobs))
        pool = ray_data.ActorPoolStrategy(size=min(self.workers, len(jobs)))
        built = rows.map(ShardBuilder, compute=pool, num_cpus=1, num_gpus=self.gpus_each or None)
        for row in built.iter_rows():
            yield ManifestLine.from_json(row["line"])


def _last_line(error: BaseException) -> str:
    """The last line of Ray's error message, which is the error itself."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
