"""The base tasks, and the pools of words that arguments are drawn from."""

import tomllib
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class Topic:
    """One base task."""

    name: str
    request: str
    """The task as one sentence, without commas, digits or quotes."""
    nouns: tuple[str, ...]
    """Words that an honest reply is likely to use."""


@cache
def _table(name: str) -> dict[str, Any]:
    return tomllib.loads(Path(__file__).with_name(name).read_text(encoding="utf-8"))


@cache
def topics() -> tuple[Topic, ...]:
    """Return the base tasks, in the order of `topics.toml`."""
    return tuple(
        Topic(name=row["name"], request=row["request"], nouns=tuple(row["nouns"].split()))
        for row in _table("topics.toml")["topic"]
    )


@cache
def topic(name: str) -> Topic:
    """Return the base task called `name`. Raises KeyError if there is none."""
    return {each.name: each for each in topics()}[name]


@cache
def pool(name: str) -> tuple[str, ...]:
    """Return a pool of `words.toml`, such as "keywords"."""
    return tuple(_table("words.toml")[name].split())


@cache
def pools(name: str) -> dict[str, tuple[str, ...]]:
    """Return a table of pools of `words.toml`, such as "suffixed"."""
    return {key: tuple(row.split()) for key, row in _table("words.toml")[name].items()}
