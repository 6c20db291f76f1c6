"""`maskgen serve` as a process: it starts, answers, ends at SIGTERM with what runs, and is gone after a kill; what it refuses."""

import http.client
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from builders.command_line import refused

ROOT = Path(__file__).parents[2]
KEY = "a-key-of-the-tests"


@contextmanager
def started(bundle: Path, *more: str) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """A server process and its port."""
    command = [sys.executable, "-m", "maskgen", "serve", "--model", f"tiny={bundle}", "--port", "0", *more]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "MASKGEN_API_KEYS": KEY}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment)
    try:
        assert process.stdout is not None
        found = re.fullmatch(r"maskgen serves tiny at http://127.0.0.1:(\d+); its API is described at /docs\n", process.stdout.readline())
        assert found is not None
        yield process, int(found[1])
    finally:
        process.kill()
        process.wait(10)


def drawn(port: int, **fields: object) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    headers = {"Content-Type": "application/json", "Authorization": f"Bearer {KEY}"}
    connection.request("POST", "/v1/images/generations", json.dumps({"prompt": "a red heart, flat style", "seed": 0, **fields}), headers)
    answer = connection.getresponse()
    return answer.status, answer.read()


@pytest.mark.slow
def test_a_process_answers_and_ends_at_sigterm_with_what_runs(tiny_bundle: Path) -> None:
    with started(tiny_bundle) as (process, port):
        assert drawn(port)[0] == 200
        found: list[int] = []
        thread = threading.Thread(target=lambda: found.append(drawn(port, num_inference_steps=256, n=8)[0]))
        thread.start()
        time.sleep(0.3)
        process.send_signal(signal.SIGTERM)
        thread.join(60)
        assert found == [200]
        assert process.wait(30) == 0
        with pytest.raises(ConnectionRefusedError):
            drawn(port)


@pytest.mark.slow
def test_a_killed_process_leaves_clients_with_errors_and_its_port_free(tiny_bundle: Path) -> None:
    with started(tiny_bundle) as (process, port):
        errors: list[str] = []

        def ask() -> None:
            try:
                drawn(port, num_inference_steps=256, n=16)
            except (OSError, http.client.HTTPException) as error:
                errors.append(type(error).__name__)

        threads = [threading.Thread(target=ask) for _ in range(8)]
        for thread in threads:
            thread.start()
        time.sleep(0.3)
        process.kill()
        for thread in threads:
            thread.join(20)
        assert len(errors) == 8
    with started(tiny_bundle, "--port", str(port)) as (_, again):
        assert again == port
        assert drawn(port)[0] == 200


def test_what_the_command_refuses(capsys: pytest.CaptureFixture[str], tiny_bundle: Path, tmp_path: Path) -> None:
    model = ("serve", "--model", f"tiny={tiny_bundle}")
    assert "the following arguments are required: --model" in refused(capsys, "serve")
    assert refused(capsys, "serve", "--model", "a b").startswith("'a b' is no name of a model for requests; write --model NAME=a b")
    assert refused(capsys, *model, "--api-keys", str(tmp_path / "none")).endswith("give a text file with one key a line")
    assert refused(capsys, *model, "--max-steps", "0") == "max_steps must be above 0, got 0"
    assert "there is no model 'no-such-model'" in refused(capsys, "serve", "--model", "no-such-model")
    assert "of different names, got tiny, tiny" in refused(capsys, *model, "--model", f"tiny={tiny_bundle}")
