"""JSON of request bodies, fast where bodies are long: in the texts of their messages.

The prompts of a stage are texts of 16 KB and more that share their pieces: the question, and tails
of the stage before. Every piece is encoded once, and a body is put together from what is encoded.
"""

import json
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any

from openzaya.core.joined import Joined

LONG_CHARS = 1024
"""Shorter texts are left to the json module."""
KEPT_TEXTS = 256
"""Encoded pieces that are kept: the calls of a stage leave together."""
KEPT_CHARS = 128 * 1024
"""Longer ones are not kept."""

_CONTROLS = bytes(range(32))
_json = json.JSONEncoder(ensure_ascii=False).encode


def body_with_messages(fields: Mapping[str, Any], messages: Iterable[Mapping[str, Any]]) -> bytes:
    """Return `fields` as JSON, with a further field `messages`.

    What UTF-8 cannot hold (lone surrogates) becomes `?`.
    """
    parts = [_bytes(fields)[:-1], b', "messages": [' if fields else b'"messages": [']
    for at, message in enumerate(messages):
        if at:
            parts.append(b", ")
        _add_turn(parts, message)
    parts.append(b"]}")
    return b"".join(parts)


def _add_turn(parts: list[bytes], message: Mapping[str, Any]) -> None:
    content = message.get("content")
    if not isinstance(content, str) or len(content) < LONG_CHARS:
        parts.append(_bytes(message))
        return
    if len(message) == 2 and isinstance(message.get("role"), str):
        parts += (b'{"role": "', _escaped(message["role"]), b'", "content": "')
    else:
        rest = _bytes({name: value for name, value in message.items() if name != "content"})
        parts += (rest[:-1], b', "content": "')
    pieces = content.pieces if isinstance(content, Joined) else (content,)
    parts += map(_escaped, pieces)
    parts.append(b'"}')


def _escaped(text: str) -> bytes:
    """Return a text as it stands inside of a JSON string."""
    return _kept(text) if len(text) <= KEPT_CHARS else _encoded(text)


def _encoded(text: str) -> bytes:
    if text.isascii():
        # Three replacements cost less than half of what the json module needs.
        escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
        encoded = escaped.encode("ascii")
        if len(encoded.translate(None, _CONTROLS)) == len(encoded):
            return encoded
    return _bytes(text)[1:-1]


_kept = lru_cache(maxsize=KEPT_TEXTS)(_encoded)


def _bytes(value: object) -> bytes:
    return _json(value).encode("utf-8", "replace")
