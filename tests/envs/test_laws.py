"""Laws that every environment keeps, parametrized over the folder."""

import json
import random
from dataclasses import asdict, replace
from random import Random

import pytest

from openzaya.core.errors import EnvError
from openzaya.core.records import Judgement, right
from openzaya.envs import catalog
from openzaya.envs.base import LARGEST_ANSWER_CHARS, Problem, Teacher

NAMES = catalog.names()
SHORT = [name for name in NAMES if name not in catalog.FAMILIES]
"""Those whose answers have one short form: what stands around it makes them wrong."""
DIFFICULTIES = (0, 1, 2, 5, 9)


def closed(answer: str) -> str:
    """Return a reply whose think block is closed before the answer."""
    return f"thinking\n</think>\n\n{answer}"


@pytest.mark.parametrize("name", NAMES)
def test_the_same_stream_makes_the_same_problem_and_global_random_stays_untouched(name):
    env = catalog.get(name)
    before = random.getstate()
    for difficulty in DIFFICULTIES:
        first, second = (env.make(Random(difficulty), difficulty) for _ in range(2))
        assert first == second
        assert env.make(Random(difficulty + 100), difficulty) != first
    assert random.getstate() == before


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("difficulty", DIFFICULTIES)
def test_the_reference_is_right_and_survives_json(name, difficulty):
    env = catalog.get(name)
    for seed in range(20):
        problem = env.make(Random(seed), difficulty)
        again = Problem(**json.loads(json.dumps(asdict(problem))))
        assert env.score(again, closed(problem.reference)).reward == 1.0


@pytest.mark.parametrize("name", SHORT)
def test_junk_echoes_and_open_thinking_never_earn_a_reward(name):
    env = catalog.get(name)
    for seed in range(10):
        problem = env.make(Random(seed), 2)
        reference = problem.reference
        attacks = [
            reference,  # never closed
            closed(""),
            closed("   \n"),
            closed(problem.prompt),
            closed(f"{reference} or {reference[::-1]}0"),
            closed(reference + reference),
            closed("\u0664\u0665"),  # Arabic digits
            closed("9" * (env.max_answer_chars + 1)),
            closed("\0"),
            closed("\ud800"),
            closed("__import__('os').system('true')"),
            f"{reference}\n</think>\n\nno",
        ]
        for attack in attacks:
            verdict = env.score(problem, attack)
            assert verdict.judgement is Judgement.WRONG, attack
            assert 0.0 <= verdict.score < 1.0


@pytest.mark.parametrize("name", SHORT)
def test_harder_problems_are_not_shorter(name):
    env = catalog.get(name)
    sizes = [
        sum(len(env.make(Random(seed), difficulty).prompt) for seed in range(20))
        for difficulty in range(6)
    ]
    assert sizes == sorted(sizes)
    assert sizes[0] < sizes[-1]


@pytest.mark.parametrize("name", SHORT)
def test_no_difficulty_has_one_answer_for_all(name):
    env = catalog.get(name)
    for difficulty in (0, 3, 30):
        made = [env.make(Random(seed), difficulty) for seed in range(40)]
        rewards = [env.score(problem, closed(made[0].reference)).reward for problem in made]
        assert sum(rewards) <= len(made) / 2, difficulty


@pytest.mark.parametrize("name", NAMES)
def test_negative_difficulty_is_refused(name):
    with pytest.raises(EnvError, match="difficulty is -1"):
        catalog.get(name).make(Random(0), -1)


@pytest.mark.parametrize("name", catalog.names("nano"))
def test_a_perfect_patient_teacher_is_always_right(name):
    env = catalog.get(name)
    for seed in range(40):
        problem = env.make(Random(seed), seed % 5 if seed < 36 else 30)
        solution = env.teach(problem, Random(seed), Teacher(patience=200))
        reply = f"{solution.reasoning}\n</think>\n\n{solution.answer}"
        assert env.score(problem, reply).reward == 1.0


@pytest.mark.parametrize("name", catalog.names("nano"))
def test_a_slipping_teacher_is_sometimes_wrong(name):
    env = catalog.get(name)
    rewards = []
    for seed in range(60):
        problem = env.make(Random(seed), 3)
        solution = env.teach(problem, Random(seed), Teacher(slip=0.5, patience=2))
        rewards.append(env.score(problem, closed(solution.answer)).reward)
    assert sum(rewards) < len(rewards)


@pytest.mark.parametrize("name", catalog.names("nano"))
def test_merging_good_recaps_is_right_and_shorter_than_working_it_out(name):
    env = catalog.get(name)
    for seed in range(20):
        problem = env.make(Random(seed), 3)
        whole = env.teach(problem, Random(seed), Teacher(patience=200))
        tails = [
            env.teach(problem, Random(seed + k), Teacher(patience=200)).reasoning[-48:]
            for k in range(3)
        ]
        merged = env.merge(problem, tails, Random(seed), Teacher())
        assert env.score(problem, closed(merged.answer)).reward == 1.0
        assert len(merged.reasoning) <= max(len(whole.reasoning), 48)


@pytest.mark.parametrize("name", ["countdown", "subset", "modeq"])
def test_a_claimed_hit_is_checked_and_a_false_claim_is_not_believed(name):
    env = catalog.get(name)
    checked = 0
    for seed in range(60):
        problem = env.make(Random(seed), 2)
        flawed = env.teach(problem, Random(seed), Teacher(slip=0.4, patience=8))
        if env.score(problem, closed(flawed.answer)).reward == 1.0:
            continue
        if not flawed.reasoning.endswith("y"):
            continue
        merged = env.merge(problem, [flawed.reasoning], Random(seed), Teacher(patience=200))
        assert "n" in merged.reasoning
        assert env.score(problem, closed(merged.answer)).reward == 1.0
        checked += 1
    assert checked >= 3


@pytest.mark.parametrize("name", ["add", "chain", "cipher", "code", "parts"])
def test_a_single_candidate_is_worked_out_again(name):
    env = catalog.get(name)
    problem = env.make(Random(1), 3)
    recap = env.teach(problem, Random(1), Teacher(recap_only=True)).reasoning
    alone = env.merge(problem, [recap], Random(1), Teacher()).reasoning
    together = env.merge(problem, [recap, recap], Random(1), Teacher()).reasoning
    assert together == recap
    assert alone.endswith(recap)
    assert len(alone) > len(recap)


def test_an_answer_longer_than_the_environment_takes_is_wrong():
    made = catalog.get("add").make(Random(0), 0)
    for most in (4, 40):
        env = replace(
            catalog.get("add"), max_answer_chars=most, judge=lambda problem, answer: right()
        )
        assert env.score(made, closed("9" * most)).judgement is Judgement.RIGHT
        verdict = env.score(made, closed("9" * (most + 1)))
        assert verdict.judgement is Judgement.WRONG
        assert f"more than {most}" in verdict.reason


@pytest.mark.parametrize("most", [0, -1, LARGEST_ANSWER_CHARS + 1])
def test_an_environment_cannot_take_answers_of_any_size(most):
    with pytest.raises(EnvError, match="takes answers of"):
        replace(catalog.get("add"), max_answer_chars=most)


def test_an_unknown_environment_gets_a_suggestion():
    with pytest.raises(EnvError, match="did you mean 'countdown'"):
        catalog.get("countdwon")


def test_the_catalog_lists_without_importing():
    import subprocess
    import sys

    code = (
        "import sys; from openzaya.envs import catalog; names = catalog.names();"
        "loaded = [m for m in sys.modules if m.startswith('openzaya.envs.gym.')];"
        "assert len(names) >= 9 and not loaded and 'torch' not in sys.modules, loaded"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
