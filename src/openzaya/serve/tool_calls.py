"""Finding the tool calls in an answer; linear, and nothing but JSON is ever evaluated.

A call is written <zyphra_tool_call> <function=NAME> <parameter=P> VALUE </parameter> ...
</function> </zyphra_tool_call>; one that an upstream told has a JSON object in the place of the
parameters. What looks like a call but cannot be read stays text.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

from openzaya.serve.json_body import is_torn
from openzaya.serve.scanners import EdgeTrimmer, held_length
from openzaya.text.markers import TOOL_MARKERS

OPEN, CLOSE = TOOL_MARKERS[:2]
END = "\n</parameter>\n"
"""What ends a value that a grammar wrote; what comes before it is the value, byte for byte."""
Schemas = Mapping[str, Mapping[str, Any]]
"""The properties of each function's parameters."""


@dataclass(frozen=True, slots=True)
class Call:
    """One call that the model made."""

    id: str
    """Ours: the model knows no ids."""
    name: str
    """The function."""
    arguments: str
    """JSON."""


class ToolScanner:
    """Takes tool calls out of an answer that comes in pieces."""

    def __init__(self, schemas: Schemas | None, is_exact: bool = False) -> None:
        """Without schemas nothing is looked for: the text passes.

        `is_exact` is for calls that the grammar of serve/form.py wrote.
        """
        self._schemas = schemas
        self._is_exact = is_exact
        # A line end never stands inside of a JSON string: what an answer quotes is no call.
        self._close = f"\n{CLOSE}" if self._is_exact else CLOSE
        self._pieces: list[str] = []
        self._inside = False
        self._tail = ""
        self._trimmer = EdgeTrimmer()

    def feed(self, text: str) -> tuple[str, list[Call]]:
        """Return the text outside of calls, and the calls that are complete."""
        if self._schemas is None:
            return text, []
        outside = ""
        calls: list[Call] = []
        text = self._tail + text
        while text:
            marker = self._close if self._inside else OPEN
            at = text.find(marker)
            cut = len(text) - held_length(text, (marker,)) if at < 0 else at
            if self._inside:
                self._pieces.append(text[:cut])
            else:
                outside += text[:cut]
            self._tail = text[cut:] if at < 0 else ""
            if at < 0:
                break
            text = text[at + len(marker) :]
            if self._inside:
                outside += self._end(calls)
            self._inside = not self._inside
        return self._trimmer.feed(outside), calls

    def finish(self) -> tuple[str, list[Call]]:
        """Return what was held back; a call without its end is text."""
        held = "".join([*self._pieces, self._tail])
        if self._inside:
            held = OPEN + held
        self._pieces, self._tail, self._inside = [], "", False
        return self._trimmer.feed(held) if self._schemas is not None else held, []

    def _end(self, calls: list[Call]) -> str:
        """Read the call that is complete; return it as text when it is none."""
        body = "".join(self._pieces)
        self._pieces = []
        call = read_call(body, self._schemas or {}, self._is_exact)
        if call is None:
            return f"{OPEN}{body}{self._close}"
        calls.append(call)
        return ""


def read_call(body: str, schemas: Schemas, is_exact: bool = False) -> Call | None:
    """Return the call between its markers, None for what is none.

    Of a call that a grammar wrote (`is_exact`) a value may hold what ends others.
    """
    closing = END if is_exact else "</parameter>"
    body = body.strip()
    end = body.rfind("</function>")
    name, at = _between(body, 0, "<function=", ">")
    if not name or end < at or body[end + len("</function>") :].strip():
        return None
    properties = schemas.get(name, {})
    at = _skip_space(body, at)
    told = None if is_exact else _object(body[at:end])
    arguments: dict[str, Any] = told or {}
    while at < end and told is None:
        parameter, at = _between(body, at, "<parameter=", ">")
        at += is_exact  # the line end before a value
        stop = body.find(closing, at, end)
        if not parameter or stop < 0:
            return None
        value = body[at:stop] if is_exact else body[at:stop].removeprefix("\n").removesuffix("\n")
        arguments[parameter] = read_value(value, properties.get(parameter), is_exact)
        at = _skip_space(body, stop + len(closing))
    return Call(f"call_{uuid4().hex[:24]}", name, _to_json(arguments))


def _object(text: str) -> dict[str, Any] | None:
    """Return the JSON object that a text is, None for anything else."""
    if not text.startswith("{"):
        return None
    try:
        value = json.loads(text, parse_constant=str, parse_float=_finite)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def is_bare(schema: object) -> bool:
    """Say whether values of a schema are written as bare text: strings and nothing else."""
    return isinstance(schema, Mapping) and schema.get("type") == "string"


def read_value(text: str, schema: object, is_exact: bool = False) -> Any:
    """Return an argument by the type that its schema gives; what is no JSON stays text.

    Without a type only objects and lists are read as JSON, unless a grammar wrote it.
    """
    if is_bare(schema):
        return text
    kind = schema.get("type") if isinstance(schema, Mapping) else None
    try:
        value = json.loads(text, parse_constant=str, parse_float=_finite)
    except (ValueError, RecursionError):
        return text
    is_json = is_exact or kind is not None or isinstance(value, dict | list)
    return value if is_json else text


def _between(text: str, at: int, left: str, right: str) -> tuple[str, int]:
    """Return what stands between two strings, the first one at `at`, and where it ends."""
    if not text.startswith(left, at):
        return "", at
    end = text.find(right, at)
    if end < 0:
        return "", at
    return text[at + len(left) : end].strip(), end + len(right)


def _skip_space(text: str, at: int) -> int:
    """Return the place of the next character that is no space."""
    while at < len(text) and text[at].isspace():
        at += 1
    return at


def _finite(digits: str) -> float | str:
    number = float(digits)
    return number if math.isfinite(number) else digits


def _to_json(arguments: dict[str, Any]) -> str:
    """Return JSON that UTF-8 can hold: half a surrogate pair may have been written as an escape."""
    text = json.dumps(arguments, ensure_ascii=False)
    return json.dumps(arguments) if is_torn(text) else text
