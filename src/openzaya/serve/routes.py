"""What the routes of every server of ours share: one method each, and one shape for failures."""

from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeAlias, TypeVar

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Lifespan, Receive, Scope, Send

from openzaya.serve.errors import ApiError
from openzaya.serve.guard import ROUTE, error_response

S = TypeVar("S")
Handler: TypeAlias = Callable[[S, Request], Awaitable[ASGIApp]]


class Endpoint(Generic[S]):
    """One route for one method; its answer may be any ASGI application."""

    def __init__(self, service: S, handler: Handler[S], method: str, path: str) -> None:
        self._path = path
        self._service = service
        self._handler = handler
        self._method = method

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        request = Request(scope, receive)
        scope[ROUTE] = self._path
        if request.method != self._method and (request.method, self._method) != ("HEAD", "GET"):
            raise ApiError(
                405,
                f"this address takes {self._method}",
                code="method_not_allowed",
                headers={"Allow": self._method},
            )
        answer = await self._handler(self._service, request)
        await answer(scope, receive, send)


def application(routes: Sequence[Route], lifespan: Lifespan[Starlette]) -> Starlette:
    """Return an application whose failures all have the shape of `ApiError`."""
    handlers = {HTTPException: not_found, ApiError: refuse, Exception: fail}
    app = Starlette(routes=routes, lifespan=lifespan, exception_handlers=handlers)
    app.router.redirect_slashes = False
    return app


async def refuse(_request: Request, error: Exception) -> Response:
    """Answer for what a route refused."""
    assert isinstance(error, ApiError)
    return error_response(error)


async def fail(_request: Request, _error: Exception) -> Response:
    """Answer for a failure of ours; the guard writes it to the log."""
    return error_response(ApiError(500, "an internal error; the server's log says where"))


async def not_found(request: Request, _error: Exception) -> Response:
    """Answer for an address without a route; one with a wrong base is told the right address."""
    wanted = request.url.path.rstrip("/")
    paths = [route.path for route in request.app.routes if isinstance(route, Route)]
    ends = [path for path in paths if wanted.endswith(path.removeprefix("/v1")) and path != "/"]
    hint = f"; {max(ends, key=len)} is one" if ends else ""
    return error_response(ApiError(404, f"there is no such address{hint}", code="not_found"))
