"""The id of the HTTP request that is served, wherever its work goes."""

import re
from contextvars import ContextVar
from uuid import uuid4

HEADER = "X-Request-Id"
_SAFE = re.compile(r"[A-Za-z0-9_.:/+=-]{1,128}")

current: ContextVar[str] = ContextVar("openzaya_request_id", default="")
"""The id; empty where no request is served. Tasks keep that of the request that began them."""


def request_id_of(given: str) -> str:
    """Return the id that a client gave, a fresh one where it gave none that a log can hold."""
    return given if _SAFE.fullmatch(given) else f"req_{uuid4().hex}"
