"""Finding the contents of messages in rendered text, whatever the template.

Every content is replaced by a sentinel, the template runs, and the text is split where the
sentinels come out. So borders between template and content are known without a second
implementation of the template.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from openzaya.core.errors import DataError
from openzaya.core.records import Message
from openzaya.text.document import Kind, SegmentRole
from openzaya.text.markers import strip_markers

# Private-use characters: no template looks for them.
_SENTINEL = re.compile("\ue0f0([0-9]{1,9})\ue0f1")
_ROLES: tuple[SegmentRole, ...] = ("system", "user", "assistant", "tool")
_KINDS: dict[str, Kind] = {"system": "text", "user": "text", "assistant": "answer", "tool": "tool"}
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Content:
    """What one message contributes to the text."""

    text: str
    """Empty only where an assistant's turn is nothing but tool calls."""
    kind: Kind
    """think and answer for an assistant, tool for a tool, text for the others."""
    role: SegmentRole
    """The message's role."""
    message: int
    """The message's index."""


def as_mapping(message: Message | Mapping[str, Any]) -> dict[str, Any]:
    """Return a turn as the mapping that templates expect.

    `content` becomes one string, `reasoning` stays away when there is none. Raises DataError for
    an unknown role or for content that is not text.
    """
    if isinstance(message, Message):
        turn: dict[str, Any] = {"role": message.role, "content": message.content}
        if message.reasoning is not None:
            turn["reasoning"] = message.reasoning
    else:
        turn = dict(message)
        turn["content"] = _flat(turn.get("content"))
        reasoning = turn.pop("reasoning_content", None)
        if turn.get("reasoning") is None:
            turn.pop("reasoning", None)
            if reasoning is not None:
                turn["reasoning"] = reasoning
        if turn.get("tool_calls"):
            turn["tool_calls"] = clean_strings(turn["tool_calls"])
    if turn.get("role") not in _ROLES:
        raise DataError(
            f"a message has the role {turn.get('role')!r}, expected one of {', '.join(_ROLES)}; "
            "correct the message"
        )
    if "reasoning" in turn:
        # Templates written for other servers look for this name.
        turn["reasoning_content"] = turn["reasoning"]
    return turn


def place_sentinels(
    turns: Sequence[Mapping[str, Any]],
) -> tuple[list[dict[str, Any]], list[Content]]:
    """Return the turns with sentinels for contents, and the contents they stand for."""
    contents: list[Content] = []
    marked: list[dict[str, Any]] = []
    for index, turn in enumerate(turns):
        copy = dict(turn)
        role: SegmentRole = turn["role"]
        fields: list[tuple[str, Kind]] = [("content", _KINDS[role])]
        if role == "assistant":
            fields.insert(0, ("reasoning", "think"))
        for name, kind in fields:
            text = turn.get(name)
            calls_alone = name == "content" and turn.get("tool_calls") and not turn.get("reasoning")
            if text or (role == "assistant" and calls_alone):
                copy[name] = f"\ue0f0{len(contents)}\ue0f1"
                contents.append(Content(text or "", kind, role, index))
        if "reasoning" in copy:
            copy["reasoning_content"] = copy["reasoning"]
        marked.append(copy)
    return marked, contents


def name_functions(
    turns: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]] | None
) -> tuple[list[dict[str, Any]], list[dict[str, Any]], dict[str, str]]:
    """Return turns and tools with a name of ours in every call and tool, and these names.

    Each name goes with what it stands in: tool_calls or tools.
    """
    names: dict[str, str] = {}

    def named(entry: Mapping[str, Any], kind: str) -> dict[str, Any]:
        name = f"openzaya_function_{len(names)}_"
        names[name] = kind
        if isinstance(entry.get("function"), Mapping):
            return {**entry, "function": {**entry["function"], "name": name}}
        return {**entry, "name": name}

    copies = [dict(turn) for turn in turns]
    for copy in copies:
        if copy.get("tool_calls"):
            copy["tool_calls"] = [named(call, "tool_calls") for call in copy["tool_calls"]]
    return copies, [named(tool, "tools") for tool in tools or ()], names


def split_at_sentinels(text: str, contents: Sequence[Content]) -> list[str | Content]:
    """Return template text and contents in the order in which the template wrote them."""
    parts: list[str | Content] = []
    for index, part in enumerate(_SENTINEL.split(text)):
        if index % 2 == 0:
            if part:
                parts.append(part)
        elif int(part) < len(contents):
            parts.append(contents[int(part)])
    return parts


def without_line_ends(parts: Sequence[str | Content], line_ends: str) -> list[str | Content]:
    """Take away `line_ends` that a template puts between a content and the calls behind it.

    Where there is no content, they write none.
    """
    found: list[str | Content] = []
    for part in parts:
        before = found[-1] if found else None
        if isinstance(part, str) and isinstance(before, Content) and not before.text:
            found.append(part.removeprefix(line_ends))
        else:
            found.append(part)
    return found


def clean_conversation(turn: Mapping[str, Any]) -> dict[str, Any]:
    """Return a turn whose content and reasoning hold no markers."""
    copy = dict(turn)
    for name in ("content", "reasoning", "reasoning_content"):
        if isinstance(copy.get(name), str):
            copy[name] = strip_markers(copy[name])
    return copy


def clean_strings(value: _T) -> _T:
    """Return JSON-like data with the markers removed from every string in it."""
    cleaned: Any = value
    if isinstance(value, str):
        cleaned = strip_markers(value)
    elif isinstance(value, Mapping):
        cleaned = {clean_strings(key): clean_strings(item) for key, item in value.items()}
    elif isinstance(value, list | tuple):
        cleaned = [clean_strings(item) for item in value]
    result: _T = cleaned
    return result


def _flat(content: object) -> str:
    """Join the text parts of a content in the shape of the OpenAI API."""
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    if isinstance(content, list) and all(
        isinstance(part, Mapping) and isinstance(part.get("text"), str) for part in content
    ):
        return "".join(part["text"] for part in content)
    raise DataError(
        f"a message's content is a {type(content).__name__}, expected a string or a list of text "
        "parts; leave images and other media out"
    )
