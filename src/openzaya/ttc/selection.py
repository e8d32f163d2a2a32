"""Reading answers from replies, and choosing one of them.

The paper scores the mean over the final candidates; serving needs one answer, so the majority over
normalized answers is taken.

Paper: VI-A.
Deviation: D-014.
"""

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random
from typing import Protocol

from openzaya.ttc.answers import classes

Extract = Callable[[str], str | None]
"""Answer text (after the think block) to a normalized answer, or None when it holds none."""

_BOX = "\\boxed{"
_MARKS = re.compile(r"\\boxed\{|\\.|[{}]", re.DOTALL)
"""A box, an escaped character, or a bare brace."""


class Votable(Protocol):
    """What the choice needs to know of a candidate."""

    @property
    def answer(self) -> str | None:
        """Extracted answer, None when there is none."""
        ...

    @property
    def num_tokens(self) -> int:
        """Length of the trace."""
        ...

    @property
    def is_finished(self) -> bool:
        """Whether the candidate ended by itself, after its think block."""
        ...

    @property
    def text(self) -> str:
        """Everything the candidate generated."""
        ...


@dataclass(frozen=True, slots=True)
class Choice:
    """Which candidate answers the question, and why."""

    index: int
    """Position in the sequence that was voted on."""
    why: str


def extract_answer(answer_text: str) -> str | None:
    r"""Return the content of the last closed `\boxed{...}`, else the whole text; spaces normalized.

    A text without visible characters has no answer.
    """
    boxed = last_boxed(answer_text)
    answer = " ".join((answer_text if boxed is None else boxed).split())
    return answer or None


def last_boxed(text: str) -> str | None:
    r"""Return the content of the last `\boxed{...}` whose braces balance, None without one.

    One pass over the text, whatever a looping model wrote.
    """
    opened: list[int | None] = []
    best: tuple[int, int] | None = None
    for mark in _MARKS.finditer(text):
        if mark[0] == _BOX:
            opened.append(mark.end())
        elif mark[0] == "{":
            opened.append(None)
        elif mark[0] == "}" and opened:
            begin = opened.pop()
            if begin is not None and (best is None or begin > best[0]):
                best = (begin, mark.start())
    return None if best is None else text[best[0] : best[1]]


def majority(answers: Sequence[str | None], lengths: Sequence[int] = ()) -> str | None:
    """Return the most frequent answer; None does not vote.

    A tie goes to the class that holds the shortest trace when `lengths` are given (tokens, one per
    answer), else to the class seen first. None when nobody votes.
    """
    counts = Counter(answer for answer in answers if answer is not None)
    if not counts:
        return None
    top = max(counts.values())
    leaders = [answer for answer in counts if counts[answer] == top]
    if len(leaders) == 1 or not lengths:
        return leaders[0]
    shortest = {
        leader: min(n for n, a in zip(lengths, answers, strict=True) if a == leader)
        for leader in leaders
    }
    return min(leaders, key=lambda leader: shortest[leader])


def histogram(answers: Sequence[str | None]) -> dict[str, int]:
    """Return how often each answer was given, most frequent first; None is left out."""
    return dict(Counter(answer for answer in answers if answer is not None).most_common())


def choose(
    candidates: Sequence[Votable], rng: Random, same: Callable[[str], str] = str
) -> Choice | None:
    """Choose among the candidates of one stage; None when none of them generated anything.

    Answers that `same` maps to one text are one class. The majority class wins, a tie goes to the
    class with the shortest finished trace, and the class is represented by its shortest trace.
    Without any answer a random finished candidate is taken, and without a finished one a random
    one.
    """
    finished = [i for i, c in enumerate(candidates) if c.is_finished]
    voters = [i for i in finished if candidates[i].answer is not None]
    if voters:
        answers = classes([candidates[i].answer for i in voters], same)
        winner = majority(answers, [candidates[i].num_tokens for i in voters])
        mine = [i for i, answer in zip(voters, answers, strict=True) if answer == winner]
        index = min(mine, key=lambda i: candidates[i].num_tokens)
        counts = Counter(answers)
        is_tie = sum(count == len(mine) for count in counts.values()) > 1
        rule = "tie, shortest finished trace" if is_tie else "majority"
        return Choice(index, f"{rule}: {len(mine)} of {len(candidates)} candidates")
    if finished:
        return Choice(rng.choice(finished), "no answer could be read: a random finished candidate")
    begun = [i for i, c in enumerate(candidates) if c.text.strip()]
    if begun:
        return Choice(rng.choice(begun), "no candidate finished: a random unfinished one")
    return None
