"""A real server on a free port, in a thread of this process."""

import asyncio
import http.client
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import openai

from builders.any_to_any import write_any
from builders.voice import tiny_voice
from maskgen.pipelines.base import Pipeline
from maskgen.pipelines.text_to_image import TextToImagePipeline
from maskgen.serving.app import create_app
from maskgen.serving.engine import EngineLimits
from maskgen.serving.keys import ApiKeys
from maskgen.serving.limits import ServeLimits
from maskgen.serving.served import Catalogue, serve_pipeline
from maskgen.serving.server import DrainingServer, make_server
from maskgen.tokenizers.image import ImageTokenizer
from maskgen.tokenizers.text import TextTokenizer

KEY = "a-key-of-the-tests"
LIMITS = ServeLimits(max_pixels=2**20, max_body_bytes=2**20, max_characters=400, max_steps=12, max_outputs=4, body_timeout_s=2.0)


@dataclass
class Running:
    """A running server."""

    port: int
    catalogue: Catalogue
    server: DrainingServer
    thread: threading.Thread

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def client(self) -> openai.OpenAI:
        return openai.OpenAI(base_url=f"{self.url}/v1", api_key=KEY, max_retries=0, timeout=60)

    def call(self, method: str, path: str, body: bytes | None = None, headers: dict[str, str] | None = None) -> tuple[int, bytes]:
        """Status and body of one request."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=120)
        connection.request(method, path, body, headers or {})
        answer = connection.getresponse()
        content = answer.read()
        connection.close()
        return answer.status, content

    def post(self, path: str, value: Any) -> tuple[int, Any]:
        """Status and JSON of a JSON body."""
        status, content = self.call("POST", path, json.dumps(value).encode(), {"Content-Type": "application/json"})
        return status, json.loads(content)


def tiny_models(folder: Path, text: TextTokenizer, image: ImageTokenizer, bundle: Path) -> dict[str, Pipeline]:
    """Untrained models of real parts, saved as bundles and loaded again: pictures, a voice, and any to any with both as specialists."""
    tiny_voice().save_pretrained(folder / "voice", half=True)
    drawn = TextToImagePipeline.from_pretrained(bundle)
    spoken = Pipeline.from_pretrained(folder / "voice")
    both = Pipeline.from_pretrained(write_any(folder / "both", text, image))
    models = {"pictures": drawn, "voice": spoken, "both": both}
    for model in models.values():
        model.enable_packed_weights()
    return models


@contextmanager
def running(
    models: dict[str, Pipeline],
    limits: ServeLimits = LIMITS,
    engine: EngineLimits | None = None,
    keys: ApiKeys | None = None,
    **options: Any,
) -> Iterator[Running]:
    """A server around some models; at the end it is drained."""
    catalogue = Catalogue([serve_pipeline(name, pipeline, engine) for name, pipeline in models.items()])
    server = make_server(create_app(catalogue, limits, keys, **options), catalogue, "127.0.0.1", 0, drain_s=10.0)
    thread = threading.Thread(target=lambda: asyncio.run(server.serve()), daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.005)
    try:
        yield Running(server.servers[0].sockets[0].getsockname()[1], catalogue, server, thread)
    finally:
        server.drain()
        server.should_exit = True
        thread.join(15)
        catalogue.close(10.0)
    assert not thread.is_alive()
