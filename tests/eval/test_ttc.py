"""The comparison gives the vote what Markovian RSA spent, and scores as the paper does."""

import asyncio
import time
from dataclasses import replace

import pytest

from openzaya.core.records import Completion, infra, right, wrong
from openzaya.core.seeding import stream
from openzaya.eval import protocol
from openzaya.eval.ttc import compare
from openzaya.ttc.config import MarkovianRSAConfig

CONFIG = MarkovianRSAConfig(
    num_candidates=4, tails_per_prompt=2, rounds=1, budget_tokens=40, tail_tokens=10
)


class Dice:
    """Answers "1" with a chance that is higher when candidates are shown."""

    def __init__(self) -> None:
        self.calls = 0

    async def sample(self, request):
        self.calls += 1
        shown = "Candidate" in request.messages[-1].content
        rng = stream(request.seed, "dice")
        tokens = rng.randint(5, request.max_tokens)
        answer = "1" if rng.random() < (0.9 if shown else 0.5) else str(rng.randint(2, 9))
        return Completion(f"hm\n</think>\n\n{answer}", tokens, "stop", num_prompt_tokens=8)

    def count_prompt_tokens(self, messages):
        return 8

    def last_tokens(self, text, count):
        return text[-count:]


def judge(_index, reply):
    return right() if reply.endswith("\n1") else wrong("not one")


@pytest.fixture(scope="module")
def comparison():
    questions = [f"question {i}" for i in range(60)]
    return asyncio.run(compare(questions, judge, Dice(), CONFIG, seed=3))


def test_the_vote_spends_at_most_what_markovian_rsa_spent_and_nearly_all_of_it(comparison):
    assert comparison.majority_tokens <= comparison.mrsa_tokens
    assert comparison.majority_tokens > comparison.mrsa_tokens - CONFIG.budget_tokens
    assert comparison.majority_rollouts == pytest.approx(8, abs=1.0)


def test_the_four_scores_are_what_the_dice_promise(comparison):
    assert comparison.single.mean == pytest.approx(0.5, abs=0.08)
    assert comparison.mrsa_mean.mean == pytest.approx(0.9, abs=0.06)
    assert comparison.majority.mean > comparison.single.mean + 0.2
    assert comparison.mrsa_vote.mean > 0.9
    assert comparison.single.num_problems == 60


def test_the_same_seed_gives_the_same_table():
    questions = ["a", "b", "c"]
    first, second = (asyncio.run(compare(questions, judge, Dice(), CONFIG, seed=5)) for _ in "xy")
    assert first == second


def test_questions_on_which_the_judge_fails_are_in_no_figure_and_end():
    def failing(index, reply):
        return infra("the sandbox is down") if index == 1 else judge(index, reply)

    table = asyncio.run(compare(["a", "b", "c"], failing, Dice(), CONFIG, seed=5))
    for score in (table.single, table.majority, table.mrsa_mean, table.mrsa_vote):
        assert score.num_problems == 2
    assert table.majority_tokens <= table.mrsa_tokens


def test_a_rollout_without_a_verdict_is_not_sampled_again():
    seeds: list[int] = []

    class Noted(Dice):
        async def sample(self, request):
            if "Candidate" not in request.messages[-1].content:
                seeds.append(request.seed)
            return await super().sample(request)

    def failing(_index, reply):
        return infra("down") if reply.endswith(("2", "3", "4")) else judge(0, reply)

    asyncio.run(compare(["a"], failing, Noted(), CONFIG, seed=5))
    assert len(seeds) > 8
    assert len(set(seeds)) == len(seeds)


def test_what_its_budget_cuts_is_wrong_in_all_four_scores_and_does_not_vote():
    class Cut(Dice):
        async def sample(self, request):
            return replace(await super().sample(request), finish_reason="length")

    table = asyncio.run(compare(["a", "b"], judge, Cut(), CONFIG, seed=5))
    for score in (table.single, table.majority, table.mrsa_mean, table.mrsa_vote):
        assert (score.mean, score.num_problems) == (0.0, 2)

    class Half(Dice):
        """Every third reply is right and ends; the others, all alike, are cut."""

        async def sample(self, request):
            self.calls += 1
            if self.calls % 3 == 0:
                return Completion("hm\n</think>\n\n1", 8, "stop")
            return Completion("hm\n</think>\n\n2", 8, "length")

    table = asyncio.run(compare(["a", "b"], judge, Half(), CONFIG, seed=5))
    assert table.single.mean < 0.5
    assert table.majority.mean == table.mrsa_vote.mean == 1.0


def test_a_judge_that_hangs_leaves_its_question_out(monkeypatch):
    monkeypatch.setattr(protocol, "JUDGE_LIMIT_S", 0.02)

    def hangs(index, reply):
        return time.sleep(60) if index == 1 else judge(index, reply)

    table = asyncio.run(compare(["a", "b"], hangs, Dice(), CONFIG, seed=5))
    assert table.single.num_problems == 1


def test_a_model_that_generates_nothing_comes_to_an_end():
    class Mute(Dice):
        async def sample(self, request):
            return Completion("", 0, "stop", num_prompt_tokens=8)

    table = asyncio.run(compare(["a"], judge, Mute(), CONFIG, seed=5))
    assert table.single.mean == table.majority.mean == 0.0
