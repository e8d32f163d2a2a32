"""What the actor does with verdicts, failures, loops and prompts that do not fit."""

import math
import time
from dataclasses import replace

import numpy as np
import pytest
import tiny_rl
from tiny_rl import TOKENIZER

from openzaya.core.errors import ContextLengthError, EnvError, SandboxError
from openzaya.core.records import Judgement, Message, Verdict, infra, right, wrong
from openzaya.engine.request import Output, SamplingParams
from openzaya.rl.config import Prompt
from openzaya.rl.pipeline.actor import MAX_HUNG_GROUPS, ActorStats, ordinary_ids
from openzaya.rl.stages import RLStage
from openzaya.rl.tails import TailPool

POOL = TailPool(1, 1)


def scripted(stage: RLStage, **changes: object) -> None:
    """Replace the engine's sampling by rollouts of fixed tokens with some fields changed."""
    real = stage.engine.generate

    def generate(asked: list[list[int]], params: list[SamplingParams]) -> list[Output]:
        outputs = real(asked, params)
        return [*outputs[:-1], replace(outputs[-1], **changes)]

    stage.engine.generate = generate  # type: ignore[method-assign,assignment]


def test_a_rollout_keeps_what_training_needs() -> None:
    stage, stats = tiny_rl.stage(), ActorStats()
    groups = stage.actor.rollout(tiny_rl.prompts(0, 0, POOL), 0, 0, stats)
    assert len(groups) == 3
    for group in groups:
        assert group.prompt_ids == tiny_rl.CHAT.encode_prompt(group.prompt.messages, TOKENIZER)
        for r in group.rollouts:
            assert len(r.token_ids) == len(r.logprobs) == len(r.versions) <= 6
            assert r.experts.shape == (len(group.prompt_ids) + len(r.token_ids) - 1, 2)
            assert r.reward == float(tiny_rl.score(group.prompt, r.text).score >= 1.0)
            assert not r.is_cut
            assert r.text == TOKENIZER.decode(r.token_ids[:-1])
    assert stats.rollouts == 12
    assert stats.tokens == sum(len(r.token_ids) for g in groups for r in g.rollouts)


def test_a_rollout_that_is_cut_at_the_budget_is_wrong_whatever_it_says() -> None:
    asked: list[str] = []

    def score(_prompt: Prompt, text: str) -> Verdict:
        asked.append(text)
        return right()

    stage, stats = tiny_rl.stage(scorer=score), ActorStats()
    scripted(stage, finish_reason="length")
    (group,) = stage.actor.rollout(tiny_rl.prompts(0, 0, POOL)[:1], 0, 0, stats)
    assert group.rewards == [1.0, 1.0, 1.0, 0.0]
    assert [r.is_cut for r in group.rollouts] == [False, False, False, True]
    assert group.rollouts[3].text == TOKENIZER.decode(group.rollouts[3].token_ids)
    assert (len(asked), stats.cut) == (3, 1)


def test_rollouts_are_a_function_of_step_place_and_member() -> None:
    def texts(step: int, first: int) -> list[list[int]]:
        stage = tiny_rl.stage()
        groups = stage.actor.rollout(tiny_rl.prompts(0, 0, POOL), step, first, ActorStats())
        return [r.token_ids for g in groups for r in g.rollouts]

    assert texts(0, 0) == texts(0, 0)
    assert texts(0, 0) != texts(1, 0)
    assert texts(0, 0) != texts(0, 3)
    members = texts(0, 0)[:4]
    assert len({tuple(m) for m in members}) == 4


@pytest.mark.parametrize("how", ["verdict", "exception", "abort", "routes"])
def test_one_failure_of_ours_drops_the_whole_group_and_nothing_else(how: str) -> None:
    """INFRA never reaches a statistic: the other groups and every count are as without it."""
    calls: list[str] = []

    def score(prompt: Prompt, text: str) -> Verdict:
        calls.append(text)
        if prompt.payload == {"i": 2} and len(calls) == 12:
            if how == "exception":
                raise SandboxError("no namespaces")
            if how == "verdict":
                return infra("verifier died")
        return tiny_rl.score(prompt, text)

    clean, clean_stats = tiny_rl.stage(), ActorStats()
    two = tiny_rl.prompts(0, 0, POOL)[:2]
    expected = clean.actor.rollout(two, 0, 0, clean_stats)
    stage, stats = tiny_rl.stage(scorer=score), ActorStats()
    if how == "abort":
        scripted(stage, finish_reason="abort", token_ids=[], logprobs=[], versions=[], experts=None)
    if how == "routes":
        scripted(stage, experts=np.zeros((3, 2), dtype=np.uint8))
    found = stage.actor.rollout(tiny_rl.prompts(0, 0, POOL), 0, 0, stats)
    assert [g.rewards for g in found] == [g.rewards for g in expected]
    assert (stats.infra_groups, stats.infra_rollouts) == (1, 1)
    assert len(stats.reasons) == 1
    for name in ("rollouts", "tokens", "cut", "flagged", "rare"):
        assert getattr(stats, name) == getattr(clean_stats, name)


def test_an_error_that_is_not_infrastructure_is_not_hidden() -> None:
    def broken(prompt: Prompt, text: str) -> Verdict:
        raise KeyError("a bug")

    with pytest.raises(KeyError):
        tiny_rl.stage(scorer=broken).actor.rollout(tiny_rl.prompts(0, 0, POOL), 0, 0, ActorStats())


def test_a_scorer_that_hangs_costs_its_group_only() -> None:
    """One time limit a group: the others of the group are not asked any more."""
    asked: list[int] = []

    def hangs(prompt: Prompt, text: str) -> Verdict:
        asked.append(prompt.payload["i"])
        if prompt.payload["i"] == 1 and asked.count(1) == 2:
            time.sleep(60)
        return tiny_rl.score(prompt, text)

    clean = tiny_rl.stage().actor.rollout(tiny_rl.prompts(0, 0, POOL), 0, 0, ActorStats())
    stage, stats = tiny_rl.stage(tiny_rl.config(score_limit_s=0.1), hangs), ActorStats()
    found = stage.actor.rollout(tiny_rl.prompts(0, 0, POOL), 0, 0, stats)
    assert [g.rewards for g in found] == [clean[0].rewards, clean[2].rewards]
    assert asked == [0] * 4 + [1] * 2 + [2] * 4
    assert (stats.infra_groups, stats.infra_rollouts, stats.rollouts) == (1, 1, 8)
    assert stats.reasons == ["no verdict on a reply to '0.0.1' (it took more than 0.1 s)"]


def test_a_scorer_that_hangs_always_ends_the_run_soon() -> None:
    """And one that answers in between does not: only what hangs in a row counts."""
    groups: list[str] = []

    def hangs(prompt: Prompt, text: str) -> Verdict:
        if prompt.key not in groups:
            groups.append(prompt.key)
        if len(groups) == MAX_HUNG_GROUPS:
            return right()
        raise TimeoutError("the reward server does not answer")

    stage, stats = tiny_rl.stage(scorer=hangs), ActorStats()
    prompts = [p for attempt in range(9) for p in tiny_rl.prompts(0, attempt, POOL)]
    with pytest.raises(EnvError, match=r"5 groups in a row: .*the reward server does not answer"):
        stage.actor.rollout(prompts, 0, 0, stats)
    assert len(groups) == 2 * MAX_HUNG_GROUPS
    assert stats.rollouts == 4


def test_a_loop_loses_its_reward_before_any_group_statistic() -> None:
    stage, stats = tiny_rl.stage(scorer=lambda _p, _t: right()), ActorStats()
    prompt = tiny_rl.prompts(0, 0, POOL)[0]
    prompt_len = len(tiny_rl.CHAT.encode_prompt(prompt.messages, TOKENIZER))
    scripted(
        stage,
        token_ids=[40, 41] * 100,
        logprobs=[-1.0] * 200,
        versions=[0] * 200,
        experts=np.zeros((prompt_len + 199, 2), dtype=np.uint8),
        finish_reason="length",
    )
    (group,) = stage.actor.rollout([prompt], 0, 0, stats)
    assert group.rewards == [1.0, 1.0, 1.0, 0.0]
    assert [r.is_flagged for r in group.rollouts] == [False, False, False, True]
    assert stats.flagged == 1


@pytest.mark.parametrize("score", [math.nan, math.inf, -0.1, 7.0])
def test_a_score_that_is_no_score_is_a_failure_of_ours(score: float) -> None:
    """It would make a group look uniform, or poison the mean of its source for good."""
    stage = tiny_rl.stage(
        tiny_rl.config(reward="score"),
        lambda _p, text: Verdict(Judgement.RIGHT, score if len(text) > 3 else 0.5),
    )
    stats = ActorStats()
    assert stage.actor.rollout(tiny_rl.prompts(0, 0, POOL), 0, 0, stats) == []
    assert stats.infra_groups == 3
    assert f"the score is {score}, expected a number from 0 to 1" in stats.reasons


def test_partial_credit_is_a_reward_only_when_asked_for() -> None:
    def partial(prompt: Prompt, text: str) -> Verdict:
        return wrong("half", 0.5)

    for reward, expected in [("binary", 0.0), ("score", 0.5)]:
        stage = tiny_rl.stage(tiny_rl.config(reward=reward), scorer=partial)
        (group,) = stage.actor.rollout(tiny_rl.prompts(0, 0, POOL)[:1], 0, 0, ActorStats())
        assert group.rewards == [expected] * 4


def test_a_prompt_without_room_for_a_whole_response_is_left_out_and_counted() -> None:
    stage, stats = tiny_rl.stage(), ActorStats()
    long = Prompt((Message("user", "x" * 80),), {}, "a", "long")
    groups = stage.actor.rollout([long, tiny_rl.prompts(0, 0, POOL)[0]], 0, 0, stats)
    assert [g.prompt.key for g in groups] == ["0.0.0"]
    assert stats.too_long == 1
    with pytest.raises(ContextLengthError, match="max_response_tokens"):
        tiny_rl.stage(tiny_rl.config(max_response_tokens=64))


def test_ordinary_ids_leave_special_blocks_at_both_ends_out() -> None:
    assert ordinary_ids(frozenset({0, 1, 2, 98, 99}), 100) == range(3, 98)
    assert ordinary_ids(frozenset(), 100) == range(100)
    assert ordinary_ids(frozenset({49, 50}), 100) == range(100)
