"""Request bodies: JSON in the strictest reading, before anything else looks at it.

The standard library takes NaN, keeps the last of duplicate keys, guesses encodings, recurses as
deep as it is told and raises ValueError for long integers. None of that may reach a handler.
"""

import asyncio
import json
import math
import re
from collections import Counter
from collections.abc import Callable
from typing import Any, NoReturn, TypeVar

from starlette.requests import ClientDisconnect, Request

from openzaya.serve.errors import ApiError, bad_request

T = TypeVar("T")
MAX_DEPTH = 64
MAX_KEYS = 10_000
"""Keys of one object: each unknown one is an error of its own for what checks fields."""
MAX_INTEGER = (1 << 63) - 1
INTEGER_DIGITS = len(str(MAX_INTEGER))
THREAD_BYTES = 32 << 10
"""A longer body is parsed beside the event loop."""

_LONG_NUMBER = re.compile(f"[0-9]{{{INTEGER_DIGITS}}}")
_CHARSET = re.compile(r'charset\s*=\s*"?([^\s";]*)')
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")


def parse(body: bytes) -> dict[str, Any]:
    """Return the object in a body. Raises ApiError 400 for everything that is not strict JSON."""
    if body.startswith((b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff")):
        raise invalid("it begins with a byte order mark; send plain UTF-8")
    try:
        text = body.decode("utf-8")
    except UnicodeDecodeError as error:
        raise invalid(f"byte {error.start} is not UTF-8") from None
    # The hook costs a call per integer: only for bodies that may hold a long one.
    read_int = _read_int if _LONG_NUMBER.search(text) else None
    try:
        value = json.loads(
            text,
            parse_int=read_int,
            parse_float=_read_float,
            parse_constant=_refuse_constant,
            object_pairs_hook=_read_object,
        )
    except json.JSONDecodeError as error:
        raise invalid(f"{error.msg} at line {error.lineno}, column {error.colno}") from None
    except RecursionError:
        raise invalid(f"it is nested deeper than {MAX_DEPTH}") from None
    if not isinstance(value, dict):
        raise invalid("expected an object at the top")
    check_tree(value, look_for_surrogates=_SURROGATE.search(text) is not None)
    return value


def check_tree(value: dict[str, Any], *, look_for_surrogates: bool) -> None:
    """Refuse nesting beyond the limit, and strings that UTF-8 cannot hold."""
    level: list[Any] = [value]
    for _ in range(MAX_DEPTH):
        below: list[Any] = []
        for container in level:
            items = [*container, *container.values()] if isinstance(container, dict) else container
            if look_for_surrogates and any(isinstance(s, str) and is_torn(s) for s in items):
                raise invalid("it holds half of a surrogate pair")
            below += [item for item in items if isinstance(item, dict | list)]
        if not below:
            return
        level = below
    raise invalid(f"it is nested deeper than {MAX_DEPTH}")


async def read_json(
    request: Request, max_bytes: int, body_s: float, check: Callable[[dict[str, Any]], T]
) -> T:
    """Return what `check` makes of the object that a request carries.

    Raises ApiError 400, 408, 411, 413 or 415, and what `check` raises.
    """
    check_headers(request, max_bytes)
    body = bytearray()
    try:
        async with asyncio.timeout(body_s):
            async for chunk in request.stream():
                body += chunk
                if len(body) > max_bytes:
                    raise too_large(max_bytes)
    except TimeoutError:
        raise ApiError(
            408,
            f"the body did not arrive within {body_s:g} s; send it at once",
            code="request_timeout",
            headers={"Connection": "close"},
        ) from None
    except ClientDisconnect:
        raise bad_request("the body is shorter than its length says", code="invalid_json") from None
    if len(body) > THREAD_BYTES:
        return await asyncio.to_thread(lambda: check(parse(bytes(body))))
    return check(parse(bytes(body)))


def check_headers(request: Request, max_bytes: int) -> None:
    """Refuse a body by what its headers say of it."""
    headers = request.headers
    kind, _, parameters = headers.get("content-type", "").lower().partition(";")
    charsets = set(_CHARSET.findall(parameters))
    if kind.strip() != "application/json" or not charsets <= {"utf-8", "utf8"}:
        raise ApiError(
            415,
            f"the content type is {headers.get('content-type', '')[:80]!r}, expected "
            "application/json in UTF-8",
            code="unsupported_media_type",
        )
    if headers.get("content-encoding", "identity").strip().lower() != "identity":
        raise ApiError(
            415, "compressed bodies are not taken; send it plain", code="unsupported_encoding"
        )
    length = headers.get("content-length")
    if length is None and "transfer-encoding" not in headers:
        raise ApiError(411, "the request has no Content-Length; add it", code="length_required")
    if length is not None and int(length[:18]) > max_bytes:
        raise too_large(max_bytes)


def too_large(max_bytes: int) -> ApiError:
    """Return the error for a body above the limit; the connection ends with it."""
    return ApiError(
        413,
        f"the body is longer than {max_bytes} bytes; send less",
        code="body_too_large",
        headers={"Connection": "close"},
    )


def invalid(what: str) -> ApiError:
    """Return the error for a body that is no strict JSON."""
    return bad_request(f"the body is not valid JSON: {what}", code="invalid_json")


def _read_object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(pairs) > MAX_KEYS:
        raise invalid(f"an object has {len(pairs)} keys, expected at most {MAX_KEYS}")
    found = dict(pairs)
    if len(found) != len(pairs):
        twice, _ = Counter(name for name, _ in pairs).most_common(1)[0]
        raise invalid(f"the key {twice[:80]!r} comes twice")
    return found


def _read_int(digits: str) -> int:
    is_short = len(digits.lstrip("-")) <= INTEGER_DIGITS
    if not is_short or not ~MAX_INTEGER <= int(digits) <= MAX_INTEGER:
        raise invalid("a whole number does not fit into 64 bits")
    return int(digits)


def _read_float(digits: str) -> float:
    number = float(digits)
    if not math.isfinite(number):
        raise invalid("a number is too large")
    return number


def _refuse_constant(name: str) -> NoReturn:
    raise invalid(f"{name} is not a JSON value")


def is_torn(text: str) -> bool:
    """Tell whether a string holds half of a surrogate pair, which UTF-8 cannot hold."""
    return any("\ud800" <= character <= "\udfff" for character in text)
