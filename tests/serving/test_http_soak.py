"""Many clients at once, mixed routes: every answer is the one that the request gets alone, and memory stays flat."""

import itertools
import json
import os
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from builders import clients
from builders.served import LIMITS, Running, running

from maskgen.pipelines.base import Pipeline
from maskgen.serving.engine import EngineLimits

CLIENTS, SECONDS = 200, 120.0
FEW_CLIENTS, FEW_REQUESTS = 6, 18
PROMPTS = ("a red heart, flat style", "a blue square", "a yellow star, noto style")
Request = tuple[str, dict[str, Any]]


def requests() -> list[Request]:
    """Different routes, lengths, samplers and numbers of steps."""
    kinds = [(model, sampler) for model in ("pictures", "both") for sampler in ("confidence", "halton")]
    images = [
        {
            "model": model,
            "prompt": PROMPTS[seed % 3],
            "seed": seed,
            "n": 1 + seed % 2,
            "sampler": sampler,
            "num_inference_steps": 1 + seed % 4,
        }
        for seed, (model, sampler) in enumerate(kinds)
    ]
    texts = {count: {"input": "Good morning. " * count, "seconds": 0.4 * count} for count in (1, 2, 3)}
    speech = [{"model": "voice", "seed": count, "response_format": "pcm", **text} for count, text in texts.items()]
    streams = [{"model": "voice", "input": "Good morning. Good night.", "seed": 1, "response_format": "pcm", "stream_format": "audio"}]
    written = [{"model": "both", "target": "text", "known": {"text": {"codes": [[-1, 3, -1, 4]]}}, "seed": seed} for seed in (1, 2)]
    routes = (("/v1/images/generations", images), ("/v1/audio/speech", [*speech, *streams]), ("/v1/generate", written))
    return [(path, body) for path, bodies in routes for body in bodies]


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def answered_alone(server: Running) -> tuple[list[tuple[str, dict[str, Any], str]], float]:
    """All requests with the digests of their answers, each asked alone; and the mean seconds of an answer, asked a second time."""
    found = [clients.asked(server.port, path, body) for path, body in requests()]
    assert {status for status, _, _ in found} == {200}
    begun_s = time.monotonic()
    again = [clients.asked(server.port, path, body) for path, body in requests()]
    assert again == found
    mean_s = (time.monotonic() - begun_s) / len(found)
    return [(path, body, digest) for (path, body), (_, digest, _) in zip(requests(), found, strict=True)], mean_s


def hammered(server: Running, file: Path, num_clients: int, seconds: float, count: int = 0) -> dict[str, int]:
    """What clients in another process saw."""
    command = [sys.executable, clients.__file__, str(file), str(server.port), str(num_clients), str(seconds), str(count)]
    found: dict[str, int] = json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True, timeout=seconds + 300).stdout)
    return found


@pytest.mark.slow
def test_a_few_clients_get_the_answers_that_they_get_alone(models: dict[str, Pipeline], tmp_path: Path) -> None:
    with running(models, LIMITS) as server:
        (tmp_path / "asked.json").write_text(json.dumps(answered_alone(server)[0]))
        seen = hammered(server, tmp_path / "asked.json", FEW_CLIENTS, 300.0, FEW_REQUESTS)
    assert seen == {"good": FEW_REQUESTS, "asked": FEW_REQUESTS}


@pytest.mark.slow
def test_two_hundred_clients_lose_nothing(models: dict[str, Pipeline], tmp_path: Path) -> None:
    """For two minutes; the queues are short, so that some clients are told to come back."""
    with running(models, LIMITS, EngineLimits(max_running=8, max_waiting=32)) as server:
        asked, alone_s = answered_alone(server)
        (tmp_path / "asked.json").write_text(json.dumps(asked))
        hammered(server, tmp_path / "asked.json", 8, 300.0, 200)
        seen, resident = Counter[str](), [resident_bytes()]
        for _ in range(2):
            seen.update(hammered(server, tmp_path / "asked.json", CLIENTS, SECONDS / 2))
            resident.append(resident_bytes())
        waiting = [one.engine.stats.waiting + one.engine.stats.running for one in server.catalogue.models.values()]
    grown = [(later - earlier) / 2**20 for earlier, later in itertools.pairwise(resident)]
    rate = seen["good"] / SECONDS
    print(f"{dict(seen)}, {rate:.1f} answers a second, one after another {1 / alone_s:.1f}, grown by {grown[0]:.1f} and {grown[1]:.1f} MiB")
    assert not {"wrong", "lost"} & set(seen)
    assert seen["good"] > CLIENTS
    assert seen["busy"] > 0
    assert waiting == [0, 0, 0]
    assert grown[0] < 100  # buffers and threads of 200 clients
    assert grown[1] < 16
