"""The build engine: turns a plan into shards, writes each atomically, and resumes an interrupted build."""

import contextlib
import fcntl
import hashlib
import json
import logging
import os
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from maskgen.data.build.held import bucket_summary, held_summary, odd_ones
from maskgen.data.build.plan import Plan
from maskgen.data.build.workers import Runner, in_process
from maskgen.data.shards.manifest import (
    INDEX_FILE,
    MANIFEST_FILE,
    Index,
    ManifestLine,
    append_manifest,
    index_bytes,
    manifest_bytes,
    read_manifest,
    write_index,
)
from maskgen.io.files import write_atomic

logger = logging.getLogger(__name__)
PLAN_FILE = "plan.json"
REJECTS_FILE = "rejects.jsonl"
SIDECARS = (PLAN_FILE, MANIFEST_FILE, REJECTS_FILE)
SHARD_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*-\d{6}\.tar")
REASONS_SHOWN = 3
Lines = dict[str, ManifestLine]
"""Shard name to its manifest line."""


class TooManyRejects(ValueError):
    """More bad samples than the recipe allows; the command line exits with code 3."""

    exit_code = 3


def run_build(
    plan: Plan, out: Path, runner: Runner = in_process, restart: bool = False, report: Callable[[int], None] | None = None
) -> Index:
    """Build a plan, or the rest of it if an earlier run was interrupted.

    A build that is killed at any moment and resumed ends with the same bytes as an uninterrupted one. So does a build whose sources have
    changed since: the shards with changed samples are built again.

    Args:
        plan: The plan.
        out: Output folder.
        runner: Runs the jobs.
        restart: Delete the shards of another build in `out`.
        report: Called with the number of samples of each finished shard, and first with that of all shards finished earlier.

    Returns:
        The index, as written.

    Raises:
        ValueError: If `out` holds a build with other settings, or another process is building there.
        TooManyRejects: If more samples are bad than the plan allows.
        ChildProcessError: If a worker dies.
    """
    out.mkdir(parents=True, exist_ok=True)
    with _alone(out):
        lines = _earlier(plan, out, restart)
        todo = sum(shard.samples for shard in plan.shards if shard.name not in lines)
        logger.info(
            "building %d samples as %s in %d shards into %s; %d shards are done already",
            plan.samples, plan.output.kind, len(plan.shards), out, len(lines),
        )  # fmt: skip
        started_s = time.monotonic()
        try:
            _build(plan, out, lines, runner, report or (lambda _: None))
        except KeyboardInterrupt:
            logger.warning("stopped with %d of %d shards done; run the same command to go on", len(lines), len(plan.shards))
            raise
        index = _finish(plan, out, lines)
        _log_end(out, lines, todo, time.monotonic() - started_s)
        _log_held(out, lines)
        return index


def _build(plan: Plan, out: Path, lines: Lines, runner: Runner, report: Callable[[int], None]) -> None:
    """Write the shards without a manifest line, and append their lines."""
    _check_rejects(plan, out, lines)
    samples = {shard.name: shard.samples for shard in plan.shards}
    if lines:
        report(sum(samples[name] for name in lines))
    jobs = [job for job in plan.jobs(out) if job.name not in lines]
    if jobs:
        (out / INDEX_FILE).unlink(missing_ok=True)
    with contextlib.closing(runner(jobs)) as finished:
        for line in finished:
            append_manifest(out, line)
            lines[line.entry.name] = line
            _check_rejects(plan, out, lines)
            report(samples[line.entry.name])


@contextlib.contextmanager
def _alone(out: Path) -> Iterator[None]:
    """Lock the folder against a second build; the lock ends with this process, however it ends.

    Raises:
        ValueError: If another process is building there.
    """
    number = os.open(out, os.O_RDONLY)
    try:
        try:
            fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ValueError(f"another process is building into {out}; wait for it or give another --out") from error
        yield
    finally:
        os.close(number)


def _earlier(plan: Plan, out: Path, restart: bool) -> Lines:
    """Shards of an earlier run that are complete: their line belongs to this plan, or their samples have not changed since."""
    if restart:
        _clear(out)
    earlier = _earlier_plan(plan, out)
    changed = earlier is not None and earlier["plan"] != plan.hash
    same = _unchanged(plan, out, earlier) if earlier is not None and changed else frozenset(shard.name for shard in plan.shards)
    for path in out.glob(".*.tmp"):  # of a writer that was killed
        path.unlink(missing_ok=True)
    lines: Lines = {}
    for line in read_manifest(out):
        path = out / line.entry.name
        if line.plan != (earlier["plan"] if earlier is not None else plan.hash) or line.entry.name not in same:
            continue
        if path.is_file() and path.stat().st_size == line.entry.bytes:
            lines[line.entry.name] = replace(line, plan=plan.hash)
        else:
            logger.warning("%s is missing or has another size than when it was built; it is built again", path)
    if changed:
        (out / INDEX_FILE).unlink(missing_ok=True)
        for path in out.iterdir():
            if SHARD_NAME.fullmatch(path.name) and path.name not in lines:
                path.unlink()
    write_atomic(out / PLAN_FILE, plan_bytes(plan))
    write_atomic(out / MANIFEST_FILE, manifest_bytes(lines.values()))  # without a torn last line, to which the next would stick
    return lines


def samples_changed(plan: Plan, out: Path) -> bool:
    """Whether a folder holds a build with the plan's settings, of other samples.

    Raises:
        ValueError: If it holds a build with other settings, or shards without a plan.
    """
    earlier = _earlier_plan(plan, out) if out.is_dir() else None
    return earlier is not None and bool(earlier["plan"] != plan.hash)


def _unchanged(plan: Plan, out: Path, earlier: Mapping[str, Any]) -> frozenset[str]:
    """Shards of an earlier plan with the same settings whose samples are the same as before."""
    before = earlier["shards"]
    same = frozenset(name for name, identity in plan.identities.items() if before.get(name) == identity)
    logger.warning(
        "the samples of the sources of %s have changed since it was built; %d of its %d shards are built anew",
        out, len(plan.shards) - len(same), len(plan.shards),
    )  # fmt: skip
    return same


def _clear(out: Path) -> None:
    """Delete the files of an earlier build and nothing else; the plan goes last, so that a kill leaves a folder that is refused."""
    shards = [path for path in sorted(out.iterdir()) if SHARD_NAME.fullmatch(path.name)]
    for path in [out / INDEX_FILE, *shards, *(out / name for name in reversed(SIDECARS))]:
        path.unlink(missing_ok=True)
    logger.info("removed %d shards of an earlier build from %s", len(shards), out)


def _earlier_plan(plan: Plan, out: Path) -> Mapping[str, Any] | None:
    """Content of plan.json of an earlier run, which may have had other samples; None in a folder without a build.

    Raises:
        ValueError: If there are shards without a plan, or of a plan with other settings; the message names the difference.
    """
    advice = "give another --out, empty the folder, or give --restart to build it again"
    if not (out / PLAN_FILE).is_file():
        foreign = sorted(path.name for path in out.iterdir() if path.name == MANIFEST_FILE or SHARD_NAME.fullmatch(path.name))
        if foreign or (out / INDEX_FILE).is_file():
            raise ValueError(f"{out} holds {(foreign or [INDEX_FILE])[0]} but no {PLAN_FILE}, so it is no build of this plan; {advice}")
        return None
    try:
        earlier: dict[str, Any] = json.loads((out / PLAN_FILE).read_text(encoding="utf-8"))
        differs = earlier["plan"] != plan.hash and _difference(earlier["facts"], json.loads(plan_bytes(plan))["facts"])
        if not differs and not isinstance(earlier["shards"], dict):
            raise TypeError("shards is no object")
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ValueError(f"{out / PLAN_FILE} is damaged ({error}); {advice}") from error
    if differs:
        raise ValueError(f"{out} holds a build of another plan: {differs}; {advice}")
    return earlier


def _difference(old: Any, new: Any, where: str = "") -> str:
    """The first difference of the settings of two plans, in words; empty if there is none."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        for key in sorted({*old, *new}):
            if old.get(key) != new.get(key):
                return _difference(old.get(key), new.get(key), f"{where}.{key}" if where else str(key))
    return f"{where} was {old}, it is {new} now" if where else ""


def plan_bytes(plan: Plan) -> bytes:
    """The bytes of plan.json: everything that the build depends on, to compare with at the next run."""
    plain = {"plan": plan.hash, "facts": plan.facts, "shards": plan.identities, "samples": plan.samples}
    return (json.dumps(plain, indent=1, sort_keys=True, default=str) + "\n").encode()


def rejects_bytes(lines: Iterable[ManifestLine]) -> bytes:
    """The bytes of rejects.jsonl: key, shard and reason of every bad sample, sorted by key."""
    rows = sorted((key, line.entry.name, reason) for line in lines for key, reason in line.rejects)
    plain = ({"key": key, "shard": shard, "reason": reason} for key, shard, reason in rows)
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in plain).encode()


def _check_rejects(plan: Plan, out: Path, lines: Lines) -> None:
    """Fail a build with too many bad samples.

    Raises:
        TooManyRejects: If there are more than the plan allows; they are listed in rejects.jsonl.
    """
    rejects = [reject for line in lines.values() for reject in line.rejects]
    if len(rejects) <= plan.max_bad * plan.samples:
        return
    write_atomic(out / REJECTS_FILE, rejects_bytes(lines.values()))
    shown = ", ".join(f"{key} ({reason})" for key, reason in sorted(rejects)[:REASONS_SHOWN])
    raise TooManyRejects(
        f"{len(rejects)} of {plan.samples} samples are bad, max_bad {plan.max_bad:g} allows {int(plan.max_bad * plan.samples)}: {shown}; "
        f"all are listed in {out / REJECTS_FILE}; mend the sources or raise max_bad, and run it again"
    )


def _finish(plan: Plan, out: Path, lines: Lines) -> Index:
    """Write the further files of the folder; the index comes last."""
    write_atomic(out / REJECTS_FILE, rejects_bytes(lines.values()))
    write_atomic(out / MANIFEST_FILE, manifest_bytes(lines.values()))
    index = Index(
        kind=plan.output.kind,
        shards=tuple(lines[shard.name].entry for shard in plan.shards),
        space=plan.output.space,
        fingerprints=plan.output.fingerprints,
        about=plan.about,
        plan=plan.hash,
        files={name: hashlib.sha256((out / name).read_bytes()).hexdigest() for name in SIDECARS},
    )
    if not (out / INDEX_FILE).is_file() or (out / INDEX_FILE).read_bytes() != index_bytes(index):
        write_index(out, index)
    return index


def _log_end(out: Path, lines: Lines, built: int, elapsed_s: float) -> None:
    """Log the content of the folder and the speed of the build, and warn about what the decoders remarked."""
    finished: Sequence[ManifestLine] = list(lines.values())
    notes: dict[str, int] = {}
    for line in finished:
        for remark, count in line.notes.items():
            notes[remark] = notes.get(remark, 0) + count
    for remark, count in sorted(notes.items()):
        logger.warning("%s: %d sample%s %s %s", out, count, "s" * (count > 1), "have" if count > 1 else "has", remark)
    tokens: dict[str, int] = {}
    for line in finished:
        for name, count in line.entry.tokens.items():
            tokens[name] = tokens.get(name, 0) + count
    logger.info(
        "wrote %s: %d samples in %d shards, %.1f MB%s; %d rejects, %d resampled; %d samples in %.1f s, %.0f a second",
        out,
        sum(line.entry.count for line in finished),
        len(finished),
        sum(line.entry.bytes or 0 for line in finished) / 1e6,
        "".join(f", {count} {name} tokens" for name, count in sorted(tokens.items())),
        sum(len(line.rejects) for line in finished),
        sum(line.resampled for line in finished),
        built,
        elapsed_s,
        built / max(elapsed_s, 1e-9),
    )


def _log_held(out: Path, lines: Lines) -> None:
    """Log what the samples hold, and warn of those that are unlike the others of their source."""
    held = [one for line in lines.values() for one in line.held]
    if summary := held_summary(held):
        logger.info("%s: %s", out, summary)
    if summary := bucket_summary(line.buckets for line in lines.values()):
        logger.info("%s: %s", out, summary)
    for sentence in odd_ones(held):
        logger.warning(sentence)
