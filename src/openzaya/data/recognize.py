"""What a record of somebody's data set means: plain text, or a conversation with its thinking.

Known shapes, the first that fits counts:

    messages, conversations or conversation     list of turns: role/content or from/value
    prompt and completion                       texts or lists of turns
    question, problem, instruction, query       with answer, solution, output, response
    text or content                             plain text

An assistant's thinking is found in `reasoning`, `reasoning_content` or `thinking`, in a content
part of the type `thinking`, or between think markers in the content. `tools` may be JSON text.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from openzaya.core.errors import DataError
from openzaya.text.markers import THINK_CLOSE, THINK_OPEN
from openzaya.text.think import split_thinking

Record = Mapping[str, Any]

_TURNS = ("messages", "conversations", "conversation")
_QUESTIONS = ("question", "problem", "instruction", "query")
_ANSWERS = ("answer", "solution", "output", "response")
_REASONING = ("reasoning", "reasoning_content", "thinking")
_TEXTS = ("text", "content")
_ROLES = {
    **{role: role for role in ("system", "user", "assistant", "tool")},
    **dict.fromkeys(("human", "prompter"), "user"),
    **dict.fromkeys(("gpt", "model", "bot", "chatgpt"), "assistant"),
    **dict.fromkeys(("developer",), "system"),
    **dict.fromkeys(("function", "observation", "tool_response"), "tool"),
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
    if record.get("prompt") is not None and record.get("completion") is not None:
        asked = _turns(record["prompt"], "user")
        return _conversation([*asked, *_turns(record["completion"], "assistant")], record)
    question, answer = _first(record, _QUESTIONS), _first(record, _ANSWERS)
    if question is not None and answer is not None:
        return _conversation(_question_and_answer(record, question, answer), record)
    text = _first(record, _TEXTS)
    if text is None:
        raise DataError("unknown shape: no text, messages, prompt and completion or question")
    if not isinstance(text, str):
        raise DataError("text is not a string")
    if not text.strip():
        raise DataError("empty text")
    return text


def _question_and_answer(record: Record, question: object, answer: object) -> list[dict[str, Any]]:
    extra = record.get("input")
    if isinstance(question, str) and isinstance(extra, str) and extra.strip():
        question = f"{question}\n\n{extra}"
    reply = {"role": "assistant", "content": answer}
    reply.update({name: record[name] for name in _REASONING if record.get(name)})
    turns = [{"role": "user", "content": question}, reply]
    if isinstance(record.get("system"), str) and record["system"].strip():
        turns.insert(0, {"role": "system", "content": record["system"]})
    return turns


def _first(record: Record, names: Sequence[str]) -> object:
    return next((record[name] for name in names if record.get(name) is not None), None)


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
    if not any(message["role"] == "assistant" for message in messages):
        raise DataError("no assistant turn: nothing to train on")
    if not any(message["content"].strip() for message in messages):
        raise DataError("empty conversation")
    last = next(message for message in reversed(messages) if message["role"] == "assistant")
    if not last["content"].strip() and not last.get("tool_calls"):
        raise DataError("the last assistant turn has no answer")
    return Conversation(messages, _tools(record.get("tools")))


def _message(turn: Record) -> dict[str, Any]:
    """Return one turn with the usual names."""
    given = turn.get("role", turn.get("from"))
    role = _ROLES.get(given.strip().lower()) if isinstance(given, str) else None
    if role is None:
        raise DataError("unknown role")
    content, thought = _content(turn.get("content", turn.get("value")))
    message: dict[str, Any] = {"role": role, "content": content}
    if role != "assistant":
        return message
    apart = next((turn[name] for name in _REASONING if turn.get(name)), thought)
    if apart is not None and not isinstance(apart, str):
        raise DataError("reasoning is not a string")
    if apart is None and (THINK_OPEN in content or THINK_CLOSE in content):
        parted = split_thinking(content, started_in_think=False)
        if not parted.closed:
            raise DataError("reasoning never ends: no closing think marker")
        apart, message["content"] = parted.reasoning, parted.answer
    if apart and apart.strip():
        message["reasoning"] = apart.strip("\n")
    if turn.get("tool_calls"):
        message["tool_calls"] = [_call(call) for call in _list(turn["tool_calls"], "tool_calls")]
    return message


def _content(value: object) -> tuple[str, str | None]:
    """Return the text of a content and the thinking among its parts."""
    if value is None or isinstance(value, str):
        return value or "", None
    texts: list[str] = []
    thoughts: list[str] = []
    for part in _list(value, "content"):
        kind = part.get("type", "text")
        text = part.get(kind) if kind in ("text", "thinking") else None
        if not isinstance(text, str):
            raise DataError("content that is not text: leave images and other media out")
        (texts if kind == "text" else thoughts).append(text)
    return "".join(texts), "\n\n".join(thoughts) or None


def _call(call: Mapping[str, Any]) -> dict[str, Any]:
    """Return a tool call whose arguments are a mapping."""
    function = call.get("function")
    body = dict(function if isinstance(function, Mapping) else call)
    arguments = body.get("arguments")
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments or "{}")
        except ValueError as error:
            raise DataError("tool call arguments are not JSON") from error
    if not isinstance(body.get("name"), str) or not isinstance(arguments or {}, Mapping):
        raise DataError("a tool call needs a name and an object of arguments")
    # Columns of a table hold every argument of every tool: those without a value were not given.
    given = {key: value for key, value in (arguments or {}).items() if value is not None}
    return {"function": {"name": body["name"], "arguments": given}}


def _tools(value: object) -> list[dict[str, Any]] | None:
    if isinstance(value, str):
        try:
            value = json.loads(value or "[]")
        except ValueError as error:
            raise DataError("tools are not JSON") from error
    return [dict(tool) for tool in _list(value, "tools")] if value else None


def _list(value: object, name: str) -> list[Mapping[str, Any]]:
    if not isinstance(value, Sequence) or isinstance(value, str | bytes):
        raise DataError(f"{name} is not a list")
    if not all(isinstance(item, Mapping) for item in value):
        raise DataError(f"{name} holds something that is no object")
    return list(value)
