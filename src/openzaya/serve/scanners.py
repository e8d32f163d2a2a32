"""Cutting a growing text at markers and stop strings, in linear time.

Every scanner holds back the end of what it was fed while it may be the beginning of a marker, so
what it has given out never has to be taken back.
"""

import re
from collections.abc import Sequence

from openzaya.text.markers import THINK_CLOSE, THINK_OPEN
from openzaya.text.think import SAID_CHARS, may_open

_THINK = re.compile(f"{re.escape(THINK_OPEN)}|{re.escape(THINK_CLOSE)}")


def held_length(text: str, markers: Sequence[str]) -> int:
    """Return the length of the longest end of `text` with which one of the markers begins."""
    longest = 0
    for marker in markers:
        for length in range(min(len(marker) - 1, len(text)), longest, -1):
            if text.endswith(marker[:length]):
                longest = length
                break
    return longest


class StopScanner:
    """Gives out text up to the first stop string."""

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = stops
        self._held = ""
        self.is_hit = False
        """True once a stop string was found; nothing is given out from there on."""

    def feed(self, text: str) -> str:
        """Return what is certain not to belong to a stop string."""
        if not self._stops or not text:
            return text
        if self.is_hit:
            return ""
        text = self._held + text
        found = [at for stop in self._stops if (at := text.find(stop)) >= 0]
        if found:
            self.is_hit, self._held = True, ""
            return text[: min(found)]
        cut = len(text) - held_length(text, self._stops)
        self._held = text[cut:]
        return text[:cut]

    def finish(self) -> str:
        """Return what was held back; no more text comes."""
        held, self._held = self._held, ""
        return held


class EdgeTrimmer:
    """Leaves out the newlines at both ends of a text that comes in pieces."""

    def __init__(self) -> None:
        self._held = ""
        self.is_empty = True
        """True until anything else than newlines came."""

    def feed(self, text: str) -> str:
        """Return the text without its outer newlines, as far as they are known to be inner."""
        if self.is_empty:
            text = text.lstrip("\n")
        if not text:
            return ""
        self.is_empty = False
        text = self._held + text
        body = text.rstrip("\n")
        self._held = text[len(body) :]
        return body


class ThinkScanner:
    """Tells reasoning from answer, as `text.think.split_thinking` does for a whole reply.

    A thought that is never closed is all reasoning. What came as an answer before a block was
    opened again stays an answer; markers that an answer quotes are text.
    """

    def __init__(self, started_in_think: bool, *, once: bool = False) -> None:
        """`once`: after the thought there are no markers, whatever the answer quotes."""
        self._inside = started_in_think
        self._once = once
        self._held = ""
        self._trimmer = EdgeTrimmer()
        self._said = ""
        """The end of what was said since the last marker that counted."""
        self._began = {True: False, False: False}

    @property
    def inside(self) -> bool:
        """True while the text is reasoning."""
        return self._inside

    def feed(self, text: str) -> tuple[str, str]:
        """Return the (reasoning, answer) that the text adds."""
        text = self._held + text
        out = {True: "", False: ""}
        start = 0
        for match in _THINK.finditer(text):
            if self._once and not self._inside:
                break
            out[self._inside] += self._add(text[start : match.start()])
            start = match.end()
            if not self._inside and not may_open(self._said):
                out[False] += self._add(match.group())
                continue
            self._inside = match.group() == THINK_OPEN
            self._trimmer, self._said = EdgeTrimmer(), ""
        rest = text[start:]
        looks = self._inside or not self._once
        cut = len(rest) - (held_length(rest, (THINK_OPEN, THINK_CLOSE)) if looks else 0)
        self._held = rest[cut:]
        out[self._inside] += self._add(rest[:cut])
        return out[True], out[False]

    def finish(self) -> tuple[str, str]:
        """Return what was held back; no more text comes."""
        added = self._add(self._held)
        self._held = ""
        return (added, "") if self._inside else ("", added)

    def _add(self, text: str) -> str:
        """Return what a text adds to its side: blocks of a side are joined by an empty line."""
        self._said = (self._said + text)[-SAID_CHARS:]
        begins = self._trimmer.is_empty
        added = self._trimmer.feed(text)
        if begins and added:
            joint = "\n\n" if self._began[self._inside] else ""
            self._began[self._inside] = True
            return joint + added
        return added
