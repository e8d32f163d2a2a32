r"""Where the answer of a reply is.

Only the final region counts: the text behind the last think block. In it an answer is marked by
`\boxed{...}`, else by a line such as `The answer is ...`; without either the region itself has to
be one short line. All marked candidates have to be right, so a second, different one spoils the
first. Empty boxes mark nothing: models repeat the instruction that way.
"""

import re
from dataclasses import dataclass
from typing import Literal

from openzaya.envs.math.limits import (
    MAX_ANSWER_CHARS,
    MAX_MARKERS,
    MAX_STATEMENTS,
    Refused,
    Unreadable,
)
from openzaya.text.think import split_thinking

MAX_BARE_CHARS = 400
"""Characters of a reply without any marker that may be one answer."""

Marker = Literal["box", "statement", "bare"]

_BOX = re.compile(r"\\(?:boxed|fbox)\s*\{")
_STATEMENT = re.compile(
    r"(?<![A-Za-z])[Aa](?:nswer|NSWER)"
    r"\**(?:\s+is\b(?:\s+(?:therefore|thus|simply))?(?!')\s*:?|\s*[:=])"
)
_BRACE = re.compile(r"\\.|[{}]", re.DOTALL)
_SENTENCE_END = re.compile(r"[.!?](?=\s|$)|\n")
_BEFORE = ("**", "__", "$", r"\(", r"\[", "`")
_AFTER = ("**", "__", "$", r"\)", r"\]", "`")
_MAX_WRAPPINGS = 16


@dataclass(frozen=True, slots=True)
class Candidate:
    """An answer as the reply marks it."""

    marker: Marker
    text: str
    start: int
    """Where it begins in the final region."""


@dataclass(frozen=True, slots=True)
class Extraction:
    """The final region of a reply and the candidates in it."""

    region: str
    candidates: tuple[Candidate, ...]


def extract(
    reply: str, *, started_in_think: bool = True, marker_required: bool = False
) -> Extraction:
    """Return the final region and its candidates, equal texts once, in order.

    A statement is only a candidate if whoever calls can read it: prose such as `the answer is found
    by adding` is dropped there. Raises Refused when the reply has no answer.
    """
    thought = split_thinking(reply, started_in_think=started_in_think)
    if not thought.closed:
        raise Refused("the reasoning was never closed, so there is no final answer")
    region = thought.answer
    if not region.strip():
        raise Refused("the final region is empty")
    boxes = _boxes(region)
    found = boxes + _statements(region)
    if not found and not marker_required:
        found = [_bare(region)]
    if not found:
        raise Refused("no answer is marked in the final region")
    if len(found) > MAX_MARKERS:
        raise Refused(f"{len(found)} answers are marked; at most {MAX_MARKERS} are read")
    return Extraction(region, tuple(sorted(_distinct(found), key=lambda one: one.start)))


def _distinct(found: list[Candidate]) -> list[Candidate]:
    """Drop repetitions: the same marker with the same text, however it is spaced."""
    seen = {(one.marker, " ".join(one.text.split())): one for one in reversed(found)}
    return list(seen.values())


def _boxes(region: str) -> list[Candidate]:
    """Return the contents of all boxes that are not empty, in one pass over the region.

    Raises Unreadable for a box that is never closed. Boxes inside a box belong to it.
    """
    found: list[Candidate] = []
    position = 0
    while (match := _BOX.search(region, position)) is not None:
        end = _closing(region, match.end())
        if end is None:
            raise Unreadable("a box is never closed")
        text = unwrapped(region[match.end() : end])
        if text:
            found.append(Candidate("box", text, match.start()))
        position = end + 1
        if len(found) > MAX_MARKERS:
            raise Refused(f"more than {MAX_MARKERS} boxes")
    return found


def _closing(region: str, start: int) -> int | None:
    r"""Return where the brace that is open at `start` closes; `\{` and `\}` do not count."""
    depth = 1
    for match in _BRACE.finditer(region, start):
        depth += {"{": 1, "}": -1}.get(match[0], 0)
        if depth == 0:
            return match.start()
    return None


def _statements(region: str) -> list[Candidate]:
    """Return what `answer is ...` lines state; a line that states a box adds nothing."""
    found: list[Candidate] = []
    for count, match in enumerate(_STATEMENT.finditer(region)):
        if count == MAX_STATEMENTS:
            raise Refused(f"more than {MAX_STATEMENTS} places say `answer is`")
        longest = match.end() + MAX_ANSWER_CHARS
        end = _SENTENCE_END.search(region, match.end(), longest)
        stop = end.start() if end is not None else longest
        text = region[match.end() : stop]
        if not unwrapped(text) and end is not None:  # `Answer:` with the value on the next line
            following = region[end.end() : end.end() + MAX_ANSWER_CHARS].lstrip()
            text = following.partition("\n")[0]
        if _BOX.search(text):
            continue
        text = unwrapped(text)
        if text:
            found.append(Candidate("statement", text, match.end()))
        if len(found) > MAX_MARKERS:
            raise Refused(f"more than {MAX_MARKERS} stated answers")
    return found


def _bare(region: str) -> Candidate:
    """Return the region itself. Raises Refused when it is no single short line."""
    text = region.strip()
    if len(text) <= MAX_BARE_CHARS:
        text = unwrapped(text)
    if "\n" in text and r"\begin" not in text:
        raise Refused("no answer is marked, and the final region has several lines")
    if len(text) > MAX_BARE_CHARS:
        raise Refused(f"no answer is marked, and the final region has {len(text)} characters")
    return Candidate("bare", text, 0)


def unwrapped(text: str) -> str:
    r"""Return a text without mathematics signs, emphasis, full stop and `\ ` around it."""
    for _ in range(_MAX_WRAPPINGS):
        before, text = text, text.strip()
        if text.endswith((".", "\\")) and not text.endswith(("..", "\\\\")):
            text = text[:-1].rstrip()
        for sign in _BEFORE:
            text = text.removeprefix(sign)
        for sign in _AFTER:
            text = text.removesuffix(sign)
        if text == before:
            break
    return text
