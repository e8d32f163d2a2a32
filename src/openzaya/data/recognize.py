"""What a record of somebody's data set means: plain text, or a conversation with its thinking.

Known shapes, the first that fits counts:

    messages, conversations or conversation     list of turns: role/content or from/value
    prompt and completion                       texts or lists of turns
    question, problem, instruction, query,      with answer, solution, output, response,
    prompt, input                               completion; texts or lists of turns
    text or content                             plain text

`system` beside the first three is the first turn, unless the turns have one.

An assistant's thinking is found in `reasoning`, `reasoning_content` or `thinking`, in a content
part of the type `thinking`, or between think markers in the content. Its calls are found in
`tool_calls` or `function_call`, or in a turn from `function_call`. They, their arguments and
`tools` (or `functions`) may be JSON text.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from openzaya.core.errors import DataError
from openzaya.text.markers import IM_END, THINK_CLOSE, THINK_OPEN
from openzaya.text.think import split_thinking

Record = Mapping[str, Any]

_TURNS = ("messages", "conversations", "conversation")
_QUESTIONS = ("question", "problem", "instruction", "query", "prompt", "input")
_ANSWERS = ("answer", "solution", "output", "response", "completion")
_REASONING = ("reasoning", "reasoning_content", "thinking")
_TEXTS = ("text", "content")
FIELDS = frozenset(
    (*_TURNS, *_QUESTIONS, *_ANSWERS, *_REASONING, *_TEXTS, "system", "tools", "functions")
)
"""What is looked for in a record."""
_CALLERS = ("function_call", "tool_call")
_ROLES = {
    **{role: role for role in ("system", "user", "assistant", "tool")},
    **dict.fromkeys(("human", "prompter"), "user"),
    **dict.fromkeys(("gpt", "model", "bot", "chatgpt", *_CALLERS), "assistant"),
    **dict.fromkeys(("developer",), "system"),
    **dict.fromkeys(("function", "observation", "tool_response", "function_response"), "tool"),
}


@dataclass(frozen=True, slots=True)
class Conversation:
    """Turns in the shape that `ChatTemplate` takes; at least one is the assistant's."""

    messages: list[dict[str, Any]]
    """role, content, and for an assistant perhaps reasoning and tool_calls."""
    tools: list[dict[str, Any]] | None = None
    """Functions in the shape of the OpenAI API."""


def recognize(record: object) -> Conversation | str:
    """Return the conversation or the plain text of a record.

    Raises DataError when its shape is unknown or there is nothing in it to train on; the message
    is short and names no values, so that equal faults can be counted.
    """
    if not isinstance(record, Mapping):
        raise DataError("not an object: expected fields such as text or messages")
    for name in _TURNS:
        if record.get(name) is not None:
            return _conversation(_turns(record[name]), record)
    for questions, answers in ((("prompt",), ("completion",)), (_QUESTIONS, _ANSWERS)):
        question, answer = _name_of(record, questions), _name_of(record, answers)
        if question and answer:
            return _conversation(_question_and_answer(record, question, answer), record)
    text = _first(record, _TEXTS)
    if text is None:
        raise DataError("unknown shape: no text, messages, prompt and completion or question")
    if not isinstance(text, str):
        raise DataError("text is not a string")
    if not text.strip():
        raise DataError("empty text")
    return text


def _question_and_answer(record: Record, question: str, answer: str) -> list[dict[str, Any]]:
    asked, replied = _turns(record[question], "user"), _turns(record[answer], "assistant")
    extra = record.get("input") if question != "input" else None
    if isinstance(record[question], str) and isinstance(extra, str) and extra.strip():
        asked = _turns(f"{record[question]}\n\n{extra}", "user")
    if isinstance(record[answer], str):
        replied[0].update({name: record[name] for name in _REASONING if record.get(name)})
    return [*asked, *replied]


def _system(record: Record) -> list[dict[str, Any]]:
    """Return what a record tells the system, as a turn, or nothing."""
    told = record.get("system")
    is_told = isinstance(told, str) and told.strip()
    return [{"role": "system", "content": told}] if is_told else []


def _name_of(record: Record, names: Sequence[str]) -> str | None:
    return next((name for name in names if record.get(name) is not None), None)


def _first(record: Record, names: Sequence[str]) -> object:
    name = _name_of(record, names)
    return None if name is None else record[name]


def _turns(value: object, role: str | None = None) -> list[dict[str, Any]]:
    """Return a list of turns; a bare text becomes one turn of `role`."""
    if isinstance(value, str) and role is not None:
        return [{"role": role, "content": value}]
    if not isinstance(value, Sequence) or isinstance(value, str | bytes):
        raise DataError("messages are not a list")
    if not all(isinstance(turn, Mapping) for turn in value):
        raise DataError("a message is not an object")
    return [dict(turn) for turn in value]


def _conversation(turns: list[dict[str, Any]], record: Record) -> Conversation:
    messages = [_message(turn) for turn in turns]
    if messages and messages[0]["role"] != "system":
        messages[:0] = _system(record)
    if not any(message["role"] == "assistant" for message in messages):
        raise DataError("no assistant turn: nothing to train on")
    for message in messages:
        if message["content"].strip() or message.get("tool_calls"):
            continue
        if message["role"] == "assistant":  # it would teach to stop at once
            raise DataError("an assistant turn has no answer")
        if message["role"] == "user":
            raise DataError("a user turn has no text")
    tools = _given(_objects(record.get("tools") or record.get("functions"), "tools"))
    return Conversation(messages, tools or None)


def _message(turn: Record) -> dict[str, Any]:
    """Return one turn with the usual names."""
    given = _first(turn, ("role", "from"))
    name = given.strip().lower() if isinstance(given, str) else ""
    if name not in _ROLES:
        raise DataError("unknown role")
    role, value = _ROLES[name], _first(turn, ("content", "value"))
    if role == "tool" and isinstance(value, Mapping):
        value = json.dumps(value, ensure_ascii=False)
    calls = value if name in _CALLERS else turn.get("tool_calls") or turn.get("function_call")
    content, thought = _content("" if name in _CALLERS else value)
    if role != "assistant":
        return {"role": role, "content": content}
    apart = next((turn[name] for name in _REASONING if turn.get(name)), thought)
    if apart is not None and not isinstance(apart, str):
        raise DataError("reasoning is not a string")
    reasoning, answer = _parted(apart or "", content)
    # Without reasoning it is a reply with thinking switched off: templates write an empty block.
    thought = reasoning if reasoning.strip() else ""
    message: dict[str, Any] = {"role": role, "content": answer, "reasoning": thought}
    if found := _objects(calls, "tool_calls"):
        message["tool_calls"] = [_call(call) for call in found]
    return message


def _parted(apart: str, content: str) -> tuple[str, str]:
    """Return reasoning and answer of a reply whose reasoning stands apart, within, or both."""
    if content.rstrip().endswith(IM_END):  # left over from a rendered text
        content = content.rstrip().removesuffix(IM_END)
    apart = apart.strip("\n").removeprefix(THINK_OPEN).removesuffix(THINK_CLOSE).strip("\n")
    within = THINK_OPEN in content or THINK_CLOSE in content
    # Behind reasoning that stands apart, an answer may write about markers.
    if not within or (apart.strip() and not content.lstrip().startswith(THINK_OPEN)):
        return apart, content.lstrip("\n") if apart.strip() else content
    parted = split_thinking(content, started_in_think=False, stops=False)
    if not parted.closed:
        raise DataError("reasoning never ends: no closing think marker")
    if apart.strip() and parted.reasoning.split() != apart.split():
        raise DataError("reasoning is given twice, and not the same")
    return parted.reasoning, parted.answer


def _content(value: object) -> tuple[str, str | None]:
    """Return the text of a content and the thinking among its parts."""
    if value is None or isinstance(value, str):
        return value or "", None
    texts: list[str] = []
    thoughts: list[str] = []
    for part in _list(value, "content"):
        kind = part.get("type") or "text"
        text = part.get(kind) if kind in ("text", "thinking") else None
        if not isinstance(text, str):
            raise DataError("content that is not text: leave images and other media out")
        (texts if kind == "text" else thoughts).append(text)
    return "".join(texts), "\n\n".join(thoughts) or None


def _call(call: Mapping[str, Any]) -> dict[str, Any]:
    """Return a tool call whose arguments are a mapping."""
    function = call.get("function")
    body = dict(function if isinstance(function, Mapping) else call)
    arguments: Any = _from_json(body.get("arguments"), "tool call arguments")
    if not isinstance(body.get("name"), str) or not isinstance(arguments or {}, Mapping):
        raise DataError("a tool call needs a name and an object of arguments")
    # Columns of a table hold every argument of every tool: those without a value were not given.
    given = {key: value for key, value in (arguments or {}).items() if value is not None}
    # Some templates write the type.
    return {"type": "function", "function": {"name": body["name"], "arguments": given}}


def _objects(value: object, name: str) -> list[dict[str, Any]]:
    """Return a list of objects of which it, any of them or all may be JSON text."""
    found: Any = _from_json(value, name) or []
    if isinstance(found, Mapping):
        found = [found]
    if isinstance(found, Sequence):
        found = [_from_json(item, name) for item in found]
    # A column of objects holds one without values where there is none.
    objects = [dict(item) for item in _list(found, name)]
    return [item for item in objects if any(value is not None for value in item.values())]


def _given(value: Any) -> Any:
    """Return tools without the fields that only other rows of a table have a value for."""
    if isinstance(value, Mapping):
        return {key: _given(item) for key, item in value.items() if item is not None}
    return [_given(item) for item in value] if isinstance(value, list) else value


def _from_json(value: object, name: str) -> object:
    """Return what a text holds, or the value itself when it is no text."""
    if not isinstance(value, str):
        return value
    try:
        found = json.loads(value or "null")
        if "\\u" in value:  # as in a line: half of a surrogate pair is no text
            json.dumps(found, ensure_ascii=False).encode("utf-8")
    except (ValueError, RecursionError) as error:
        raise DataError(f"{name} are not JSON") from error
    return found


def _list(value: object, name: str) -> list[Mapping[str, Any]]:
    if not isinstance(value, Sequence) or isinstance(value, str | bytes):
        raise DataError(f"{name} is not a list")
    if not all(isinstance(item, Mapping) for item in value):
        raise DataError(f"{name} holds something that is no object")
    return list(value)
