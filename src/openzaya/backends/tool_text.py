"""Tool calls that a server took out of a reply, put back between the marks that a model writes.

Their arguments stay the JSON that came: as text by text, 5 and "5" would look the same.
"""

import json
from typing import Any

from openzaya.backends.sse import StreamError, clip
from openzaya.text.markers import TOOL_MARKERS

OPEN, CLOSE = TOOL_MARKERS[:2]
MAX_CALLS = 128


class ToolCalls:
    """Collects the deltas of tool calls, by index."""

    __slots__ = ("_arguments", "_names")

    def __init__(self) -> None:
        """Start with none."""
        self._names: dict[int, str] = {}
        self._arguments: dict[int, list[str]] = {}

    def __bool__(self) -> bool:
        """Whether there is any call."""
        return bool(self._names)

    def add(self, deltas: Any, data: str) -> None:
        """Take in the `tool_calls` of a delta. Raises StreamError for anything else."""
        for delta in deltas if isinstance(deltas, list) else [None]:
            index = delta.get("index", 0) if isinstance(delta, dict) else None
            function = delta.get("function") if isinstance(delta, dict) else None
            if type(index) is not int or not 0 <= index < MAX_CALLS:
                raise StreamError(f"a tool call is not of the form asked for: {clip(data)!r}")
            name, arguments = "", ""
            if isinstance(function, dict):
                name, arguments = function.get("name") or "", function.get("arguments") or ""
            if not isinstance(name, str) or not isinstance(arguments, str):
                raise StreamError(f"a tool call holds something else than text: {clip(data)!r}")
            self._names[index] = self._names.get(index, "") + name
            self._arguments.setdefault(index, []).append(arguments)

    def text(self, follows_content: bool) -> str:
        """Return all calls; serve/tool_calls.py reads them."""
        calls = [
            f"{OPEN}\n<function={name}>\n{_written(self._arguments[index])}</function>\n{CLOSE}"
            for index, name in sorted(self._names.items())
        ]
        return ("\n" if follows_content else "") + "\n".join(calls)


def _written(pieces: list[str]) -> str:
    """Return arguments as JSON in which no mark can stand; what is no object stays as it came."""
    text = "".join(pieces)
    try:
        arguments = json.loads(text or "{}", parse_constant=str)
    except (ValueError, RecursionError):
        return text
    if not isinstance(arguments, dict):
        return text
    return json.dumps(arguments, ensure_ascii=False).replace("<", "\\u003c") + "\n"
