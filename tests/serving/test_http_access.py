"""Who may use the server: keys, host names, origins; what its pages and documents load."""

import re
from pathlib import Path

import openai
import pytest
from builders.hostile import HOSTILE_NAMES
from builders.served import KEY, Running, running

from maskgen.cli.serve import named_model
from maskgen.pipelines.base import Pipeline
from maskgen.serving.keys import ApiKeys, read_keys

MODELS = dict[str, Pipeline]


def test_every_route_but_health_needs_a_key(models: MODELS) -> None:
    with running({"pictures": models["pictures"]}, keys=ApiKeys([KEY, "another-key"])) as server:
        assert [one.id for one in server.client.models.list()] == ["pictures"]
        with pytest.raises(openai.AuthenticationError, match="a valid API key is needed"):
            openai.OpenAI(base_url=f"{server.url}/v1", api_key=f"{KEY}x", max_retries=0).models.list()
        for value in ("", KEY, f"Basic {KEY}", f"Bearer {KEY[:-1]}", "Bearer ", "Bearer \xe9", f"Bearer {KEY} {KEY}"):
            assert server.call("GET", "/metrics", headers={"Authorization": value})[0] == 401
        assert server.call("GET", "/metrics", headers={"Authorization": "bearer another-key"})[0] == 200
        assert server.call("GET", "/healthz") == (200, b'{"status":"ok"}')
        assert server.call("POST", "/v1/generate", b"{", {"Content-Type": "application/json"})[0] == 401


def test_keys_come_from_a_file_and_the_environment(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    path.write_text("# of the team\nfirst-key\n\n  second-key  \n")
    keys = read_keys(path, {"MASKGEN_API_KEYS": "third-key,fourth-key"})
    assert len(keys) == 4
    assert all(keys.allows(f"Bearer {key}-key".encode()) for key in ("first", "second", "third", "fourth"))
    assert not keys.allows(b"Bearer # of the team")
    assert not keys.allows(None)
    assert read_keys(None, {}).allows(None)


def test_keys_that_cannot_be_meant_are_refused(tmp_path: Path) -> None:
    empty = tmp_path / "keys"
    empty.write_text("# nothing\n")
    with pytest.raises(ValueError, match="holds no API key, so nobody could use the server"):
        read_keys(empty, {})
    with pytest.raises(ValueError, match="is no file of API keys"):
        read_keys(tmp_path / "missing", {})
    with pytest.raises(ValueError, match="at least 8 printable ASCII characters"):
        read_keys(None, {"MASKGEN_API_KEYS": "short"})


def test_other_host_names_and_origins_are_refused(models: MODELS) -> None:
    """A page of another site cannot use a local server: neither by its origin nor by a name that resolves to the server."""
    with running({"pictures": models["pictures"]}, hosts=("localhost", "127.0.0.1"), origins=("https://page.example",)) as server:
        host = f"127.0.0.1:{server.port}"
        for wrong in ("evil.example", f"evil.example:{server.port}", "localhost.evil.example", "[", "localhost:a"):
            assert server.call("GET", "/v1/models", headers={"Host": wrong})[0] == 403
        for right in (host, "LOCALHOST"):
            assert server.call("GET", "/v1/models", headers={"Host": right})[0] == 200
        for wrong in ("https://evil.example", "null", f"http://{host}.evil.example"):
            assert server.call("GET", "/v1/models", headers={"Origin": wrong})[0] == 403
        for right in (f"http://{host}", "https://page.example"):
            assert server.call("GET", "/v1/models", headers={"Origin": right})[0] == 200


def test_cross_origin_headers_are_sent_only_where_allowed(models: MODELS) -> None:
    asks = {"Origin": "https://page.example", "Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization"}
    with running({"pictures": models["pictures"]}) as server:
        assert server.call("OPTIONS", "/v1/generate", headers=asks)[0] == 403
    with running({"pictures": models["pictures"]}, keys=ApiKeys([KEY]), origins=("https://page.example",)) as server:
        assert server.call("OPTIONS", "/v1/generate", headers=asks)[0] == 200
        assert server.call("OPTIONS", "/v1/generate", headers={**asks, "Origin": "https://evil.example"})[0] == 403


def test_the_page_of_the_api_loads_nothing_and_shows_every_route(server: Running) -> None:
    status, content = server.call("GET", "/docs")
    page = content.decode()
    assert status == 200
    assert not re.search(r"<script|<link|src=|@import|url\(", page)
    for path in ("/v1/images/generations", "/v1/images/edits", "/v1/audio/speech", "/v1/audio/transcriptions", "/v1/generate"):
        assert f"<code>POST {path}</code>" in page
    assert "a red heart, flat style" in page


def test_metrics_count_requests_by_route_and_status(server: Running) -> None:
    server.call("GET", "/v1/models/pictures")
    server.call("GET", "/v1/models/none")
    server.call("GET", "/nowhere")
    text = server.call("GET", "/metrics")[1].decode()
    for line in ('route="/v1/models/{name}",status="200"', 'route="/v1/models/{name}",status="404"', 'route="other",status="404"'):
        assert re.search(rf"maskgen_requests_total{{{re.escape(line)}}} [1-9]", text)
    assert 'maskgen_engine_waiting{model="voice"} 0.0' in text


def test_names_of_models_are_plain() -> None:
    assert named_model("emoji-64") == ("emoji-64", "emoji-64")
    assert named_model("tts-1=models/heart-16k") == ("tts-1", "models/heart-16k")
    assert named_model("models/heart-16k/") == ("heart-16k", "models/heart-16k/")
    for name in (one for one in HOSTILE_NAMES if isinstance(one, str) and "=" not in one and not one.startswith(("train-000000.tar\n",))):
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name):
            with pytest.raises(ValueError, match="is no name of a model for requests"):
                named_model(f"{name}=models/heart-16k")
