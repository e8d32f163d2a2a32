"""What every request must pass before a route sees it: sizes, origin, key.

It is the outermost layer: no route is open by default, and every failure leaves as one JSON shape
without a word of what the client sent.
"""

import logging
import re
import traceback
from collections.abc import Sequence
from time import monotonic
from typing import Protocol
from urllib.parse import urlsplit

from prometheus_client import Counter
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from openzaya.core import request_id
from openzaya.serve import cors
from openzaya.serve.config import ServeConfig, is_loopback
from openzaya.serve.cors import Cors
from openzaya.serve.errors import ApiError
from openzaya.serve.keys import Keys
from openzaya.serve.stream import json_response

log = logging.getLogger("openzaya.serve")
MAX_HEADER_BYTES = 16 << 10
MAX_URL_BYTES = 4 << 10
OPEN_PATH = "/health"
ROUTE = "openzaya.route"
"""Where a route leaves its own path for the counters."""
_ODD_PATH = re.compile(rb"%2f|%5c|%00|\\|//|/\.\.?(?:/|$)|%2e", re.IGNORECASE)


def error_response(error: ApiError) -> Response:
    """Return an error as a response."""
    return json_response(error.body, error.status, error.headers)


class Counted(Protocol):
    """What a guard needs of a server's metrics."""

    requests: Counter


class Guarded(Protocol):
    """What a guard needs to know of the server behind it."""

    @property
    def config(self) -> ServeConfig:
        """How it listens."""

    @property
    def keys(self) -> Keys:
        """Who may ask."""

    @property
    def metrics(self) -> Counted:
        """What is counted."""


class Guard:
    """Checks requests, counts them, and turns failures into answers."""

    def __init__(
        self, app: ASGIApp, service: Guarded, open_paths: Sequence[str] = (OPEN_PATH,)
    ) -> None:
        """`open_paths` answer without a key."""
        self._app = app
        self._service = service
        self._open_paths = frozenset(open_paths)
        self._cors = Cors(service.config.origins)
        self._checks_host = is_loopback(service.config.host) and not service.keys

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or answer it with the reason why not."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        status = 0
        began = monotonic()
        request = Request(scope)
        name = request_id.request_id_of(request.headers.get(request_id.HEADER, ""))
        token = request_id.current.set(name)
        origin = request.headers.get("origin")
        told = [(request_id.HEADER.lower().encode(), name.encode()), *self._cors.headers(origin)]

        async def counted_send(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message = {**message, "headers": [*message.get("headers", ()), *told]}
            await send(message)

        try:
            self.check(request)
            answer = cors.answer(request) if self._cors.asks_leave(request) else self._app
            await answer(scope, receive, counted_send)
        except ApiError as error:
            await error_response(error)(scope, receive, counted_send)
        except Exception as error:  # noqa: BLE001 - the border: nothing of it may leave
            log.error("a route failed with %s\n%s", type(error).__name__, trace_of(error))
            if status == 0:
                internal = ApiError(500, "an internal error; the server's log says where")
                await error_response(internal)(scope, receive, counted_send)
        finally:
            route = scope.get(ROUTE, "none")
            self._service.metrics.requests.labels(route, str(status)).inc()
            if request.method not in ("GET", "HEAD"):
                seconds = round(monotonic() - began, 3)
                facts = {"route": route, "status": status, "seconds": seconds}
                log.info("request ended", extra=facts)
            request_id.current.reset(token)

    def check(self, request: Request) -> None:
        """Raise ApiError for a request that must not go on."""
        check_sizes(request)
        self._check_origin(request)
        # Not request.url: that is put together with the Host header, which clients write.
        path = request.scope["path"]
        if path in self._open_paths or self._cors.asks_leave(request):
            return
        rights = self._service.keys.rights(request.headers.get("authorization", ""))
        if rights is None:
            raise ApiError(
                401,
                "a key is needed; send it as Authorization: Bearer KEY",
                code="invalid_api_key",
                headers={"WWW-Authenticate": "Bearer"},
            )
        needed = "metrics" if path == "/metrics" else "infer"
        if needed not in rights and not (needed == "infer" and "admin" in rights):
            raise ApiError(403, f"this key lacks the right {needed!r}", code="missing_right")

    def _check_origin(self, request: Request) -> None:
        """Refuse web pages of other places, also those whose name was bent to this machine."""
        host = request.headers.get("host", "")
        if self._checks_host and host and not is_loopback(_name_of(f"//{host}")):
            raise ApiError(403, "this server answers to this machine's names only", code="host")
        origin = request.headers.get("origin")
        if self._cors.allows(origin) or origin is None or urlsplit_or_none(origin) == host:
            return
        raise ApiError(
            403, "web pages of this origin may not ask; --set origins names those that may",
            code="origin",
        )  # fmt: skip


def check_sizes(request: Request) -> None:
    """Refuse headers and addresses that are too long or that servers could read differently."""
    scope = request.scope
    raw_path: bytes = scope.get("raw_path", b"")
    if len(raw_path) + len(scope["query_string"]) > MAX_URL_BYTES:
        raise ApiError(414, f"the URL is longer than {MAX_URL_BYTES} bytes", code="url_too_long")
    size = sum(len(name) + len(value) + 4 for name, value in scope["headers"])
    if size > MAX_HEADER_BYTES:
        raise ApiError(
            431, f"the header is longer than {MAX_HEADER_BYTES} bytes", code="header_too_large"
        )
    if _ODD_PATH.search(raw_path):
        raise ApiError(404, "there is no such address", code="not_found")
    names = [name for name, _ in scope["headers"]]
    if b"content-length" in names and b"transfer-encoding" in names:
        raise ApiError(
            400,
            "the request has a Content-Length and a Transfer-Encoding; send one of them",
            code="ambiguous_length",
            headers={"Connection": "close"},
        )
    if any(names.count(name) > 1 for name in (b"host", b"authorization", b"content-type")):
        raise ApiError(400, "a header that must be single comes twice", code="duplicate_header")


def urlsplit_or_none(origin: str) -> str | None:
    """Return the host and port of an origin, None for what is none."""
    try:
        parts = urlsplit(origin)
    except ValueError:
        return None
    return parts.netloc if parts.scheme in ("http", "https") else None


def _name_of(address: str) -> str:
    """Return the host in an address, without its port."""
    try:
        return urlsplit(address).hostname or ""
    except ValueError:
        return ""


def trace_of(error: BaseException) -> str:
    """Return where an error came from, without its message: that may quote a prompt."""
    return "".join(traceback.format_tb(error.__traceback__))
