"""The second tier: math-verify, for golds whose kind none of ours is.

It runs in the killable pool, because one power tower stops it for ever, and only sees the text of
one candidate: regions, markers and several candidates are our business. What still is to be done
(sums, integrals, limits, ...) is refused before, unless the gold allows it.
"""

import string
from typing import Protocol

from openzaya.core.errors import DataError, RequestError
from openzaya.envs.math.evaluate import evaluate
from openzaya.envs.math.extract import Candidate
from openzaya.envs.math.gold import Gold
from openzaya.envs.math.judge import Reading
from openzaya.envs.math.kinds import Kind
from openzaya.envs.math.limits import Refused, TooLarge
from openzaya.envs.math.parse import parse
from openzaya.envs.math.syntax import Apply, names, walk
from openzaya.envs.math.tokens import tokenize
from openzaya.envs.math.vocabulary import UNEVALUATED
from openzaya.sandbox.pool import Ended, Outcome

FUNCTION = "openzaya.envs.math.verify_worker:compare"
"""What the pool's workers call."""


class Caller(Protocol):
    """What the second tier needs of a `Pool`."""

    def call(self, function: str, *arguments: object) -> Outcome:
        """Call "module:name" in another process and say how it ended."""


class Failure(Exception):
    """The second tier itself failed: no verdict on the answer."""


def check_gold(gold: Gold, pool: Caller) -> None:
    """Raise DataError unless math-verify finds a gold equal to itself in time; Failure if ours."""
    outcome = ask(pool, gold.text, gold.text)
    if outcome.ended is not Ended.VALUE or outcome.value is not True:
        raise DataError(
            f"the gold {gold.text[:60]!r} is not equal to itself by math-verify: "
            f"{outcome.message or outcome.value}; rewrite it or leave the problem out"
        )


def ask(pool: Caller, gold: str, answer: str) -> Outcome:
    """Run math-verify. Raises Failure when it cannot run at all."""
    try:
        outcome = pool.call(FUNCTION, gold, answer)
    except RequestError as error:  # the worker cannot import it
        raise Failure(f"math-verify cannot run ({error}); pip install 'openzaya[rl]'") from error
    if outcome.ended is Ended.DIED:
        raise Failure(f"the second tier's worker died: {outcome.message}")
    return outcome


def judge_second(gold: Gold, candidate: Candidate, pool: Caller) -> Reading:
    """Judge one candidate with math-verify. Raises Failure.

    A time-out or an error is the answer's fault only if the gold alone still passes.
    """
    assert gold.kind is Kind.OTHER
    try:
        _refuse_work(candidate.text, gold)
    except Refused as refusal:
        return _reading(candidate, str(refusal))
    outcome = ask(pool, gold.text, candidate.text)
    if outcome.ended is Ended.VALUE:
        return _reading(candidate, "" if outcome.value is True else "math-verify: not equal")
    try:
        check_gold(gold, pool)
    except DataError as error:
        raise Failure(str(error)) from error
    return _reading(candidate, f"math-verify gave up on it: {outcome.message[:80]}")


def _reading(candidate: Candidate, fault: str) -> Reading:
    return Reading(
        candidate=candidate, parsed=candidate.text[:400], rule="second tier", fault=fault
    )


def _refuse_work(text: str, gold: Gold) -> None:
    """Raise Refused for text that is too long, has strange characters or leaves work undone.

    Powers and factorials that are too large to be worked out are refused here too: math-verify
    would cancel or try them.
    """
    tokens = tokenize(text)
    named = {UNEVALUATED[token.text] for token in tokens if token.text in UNEVALUATED}
    todo = sorted(named - gold.rules.allow)
    if todo:
        raise Refused(f"work is left to be done: {todo[0]}")
    try:
        tree = parse(text, frozenset(string.ascii_letters))
    except Refused:
        return  # what we cannot read is math-verify's to judge
    for node in walk(tree):
        if isinstance(node, Apply) and node.op in ("^", "!", "binom") and not names(node) - {"e"}:
            try:
                evaluate(node, gold.scope())
            except TooLarge:
                raise
            except Refused:
                continue
