"""Prompts and texts without what is stored already: a quoted tail is kept as a reference."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from openzaya.core.records import Message
from openzaya.ttc.result import Candidate

LONG_PARTS = ("thinking", "answer_text", "tail")
"""Parts of a candidate that usually occur in its text."""


def pack_prompt(
    messages: Sequence[Message], parents: Sequence[int], tails: Mapping[int, str]
) -> list[dict[str, Any]]:
    """Return messages whose content is a list of texts and of slots whose tails stand there."""
    packed = [asdict(m) for m in messages]
    parts: list[str | int] = [packed[-1]["content"]]
    for slot in parents:
        tail = tails.get(slot, "").strip()
        rest = parts[-1]
        if not tail or not isinstance(rest, str) or (at := rest.find(tail)) < 0:
            continue
        parts[-1:] = [rest[:at], slot, rest[at + len(tail) :]]
    packed[-1]["content"] = parts
    return packed


def unpack_prompt(
    packed: Sequence[Mapping[str, Any]], tails: Mapping[int, str]
) -> list[dict[str, Any]]:
    """Return the messages again; `tails` are those of the stage before."""
    messages = [dict(m) for m in packed]
    parts = messages[-1]["content"]
    messages[-1]["content"] = "".join(
        part if isinstance(part, str) else tails[part].strip() for part in parts
    )
    return messages


def tails_needed(packed: Sequence[Mapping[str, Any]]) -> list[int]:
    """Return the slots whose tails a packed prompt refers to."""
    return [part for part in packed[-1]["content"] if not isinstance(part, str)]


def pack_text(candidate: Candidate) -> dict[str, Any]:
    """Return a candidate's texts; a part that occurs in the whole is kept as [begin, length]."""
    whole = candidate.text
    packed: dict[str, Any] = {"text": whole}
    for name in LONG_PARTS:
        part = getattr(candidate, name)
        at = whole.rfind(part)
        packed[name] = part if at < 0 else [at, len(part)]
    return packed


def unpack_text(packed: Mapping[str, Any]) -> dict[str, str]:
    """Return the texts again."""
    whole = packed["text"]
    texts = {"text": whole}
    for name in LONG_PARTS:
        part = packed[name]
        texts[name] = part if isinstance(part, str) else whole[part[0] : part[0] + part[1]]
    return texts
