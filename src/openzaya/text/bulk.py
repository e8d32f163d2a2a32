"""Tokenizing much text: words that were seen before are looked up, not tokenized again.

Byte-level BPE tokenizes every word of its pre-tokenizer by itself. So ids can be cached by word, as
long as the text is cut only where the pre-tokenizer always cuts. That is known for the patterns
below; any other tokenizer gets the whole text, as it would without this module.
"""

import re
from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any

from openzaya.text.tokenizer import TextTokenizer

_CONTRACTIONS = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_REST = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_WORDS = r"[^\r\n\p{L}\p{N}]?\p{L}+"
_LATER_PATTERNS = frozenset(
    f"{_CONTRACTIONS}|{_WORDS}|{numbers}|{_REST}" for numbers in (r"\p{N}", r"\p{N}{1,3}")
)
"""Words of cl100k and Llama 3 (numbers of up to three digits) and of Qwen 2 (of one)."""

# Where a text may be cut: between an ASCII letter or digit and any other ASCII character; between
# anything and a space behind it (GPT-2: or ASCII white space); before the last space of white space
# that a word follows; with the patterns above also behind line ends that follow punctuation.
_WORD = r"\s+(?= \S)|\s*[^\sA-Za-z0-9]*[A-Za-z0-9]+(?![A-Za-z0-9]|[^\x00-\x7f])"
_GPT2_PIECES = re.compile(
    rf"{_WORD}|\s*[^\sA-Za-z0-9]+(?=[ \n\t\r]|\Z)|\s*\S+(?:[^\S \n\t\r]\s*\S*)*|\s+"
)
_LATER_PIECES = re.compile(
    rf"{_WORD}|\s*[^\sA-Za-z0-9]*[!-/:-@\[-`{{-~][\r\n]+|\s*[^\sA-Za-z0-9]+(?= |\Z)"
    r"|\s*\S+(?:[^\S ]\s*\S*)*|\s+"
)
_CACHED_PIECES = 1 << 19
_CACHED_CHARS = 48


class BulkTokenizer:
    """Returns the ids of `TextTokenizer.encode` for many texts, several times as fast."""

    def __init__(self, tokenizer: TextTokenizer) -> None:
        """Find out where text may be cut for this tokenizer."""
        self._tokenizer = tokenizer
        definition = tokenizer.definition()
        self._pieces = safe_pieces(definition)
        self._added = added_tokens(definition)
        self._ids: dict[str, Sequence[int]] = {}

    @property
    def cuts(self) -> bool:
        """Say whether this tokenizer's texts can be cut at all."""
        return self._pieces is not None

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the ids of every text; more texts in one call are faster."""
        if self._pieces is None:
            return self._tokenizer.encode_batch(texts)
        cut = [self._cut(text) for text in texts]
        missing = {piece for pieces in cut for piece in pieces}.difference(self._ids)
        if len(self._ids) + len(missing) > _CACHED_PIECES:
            self._ids = {}
            missing = {piece for pieces in cut for piece in pieces}
        order = list(missing)
        self._ids.update(zip(order, self._tokenizer.encode_batch(order), strict=True))
        find = self._ids.__getitem__
        encoded = [list(chain.from_iterable(map(find, pieces))) for pieces in cut]
        for piece in missing:
            if len(piece) > _CACHED_CHARS:  # hardly comes again
                del self._ids[piece]
        return encoded

    def _cut(self, text: str) -> list[str]:
        assert self._pieces is not None
        if self._added is not None and self._added.search(text):
            return [text]
        return self._pieces.findall(text)


def safe_pieces(definition: Mapping[str, Any]) -> re.Pattern[str] | None:
    """Return what cuts a text into pieces that a tokenizer.json treats apart, or None.

    Known are byte-level BPE with GPT-2's words or one of the patterns above, without dropout and
    without a normalizer.
    """
    model = definition.get("model") or {}
    odd = ("dropout", "continuing_subword_prefix", "end_of_word_suffix")
    if model.get("type") != "BPE" or any(model.get(name) for name in odd):
        return None
    if any(definition.get(name) for name in ("normalizer", "truncation", "padding")):
        return None
    steps = definition.get("pre_tokenizer") or {}
    parts = steps.get("pretokenizers", [steps])
    if not parts or parts[-1].get("type") != "ByteLevel" or parts[-1].get("add_prefix_space"):
        return None
    if len(parts) == 1 and parts[0].get("use_regex", True):
        return _GPT2_PIECES
    if len(parts) != 2 or parts[1].get("use_regex", True):
        return None
    split = parts[0]
    shape = split.get("type"), split.get("behavior"), split.get("invert")
    known = (split.get("pattern") or {}).get("Regex") in _LATER_PATTERNS
    return _LATER_PIECES if known and shape == ("Split", "Isolated", False) else None


def added_tokens(definition: Mapping[str, Any]) -> re.Pattern[str] | None:
    """Return what finds added tokens, which may reach over a cut; texts with one stay whole."""
    found = [token["content"] for token in definition.get("added_tokens") or []]
    return re.compile("|".join(map(re.escape, sorted(found)))) if found else None
