"""Cutting the last tau tokens of a text that another server generated.

The rungs, best first: token ids that came with the text, the server's own /tokenize and
/detokenize, a local tokenizer, and characters times the ratio that the usage of that very text
shows: a token of Chinese is a third as long as one of English.

Deviation: D-057.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

from openzaya.backends.chat_stream import Part
from openzaya.core.protocols import Tokenizer

T = TypeVar("T")

DEFAULT_CHARS_PER_TOKEN = 3.6
"""English text with a common tokenizer; replaced by what the server's own usage shows."""
REMEMBERED_TEXTS = 512
"""Texts whose token boundaries are kept: tails are cut right after a text arrives."""
KEY_CHARS = 256
"""Characters at the end of a text by which it is found again."""


@dataclass(frozen=True, slots=True)
class Ruler:
    """The end of a text and its token boundaries: pieces of `chars[i]` characters, `ids[i]` ids."""

    text: str
    chars: Sequence[int]
    ids: Sequence[int]

    @staticmethod
    def of(part: Part) -> "Ruler":
        """Measure the end of a complete part, as far as its boundaries are known."""
        known = sum(part.chars)
        return Ruler(text=part.text[-known:] if known else "", chars=part.chars, ids=part.ids)

    def cut(self, text: str, count: int) -> str | None:
        """Return at most the last `count` tokens of `text`; None when the pieces cannot tell.

        `text` must end where the measured text ends, or a few characters earlier: what was
        generated loses newlines at its end when it is taken apart.
        """
        end = self.text.rfind(text[-KEY_CHARS:]) + len(text[-KEY_CHARS:])
        known = min(end, len(text))
        if (
            not text
            or end < min(len(text), KEY_CHARS)
            or text[-known:] != self.text[end - known : end]
        ):
            return None
        begin, held = len(self.text), 0
        for chars, ids in zip(reversed(self.chars), reversed(self.ids), strict=True):
            # The piece in which `text` ends counts whole, so the tail never exceeds `count`.
            if begin - chars < end:
                held += ids
            if held > count:
                break
            begin -= chars
        else:
            return text if known == len(text) else None
        # Empty when the last piece alone is longer than the tail: another rung must cut inside it.
        return self.text[max(begin, end - known) : end] or None


class TailCutter:
    """Cuts tails by the best means there is without asking the server; says which it was."""

    def __init__(self, tokenizer: Tokenizer | None = None) -> None:
        """Take a local tokenizer of the served model, if there is one."""
        self._tokenizer = tokenizer
        self._parts: dict[str, Part] = {}
        self._ratios: dict[str, float] = {}
        self._characters = 0
        self._tokens = 0
        self.method = "exact (no tail was cut yet)"

    @property
    def has_tokenizer(self) -> bool:
        """Whether a local tokenizer is known."""
        return self._tokenizer is not None

    @property
    def chars_per_token(self) -> float:
        """Characters a token over all texts, measured from the server's usage figures."""
        return self._characters / self._tokens if self._tokens else DEFAULT_CHARS_PER_TOKEN

    def measure(self, num_characters: int, num_tokens: int, *texts: str) -> None:
        """Learn from a reply whose length in tokens is known; `texts` are what it may be cut as."""
        self._characters += num_characters
        self._tokens += num_tokens
        for text in texts:
            if text and num_tokens:
                _keep(self._ratios, _key(text), num_characters / num_tokens)

    def remember(self, part: Part) -> None:
        """Keep a complete text that came with ids, for its token boundaries."""
        if part.ids:
            _keep(self._parts, _key(part.text), part)

    def by_ids(self, text: str, count: int) -> str | None:
        """Return the tail by remembered boundaries; None for a text that came without."""
        part = self._parts.get(_key(text)) if self._parts and count > 0 else None
        tail = None if part is None else Ruler.of(part).cut(text, count)
        if tail is not None:
            self.method = "exact (token ids of the server)"
        return tail

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
        ratio = self._ratios.get(_key(text), self.chars_per_token)
        self.method = f"approximate ({ratio:.2f} characters a token)"
        return text[-max(1, int(count * ratio)) :]

    def count(self, text: str) -> int:
        """Return the length of `text` in tokens, estimated without a local tokenizer."""
        if self._tokenizer is not None:
            return len(self._tokenizer.encode(text))
        return int(len(text) / self.chars_per_token)


def _keep(kept: dict[str, T], key: str, value: T) -> None:
    """Keep a value as the newest, which is the last to go."""
    kept.pop(key, None)
    kept[key] = value
    if len(kept) > REMEMBERED_TEXTS:
        del kept[next(iter(kept))]


def _key(text: str) -> str:
    """Return what finds a text again after newlines around it were removed."""
    return text[-KEY_CHARS - 64 :].strip("\n")[-KEY_CHARS:]
