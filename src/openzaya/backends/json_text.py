"""JSON of request bodies, fast where bodies are long: in the texts of their messages.

An aggregation prompt is one text of 16 KB and more, and sixteen calls of a first stage send the
same one. Three replacements of plain ASCII cost less than half of what the json module needs.
"""

import json
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any

LONG_CHARS = 1024
"""Shorter texts are left to the json module."""
KEPT_TEXTS = 64
"""Encoded texts that are kept: the calls of a stage leave together."""

_CONTROLS = bytes(range(32))


def body_with_messages(fields: dict[str, Any], messages: Iterable[Mapping[str, Any]]) -> bytes:
    """Return `fields` as JSON, with a further field `messages`."""
    turns = b", ".join(map(_turn, messages))
    start = _any(fields)[:-1] + (b", " if fields else b"")
    return b'%s"messages": [%s]}' % (start, turns)


def _turn(message: Mapping[str, Any]) -> bytes:
    content = message.get("content")
    if not isinstance(content, str) or len(content) < LONG_CHARS:
        return _any(message)
    rest = _any({name: value for name, value in message.items() if name != "content"})
    return b'%s, "content": %s}' % (rest[:-1], json_text(content))


def json_text(text: str) -> bytes:
    """Return a text as a JSON string; what UTF-8 cannot hold (lone surrogates) becomes `?`."""
    return _long_text(text) if len(text) >= LONG_CHARS else _any(text)


@lru_cache(maxsize=KEPT_TEXTS)
def _long_text(text: str) -> bytes:
    if text.isascii():
        escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
        encoded = escaped.encode("ascii")
        if len(encoded.translate(None, _CONTROLS)) == len(encoded):
            return b'"%s"' % encoded
    return _any(text)


def _any(value: object) -> bytes:
    return json.dumps(value, ensure_ascii=False).encode("utf-8", "replace")
