"""Golds that are words: a choice letter, or one of a few texts."""

import re

from openzaya.envs.math.gold import Gold
from openzaya.envs.math.kinds import CHOICES, Kind
from openzaya.envs.math.limits import Unreadable
from openzaya.envs.math.tokens import plain_text

_CHOICE = re.compile(
    r"(?:(?:option|choice|answer)\s+)?"
    r"(?:\(([A-Ja-j])\)|([A-Ja-j])(?=[).:\s]|$))([).:]?)\s*(.*)",
    re.IGNORECASE | re.DOTALL,
)
_LETTER = re.compile(r"(?<![A-Za-z0-9])[A-J](?![A-Za-z0-9'])|\([a-j]\)")
_OTHER = re.compile(r"(?:or|and|nor)\b", re.IGNORECASE)
"""How a text goes on that names another choice, too."""
_SAID = re.compile(r"(?:is|was|isn't|not|but)\b", re.IGNORECASE)
"""How a sentence about a choice goes on; behind a mark, as in `D) Not enough`, it is its text."""


def judge_words(text: str, gold: Gold) -> str | None:
    """Return None for a right answer, else what is wrong. Raises Unreadable."""
    if gold.kind is Kind.CHOICE:
        return _judge_choice(plain_text(text), gold)
    given = plain_text(text).casefold()
    accepted = {plain_text(word).casefold() for word in (gold.text, *gold.rules.synonyms)}
    return None if given in accepted else f"{given[:40]!r} is not {gold.text!r}"


def _judge_choice(text: str, gold: Gold) -> str | None:
    """Judge `B`, `(B)`, `B) text`, or the text alone where the choices' texts are known."""
    texts = [plain_text(choice).casefold() for choice in gold.rules.choices]
    right = texts[CHOICES.index(gold.text)] if texts else None
    if right is not None and text.casefold() == right and texts.count(right) == 1:
        return None
    match = _CHOICE.fullmatch(text)
    if match is None:
        raise Unreadable(f"{text[:40]!r} names no choice")
    letter, rest = (match[1] or match[2]).upper(), match[4].strip()
    if letter != gold.text:
        return f"choice {letter} is not {gold.text}"
    if rest and right is not None and rest.casefold() != right:
        return f"the text behind {letter} is not that of the choice"
    if rest and right is None and (_LETTER.search(rest) or _OTHER.match(rest) or len(rest) > 200):
        return "more than one choice is named"
    if right is None and not (match[1] or match[3]) and _SAID.match(rest):
        return f"something is said of {letter}"
    return None
