"""Prompts, levels and whole replies."""

import json
from dataclasses import asdict, replace
from random import Random

import pytest

from openzaya.core.errors import EnvError
from openzaya.core.records import Judgement
from openzaya.envs.base import Problem as Prompted
from openzaya.envs.code.contest import Contest, write_prompt
from openzaya.envs.code.problem import Mode, Problem, Program, Provenance, Test

BASE = Problem(
    id="p0",
    statement="Add the two numbers.",
    mode=Mode.STDIN,
    io_spec="two integers -> one integer",
    public_tests=(Test(input="1 2\n", output="3\n"),),
    private_tests=(Test(input="70707 1\n", output="70708\n"),),
    accepted=(Program(source="print(sum(map(int, input().split())))"),),
    provenance=Provenance(source="test", license="Apache-2.0"),
)
FUNCTION = replace(
    BASE,
    id="f",
    mode=Mode.FUNCTION,
    entry="Solution.add",
    starter="class Solution:\n    def add(self, a, b):",
    public_tests=(Test(input=[1, True], output=[None]),),
    private_tests=(),
    accepted=(),
)


def reply(source):
    return f"thoughts\n</think>\n\n```python\n{source}\n```"


def test_the_prompt_shows_visible_tests_and_never_a_held_out_one():
    prompt = write_prompt(BASE)
    assert "1 2" in prompt
    assert "two integers" in prompt
    assert "70707" not in prompt
    assert "70708" not in prompt
    shown = write_prompt(FUNCTION)
    assert "Solution.add(1, True) -> [None]" in shown
    assert "def add(self, a, b):" in shown
    assert all("Only the standard library" in text for text in (prompt, shown))


def test_levels_are_ordered_by_difficulty_and_the_same_rng_draws_the_same(judge):
    problems = [replace(BASE, id=f"p{n}", difficulty=float(n)) for n in range(20)]
    contest = Contest(problems, judge, num_levels=5)
    drawn = [{contest.make(Random(i), d).data["id"] for i in range(60)} for d in range(7)]
    assert drawn[0] == {"p0", "p1", "p2", "p3"}
    assert drawn[4] == drawn[6] == {"p16", "p17", "p18", "p19"}
    assert contest.make(Random(1), 3) == contest.make(Random(1), 3)
    with pytest.raises(EnvError):
        contest.make(Random(0), -1)


def test_a_whole_reply_is_judged(judge):
    contest = Contest([BASE], judge)
    prompted = contest.make(Random(0), 0)
    prompted = Prompted(**json.loads(json.dumps(asdict(prompted))))
    assert contest.score(prompted, reply(prompted.reference)).judgement is Judgement.RIGHT
    assert contest.score(prompted, reply("print(3)")).judgement is Judgement.WRONG
    assert contest.explain(prompted, reply("print(3)")).suspected_hack
    for empty in ("", "</think>", f"</think>{prompted.prompt}", prompted.reference):
        assert contest.score(prompted, empty).judgement is Judgement.WRONG


def test_an_unknown_problem_and_twin_ids_are_refused(judge):
    contest = Contest([BASE], judge)
    with pytest.raises(EnvError, match="no problem"):
        contest.score(Prompted("", "", {"id": "q"}), reply("1"))
    with pytest.raises(EnvError, match="same id"):
        Contest([BASE, BASE], judge)
    with pytest.raises(EnvError, match="needs problems"):
        Contest([], judge)
