"""Cutting the last tau tokens of a text that another server generated.

The rungs, best first: token ids that came with the text, the server's own /tokenize and
/detokenize, a local tokenizer, and characters times the ratio that the server's usage shows.
"""

from bisect import bisect_left
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate

from openzaya.backends.sse import Piece
from openzaya.core.protocols import Tokenizer

DEFAULT_CHARS_PER_TOKEN = 3.6
"""English text with a common tokenizer; replaced by what the server's own usage shows."""
REMEMBERED_TEXTS = 256
"""Texts whose token boundaries are kept: tails are cut right after a text arrives."""


@dataclass(frozen=True, slots=True)
class Ruler:
    """A text and its token boundaries: after `ends[i]` characters, `counts[i]` tokens."""

    text: str
    ends: Sequence[int]
    counts: Sequence[int]

    @staticmethod
    def of(pieces: Iterable[Piece]) -> "Ruler":
        """Measure the pieces that a stream delivered."""
        pieces = list(pieces)
        return Ruler(
            text="".join(piece.text for piece in pieces),
            ends=list(accumulate(len(piece.text) for piece in pieces)),
            counts=list(accumulate(piece.num_ids for piece in pieces)),
        )

    def cut(self, part: str, count: int) -> str | None:
        """Return at most the last `count` tokens of `part`; None when the pieces cannot tell."""
        position = self.text.rfind(part)
        if position < 0:
            return None
        # The piece in which `part` ends counts whole, so the tail never exceeds `count`.
        last = bisect_left(self.ends, position + len(part))
        floor = self.counts[last] - count
        if floor <= 0:
            return part
        begin = self.ends[bisect_left(self.counts, floor)]
        # Empty when the last piece alone is longer than the tail: another rung must cut inside it.
        return self.text[max(position, begin) : position + len(part)] or None


class TailCutter:
    """Cuts tails by the best means there is without asking the server; says which it was."""

    def __init__(self, tokenizer: Tokenizer | None = None) -> None:
        """Take a local tokenizer of the served model, if there is one."""
        self._tokenizer = tokenizer
        self._rulers: deque[Ruler] = deque(maxlen=REMEMBERED_TEXTS)
        self._characters = 0
        self._tokens = 0
        self.method = "exact (no tail was cut yet)"

    @property
    def chars_per_token(self) -> float:
        """Characters a token, measured from the server's usage figures."""
        return self._characters / self._tokens if self._tokens else DEFAULT_CHARS_PER_TOKEN

    def measure(self, num_characters: int, num_tokens: int) -> None:
        """Learn from a text whose length in tokens is known."""
        self._characters += num_characters
        self._tokens += num_tokens

    def remember(self, pieces: Sequence[Piece]) -> None:
        """Keep the token boundaries of a text that came with ids."""
        if sum(piece.num_ids for piece in pieces):
            self._rulers.append(Ruler.of(pieces))

    def by_ids(self, text: str, count: int) -> str | None:
        """Return the tail by remembered boundaries; None for a text that came without."""
        for ruler in reversed(self._rulers):
            tail = ruler.cut(text, count)
            if tail is not None:
                self.method = "exact (token ids of the server)"
                return tail
        return None

    def last_tokens(self, text: str, count: int) -> str:
        """Return about the last `count` tokens of `text`."""
        if count <= 0 or not text:
            return ""
        exact = self.by_ids(text, count)
        if exact is not None:
            return exact
        if self._tokenizer is not None:
            self.method = "exact (local tokenizer)"
            ids = self._tokenizer.encode(text)
            return text if len(ids) <= count else self._tokenizer.decode(ids[-count:])
        self.method = f"approximate ({self.chars_per_token:.2f} characters a token)"
        return text[-max(1, int(count * self.chars_per_token)) :]

    def count(self, text: str) -> int:
        """Return the length of `text` in tokens, estimated without a local tokenizer."""
        if self._tokenizer is not None:
            return len(self._tokenizer.encode(text))
        return int(len(text) / self.chars_per_token)
