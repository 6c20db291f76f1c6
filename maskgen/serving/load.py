"""Load on a running server, and what it answers: latency, throughput, real-time factor and time to first audio. Standard library alone."""

import base64
import http.client
import json
import struct
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import cycle, islice
from typing import Any
from urllib.parse import urlsplit

import numpy as np

KINDS = ("images", "speech", "transcriptions", "captions")
"""What is asked for: drawings, streamed speech, transcripts of a clip, captions of an image."""
TASKS = {"images": "draw", "speech": "speak", "transcriptions": "transcribe", "captions": "transcribe"}
CAPTIONS = ("a red heart, flat style", "a woman cook with light skin, 3d style", "a blue square", "a smiling cat face, noto style")
TEXTS = ("Good morning.", "The quick brown fox jumps over the lazy dog.", "It is late. Good night.", "This is a picture of a red heart.")
WAV_HEAD_BYTES = 44
PERCENTILES = (50, 90, 99)
BOUNDARY = "maskgen-load"


@dataclass(frozen=True)
class LoadAnswer:
    """One answer.

    Args:
        kind: One of `KINDS`.
        status: HTTP status; 0 for a broken connection.
        latency_s: Seconds to its end.
        first_audio_s: Seconds to the first sample of speech; None for other kinds.
        audio_s: Seconds of audio that were made or transcribed.
    """

    kind: str
    status: int
    latency_s: float
    first_audio_s: float | None = None
    audio_s: float = 0.0


class LoadClient:
    """Asks a server for one thing after another.

    Args:
        url: Of the server, such as http://127.0.0.1:8000.
        key: API key; None sends none.
        timeout_s: For each request.

    Raises:
        ValueError: If the URL is no http or https URL.
    """

    def __init__(self, url: str, key: str | None = None, timeout_s: float = 120.0) -> None:
        self.parts = urlsplit(url)
        if self.parts.scheme not in ("http", "https") or not self.parts.hostname:
            raise ValueError(f"{url!r} is no URL of a server; give one such as http://127.0.0.1:8000")
        self.headers = {} if key is None else {"Authorization": f"Bearer {key}"}
        self.timeout_s = timeout_s
        self.clip: tuple[bytes, float] = (b"", 0.0)
        self.picture = b""

    def models(self) -> dict[str, str]:
        """Kind to the first model that can do it.

        Raises:
            ValueError: If the server refuses or is no server of maskgen.
            OSError: If it cannot be reached.
        """
        status, content, _ = self._asked("GET", "/v1/models")
        if status != 200:
            raise ValueError(f"{self.parts.geturl()} answers /v1/models with status {status}; give --api-key or another --url")
        models = json.loads(content)["data"]
        found: dict[str, str] = {}
        for kind, task in TASKS.items():
            able = [one["id"] for one in models if task in one.get("tasks", ())]
            found |= {kind: able[0]} if able else {}
        return found

    def prepare(self, kinds: Sequence[str], models: Mapping[str, str]) -> None:
        """Get the clip and the image that some kinds send.

        Raises:
            ValueError: If the server has no model that speaks or draws.
        """
        if "transcriptions" in kinds:
            if "speech" not in models:
                raise ValueError("no model of the server speaks, so there is no clip to transcribe; leave transcriptions out")
            body = {"model": models["speech"], "input": TEXTS[3], "response_format": "wav", "seed": 0}
            content = self._asked("POST", "/v1/audio/speech", body)[1]
            self.clip = content, _wav_seconds(content)
        if "captions" in kinds:
            body = {"model": models["images"], "prompt": CAPTIONS[0], "seed": 0}
            self.picture = base64.b64decode(json.loads(self._asked("POST", "/v1/images/generations", body)[1])["data"][0]["b64_json"])

    def ask(self, kind: str, model: str, number: int) -> LoadAnswer:
        """One request; its seed and text follow from its number."""
        started = time.perf_counter()
        try:
            status, content, first_s = self._asked(*self._request(kind, model, number))
        except (OSError, http.client.HTTPException):
            return LoadAnswer(kind, 0, time.perf_counter() - started)
        latency_s, good = time.perf_counter() - started, status == 200
        if kind == "speech" and good:
            return LoadAnswer(kind, status, latency_s, first_s, _wav_seconds(content))
        return LoadAnswer(kind, status, latency_s, None, self.clip[1] if kind == "transcriptions" and good else 0.0)

    def _request(self, kind: str, model: str, number: int) -> tuple[str, str, Any]:
        """Method, path and body of a request."""
        if kind == "images":
            return "POST", "/v1/images/generations", {"model": model, "prompt": CAPTIONS[number % len(CAPTIONS)], "seed": number}
        if kind == "speech":
            asked = {"model": model, "input": TEXTS[number % len(TEXTS)], "seed": number}
            return "POST", "/v1/audio/speech", {**asked, "response_format": "wav", "stream_format": "audio"}
        if kind == "captions":
            shown = base64.b64encode(self.picture).decode()
            return "POST", "/v1/generate", {"model": model, "target": "text", "image": shown, "seed": number}
        start = f"--{BOUNDARY}\r\nContent-Disposition: form-data; name="
        fields = f'{start}"model"\r\n\r\n{model}\r\n{start}"seed"\r\n\r\n{number}\r\n'
        head = f'{fields}{start}"file"; filename="clip.wav"\r\n\r\n'
        return "POST", "/v1/audio/transcriptions", head.encode() + self.clip[0] + f"\r\n--{BOUNDARY}--\r\n".encode()

    def _asked(self, method: str, path: str, body: Any = None) -> tuple[int, bytes, float]:
        """Status, body, and seconds until the body began to arrive after a WAV header."""
        kind = http.client.HTTPSConnection if self.parts.scheme == "https" else http.client.HTTPConnection
        form = isinstance(body, bytes)
        content = body if form or body is None else json.dumps(body).encode()
        headers = {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}" if form else "application/json"}
        connection = kind(str(self.parts.hostname), self.parts.port, timeout=self.timeout_s)
        started = time.perf_counter()
        try:
            connection.request(method, self.parts.path.rstrip("/") + path, content, {**self.headers, **headers})
            answer = connection.getresponse()
            first = answer.read(WAV_HEAD_BYTES + 2)
            first_s = time.perf_counter() - started
            return answer.status, first + answer.read(), first_s
        finally:
            connection.close()


def run_load(client: LoadClient, models: Mapping[str, str], kinds: Sequence[str], concurrency: int, requests: int) -> dict[str, Any]:
    """Send requests from several clients at once, each sending its next as soon as it has its answer.

    Args:
        client: Prepared for the kinds.
        models: Kind to the model that is asked.
        kinds: Taken in turn.
        concurrency: Clients.
        requests: Of all clients together.

    Returns:
        Plain data: see `load_summary`.
    """
    order, lock, answers = iter(list(enumerate(islice(cycle(kinds), requests)))), threading.Lock(), list[LoadAnswer]()

    def work() -> None:
        while True:
            with lock:
                following = next(order, None)
            if following is None:
                return
            answers.append(client.ask(following[1], models[following[1]], following[0]))

    started = time.perf_counter()
    with ThreadPoolExecutor(concurrency) as pool:
        for done in [pool.submit(work) for _ in range(concurrency)]:
            done.result()
    return load_summary(answers, time.perf_counter() - started, concurrency)


def load_summary(answers: Sequence[LoadAnswer], elapsed_s: float, concurrency: int) -> dict[str, Any]:
    """What some answers say of a server.

    Args:
        answers: Of one level of concurrency.
        elapsed_s: From the first request to the last answer.
        concurrency: Clients.

    Returns:
        Requests and statuses; good answers a second; seconds of audio made or transcribed a second; percentiles of latency, of time to
        first audio, and of the real-time factor of speech (latency for a second of audio).
    """
    good = [one for one in answers if one.status == 200]
    statuses: dict[str, int] = {}
    for one in answers:
        statuses[str(one.status)] = statuses.get(str(one.status), 0) + 1
    spoken = [one for one in good if one.first_audio_s is not None and one.audio_s > 0]
    kinds = sorted({one.kind for one in good})
    return {
        "concurrency": concurrency,
        "requests": len(answers),
        "statuses": statuses,
        "elapsed_s": elapsed_s,
        "requests_per_s": len(good) / elapsed_s,
        "audio_s_per_s": sum(one.audio_s for one in good) / elapsed_s,
        "latency_s": load_percentiles([one.latency_s for one in good]),
        "latency_s_by_kind": {kind: load_percentiles([one.latency_s for one in good if one.kind == kind]) for kind in kinds},
        "first_audio_s": load_percentiles([float(one.first_audio_s or 0) for one in spoken]),
        "real_time_factor": load_percentiles([one.latency_s / one.audio_s for one in spoken]),
    }


def load_percentiles(values: Sequence[float]) -> dict[str, float]:
    """Mean and percentiles of some values; empty for none."""
    if not values:
        return {}
    found = np.percentile(values, PERCENTILES)
    return {"mean": float(np.mean(values)), **{f"p{name}": float(value) for name, value in zip(PERCENTILES, found, strict=True)}}


def _wav_seconds(content: bytes) -> float:
    """Duration of a 16-bit WAV file whose header may not know its length."""
    if len(content) <= WAV_HEAD_BYTES:
        return 0.0
    channels, rate = struct.unpack_from("<HI", content, 22)
    return float((len(content) - WAV_HEAD_BYTES) / (2 * channels * rate))
