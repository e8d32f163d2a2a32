"""The family as the catalog hands it out: whole replies, with their think block."""

from random import Random

import pytest

from openzaya.core.records import Judgement
from openzaya.envs import catalog
from openzaya.envs.base import MAX_ANSWER_CHARS
from openzaya.envs.instruct.reading import MAX_REPLY_CHARS

ENV = catalog.get("instruct")
CONSTANT = (
    "There is a lot to say about this, and I will try to say it well. First of all, we should think"
    " about what we want and why we want it. Then we can look at what others have done before us"
    " and learn from them. In the end it is up to each of us to find a way that works."
)


def closed(answer: str) -> str:
    """Return a reply whose think block is closed before the answer."""
    return f"thinking\n</think>\n\n{answer}"


def problems(count: int):
    return [ENV.make(Random(seed), seed % 10) for seed in range(count)]


def test_it_is_a_family_of_its_own():
    assert ENV.family == "instruct"
    assert catalog.names("instruct") == ["instruct"]


def test_policies_that_do_not_answer_earn_next_to_nothing_and_the_witness_everything():
    made = problems(60)
    policies = {
        "empty": lambda problem, other: "",
        "echo": lambda problem, other: problem.prompt,
        "constant": lambda problem, other: CONSTANT,
        "ok": lambda problem, other: "ok",
        "another's reference": lambda problem, other: other.reference,
    }
    for name, policy in policies.items():
        rewards = [
            ENV.score(problem, closed(policy(problem, other))).reward
            for problem, other in zip(made, made[1:] + made[:1], strict=True)
        ]
        assert sum(rewards) / len(rewards) <= 0.05, name
    assert all(ENV.score(problem, closed(problem.reference)).reward == 1.0 for problem in made)


def test_a_witness_that_stays_in_the_think_block_is_no_answer():
    for problem in problems(10):
        for reply in (problem.reference, f"{problem.reference}\n</think>\n\n"):
            assert ENV.score(problem, reply).judgement is Judgement.WRONG


def test_long_answers_are_read_up_to_the_familys_own_size():
    """Other references behind it make a witness long; some problems allow for that."""
    problem = next(p for p in problems(60) if kept_when_longer(p, MAX_ANSWER_CHARS + 500))
    assert ENV.max_answer_chars == MAX_REPLY_CHARS > MAX_ANSWER_CHARS
    assert ENV.score(problem, closed(longer(problem, MAX_ANSWER_CHARS + 500))).reward == 1.0
    verdict = ENV.score(problem, closed(longer(problem, MAX_REPLY_CHARS + 1)))
    assert verdict.judgement is Judgement.WRONG
    assert "characters" in verdict.reason


def longer(problem, chars: int) -> str:
    """Return the reference with other references behind it, at least so long."""
    text = problem.reference
    for seed in range(1_000, 2_000):
        if len(text) >= chars:
            return text
        text += f"\n\n{ENV.make(Random(seed), 0).reference}"
    pytest.fail("references are too short")


def kept_when_longer(problem, chars: int) -> bool:
    """Say whether a problem's constraints allow for a long answer."""
    return ENV.judge(problem, longer(problem, chars)).reward == 1.0


def test_harder_prompts_ask_for_more():
    means = [
        sum(len(ENV.make(Random(seed), difficulty).prompt) for seed in range(20)) / 20
        for difficulty in (0, 3, 8)
    ]
    assert means == sorted(means)
    assert means[-1] > 1.5 * means[0]
