"""Requests through the serving engine beside the same requests one after another: shared work, and requests of unequal lengths.

uv run python benchmarks/serving.py                  # about 5 minutes on two idle cores
uv run python benchmarks/serving.py --threads 1 --out serving.json
uv run python benchmarks/serving.py --only heart-16k --gather-ms 0 5 20
"""

import argparse
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from maskgen.decoding.runner import ModelRunner
from maskgen.networks.joined import ForwardCall, joined_hidden
from maskgen.pipelines.base import Pipeline
from maskgen.serving import forwards
from maskgen.serving.engine import Engine, EngineLimits
from maskgen.tokens.batch import TokenBatch

SUBJECTS = ("a red heart", "a cat", "a house", "a woman firefighter", "a dog, flat style", "a blue car", "a tree, 3d style", "an apple")
SECONDS = (0.5, 1.0, 1.5, 2.0, 2.5, 3.0, 3.5, 4.0)
"""Lengths of speech from 1 to 8."""
Request = Callable[[Any], Any]


def images(count: int) -> list[Request]:
    """Captions of several lengths, with a seed each."""
    return [lambda pipe, seed=seed: pipe(SUBJECTS[seed % len(SUBJECTS)], seed=seed) for seed in range(count)]


def speech(count: int) -> list[Request]:
    """Sentences of several lengths, with a seed each."""
    return [lambda pipe, seed=seed: pipe(f"This is {SUBJECTS[seed % len(SUBJECTS)]}.", seed=seed) for seed in range(count)]


def unequal() -> list[Request]:
    """Eight pieces of speech whose lengths are as 1 to 8."""
    return [lambda pipe, seconds=seconds: pipe("This is a red heart.", seconds=seconds, seed=1) for seconds in SECONDS]


def bits(output: Any) -> list[torch.Tensor]:
    """Codes and log-probabilities of an output."""
    generation = getattr(output, "generation", output)
    return [*generation.codes, *generation.log_probabilities]


class Clock:
    """Seconds of the processor and of the wall since it was made; work beside this one disturbs the first less, with one thread."""

    def __init__(self) -> None:
        self.started = time.process_time(), time.perf_counter()

    @property
    def seconds(self) -> tuple[float, float]:
        """Both since the start."""
        return time.process_time() - self.started[0], time.perf_counter() - self.started[1]


def in_turn(pipe: Pipeline, requests: Sequence[Request]) -> tuple[tuple[float, float], list[Any]]:
    """One request after another."""
    clock = Clock()
    found = [bits(request(pipe)) for request in requests]
    return clock.seconds, found


def at_once(engine: Engine, requests: Sequence[Request]) -> tuple[tuple[float, float], list[Any]]:
    """All requests through the engine."""
    clock = Clock()
    jobs = [engine.submit(lambda pipe, step, request=request: bits(request(pipe))) for request in requests]
    found = [job.result() for job in jobs]
    return clock.seconds, found


def compared(pipe: Pipeline, requests: Sequence[Request], repeats: int) -> dict[str, Any]:
    """Both ways, interleaved: least seconds of each, their ratio, and how many answers had the same bits."""
    engine = Engine(pipe, EngineLimits(max_running=len(requests), max_waiting=len(requests), timeout_s=3600.0))
    ways: dict[str, list[tuple[float, float]]] = {"in_turn": [], "at_once": []}
    at_once(engine, requests)  # what is measured once, is measured here
    for _ in range(repeats):
        seconds, alone = in_turn(pipe, requests)
        ways["in_turn"].append(seconds)
        before = engine.stats.forwards, engine.stats.rows
        seconds, together = at_once(engine, requests)
        ways["at_once"].append(seconds)
    engine.close()
    least = {f"{way}_{kind}": min(one[place] for one in ways[way]) for way in ways for place, kind in enumerate(("cpu_s", "wall_s"))}
    same = sum(all(map(torch.equal, one, other)) for one, other in zip(alone, together, strict=True))
    passes, rows = engine.stats.forwards - before[0], engine.stats.rows - before[1]
    return {
        **least,
        "cpu_ratio": least["in_turn_cpu_s"] / least["at_once_cpu_s"],
        "throughput_ratio": least["in_turn_wall_s"] / least["at_once_wall_s"],
        "rows_a_pass": rows / passes,
        "same_bits": same,
        "requests": len(requests),
    }


class Recorder(ModelRunner):
    """Runs calls in place and keeps them."""

    def __init__(self) -> None:
        self.calls: list[ForwardCall] = []

    def shared(self, model: Any, batch: TokenBatch, window: torch.Tensor | None) -> torch.Tensor:
        """A call of the model."""
        self.calls.append(ForwardCall(batch, window))
        hidden: torch.Tensor = model(batch)
        return hidden

    def apart(self, rows: int, call: Callable[[], torch.Tensor]) -> torch.Tensor:
        """Any other call."""
        return call()


def cost_of_unequal(pipe: Pipeline, repeats: int) -> dict[str, Any]:
    """Passes over calls of 8 unequal lengths, beside the cost of as many cells in passes over 8 equal lengths.

    The engine joins the 8 calls of a step; as many cells in calls of one length, the mean, are the cost of useful cells.
    """
    recorder, helpers = Recorder(), pipe.helpers
    pipe.helpers = replace(helpers, runner=recorder)
    calls = []
    for request in unequal():
        recorder.calls.clear()
        request(pipe)
        calls.append(recorder.calls[0])
    pipe.helpers = helpers
    cells = [call.num_cells for call in calls]
    middle = min(calls, key=lambda call: abs(call.num_cells - sum(cells) / len(cells)))
    seconds: dict[str, list[float]] = {"joined": [], "one_by_one": [], "equal": []}
    with torch.no_grad():
        for _ in range(1 + repeats):
            for way, run in (
                ("joined", lambda: joined_hidden(pipe.model, calls)),
                ("one_by_one", lambda: [pipe.model(call.batch) for call in calls]),
                ("equal", lambda: joined_hidden(pipe.model, [middle] * len(calls))),
            ):
                clock = Clock()
                run()
                seconds[way].append(clock.seconds[0])
    useful_s = min(seconds["equal"]) * sum(cells) / (len(calls) * middle.num_cells)
    return {
        "cells": cells,
        "useful_cells_cpu_s": useful_s,
        "joined_over_useful": min(seconds["joined"]) / useful_s,
        "one_by_one_over_useful": min(seconds["one_by_one"]) / useful_s,
    }


def main() -> None:
    """Measure and report JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, help="1 makes seconds of the processor comparable (default: PyTorch's own)")
    parser.add_argument("--only", choices=("emoji-64", "heart-16k"))
    parser.add_argument("--packed", action="store_true", help="pack the weights")
    parser.add_argument("--gather-ms", type=float, nargs="+", default=[forwards.GATHER_S * 1000], help="how long a pass waits for others")
    parser.add_argument("--out", type=Path, help="JSON file (default: standard output)")
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    report: dict[str, Any] = {"threads": torch.get_num_threads(), "packed": args.packed}
    for name, requests in (("emoji-64", images(args.requests)), ("heart-16k", speech(args.requests))):
        if args.only in (None, name):
            pipe = Pipeline.from_pretrained(name)
            pipe.set_progress_bar_config(disable=True)
            pipe = pipe.enable_packed_weights() if args.packed else pipe
            for gather_ms in args.gather_ms:
                forwards.GATHER_S = gather_ms / 1000
                report[f"{name}, {gather_ms:g} ms"] = compared(pipe, requests, args.repeats)
                written(report, args.out)
            if name == "heart-16k":
                report["unequal_requests"] = compared(pipe, unequal(), args.repeats)
                report["unequal_passes"] = cost_of_unequal(pipe, args.repeats)
            written(report, args.out)
    if args.out is None:
        print(json.dumps(report, indent=1))


def written(report: dict[str, Any], path: Path | None) -> None:
    """Write what was measured so far."""
    if path is not None:
        path.write_text(f"{json.dumps(report, indent=1)}\n")


if __name__ == "__main__":
    main()
