"""Choosing the answer of a run among all that its stages produced."""

from collections.abc import Callable, Sequence
from random import Random

from openzaya.ttc.result import Candidate, Round
from openzaya.ttc.selection import choose


def best_so_far(
    rounds: Sequence[Round],
    last_stage: int,
    quorum: int,
    rng: Random,
    same: Callable[[str], str] = str,
) -> tuple[Candidate | None, str]:
    """Return the best candidate and the rule that chose it; None when there is no candidate.

    The newest stage with at least `quorum` answers votes; failing that the newest with any answer,
    then with a finished candidate, then with any text. `last_stage` is the stage that should have
    voted: the reason names another one.
    """
    for quality in ("quorum", "answer", "finished", "text"):
        for voted in reversed(rounds):
            if not _reaches(voted, quality, quorum):
                continue
            choice = choose(voted.candidates, rng, same)
            if choice is not None:
                where = "" if voted.stage == last_stage else f", stage {voted.stage}"
                return voted.candidates[choice.index], choice.why + where
    survivors = [c for voted in reversed(rounds) for c in voted.survivors]
    if survivors:
        return survivors[0], "every candidate is empty"
    return None, "stopped before the first candidate was complete"


def _reaches(voted: Round, quality: str, quorum: int) -> bool:
    num_answers = sum(c.answer is not None for c in voted.candidates)
    if quality == "quorum":
        return num_answers >= quorum
    if quality == "answer":
        return num_answers > 0
    if quality == "finished":
        return any(c.is_finished for c in voted.candidates)
    return any(c.text.strip() for c in voted.candidates)
