"""Tails of the policy's own rollouts, kept for self-aggregation prompts.

Paper: VI-B(b).
"""

from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

from openzaya.core.records import Message


@dataclass(slots=True)
class TailEntry:
    """One problem with tails of recent attempts."""

    question: tuple[Message, ...]
    payload: Any
    source: str
    tails: list[str]


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
        """Add an attempt's tails; the problem that was touched longest ago leaves when full."""
        known = self.entries.pop(key, None)
        tails = [*(known.tails if known else []), *entry.tails][-self.tails_per_prompt :]
        self.entries[key] = TailEntry(entry.question, entry.payload, entry.source, tails)
        while len(self.entries) > self.size:
            self.entries.popitem(last=False)

    def to_json(self) -> list[Any]:
        """Return the pool as JSON-compatible values, oldest first."""
        return [
            [key, [[m.role, m.content] for m in e.question], e.payload, e.source, e.tails]
            for key, e in self.entries.items()
        ]

    def load(self, values: list[Any]) -> None:
        """Take a pool back."""
        self.entries = OrderedDict(
            (
                key,
                TailEntry(
                    tuple(Message(role, content) for role, content in question),
                    payload,
                    source,
                    list(tails),
                ),
            )
            for key, question, payload, source, tails in values
        )
