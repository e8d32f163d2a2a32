"""The gateway's application: its routes, its lifespan and its page."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp

from openzaya.serve import metrics, web
from openzaya.serve.gateway import chat, run_routes
from openzaya.serve.gateway.openapi import document
from openzaya.serve.gateway.service import Gateway
from openzaya.serve.guard import OPEN_PATH, Guard
from openzaya.serve.routes import Endpoint, Handler, application
from openzaya.serve.stream import json_response

PAGE_PATH = "/"
PAGE_HEADERS = {
    "Content-Type": web.CONTENT_TYPE,
    "Cache-Control": "no-cache",
    "Vary": "Accept-Encoding",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
}


def create_gateway(
    gateway: Gateway,
    resources: Sequence[AbstractAsyncContextManager[object]],
    extra: Sequence[Route] = (),
) -> ASGIApp:
    """Return the application; `extra` are routes of the backend's own.

    Its lifespan opens `resources` in order, lets runs end, and closes the resources.
    """

    def route(path: str, method: str, handler: Handler[Gateway]) -> Route:
        return Route(path, Endpoint(gateway, handler, method, path))

    @asynccontextmanager
    async def lifespan(_app: Starlette) -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            for resource in resources:
                await stack.enter_async_context(resource)
            try:
                yield
            finally:
                await gateway.runs.drain(0.0)

    routes = [
        route("/v1/chat/completions", "POST", chat.chat),
        route("/v1/completions", "POST", chat.complete),
        route("/v1/ttc/presets", "GET", run_routes.list_presets),
        route("/v1/ttc/preview", "POST", run_routes.show_preview),
        route("/v1/ttc/runs", "GET", run_routes.list_runs),
        route("/v1/ttc/runs/{run}", "GET", run_routes.show_run),
        route("/v1/ttc/runs/{run}/events", "GET", run_routes.show_events),
        route("/v1/ttc/runs/{run}/cancel", "POST", run_routes.cancel_run),
        route("/v1/ttc/runs/{run}/candidates/{stage}/{slot}", "GET", run_routes.show_candidate),
        route("/v1/models", "GET", run_routes.list_models),
        route("/v1/models/{model:path}", "GET", run_routes.show_model),
        route(OPEN_PATH, "GET", health),
        route("/metrics", "GET", show_metrics),
        route("/openapi.json", "GET", show_openapi),
        route(PAGE_PATH, "GET", show_page),
        *extra,
    ]
    return Guard(application(routes, lifespan), gateway, open_paths=(OPEN_PATH, PAGE_PATH))


async def health(gateway: Gateway, request: Request) -> Response:
    """Answer GET /health: 200 while requests are taken, else 503.

    Without a right key it tells nothing of the upstreams.
    """
    status = gateway.backend.status()
    state = "draining" if gateway.draining else status["status"]
    told = {"status": state}
    if gateway.keys.find(request.headers.get("authorization", "")) is not None:
        told["upstreams"] = status["upstreams"]
    return json_response(told, 200 if state in ("ok", "degraded") else 503)


async def show_metrics(gateway: Gateway, _request: Request) -> Response:
    """Answer GET /metrics."""
    text = await asyncio.to_thread(gateway.metrics.text)
    return Response(text, headers={"Content-Type": metrics.CONTENT_TYPE})


async def show_openapi(gateway: Gateway, _request: Request) -> Response:
    """Answer GET /openapi.json."""
    return json_response(document(gateway.backend.models, gateway.backend.posts))


async def show_page(_gateway: Gateway, request: Request) -> Response:
    """Answer GET /: the page, which asks for a key where one is needed."""
    headers = {**PAGE_HEADERS, "Content-Security-Policy": web.content_security_policy()}
    if "gzip" in request.headers.get("accept-encoding", ""):
        return Response(web.page_gzip(), headers={**headers, "Content-Encoding": "gzip"})
    return Response(web.page(), headers=headers)
