"""Falsification: find an input on which a wrong program fails.

The program is a mutant from the template's bank: it passes the samples and is wrong somewhere, and
one killing input is stored as the reference. There is no correct program among the candidates, so
answering that there is no such input is never right. Nor is it one that the smallest inputs, or
many random ones, expose: guessing would be rewarded.

A reply's input must be legal. Then the candidate and all trusted solutions run on it in one box:
- trusted solutions that fail or disagree: wrong, the input is rejected
- candidate fails otherwise than by time, or its output is not right: right
- candidate is only late: wrong, with TIME_ONLY in the reason, unless the family accepts that

Paper: IV-B5.
Deviation: D-032.
"""

from collections.abc import Sequence
from random import Random
from typing import cast

from openzaya.core.errors import EnvError
from openzaya.core.records import Verdict, infra, right, wrong
from openzaya.envs.base import Problem, check_difficulty
from openzaya.envs.code import family
from openzaya.envs.code.answers import can_be_asked
from openzaya.envs.code.bank import Bank, Banks, Kept
from openzaya.envs.code.grammar import Given
from openzaya.envs.code.matrix import Matrix
from openzaya.envs.code.outcomes import Outcome
from openzaya.envs.code.problem import Failure
from openzaya.envs.code.template import Template

TIME_ONLY = "time limit only"
"""In the reason of every verdict that rests on the candidate being late."""
EASY_KILL_RATE = 0.25
"""At difficulty 0, the largest share of generated inputs that may kill a candidate."""
HARD_KILL_RATE = 0.08
RATE_STEP = 0.025
MAX_TRIES = 200


class Falsify:
    """Falsification of mutants."""

    name = "falsify"
    family = "code"

    def __init__(self, banks: Banks, *, accept_time_only: bool = False) -> None:
        self.banks = banks
        self.matrix = Matrix(banks.matrix.executor)
        self.accept_time_only = accept_time_only

    def make(self, rng: Random, difficulty: int) -> Problem:
        """Draw a wrong program; the difficulty is the program's size and its killers' rarity.

        Raises SandboxError when mutants cannot be run.
        """
        template, candidate, killer = self.draw(rng, difficulty)
        argument = template.argument(killer)
        data: dict[str, object] = {
            "template": template.name,
            "candidate": candidate.source,
            "operator": candidate.operator,
            "killer": argument,
        }
        reference = family.written({"input": argument})
        return Problem(self.prompt(template, candidate), reference, data)

    def draw(self, rng: Random, difficulty: int) -> tuple[Template, Kept, Given]:
        """Draw a template, a candidate that is rarely enough wrong, and an input that kills it."""
        check_difficulty(difficulty)
        most = max(HARD_KILL_RATE, EASY_KILL_RATE - RATE_STEP * difficulty)
        for _ in range(MAX_TRIES):
            template = family.choose(rng, difficulty)
            bank = self.banks.get(template.name)
            rare = [each for each in bank.kept if each.kill_rate() <= most and not each.fails_small]
            rng.shuffle(rare)
            for kept in rare[:1]:
                killers = small_killers(template, bank, kept)
                if killers:
                    return template, kept, rng.choice(killers)
        raise EnvError(f"no candidate with a kill rate of at most {most} in {MAX_TRIES} draws")

    def prompt(self, template: Template, candidate: Kept) -> str:
        """Return what a model is asked."""
        samples = "\n".join(
            f"input {family.written(template.argument(given))} gives "
            f"{family.written(template.answer(given))}"
            for given in self.banks.get(template.name).samples
        )
        return (
            f"A program is to solve this task.\n\n{template.statement}\n\nResult: "
            f"{template.output}.\n\n{family.form_of_input(template)}\n\nSamples:\n{samples}\n\n"
            f"This program passes the samples, but it is wrong:\n"
            f"{family.fenced(candidate.source)}\n\n"
            "Find a legal input on which it crashes or gives a wrong result; being slow does not "
            f"count.\n{family.form_of_answer(template, 'input')}"
        )

    def score(self, problem: Problem, reply: str, *, started_in_think: bool = True) -> Verdict:
        """Right when a legal input makes the candidate fail while all trusted solutions agree."""
        found = family.answered_input(problem, reply, started_in_think=started_in_think)
        if isinstance(found, Verdict):
            return found
        template, given = found
        programs = [family.text_of(problem, "candidate"), *template.solutions]
        outcomes = self.matrix.run_column(programs, template.argument(given))
        return self.decide(template, given, outcomes[0], outcomes[1:])

    def decide(
        self, template: Template, given: Given, candidate: Outcome, trusted: Sequence[Outcome]
    ) -> Verdict:
        """Judge a candidate's outcome by those of at least two trusted solutions."""
        assert len(trusted) >= 2
        broken = next((each.infra for each in [candidate, *trusted] if each.infra), "")
        if broken:
            return infra(broken)
        if not all(each.ok for each in trusted):
            return wrong("a trusted solution fails on this input, so it is rejected")
        expected = cast(object, trusted[0].value)
        if not all(template.is_right(given, each.value, expected) for each in trusted):
            return wrong("trusted solutions disagree on this input, so it is rejected")
        if candidate.failure is Failure.TIME:
            return right(TIME_ONLY) if self.accept_time_only else wrong(TIME_ONLY)
        if candidate.failure is not None:
            return right(f"the program fails: {candidate.failure}")
        if template.is_right(given, candidate.value, expected):
            return wrong("the program is right on this input")
        return right("the program's output is wrong")


def small_killers(template: Template, bank: Bank, kept: Kept) -> list[Given]:
    """Return the killing inputs that keep the bounds of an answer."""
    killers = [bank.inputs[index] for index in kept.killers]
    return [given for given in killers if can_be_asked({"input": template.argument(given)})]
