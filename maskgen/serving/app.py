"""The HTTP application: routes around a catalogue of models. It holds no model; every request is work for an engine."""

from collections.abc import Callable, Collection
from pathlib import Path

from fastapi import FastAPI
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp

from maskgen.serving.errors import install_handlers
from maskgen.serving.guard import Guard
from maskgen.serving.keys import ApiKeys
from maskgen.serving.limits import ServeLimits
from maskgen.serving.metrics import Metrics
from maskgen.serving.routes_audio import AudioRoutes
from maskgen.serving.routes_generate import GenerateRoutes
from maskgen.serving.routes_images import ImageRoutes
from maskgen.serving.routes_models import ModelRoutes
from maskgen.serving.served import Catalogue
from maskgen.serving.service import Service
from maskgen.version import __version__

ABOUT = (
    "Masked token generation of images, speech and text. Routes under /v1/images and /v1/audio answer clients of OpenAI's API; "
    "/v1/generate takes any known media to any target."
)


def create_app(
    catalogue: Catalogue,
    limits: ServeLimits | None = None,
    keys: ApiKeys | None = None,
    hosts: Collection[str] = (),
    origins: Collection[str] = (),
    page: Path | None = None,
) -> Guard:
    """The ASGI application of a server.

    Args:
        catalogue: The models.
        limits: Of requests.
        keys: Of which every request must bring one; None leaves the server open.
        hosts: Names that the header Host may have; none allows all.
        origins: Origins of pages that may call the server; "*" allows all. None are allowed unless given.
        page: Folder of the web page's files (`maskgen.serving.page.mounting.page_folder`), which then answers at /; None serves no page.

    Returns:
        The application. With `draining` set it refuses new requests.
    """
    limits = limits or ServeLimits()
    service = Service(catalogue, limits, Metrics(catalogue))
    app = FastAPI(title="maskgen", version=__version__, description=ABOUT, docs_url=None, redoc_url=None)
    install_handlers(app)
    for routes in (ImageRoutes(service), AudioRoutes(service), GenerateRoutes(service), ModelRoutes(service)):
        app.include_router(routes.router)
    inner: ASGIApp = app
    if origins:
        inner = CORSMiddleware(app, allow_origins=list(origins), allow_methods=["GET", "POST"], allow_headers=["*"])
    if page is not None:
        inner = _with_page(inner, service, page, lambda: guard.draining and not catalogue.busy)
    guard = Guard(inner, limits, keys or ApiKeys(), service.metrics, hosts, origins, basic=page is not None)
    app.state.guard = lambda: guard
    return guard


def _with_page(app: ASGIApp, service: Service, folder: Path, ended: Callable[[], bool]) -> ASGIApp:
    """The application behind the web page's gate."""
    from maskgen.serving.page.mounting import PageGate, page_application

    return PageGate(app, page_application(service), folder, ended)
