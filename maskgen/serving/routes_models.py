"""`GET /v1/models`, `/healthz`, `/metrics`, and the page of the API."""

from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse, JSONResponse, PlainTextResponse
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.responses import Response

from maskgen.serving.api_page import api_page
from maskgen.serving.errors import ApiError
from maskgen.serving.service import ERRORS, Service


class ModelRoutes:
    """Routes that say what the server has and how it is.

    Args:
        service: What all routes share.
    """

    def __init__(self, service: Service) -> None:
        self.service, self.router = service, APIRouter(tags=["server"], responses=ERRORS)
        self.router.add_api_route("/v1/models", self.models, methods=["GET"], summary="The models of this server")
        self.router.add_api_route("/v1/models/{name}", self.model, methods=["GET"], summary="One model")
        self.router.add_api_route("/healthz", self.health, methods=["GET"], summary="Whether the server takes requests")
        self.router.add_api_route(
            "/metrics", self.metrics, methods=["GET"], summary="Metrics for Prometheus", response_class=PlainTextResponse
        )
        self.router.add_api_route("/docs", self.page, methods=["GET"], include_in_schema=False)

    async def models(self) -> dict[str, Any]:
        """Every model with its tasks, modalities and voices."""
        return {"object": "list", "data": [one.entry for one in self.service.catalogue.models.values()]}

    async def model(self, name: str) -> dict[str, Any]:
        """One model with its tasks, modalities and voices."""
        models = self.service.catalogue.models
        if name not in models:
            raise ApiError(
                404, f"there is no model {name[:80]!r}; this server has {', '.join(models)}", param="model", code="model_not_found"
            )
        return models[name].entry

    async def health(self, request: Request) -> JSONResponse:
        """200 while requests are taken, 503 while the server shuts down."""
        draining = request.app.state.guard().draining
        return JSONResponse({"status": "draining" if draining else "ok"}, 503 if draining else 200)

    async def metrics(self) -> Response:
        """What the server counted, in the exposition format."""
        return Response(self.service.metrics.text, media_type=CONTENT_TYPE_LATEST)

    async def page(self, request: Request) -> HTMLResponse:
        """The OpenAPI document as a page that loads nothing from elsewhere."""
        return HTMLResponse(api_page(request.app.openapi(), str(request.base_url).rstrip("/")))
