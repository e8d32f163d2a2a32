"""The mock's tokens: made-up words, a few markers, and bytes for everything else.

Every text has exactly one list of ids, and `decode(encode(text)) == text`.
"""

import re
from bisect import bisect_right
from functools import cache, lru_cache
from itertools import accumulate, product
from random import Random

MARKERS = ("<think>", "</think>", "\\boxed{")
SPOKEN = ("The", " answer", " is", " so", " the", " again", " and")
_PIECE = re.compile(r"</?think>|\\boxed\{| ?[A-Za-z]+|.", re.DOTALL)
_FIRST_WORD = 256
CORPUS_TOKENS = 1 << 16
LINE_TOKENS = 24


def _made_up_words() -> list[str]:
    """Return words of four letters with a space in front: no English, and hard to compress."""
    syllables = ["".join(pair) for pair in product("bdfgklmnprstvz", "aeiou")]
    return [f" {a}{b}" for a, b in product(syllables[::2], syllables[1::2])]


WORDS = (*MARKERS, *SPOKEN, *_made_up_words())
_ID_OF = {word: _FIRST_WORD + index for index, word in enumerate(WORDS)}
_BYTES_OF = [bytes([byte]) for byte in range(_FIRST_WORD)] + [word.encode() for word in WORDS]


def encode(text: str) -> list[int]:
    """Return the ids of a text."""
    ids: list[int] = []
    for piece in _PIECE.findall(text):
        known = _ID_OF.get(piece)
        if known is None:
            ids += piece.encode("utf-8", "surrogatepass")
        else:
            ids.append(known)
    return ids


def decode(ids: list[int]) -> str:
    """Return the text of ids; half a character becomes a replacement character.

    Raises IndexError or TypeError for something that is no id.
    """
    return b"".join(_BYTES_OF[token] for token in ids).decode("utf-8", "replace")


class Segment:
    """A piece of a reply that is cut between tokens: a text and its ids."""

    __slots__ = ("_ends", "_ids", "_text", "num_tokens")

    def __init__(self, text: str) -> None:
        """Split `text` into tokens."""
        self._ids = encode(text)
        self._text = text
        self.num_tokens = len(self._ids)
        sizes = accumulate((len(_BYTES_OF[token]) for token in self._ids), initial=0)
        # A character that spans tokens belongs to the last of them, as servers stream it.
        starts = list(accumulate((len(c.encode()) for c in text), initial=0))
        self._ends = [bisect_right(starts, size) - 1 for size in sizes]

    def text(self, first: int, last: int) -> str:
        """Return the text of tokens `first` up to `last`."""
        return self._text[self._ends[first] : self._ends[last]]

    def ids(self, first: int, last: int) -> list[int]:
        """Return those ids."""
        return self._ids[first:last]


class Filler:
    """A stretch of made-up words, cut from one long text that is made once."""

    __slots__ = ("_start", "num_tokens")

    def __init__(self, start: int, num_tokens: int) -> None:
        """Begin at any token of the long text; it is read in a circle."""
        self._start = start % CORPUS_TOKENS
        self.num_tokens = num_tokens

    def text(self, first: int, last: int) -> str:
        """Return the text of tokens `first` up to `last`."""
        text, ends, _ = _corpus()
        begin = self._start + first
        if begin + last - first <= CORPUS_TOKENS:
            return text[ends[begin] : ends[begin + last - first]]
        return "".join(text[ends[a] : ends[b]] for a, b in self._spans(first, last))

    def ids(self, first: int, last: int) -> list[int]:
        """Return those ids."""
        ids = _corpus()[2]
        return [token for a, b in self._spans(first, last) for token in ids[a:b]]

    def _spans(self, first: int, last: int) -> list[tuple[int, int]]:
        begin, rest = (self._start + first) % CORPUS_TOKENS, last - first
        spans = []
        while rest > 0:
            end = min(CORPUS_TOKENS, begin + rest)
            spans.append((begin, end))
            rest -= end - begin
            begin = 0
        return spans


class Loop:
    """The same few words for ever."""

    __slots__ = ("_ids", "_words", "num_tokens")

    def __init__(self, num_tokens: int) -> None:
        """Repeat up to `num_tokens`."""
        self._words = (" and", " so", " again")
        self._ids = [_ID_OF[word] for word in self._words]
        self.num_tokens = num_tokens

    def text(self, first: int, last: int) -> str:
        """Return the text of tokens `first` up to `last`."""
        return "".join(self._words[i % len(self._words)] for i in range(first, last))

    def ids(self, first: int, last: int) -> list[int]:
        """Return those ids."""
        return [self._ids[i % len(self._ids)] for i in range(first, last)]


@lru_cache(maxsize=4096)
def segment(text: str) -> Segment:
    """Return the tokens of a short text that is said often."""
    return Segment(text)


@cache
def _corpus() -> tuple[str, list[int], list[int]]:
    """Return the long text, where each token ends in it (from 0), and the ids."""
    rng = Random("mock corpus")
    words = list(WORDS[len(MARKERS) + len(SPOKEN) :])
    pieces = [
        "\n" if index % LINE_TOKENS == LINE_TOKENS - 1 else rng.choice(words)
        for index in range(CORPUS_TOKENS)
    ]
    ids = [ord(piece) if piece == "\n" else _ID_OF[piece] for piece in pieces]
    return "".join(pieces), list(accumulate(map(len, pieces), initial=0)), ids
