"""A page around tiny models on a free port, and a browser to look at it."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from builders.served import LIMITS, Running, running
from maskgen.pipelines.base import Pipeline
from maskgen.serving.engine import EngineLimits
from maskgen.serving.limits import ServeLimits
from maskgen.serving.metrics import Metrics
from maskgen.serving.page.mounting import page_folder
from maskgen.serving.served import Catalogue, serve_pipeline
from maskgen.serving.service import Service

CHROMIUM = Path("/usr/bin/chromium")


@contextmanager
def shown(models: dict[str, Pipeline], **options: Any) -> Iterator[tuple[Running, Path]]:
    """A server with a page, and the folder of its files."""
    with page_folder() as folder, running(models, page=folder, **options) as server:
        yield server, folder


@contextmanager
def service_of(models: dict[str, Pipeline], limits: ServeLimits = LIMITS, engine: EngineLimits | None = None) -> Iterator[Service]:
    """What the tabs share, without a server."""
    catalogue = Catalogue([serve_pipeline(name, pipeline, engine) for name, pipeline in models.items()])
    try:
        yield Service(catalogue, limits, Metrics(catalogue))
    finally:
        catalogue.close(10.0)


@contextmanager
def browser() -> Iterator[Any]:
    """Debian's Chromium without a window; the test is skipped where it, or playwright, is missing."""
    playwright = pytest.importorskip("playwright.sync_api", reason="the page is tested in a browser with playwright")
    if not CHROMIUM.exists():
        pytest.skip(f"there is no {CHROMIUM}; Debian's package chromium has it")
    with playwright.sync_playwright() as driver:
        opened = driver.chromium.launch(executable_path=str(CHROMIUM), args=["--no-sandbox"])
        try:
            yield opened
        finally:
            opened.close()


class Watch:
    """What a browser's page complains about and asks for outside its server.

    Args:
        page: Of playwright.
        url: Of the server.
    """

    def __init__(self, page: Any, url: str) -> None:
        self.errors: list[str] = []
        self.strangers: list[str] = []
        page.on("console", lambda message: self.errors.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.on("request", lambda request: self._asked(request.url, url))

    def _asked(self, address: str, url: str) -> None:
        if not address.startswith((f"{url}/", "data:", "blob:")):
            self.strangers.append(address)
