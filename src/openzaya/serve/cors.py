"""Web pages of other origins: those that the settings name may ask, and read the answers.

Source: the Fetch standard, "HTTP extensions" of its CORS protocol.
"""

import re
from collections.abc import Sequence

from starlette.requests import Request
from starlette.responses import Response

ANY = "*"
METHODS = "GET, POST"
EXPOSED = "X-Request-Id, X-Run-Id, Retry-After"
KEPT_S = "600"
"""How long a browser keeps the answer to a question."""
_NAMES = re.compile(r"[A-Za-z0-9_, -]{0,4096}")


class Cors:
    """What is told to pages of the origins that may ask."""

    def __init__(self, origins: Sequence[str]) -> None:
        """`origins` as browsers send them (`https://app.example`), or `*` for all."""
        self._origins = frozenset(origin.rstrip("/") for origin in origins)

    def allows(self, origin: str | None) -> bool:
        """Say whether the pages of an origin may ask."""
        return origin is not None and (ANY in self._origins or origin in self._origins)

    def headers(self, origin: str | None) -> list[tuple[bytes, bytes]]:
        """Return what every answer to a request of an origin holds."""
        if not self._origins:
            return []
        varied = [(b"vary", b"Origin")]
        if origin is None or not self.allows(origin):
            return varied
        allowed = (b"access-control-allow-origin", origin.encode("latin-1"))
        return [allowed, (b"access-control-expose-headers", EXPOSED.encode()), *varied]

    def asks_leave(self, request: Request) -> bool:
        """Say whether a browser asks what a page may send; it does so without the page's key."""
        asked = request.headers
        is_question = "access-control-request-method" in asked and request.method == "OPTIONS"
        return is_question and self.allows(asked.get("origin"))


def answer(request: Request) -> Response:
    """Return the answer to a browser that asks what a page may send."""
    told = {"Access-Control-Allow-Methods": METHODS, "Access-Control-Max-Age": KEPT_S}
    names = request.headers.get("access-control-request-headers", "")
    if names and _NAMES.fullmatch(names):
        told["Access-Control-Allow-Headers"] = names
    return Response(status_code=204, headers=told)
