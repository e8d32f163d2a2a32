"""The routes."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp

from openzaya.serve import generation, metrics
from openzaya.serve.errors import ApiError
from openzaya.serve.guard import Guard
from openzaya.serve.openapi import document
from openzaya.serve.routes import Endpoint, Handler, application
from openzaya.serve.schema import DetokenizeRequest, TokenizeRequest
from openzaya.serve.service import Service
from openzaya.serve.stream import json_response


def create_app(service: Service) -> ASGIApp:
    """Return the application; its lifespan starts and stops the engine's thread."""

    @asynccontextmanager
    async def lifespan(_app: Starlette) -> AsyncIterator[None]:
        async with running(service):
            yield

    routes = [
        route_of(service, "/v1/chat/completions", "POST", generation.chat),
        *engine_routes(service),
        route_of(service, "/v1/models", "GET", list_models),
        route_of(service, "/v1/models/{model:path}", "GET", show_model),
        route_of(service, "/health", "GET", health),
        route_of(service, "/metrics", "GET", show_metrics),
        route_of(service, "/openapi.json", "GET", show_openapi),
    ]
    return Guard(application(routes, lifespan), service)


def route_of(service: Service, path: str, method: str, handler: Handler[Service]) -> Route:
    """Return one route of the engine's server."""
    return Route(path, Endpoint(service, handler, method, path))


def engine_routes(service: Service) -> list[Route]:
    """Return the routes that only a server with an engine of its own has."""
    return [
        route_of(service, "/v1/completions", "POST", generation.complete),
        route_of(service, "/tokenize", "POST", tokenize),
        route_of(service, "/detokenize", "POST", detokenize),
    ]


@asynccontextmanager
async def running(service: Service) -> AsyncIterator[None]:
    """Run the engine's thread while the block runs."""
    service.driver.start()
    try:
        yield
    finally:
        await service.driver.close()
        service.encoders.shutdown(wait=False, cancel_futures=True)


async def tokenize(service: Service, request: Request) -> Response:
    """Answer POST /tokenize: the ids of a text or of a chat's prompt."""
    codec = service.codec
    ask = await service.read(request, TokenizeRequest)

    def ids() -> list[int]:
        if ask.messages is not None:
            options = ask.chat_template_kwargs
            thinks = options is None or options.enable_thinking
            return codec.encode(ask.messages, ask.tools, thinks)
        text = (ask.prompt if ask.prompt is not None else ask.content) or ""
        return codec.encode_text(text, ask.parse_special)

    def body() -> Response:
        tokens = ids()
        told = {"tokens": tokens, "count": len(tokens), "max_model_len": service.context_tokens}
        return json_response(told)

    return await service.encode(body)


async def detokenize(service: Service, request: Request) -> Response:
    """Answer POST /detokenize: the text of ids."""
    tokenizer = service.codec.tokenizer
    ask = await service.read(request, DetokenizeRequest)
    if ask.tokens and max(ask.tokens) >= service.vocab_size:
        raise ApiError(400, "an id is outside the vocabulary", param="tokens", code="invalid_value")
    return await service.encode(lambda: json_response({"prompt": tokenizer.decode(ask.tokens)}))


async def list_models(service: Service, _request: Request) -> Response:
    """Answer GET /v1/models."""
    return json_response({"object": "list", "data": [card(service)]})


async def show_model(service: Service, request: Request) -> Response:
    """Answer GET /v1/models/NAME."""
    service.check_model(request.path_params["model"])
    return json_response(card(service))


async def health(service: Service, _request: Request) -> Response:
    """Answer GET /health: 200 while requests are taken, else 503."""
    driver = service.driver
    state = "failed" if driver.failure else "draining" if driver.draining else "ok"
    return json_response({"status": state}, 200 if state == "ok" else 503)


async def show_metrics(service: Service, _request: Request) -> Response:
    """Answer GET /metrics."""
    return Response(service.metrics.text(), headers={"Content-Type": metrics.CONTENT_TYPE})


async def show_openapi(service: Service, _request: Request) -> Response:
    """Answer GET /openapi.json."""
    return json_response(document(service.model_name))


def card(service: Service) -> dict[str, Any]:
    """Return what is said of the model."""
    return {
        "id": service.model_name,
        "object": "model",
        "created": service.created,
        "owned_by": "openzaya",
        "max_model_len": service.context_tokens,
    }
