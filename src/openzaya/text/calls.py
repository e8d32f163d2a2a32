"""Tool calls as text: how a reply of a server that parses calls itself is kept in one string.

    <tool_call>
    {"name": "add", "arguments": {"a": 17}}
    </tool_call>

A run keeps candidates as text, votes over text and resumes from text. Nothing but JSON is read, in
one pass; a block that is none stays text.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

_BLOCK = re.compile(r"<tool_call>\n(\{[^\n]*\})\n</tool_call>")


@dataclass(frozen=True, slots=True)
class TextCall:
    """One call."""

    name: str
    arguments: str
    """JSON text, as the model wrote it."""


def calls_to_text(calls: Sequence[TextCall]) -> str:
    """Return calls as text, one block each; arguments that are no JSON stay a string."""
    blocks = []
    for call in calls:
        try:
            arguments: Any = _loads(call.arguments) if call.arguments.strip() else {}
        except (ValueError, RecursionError):
            arguments = call.arguments
        line = json.dumps({"name": call.name, "arguments": arguments}, ensure_ascii=True)
        blocks.append(f"<tool_call>\n{line}\n</tool_call>")
    return "\n".join(blocks)


def split_calls(text: str) -> tuple[str, list[TextCall]]:
    """Return the text outside of calls, and the calls."""
    calls: list[TextCall] = []
    outside: list[str] = []
    at = 0
    for match in _BLOCK.finditer(text):
        call = _read(match[1])
        if call is None:
            continue
        calls.append(call)
        outside.append(text[at : match.start()])
        at = match.end()
    outside.append(text[at:])
    return "".join(outside).strip("\n") if calls else text, calls


def canonical_calls(calls: Sequence[TextCall]) -> str:
    """Return what votes are cast over: names and arguments, whatever their order and spacing."""
    told = []
    for call in calls:
        try:
            arguments: Any = _loads(call.arguments)
        except (ValueError, RecursionError):
            arguments = call.arguments
        told.append({"arguments": arguments, "name": call.name})
    return json.dumps(told, sort_keys=True, ensure_ascii=True, separators=(",", ":"))


def _loads(text: str) -> Any:
    """Return JSON. Raises ValueError for the constants that JSON does not have."""

    def refuse(name: str) -> NoReturn:
        raise ValueError(f"{name} is no JSON")

    return json.loads(text, parse_constant=refuse)


def _read(line: str) -> TextCall | None:
    """Return the call in a line, None for what is none."""
    try:
        value = _loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(value, dict) or not isinstance(value.get("name"), str):
        return None
    arguments = value.get("arguments", {})
    text = arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=True)
    return TextCall(value["name"], text)
