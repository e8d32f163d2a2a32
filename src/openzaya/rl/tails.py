"""Tails of the policy's own rollouts, kept for self-aggregation prompts.

Paper: VI-B(b).
"""

import json
from collections import OrderedDict
from dataclasses import dataclass, replace
from typing import Any

from openzaya.core.errors import DataError
from openzaya.core.records import Message


@dataclass(slots=True)
class TailEntry:
    """One problem with tails of recent attempts."""

    question: tuple[Message, ...]
    """Messages of the plain prompt."""
    payload: Any
    """What the scorer needs; JSON values only."""
    source: str
    """Environment or data set."""
    tails: list[str]
    """Oldest first."""
    solve_rate: float = 0.0
    """Mean reward of the newest group."""


class TailPool:
    """A bounded map from a problem's key to the tails of its newest rollouts; JSON in and out."""

    def __init__(self, size: int, tails_per_prompt: int) -> None:
        """Keep `size` problems with the newest `tails_per_prompt` tails of each."""
        self.size = size
        self.tails_per_prompt = tails_per_prompt
        self.entries: OrderedDict[str, TailEntry] = OrderedDict()

    def __len__(self) -> int:
        """Return how many problems have tails."""
        return len(self.entries)

    def add(self, key: str, entry: TailEntry) -> None:
        """Add an attempt's tails; the problem that was touched longest ago leaves when full.

        Raises DataError for a payload that JSON would change: the pool is checkpointed, and a
        resumed run must see the same.
        """
        check_json(entry.payload, key)
        known = self.entries.pop(key, None)
        tails = [*(known.tails if known else []), *entry.tails][-self.tails_per_prompt :]
        self.entries[key] = replace(entry, tails=tails)
        while len(self.entries) > self.size:
            self.entries.popitem(last=False)

    def to_json(self) -> list[dict[str, Any]]:
        """Return the pool as JSON-compatible values, oldest first."""
        return [
            {
                "key": key,
                "question": messages_to_json(entry.question),
                "payload": entry.payload,
                "source": entry.source,
                "tails": entry.tails,
                "solve_rate": entry.solve_rate,
            }
            for key, entry in self.entries.items()
        ]

    def load(self, values: list[dict[str, Any]]) -> None:
        """Take a pool back."""
        self.entries = OrderedDict(
            (
                value["key"],
                TailEntry(
                    messages_from_json(value["question"]),
                    value["payload"],
                    value["source"],
                    list(value["tails"]),
                    value["solve_rate"],
                ),
            )
            for value in values
        )


def messages_to_json(messages: tuple[Message, ...]) -> list[list[str | None]]:
    """Return messages as JSON values."""
    return [[m.role, m.content, m.reasoning] for m in messages]


def messages_from_json(values: list[Any]) -> tuple[Message, ...]:
    """Take messages back."""
    return tuple(Message(role, content, reasoning) for role, content, reasoning in values)


def check_json(payload: Any, key: str) -> None:
    """Raise DataError unless a payload comes back from JSON as it was."""
    try:
        same = json.loads(json.dumps(payload)) == payload
    except (TypeError, ValueError):
        same = False
    if not same:
        raise DataError(
            f"the payload of prompt {key!r} is {type(payload).__name__} data that JSON cannot "
            "give back unchanged, so a checkpoint would lose it; use dicts with text keys, lists, "
            "text and numbers"
        )
