"""Hostile input: what the OpenAPI document allows and forbids, damaged bodies and media, names of files in every field."""

import base64
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import schemathesis
from builders.hostile import HOSTILE_NAMES
from builders.media import recording
from builders.served import LIMITS, Running, running
from hypothesis import HealthCheck, Phase, given, settings
from PIL import Image
from schemathesis import GenerationMode
from schemathesis.checks import CHECKS

from maskgen.pipelines.base import Pipeline
from maskgen.serving.limits import ServeLimits
from maskgen.serving.media import audio_bytes, base64_text, image_bytes

MODELS = dict[str, Pipeline]
PATHS = ("/v1/images/generations", "/v1/images/edits", "/v1/audio/speech", "/v1/audio/transcriptions", "/v1/generate")
OPENED: set[str] = set()
WATCHING = [False]


@pytest.fixture(scope="module")
def small(models: MODELS) -> Iterator[Running]:
    """A server that allows only what is done quickly."""
    quick = {
        "max_steps": 2,
        "max_outputs": 1,
        "max_candidates": 2,
        "max_speech_s": 2.0,
        "max_audio_s": 2.0,
        "max_characters": 60,
        "max_cells": 64,
    }
    with running(models, ServeLimits(**{**vars(LIMITS), **quick})) as found:
        yield found


def picture() -> bytes:
    return image_bytes(Image.fromarray(np.random.default_rng(2).integers(0, 256, (32, 32, 3), dtype=np.uint8)), "png")


def judged(server: Running, path: str, body: bytes, kind: str) -> int:
    """Status of a request, which is never a fault of the server; a refusal is one sentence."""
    status, content = server.call("POST", path, body, {"Content-Type": kind})
    assert status < 500, (path, body[:500], content)
    if status >= 400:
        error = json.loads(content)["error"]
        assert error["message"], (path, body[:500])
        assert "\n" not in error["message"]
        assert "Traceback" not in error["message"]
        assert len(error["message"]) <= 500
    return status


def form(fields: dict[str, str], files: dict[str, bytes]) -> bytes:
    parts = [
        f'--x\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'.encode("utf-8", "replace")
        for name, value in fields.items()
    ]
    for name, content in files.items():
        head = f'--x\r\nContent-Disposition: form-data; name="{name}"; filename="{name}"\r\nContent-Type: application/octet-stream\r\n\r\n'
        parts.append(head.encode() + content + b"\r\n")
    return b"".join(parts) + b"--x--\r\n"


def bases() -> list[tuple[str, bytes, str]]:
    """Good requests of every route: path, body and type."""
    clip, shown = audio_bytes(recording(0.2), "wav"), picture()
    texts = [
        ("/v1/images/generations", {"prompt": "a red heart", "num_inference_steps": 1}),
        ("/v1/audio/speech", {"input": "Good.", "seconds": 0.3, "num_inference_steps": 1, "response_format": "wav"}),
        ("/v1/generate", {"target": "image", "prompt": "a", "image": base64_text(shown), "strength": 0.1, "num_inference_steps": [1, 1]}),
        ("/v1/generate", {"model": "both", "target": "text", "audio": base64_text(clip), "num_inference_steps": 1}),
        (
            "/v1/generate",
            {"model": "both", "target": "text", "known": {"image": {"codes": [[[1, 2]], [[3, -1]]]}, "text": {"codes": [[-1, 3]]}}},
        ),
    ]
    kind = "multipart/form-data; boundary=x"
    forms = [
        ("/v1/images/edits", form({"prompt": "a", "strength": "0.1", "num_inference_steps": "1"}, {"image": shown}), kind),
        ("/v1/audio/transcriptions", form({"num_inference_steps": "1"}, {"file": clip}), kind),
        ("/v1/audio/transcriptions", form({"response_format": "srt"}, {"file": audio_bytes(recording(0.2), "ogg")}), kind),
    ]
    return [*((path, json.dumps(value).encode(), "application/json") for path, value in texts), *forms]


def damaged(content: bytes, chance: np.random.Generator) -> bytes:
    """A body with a few faults: cut, doubled, flipped, or with strange pieces."""
    pieces = (
        b"",
        b"\0",
        b"\xff\xfe",
        b'"',
        b"}",
        b"[" * 50,
        b"NaN",
        b"-1",
        b"1e999",
        b"\\ud800",
        b"--x\r\n",
        b"null",
        b"../../etc/passwd",
        b"9" * 40,
    )
    for _ in range(int(chance.integers(1, 4))):
        start, stop = sorted(int(one) for one in chance.integers(0, len(content) + 1, 2))
        stop = min(stop, start + int(chance.integers(1, 40)))
        way = int(chance.integers(4))
        if way == 0:
            content = content[:start] + pieces[int(chance.integers(len(pieces)))] + content[stop:]
        elif way == 1:
            content = content[:start] + chance.bytes(stop - start) + content[stop:]
        elif way == 2:
            content = content[:start] + content[start:stop] * 2 + content[stop:]
        elif start > len(content) // 2:
            content = content[:start]
    return content


def test_the_good_requests_are_good(small: Running) -> None:
    for path, body, kind in bases():
        status, content = small.call("POST", path, body, {"Content-Type": kind})
        assert status == 200, (path, content)


@pytest.mark.parametrize("count", [200, pytest.param(2000, marks=pytest.mark.slow)])
def test_damaged_bodies_and_media_never_break_the_server(small: Running, count: int) -> None:
    chance, good = np.random.default_rng(count), bases()
    statuses = []
    for place in range(count):
        path, body, kind = good[place % len(good)]
        statuses.append(judged(small, path, damaged(body, chance), kind))
    refused = sum(status >= 400 for status in statuses)
    assert refused > count / 2
    assert small.call("GET", "/healthz")[0] == 200


def test_media_of_other_kinds_and_empty_ones_are_refused(small: Running) -> None:
    kind = "multipart/form-data; boundary=x"
    for content in (
        b"",
        b"\0",
        b"GIF89a",
        b"\x89PNG\r\n\x1a\n",
        b"<svg/>",
        b"%!PS",
        b"RIFF\0\0\0\0WAVE",
        b"OggS",
        b"fLaC",
        b"PK\3\4",
        audio_bytes(recording(0.1), "wav"),
    ):
        assert judged(small, "/v1/images/edits", form({"prompt": "a"}, {"image": content}), kind) == 400
    for content in (b"", b"\0", picture(), b"RIFF\0\0\0\0WAVE", b"OggS" + bytes(100), audio_bytes(recording(2.5), "wav")):
        assert judged(small, "/v1/audio/transcriptions", form({}, {"file": content}), kind) == 400


def _watch(event: str, values: tuple[Any, ...]) -> None:
    if WATCHING[0] and event == "open" and isinstance(values[0], str | bytes):
        OPENED.add(values[0] if isinstance(values[0], str) else values[0].decode("utf-8", "replace"))


sys.addaudithook(_watch)


def test_no_name_in_any_field_opens_a_file(small: Running, tmp_path: Path) -> None:
    """Paths that exist and names of every hostile kind, as every text of every route, and as names of uploaded files."""
    canary = tmp_path / "canary.png"
    canary.write_bytes(picture())
    document = json.loads(small.call("GET", "/openapi.json")[1])
    names = [str(canary), f"file://{canary}", "/etc/passwd", *(one for one in HOSTILE_NAMES if isinstance(one, str))][:16]
    WATCHING[0] = True
    try:
        for path in PATHS:
            kind, body = next(iter(document["paths"][path]["post"]["requestBody"]["content"].items()))
            schema = body["schema"]
            if "$ref" in schema:
                schema = document["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
            for place, field in enumerate(schema["properties"]):
                name = names[place % len(names)]
                start: dict[str, Any] = {"target": "image"} if path == "/v1/generate" else {}
                given = {**start, "prompt": "a", "input": "a", field: name} if path != "/v1/generate" else {**start, field: name}
                if kind == "application/json":
                    judged(small, path, json.dumps(given).encode(), kind)
                else:
                    judged(small, path, form({field: name}, {"image": picture(), "file": picture()}), "multipart/form-data; boundary=x")
        for name in names:
            head = f'--x\r\nContent-Disposition: form-data; name="image"; filename="{name}"\r\n\r\n'.encode("utf-8", "replace")
            judged(small, "/v1/images/edits", head + b"\r\n--x--\r\n", "multipart/form-data; boundary=x")
            judged(small, "/v1/generate", json.dumps({"target": "image", "known": {name: {"text": name}}}).encode(), "application/json")
    finally:
        WATCHING[0] = False
    asked = {name for name in OPENED if any(one and one in name for one in names)}
    assert not asked
    assert str(canary) not in OPENED


@pytest.mark.parametrize("examples", [2, pytest.param(100, marks=pytest.mark.slow)])
@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE])
def test_requests_from_the_openapi_document_never_break_the_server(small: Running, examples: int, mode: GenerationMode) -> None:
    schema = schemathesis.openapi.from_url(f"{small.url}/openapi.json")
    checks = CHECKS.get_by_names(["not_a_server_error", "content_type_conformance", "response_schema_conformance"])
    phases = (Phase.explicit, Phase.generate)
    seen = 0
    for found in schema.get_all_operations():
        operation = found.ok()
        if mode is GenerationMode.NEGATIVE and operation.method != "post":
            continue  # there is nothing to get wrong

        @settings(max_examples=examples, phases=phases, deadline=None, suppress_health_check=list(HealthCheck), database=None)
        @given(case=operation.as_strategy(generation_mode=mode))
        def run(case: Any) -> None:
            case.call_and_validate(checks=checks)

        run()
        seen += 1
    assert seen >= len(PATHS)


def test_every_route_that_can_stream_documents_its_events(small: Running) -> None:
    """A positive request rarely asks for a stream, so the examples above seldom see one."""
    document = json.loads(small.call("GET", "/openapi.json")[1])
    streaming = set()
    for path in PATHS:
        route = document["paths"][path]["post"]
        [schema] = [one["schema"] for one in route["requestBody"]["content"].values()]
        schema = document["components"]["schemas"][schema["$ref"].rpartition("/")[2]] if "$ref" in schema else schema
        if {"stream", "stream_format"} & set(schema["properties"]):
            streaming.add(path)
            assert "text/event-stream" in route["responses"]["200"]["content"], path
    assert streaming == set(PATHS)


def test_base64_is_checked_before_it_is_decoded(small: Running) -> None:
    for text in ("", "a", "====", "data:image/png;base64,", "data:image/png,abc", "\u00e9", base64.b64encode(b"\0" * 10).decode() + "!"):
        body = json.dumps({"target": "image", "prompt": "a", "image": text, "strength": 0.5}).encode()
        assert judged(small, "/v1/generate", body, "application/json") == 400
