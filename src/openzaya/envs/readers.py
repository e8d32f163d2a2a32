"""Readers of model text shared by environments. Model text is data: nothing here evaluates it."""

import re
import string

TAGS = string.ascii_lowercase
"""Names of parts, in order: a part is found by its letter, not by counting."""

_PART = re.compile(r"([a-z])([0-9])")


def tagged(values: list[int]) -> str:
    """Return the parts as text, for example a3b0c7."""
    return "".join(f"{TAGS[i]}{value}" for i, value in enumerate(values))


def read_tagged(text: str) -> list[int] | None:
    """Return the digits of a text like a3b0c7, or None unless it is exactly that, in order."""
    compact = "".join(text.split())
    parts = _PART.findall(compact)
    if not parts or "".join(tag + digit for tag, digit in parts) != compact:
        return None
    if [tag for tag, _ in parts] != list(TAGS[: len(parts)]):
        return None
    return [int(digit) for _, digit in parts]


def has_recap(tail: str, num_parts: int) -> bool:
    """Say whether a tail ends in a recap (after the last #) with that many parts."""
    _, mark, recap = tail.rpartition("#")
    parts = read_tagged(recap) if mark else None
    return parts is not None and len(parts) == num_parts


def apply(operator: str, left: int, right: int) -> int:
    """Return `left operator right` modulo 10 for one of + - *."""
    if operator == "+":
        return (left + right) % 10
    if operator == "-":
        return (left - right) % 10
    if operator == "*":
        return (left * right) % 10
    raise ValueError(f"operator {operator!r} is none of + - *")


def claims(tails: list[str]) -> list[str]:
    """Return the tries that candidates claim to be hits (they end in y), each once, in order.

    A try is the text between two verdicts, y for a hit and n for a miss; the tail's first may be
    cut and is returned all the same: whoever uses it has to check it.
    """
    found: dict[str, None] = {}
    for tail in tails:
        for attempt in re.findall(r"[^yn#]*[yn]", tail):
            if attempt.endswith("y"):
                found[attempt[:-1]] = None
    return list(found)
