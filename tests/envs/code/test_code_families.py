"""The code families in real boxes: references are right, near misses and idle policies are not."""

import json
from collections import Counter
from dataclasses import asdict
from random import Random

import pytest
from envs.code import audit

from openzaya.core.errors import EnvError
from openzaya.core.records import Judgement
from openzaya.envs.base import Problem
from openzaya.envs.code import code_io
from openzaya.envs.code.bank import Bank, Banks, Kept
from openzaya.envs.code.code_arc import build, examples, killers
from openzaya.envs.code.falsify import TIME_ONLY, Falsify
from openzaya.envs.code.families import families
from openzaya.envs.code.outcomes import Outcome
from openzaya.envs.code.problem import Failure
from openzaya.envs.code.template import get
from openzaya.envs.code.values import canonical
from openzaya.sandbox.executor import Executor, Result, Status

NAMES = ["code_arc", "code_input", "code_output", "falsify", "trace"]
IN_PROCESS = ["code_output", "trace"]
EASY = ["longest_run", "pairs_with_sum", "maze_steps", "peak"]


class Broken(Executor):
    """A sandbox that always fails."""

    def run(self, request):
        return Result(status=Status.INFRA, reason="no room")

    def close(self):
        pass


@pytest.fixture(scope="module")
def every(executor):
    return families(executor)


@pytest.fixture
def few_templates(monkeypatch):
    """Draw from four templates only: each bank costs a second."""
    monkeypatch.setattr("openzaya.envs.code.family.ranked", lambda: tuple(EASY))
    monkeypatch.setattr("openzaya.envs.code.family.WINDOW", len(EASY))


@pytest.mark.parametrize("name", IN_PROCESS)
def test_problems_follow_their_stream_and_survive_json(name, every):
    env = every[name]
    for difficulty in (0, 1, 5, 12, 30):
        for seed in range(6):
            problem = env.make(Random(seed), difficulty)
            assert problem == env.make(Random(seed), difficulty)
            again = Problem(**json.loads(json.dumps(asdict(problem))))
            assert env.score(again, audit.reply(problem.reference)).reward == 1.0


@pytest.mark.parametrize("name", [*IN_PROCESS, "code_input"])
def test_harder_problems_are_longer(name, every):
    sizes = [
        sum(len(every[name].make(Random(seed), difficulty).prompt) for seed in range(60))
        for difficulty in (0, 6, 12)
    ]
    assert sizes == sorted(sizes)
    assert sizes[0] < sizes[-1]


@pytest.mark.parametrize("name", NAMES)
def test_negative_difficulty_is_refused(name, every):
    with pytest.raises(EnvError, match="difficulty is -1"):
        every[name].make(Random(0), -1)


@pytest.mark.slow
@pytest.mark.usefixtures("few_templates")
@pytest.mark.parametrize("name", NAMES)
def test_references_are_right_and_twenty_near_misses_are_wrong(name, every):
    env, banks = every[name], every["falsify"].banks
    for index in range(3):
        rng = Random(f"{name} {index}")
        problem = env.make(rng, index)
        assert env.score(problem, audit.reply(problem.reference)).reward == 1.0
        replies = audit.wrong_replies(name, problem, rng, banks, 20)
        assert len(set(replies)) == len(replies) == 20
        for reply in replies:
            assert env.score(problem, reply).judgement is Judgement.WRONG, reply


@pytest.mark.slow
@pytest.mark.usefixtures("few_templates")
@pytest.mark.parametrize("name", NAMES)
def test_replies_that_know_nothing_earn_nothing(name, every):
    env = every[name]
    for index in range(4):
        problem = env.make(Random(f"policies {index}"), index)
        replies = audit.policies(name, problem, Random(index))
        replies.pop("random")  # a random legal input may well kill a candidate
        replies["open"] = problem.reference
        replies["junk"] = audit.reply('{"input": {"__import__": 1}} {"output": {}} ```python\n```')
        for policy, reply in replies.items():
            assert env.score(problem, reply).judgement is Judgement.WRONG, (policy, reply)


@pytest.mark.usefixtures("few_templates")
def test_an_input_is_refused_when_it_is_illegal_or_the_examples_own(every):
    env = every["code_input"]
    problem = env.make(Random(2), 1)
    for odd in (None, True, 5, [], {}, "x", {"numbers": [10**30]}, {"numbers": [True]}):
        verdict = env.score(problem, audit.reply(json.dumps({"input": odd})))
        assert verdict.judgement is Judgement.WRONG
        assert "not legal" in verdict.reason
    copied = audit.reply(json.dumps({"input": problem.data["sample"]}))
    assert "example's" in env.score(problem, copied).reason


def test_a_broken_sandbox_is_never_a_wrong_answer(every):
    problem = every["code_input"].make(Random(1), 2)
    verdict = code_io.CodeInput(Broken()).score(problem, audit.reply(problem.reference))
    assert verdict.judgement is Judgement.INFRA
    candidate = {
        "template": "longest_run",
        "candidate": "def solve(numbers):\n    return [0, -1]\n",
    }
    broken = Falsify(Banks(Broken()))
    reply = audit.reply('{"input": {"numbers": [1, 1]}}')
    verdict = broken.score(Problem("", "", candidate), reply)
    assert verdict.judgement is Judgement.INFRA


@pytest.mark.slow
def test_a_candidate_fails_by_crash_or_output_and_lateness_is_labelled(executor):
    family = Falsify(Banks(executor))
    wrong = "def solve(numbers):\n    return [len(numbers), 0]\n"
    crash = "def solve(numbers):\n    return numbers[7]\n"
    late = "def solve(numbers):\n    while numbers: pass\n"
    right = get("longest_run").solutions[1]
    reply = audit.reply('{"input": {"numbers": [1, 2]}}')
    for source, judgement in (
        (wrong, "right"),
        (crash, "right"),
        (late, "wrong"),
        (right, "wrong"),
    ):
        problem = Problem("", "", {"template": "longest_run", "candidate": source})
        verdict = family.score(problem, reply)
        assert verdict.judgement == judgement, (source, verdict)
        assert (verdict.reason == TIME_ONLY) == (source == late)
    lenient = Falsify(family.banks, accept_time_only=True)
    problem = Problem("", "", {"template": "longest_run", "candidate": late})
    assert lenient.score(problem, reply).reward == 1.0
    assert lenient.score(problem, reply).reason == TIME_ONLY


def test_inputs_on_which_trusted_solutions_fail_or_disagree_are_rejected(executor):
    family = Falsify(Banks(executor))
    template = get("longest_run")
    given = {"numbers": [1, 1]}
    good, bad = Outcome(value=[2, 0]), Outcome(value=[1, 0])
    late, crash = Outcome(failure=Failure.TIME), Outcome(failure=Failure.CRASH)
    for candidate in (good, bad, crash):
        for trusted in ([good, bad], [bad, good], [good, late], [crash, good], [crash, crash]):
            verdict = family.decide(template, given, candidate, trusted)
            assert verdict.judgement is Judgement.WRONG
            assert "rejected" in verdict.reason
    assert family.decide(template, given, bad, [good, good]).reward == 1.0


def test_hidden_tests_are_many_disjoint_from_the_examples_and_kill_every_mutant():
    template = get("pairs_with_sum")
    inputs = tuple(template.draw(Random(seed), 8) for seed in range(12))
    kept = (Kept("a", "x", (1, 2)), Kept("b", "x", (2, 5)), Kept("c", "x", (7,)))
    bank = Bank(tuple(template.draw(Random(-seed), 2) for seed in (1, 2, 3)), inputs, kept, 3)
    assert killers(bank) == [inputs[2], inputs[7]]
    shown = examples(template, bank, Random(0), 10)
    problem = build(template, bank, Random(0), shown)
    hidden = [canonical(test.input) for test in problem.private_tests]
    assert len(shown) == 10
    assert len(hidden) >= 20
    assert len(set(hidden)) == len(hidden)
    assert not {canonical(template.argument(given)) for given in shown} & set(hidden)
    assert hidden[:2] == [canonical(inputs[2]), canonical(inputs[7])]
    assert not problem.public_tests


def test_a_killer_is_never_shown_as_an_example():
    template = get("pairs_with_sum")
    samples = tuple(template.draw(Random(-seed), 2) for seed in (1, 2, 3))
    drawn = examples(template, Bank(samples, (), (), 0), Random(0), 10)
    bank = Bank(samples, tuple(drawn[5:]), (Kept("a", "x", (1,)),), 1)
    assert drawn[6] not in examples(template, bank, Random(0), 10)


def test_an_output_is_asked_for_only_if_it_is_rare_telling_and_not_in_the_input():
    counts = code_io.outputs("inversions", 0, 8)
    assert code_io.entropy_bits(counts) > code_io.MIN_ENTROPY_BITS
    assert not code_io.can_ask({"numbers": [3]}, True, counts)
    assert not code_io.can_ask({"numbers": [3]}, 1, counts)
    assert not code_io.can_ask({"numbers": [3]}, [], counts)
    assert not code_io.can_ask({"numbers": [7, 9]}, [7, 9], counts)
    common = Counter({"[40,41]": 7, "[3,4]": 57})
    assert not code_io.can_ask({"numbers": [1]}, [40, 41], common)
    assert code_io.can_ask({"numbers": [1]}, [40, 41], counts)


def test_outputs_are_compared_by_exact_types(every):
    problem = Problem("", "", {"output": [1, "a", 2.5]})
    for text, reward in (
        ('[1, "a", 2.5]', 1.0),
        ('[1, "a", 2.5000000001]', 1.0),
        ('[true, "a", 2.5]', 0.0),
        ('[1.0, "a", 2.5]', 0.0),
        ('[1, "A", 2.5]', 0.0),
        ('[1, "a"]', 0.0),
    ):
        verdict = every["code_output"].score(problem, audit.reply(f'{{"output": {text}}}'))
        assert verdict.reward == reward, text
