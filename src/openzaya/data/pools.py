"""Pools of attempts from files: own rollouts, an expert's, anybody's, as one JSON object a line.

Files may be packed (.gz, .zst) and may be URLs, as those of `prepare`.

    {"id": "p1",                         names the problem; else its line does
     "question": "...",                  or "messages": turns that end with the user's
     "attempts": [A, ...],               at the plain question
     "aggregated": [A, ...],             at an aggregation prompt; may be left out
     "target": A}                        the reply to learn; may be left out

An attempt A is a text, with think markers or not, or an object with `reasoning`, `content` and
perhaps `right`, a verifier's verdict. Without a target the first right attempt is learnt, one of a
later round before others, and is no candidate.

Paper: VI-B.
"""

import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from openzaya.core.errors import DataError
from openzaya.core.records import Message
from openzaya.data.aggregation import AggregationExample, CandidatePool
from openzaya.data.sources import Fault, decode, unpacked
from openzaya.text.think import Thought, split_thinking

ROLES = ("system", "user", "assistant", "tool")


def read_pools(paths: Iterable[str | Path]) -> Iterator[tuple[str, AggregationExample | str]]:
    """Go through the problems of files: place and example, or place and why it cannot be used.

    Raises DataError for a file that cannot be read.
    """
    for path in map(str, paths):
        try:
            with unpacked(path) as lines:
                for number, line in enumerate(lines, 1):
                    place = f"{path}:{number}"
                    if line.strip():
                        yield place, _example_or_reason(line, place)
        except (OSError, ValueError, EOFError, zlib.error) as error:
            raise DataError(f"{path} cannot be read: {error}; name a jsonl file") from error


def _example_or_reason(line: bytes, place: str) -> AggregationExample | str:
    record = decode(line)
    if isinstance(record, Fault):
        return record.reason
    if not isinstance(record, Mapping):
        return "it is no object, expected one with question and attempts"
    try:
        return to_example(record, place)
    except DataError as error:
        return str(error)


def to_example(record: Mapping[str, Any], place: str = "") -> AggregationExample:
    """Return the example of one record. Raises DataError when it is not of the shape above."""
    attempts = _attempts(record, "attempts")
    aggregated = _attempts(record, "aggregated")
    target = record.get("target")
    if target is not None:
        chosen, _ = _attempt(target, "target")
    else:
        chosen = _take_right(aggregated) or _take_right(attempts) or _nothing_to_learn()
    if not chosen.answer.strip():
        raise DataError("the target has no answer, expected a finished reply; leave it out")
    pool = CandidatePool(
        key=str(record.get("id") or place),
        messages=_conversation(record),
        first_round=tuple(thought for thought, _ in attempts),
        second_round=tuple(thought for thought, _ in aggregated),
    )
    reply = Message("assistant", chosen.answer, reasoning=chosen.reasoning or None)
    return AggregationExample(pool=pool, target=reply)


def _conversation(record: Mapping[str, Any]) -> tuple[Message, ...]:
    question = record.get("question")
    if isinstance(question, str) and question.strip():
        return (Message("user", question),)
    turns = record.get("messages")
    if not isinstance(turns, Sequence) or isinstance(turns, str) or not turns:
        raise DataError("it has neither question nor messages; give one of them")
    messages = tuple(map(_message, turns))
    if messages[-1].role != "user":
        raise DataError(f"messages end with {messages[-1].role}, expected the user's question")
    return messages


def _message(turn: object) -> Message:
    role = turn.get("role") if isinstance(turn, Mapping) else None
    content = turn.get("content") if isinstance(turn, Mapping) else None
    if role not in ROLES or not isinstance(content, str):
        raise DataError(f"a turn has the role {role!r} or no text, expected one of {ROLES}")
    return Message(role, content)


def _attempts(record: Mapping[str, Any], name: str) -> list[tuple[Thought, bool]]:
    values = record.get(name) or []
    if not isinstance(values, list):
        raise DataError(f"{name} is {type(values).__name__}, expected a list")
    return [_attempt(value, name) for value in values]


def _attempt(value: object, name: str) -> tuple[Thought, bool]:
    """Return an attempt and whether it is known to be right."""
    if isinstance(value, str):
        return split_thinking(value, started_in_think=False), False
    if not isinstance(value, Mapping):
        raise DataError(f"{name} holds {type(value).__name__}, expected texts or objects")
    reasoning, content = value.get("reasoning") or "", value.get("content") or ""
    if not isinstance(reasoning, str) or not isinstance(content, str):
        raise DataError(f"{name} holds an object without texts, expected reasoning and content")
    thought = Thought(reasoning=reasoning, answer=content, closed=bool(content.strip()))
    return thought, value.get("right") is True


def _take_right(attempts: list[tuple[Thought, bool]]) -> Thought | None:
    """Take the first right and finished attempt out of the list."""
    for index, (thought, is_right) in enumerate(attempts):
        if is_right and thought.closed:
            del attempts[index]
            return thought
    return None


def _nothing_to_learn() -> Thought:
    raise DataError("it has no target and no attempt that is right; add one or leave it out")
