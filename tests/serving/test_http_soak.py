"""Many clients at once, mixed routes: every answer is the one that the request gets alone, and memory stays flat."""

import http.client
import json
import os
import random
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
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


def answer(server: Running, request: Request) -> tuple[int, Any]:
    """Status, and what of an answer does not depend on the time."""
    path, body = request
    status, content = server.call("POST", path, json.dumps(body).encode(), {"Content-Type": "application/json"})
    if path == "/v1/audio/speech" or status != 200:
        return status, content
    found = json.loads(content)
    return status, found.get("data") or found.get("outputs")


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def hammered(server: Running, clients: int, going: Any) -> Counter[str]:
    """What clients saw: good, busy (429), wrong, lost."""
    asked = requests()
    alone = [answer(server, one) for one in asked]
    assert {status for status, _ in alone} == {200}
    seen: Counter[str] = Counter()
    lock = threading.Lock()

    def client(number: int) -> None:
        chance = random.Random(number)
        while going():
            place = chance.randrange(len(asked))
            try:
                status, found = answer(server, asked[place])
            except (OSError, http.client.HTTPException) as error:
                status, found = 0, repr(error)
            kind = "lost" if status == 0 else "good" if (status, found) == alone[place] else "busy" if status == 429 else "wrong"
            with lock:
                seen[kind] += 1
            if kind == "busy":
                time.sleep(0.2)

    threads = [threading.Thread(target=client, args=(number,)) for number in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(300)
    assert not any(thread.is_alive() for thread in threads)
    return seen


@pytest.mark.slow
def test_a_few_clients_get_the_answers_that_they_get_alone(models: dict[str, Pipeline]) -> None:
    left = iter(range(FEW_REQUESTS))
    with running(models, LIMITS) as server:
        seen = hammered(server, FEW_CLIENTS, lambda: next(left, None) is not None)
    assert dict(seen) == {"good": FEW_REQUESTS}


@pytest.mark.slow
def test_two_hundred_clients_lose_nothing(models: dict[str, Pipeline]) -> None:
    """For two minutes; the queues are short, so that some clients are told to come back."""
    with running(models, LIMITS, EngineLimits(max_running=8, max_waiting=32)) as server:
        hammered(server, 8, iter([True] * 200 + [False] * 8).__next__)
        before, end = resident_bytes(), time.monotonic() + SECONDS
        seen = hammered(server, CLIENTS, lambda: time.monotonic() < end)
        grown = resident_bytes() - before
        waiting = [one.engine.stats.waiting + one.engine.stats.running for one in server.catalogue.models.values()]
    print(f"{dict(seen)}, grown by {grown / 2**20:.1f} MiB")
    assert seen["wrong"] == seen["lost"] == 0
    assert seen["good"] > CLIENTS
    assert seen["busy"] > 0
    assert waiting == [0, 0, 0]
    assert grown < 100 * 2**20
