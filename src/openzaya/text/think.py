"""Taking a reply apart into what was thought and what was answered."""

import json
from dataclasses import dataclass

from openzaya.text.markers import IM_END, THINK_CLOSE, THINK_OPEN, TOOL_MARKERS

SAID_CHARS = 256
"""How much of an answer's end tells whether a block may begin there."""
_CALL_END = TOOL_MARKERS[1]


@dataclass(frozen=True, slots=True)
class Thought:
    """A reply in two parts."""

    reasoning: str
    """All think blocks, joined by an empty line; markers and outer newlines removed."""
    answer: str
    """Everything outside the blocks, joined likewise; empty while a block is still open."""
    closed: bool
    """False when the text ends inside a think block."""


def split_thinking(text: str, started_in_think: bool = True, *, stops: bool = True) -> Thought:
    """Split what a model generated into reasoning and answer.

    `started_in_think` says that the prompt already opened the block; an opening marker that the
    model repeats is harmless, and a reply whose first marker is a closing one began inside a block
    whatever the prompt said, unless all of it is JSON. The first closing marker ends the block.
    Behind it an answer may quote markers: only right behind a block or a tool call another block
    begins, which joins the first. The reply ends at the first stop token, unless it is not `stops`:
    the text was not generated, and may write about the token.
    """
    before, closing, after = text.rpartition(THINK_CLOSE)
    is_quoted = bool(closing) and not started_in_think and _is_json(text)
    is_plain = "<" not in before and "<" not in after  # as a rule: no other marker at all
    if closing and is_plain and not is_quoted:
        return Thought(before.strip("\n"), after.strip("\n"), closed=True)
    text = text.partition(IM_END)[0] if stops else text
    parts = _parts(text)
    inside = started_in_think or (parts[1:2] == [THINK_CLOSE] and not is_quoted)
    reasoning: list[str] = []
    answer: list[str] = []
    said = ""
    for part, marker in zip(parts[::2], [*parts[1::2], ""], strict=True):
        said += part
        if not inside and marker and not may_open(said):
            said += marker
            continue
        if said.strip("\n"):
            (reasoning if inside else answer).append(said.strip("\n"))
        said = ""
        inside = marker == THINK_OPEN if marker else inside
    return Thought(
        reasoning="\n\n".join(reasoning),
        answer="" if inside else "\n\n".join(answer),
        closed=not inside,
    )


def all_answer(text: str) -> str:
    """Return a text without reasoning, begun outside a block, so that none is found in it."""
    return THINK_CLOSE + text if THINK_CLOSE in text else text


def _is_json(text: str) -> bool:
    if not text.lstrip().startswith(("{", "[")):
        return False
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


def may_open(said: str) -> bool:
    """Say whether a block may begin behind what was said since the last one: nothing, or a call."""
    end = said[-SAID_CHARS:].rstrip()
    return not end or end.endswith(_CALL_END)


def _parts(text: str) -> list[str]:
    """Return what stands between markers and the markers, in turns; a regex takes longer."""
    parts: list[str] = []
    for closed in text.split(THINK_CLOSE):
        for opened in closed.split(THINK_OPEN):
            parts += (opened, THINK_OPEN)
        parts[-1] = THINK_CLOSE
    return parts[:-1]
