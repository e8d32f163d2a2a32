"""From the stages of a run to the one answer: vote, selection call, verifier, or behaviour.

Paper: VI-A. Deviation: D-014, D-056.
"""

import inspect
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from math import isnan
from random import Random

from openzaya.core.errors import ConfigError, OpenZayaError
from openzaya.ttc.behaviour import Runs, choose_by_behaviour
from openzaya.ttc.best_so_far import best_so_far
from openzaya.ttc.config import MarkovianRSAConfig
from openzaya.ttc.judge import Judge, Judged
from openzaya.ttc.result import Candidate, Round
from openzaya.ttc.selection import Choice, choose

Verifier = Callable[[Candidate], "float | Awaitable[float | None] | None"]
"""A candidate's score, higher is better; None or NaN when it cannot say. Its errors end the run."""


@dataclass(frozen=True, slots=True)
class Chosen:
    """The outcome of a run's selection."""

    candidate: Candidate | None
    why: str
    judged: Judged | None = None
    """What a selection call cost, where one was made."""


@dataclass(frozen=True, slots=True)
class Selection:
    """What may choose the answer of a run."""

    config: MarkovianRSAConfig
    same: Callable[[str], str]
    verifier: Verifier | None = None
    runs: Runs | None = None
    only_last: bool = False
    """Only the last stage was asked for the form that the answer must have."""

    def check(self) -> None:
        """Refuse a rule that lacks what it needs, before any work."""
        if self.config.select == "verifier" and self.verifier is None:
            raise ConfigError(
                "select is 'verifier', but no verifier was given; pass MarkovianRSA(verifier=...) "
                "or choose select = majority"
            )
        if self.config.select == "behaviour" and self.runs is None:
            raise ConfigError(
                "select is 'behaviour', but there are no tests to run programs on; pass "
                "MarkovianRSA(runs=...) or choose select = majority"
            )

    async def choose(
        self, rounds: Sequence[Round], is_early: bool, judge: Judge | None, rng: Random
    ) -> Chosen:
        """Choose the answer; `judge` is None where no call may be made, as after a stop.

        Where the rule asked for cannot choose, the majority does, and the reason says so.
        """
        voting = rounds if self.config.aggregate or not rounds else [pooled(rounds)]
        if self.only_last and self.config.aggregate:
            voting = [r for r in rounds if r.stage == self.config.rounds and r.survivors] or rounds
        quorum = self.config.min_survivors() if is_early else 1
        last_stage = rounds[-1].stage if rounds and not is_early else self.config.rounds
        candidate, why = best_so_far(voting, last_stage, quorum, rng, self.same)
        final = next((r.survivors for r in reversed(voting) if r.survivors), ())
        if candidate is None or not final:
            return Chosen(candidate, why)
        choice, failure, judged = await self._by_rule(final, judge, rng)
        may_ask = judge if self.config.fallback == "judge" and judged is None else None
        if choice is None and candidate.answer is None and may_ask is not None:
            judged = await may_ask.choose(final, rng)
            choice, failure = judged.choice, judged.failure
        if choice is not None:
            return Chosen(final[choice.index], choice.why, judged)
        return Chosen(candidate, f"{why} ({failure})" if failure else why, judged)

    async def _by_rule(
        self, final: Sequence[Candidate], judge: Judge | None, rng: Random
    ) -> tuple[Choice | None, str, Judged | None]:
        if self.config.select == "judge" and judge is not None:
            judged = await judge.choose(final, rng)
            return judged.choice, judged.failure, judged
        if self.config.select == "verifier" and self.verifier is not None:
            choice = await choose_by_score(final, self.verifier, self.same, rng)
            return choice, "the verifier could not say", None
        if self.config.select == "behaviour" and self.runs is not None:
            choice, failure = await _by_behaviour(final, self.runs)
            return choice, failure, None
        if self.config.select == "final" and final[0].text:
            return Choice(0, "the single final candidate"), "", None
        return None, "", None


def pooled(rounds: Sequence[Round]) -> Round:
    """Return all candidates of a run as one round: independent batches vote together."""
    return Round(rounds[-1].stage, tuple(c for entry in rounds for c in entry.candidates))


async def choose_by_score(
    candidates: Sequence[Candidate],
    verifier: Verifier,
    same: Callable[[str], str],
    rng: Random,
) -> Choice | None:
    """Choose the candidate with the highest score; equals vote. None without any score."""
    scores: list[float | None] = []
    for candidate in candidates:
        given = verifier(candidate)
        scores.append(await given if inspect.isawaitable(given) else given)
    known = [score for score in scores if score is not None and not isnan(score)]
    if not known:
        return None
    best = [i for i, score in enumerate(scores) if score == max(known)]
    vote = choose([candidates[i] for i in best], rng, same)
    index = best[vote.index] if vote else best[0]
    return Choice(index, f"verifier: score {max(known):g}, shared by {len(best)} candidates")


async def _by_behaviour(final: Sequence[Candidate], runs: Runs) -> tuple[Choice | None, str]:
    try:
        behaviours = await runs.behaviours([c.answer_text for c in final])
    except OpenZayaError as error:
        return None, f"programs could not be run: {error}"
    return choose_by_behaviour(final, behaviours), "no program could be run"
