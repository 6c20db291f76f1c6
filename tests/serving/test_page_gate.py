"""What reaches the web page and what does not: its routes, its files, and keys in a browser."""

import asyncio
import base64
import json
from pathlib import Path
from typing import Any

import pytest
from builders.page import service_of
from starlette.responses import PlainTextResponse
from starlette.types import Receive, Scope, Send

from maskgen.pipelines.base import Pipeline
from maskgen.serving.guard import Guard
from maskgen.serving.keys import ApiKeys
from maskgen.serving.limits import ServeLimits
from maskgen.serving.page import mounting
from maskgen.serving.page.mounting import PageGate

KEY = "a-key-of-the-tests"


async def page(scope: Scope, receive: Receive, send: Send) -> None:
    """Stands for Gradio: says what body reached it; a stream never ends."""
    if scope["path"] == "/gradio_api/queue/data":
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await asyncio.sleep(60)
    body = (await receive()).get("body", b"")
    if body == b'{"fn_index": 9999}':
        await PlainTextResponse("Internal Server Error", 500)(scope, receive, send)
        raise KeyError(9999)
    await PlainTextResponse(b"page:" + body)(scope, receive, send)


async def server(scope: Scope, receive: Receive, send: Send) -> None:
    await PlainTextResponse("server")(scope, receive, send)


def asked(app: Any, method: str, path: str, body: bytes = b"", headers: dict[str, str] | None = None) -> tuple[int, str, dict[str, str]]:
    """Status, body and headers of one request."""
    sent: list[Any] = []
    parts = [{"type": "http.request", "body": body[:3], "more_body": True}, {"type": "http.request", "body": body[3:], "more_body": False}]

    async def receive() -> Any:
        if parts:
            return parts.pop(0)
        await asyncio.sleep(60)

    async def send(message: Any) -> None:
        sent.append(message)

    pairs = [(name.lower().encode(), value.encode()) for name, value in (headers or {}).items()]
    scope = {"type": "http", "method": method, "path": path, "headers": pairs, "query_string": b"", "client": ("127.0.0.1", 1)}
    asyncio.run(asyncio.wait_for(app(scope, receive, send), 10))
    named = {name.decode(): value.decode() for name, value in sent[0]["headers"]}
    return sent[0]["status"], b"".join(one.get("body", b"") for one in sent[1:]).decode(), named


@pytest.fixture
def gate(tmp_path: Path) -> PageGate:
    return PageGate(server, page, tmp_path, lambda: False)


@pytest.mark.parametrize("path", ["/", "/config", "/assets/index-1.js", "/theme.css", "/gradio_api/upload_progress"])
def test_the_page_answers_its_own_routes(gate: PageGate, path: str) -> None:
    status, body, headers = asked(gate, "GET", path)
    assert (status, body[:5]) == (200, "page:")
    assert "frame-ancestors 'none'" in headers["content-security-policy"]


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/v1/models"),
        ("POST", "/v1/images/generations"),
        ("GET", "/gradio_api/proxy=http://example.com/"),
        ("GET", "/gradio_api/info"),
        ("POST", "/gradio_api/component_server"),
        ("POST", "/gradio_api/run/predict"),
        ("POST", "/"),
        ("DELETE", "/config"),
        ("GET", "/monitoring"),
        ("GET", "/assets/../gradio_api/info"),
    ],
)
def test_all_other_routes_are_the_servers(gate: PageGate, method: str, path: str) -> None:
    assert asked(gate, method, path)[1] == "server"


def test_only_files_of_the_page_are_read(gate: PageGate, tmp_path: Path) -> None:
    (tmp_path / "mine.png").write_bytes(b"0")
    (tmp_path / "link.png").symlink_to("/etc/passwd")
    inside = json.dumps({"data": ["text", {"path": str(tmp_path / "mine.png"), "url": "http://127.0.0.1/x"}]}).encode()
    assert asked(gate, "POST", "/gradio_api/queue/join", inside)[1] == f"page:{inside.decode()}"
    assert asked(gate, "GET", f"/gradio_api/file={tmp_path}/mine.png")[0] == 200
    for name in ("/etc/passwd", f"{tmp_path}/../x", f"{tmp_path}/link.png", "http://127.0.0.1/x", "mine.png", f"{tmp_path}/a\0b"):
        body = json.dumps({"data": [[{"deep": {"path": name}}]]}).encode()
        status, text, _ = asked(gate, "POST", "/gradio_api/queue/join", body)
        assert (status, "that is no file of the page" in text) == (403, True), name
        assert not asked(gate, "GET", f"/gradio_api/file={name}")[1].startswith("page")
    assert asked(gate, "POST", "/gradio_api/queue/join", b'{"url": "data:image/png;base64,AA"}')[0] == 403
    assert asked(gate, "POST", "/gradio_api/queue/join", b"[" * 100_000)[0] == 400
    deep = b'{"a":' * 900 + json.dumps({"path": "/etc/passwd"}).encode() + b"}" * 900
    assert asked(gate, "POST", "/gradio_api/queue/join", deep)[0] == 403


def test_what_gradio_fails_on_is_a_mistake_of_the_request(gate: PageGate) -> None:
    status, body, _ = asked(gate, "POST", "/gradio_api/queue/join", b'{"fn_index": 9999}')
    assert (status, "reload it" in body) == (400, True)


def test_uploads_end_where_the_folder_is_full(gate: PageGate, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mounting, "MOST_FILE_BYTES", 10)
    (tmp_path / "file").write_bytes(bytes(11))
    status, _, headers = asked(gate, "POST", "/gradio_api/upload")
    assert (status, headers["retry-after"]) == (429, "3600")


def test_a_stream_ends_with_the_server(tmp_path: Path) -> None:
    looks = iter([False, False])
    status, body, _ = asked(PageGate(server, page, tmp_path, lambda: next(looks, True)), "GET", "/gradio_api/queue/data")
    assert (status, body) == (200, "")
    assert asked(PageGate(server, page, tmp_path, lambda: True), "GET", "/gradio_api/queue/data")[0] == 503


def test_a_browser_brings_the_key_as_a_password(gate: PageGate, models: dict[str, Pipeline]) -> None:
    with service_of({"pictures": models["pictures"]}) as service:
        with_page, without = (Guard(gate, ServeLimits(), ApiKeys([KEY]), service.metrics, basic=basic) for basic in (True, False))

    def basic(words: str) -> dict[str, str]:
        return {"Authorization": f"Basic {base64.b64encode(words.encode()).decode()}"}

    for path in ("/", "/gradio_api/upload_progress", "/v1/models"):
        status, _, headers = asked(with_page, "GET", path)
        assert (status, headers["www-authenticate"][:5]) == (401, "Basic")
        assert asked(with_page, "GET", path, headers=basic(f"me:{KEY}"))[0] == 200
        assert asked(with_page, "GET", path, headers={"Authorization": f"Bearer {KEY}"})[0] == 200
        assert asked(without, "GET", path, headers=basic(f"me:{KEY}"))[0] == 401
    large = Guard(gate, ServeLimits(max_body_bytes=20), ApiKeys(), service.metrics)
    assert asked(large, "POST", "/gradio_api/queue/join", b"[1,2,3,4,5,6,7,8,9,0,1,2,3]")[0] == 413
    for wrong in ("me:", "me:another-key", KEY, f"{KEY}:", "me"):
        assert asked(with_page, "GET", "/", headers=basic(wrong))[0] == 401
    assert asked(with_page, "GET", "/", headers={"Authorization": "Basic ***"})[0] == 401
    across = {**basic(f"me:{KEY}"), "Origin": "http://elsewhere", "Host": "127.0.0.1"}
    assert asked(with_page, "POST", "/gradio_api/upload", headers=across)[0] == 403
