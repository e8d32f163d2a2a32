"""The routes and the lifespan that a server with an engine of its own has."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from openzaya.serve.errors import ApiError
from openzaya.serve.routes import Endpoint, Handler
from openzaya.serve.schema import DetokenizeRequest, TokenizeRequest
from openzaya.serve.service import Service
from openzaya.serve.stream import json_response


def route_of(service: Service, path: str, method: str, handler: Handler[Service]) -> Route:
    """Return one route of the engine's server."""
    return Route(path, Endpoint(service, handler, method, path))


def engine_routes(service: Service) -> list[Route]:
    """Return the routes that the gateway does not have for other servers."""
    return [
        route_of(service, "/tokenize", "POST", tokenize),
        route_of(service, "/detokenize", "POST", detokenize),
    ]


@asynccontextmanager
async def running(service: Service) -> AsyncIterator[None]:
    """Run the engine's thread while the block runs."""
    service.grammars.prepare()  # before anybody waits
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
            thinks = options is None or options.enable_thinking is not False
            return codec.encode(ask.messages, ask.tools, thinks)
        text = (ask.prompt if ask.prompt is not None else ask.content) or ""
        return codec.encode_text(text, ask.parse_special is not False)

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


def card(service: Service) -> dict[str, Any]:
    """Return what is said of the model."""
    return {
        "id": service.model_name,
        "object": "model",
        "created": service.created,
        "owned_by": "openzaya",
        "max_model_len": service.context_tokens,
    }
