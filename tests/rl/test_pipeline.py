"""Groups live and die whole, nothing stale or INFRA is trained on, replay agrees with sampling."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny_training import tiny_model
from tiny_words import tiny_tokenizer

from openzaya.core.errors import ConfigError, EngineError
from openzaya.core.records import Message, infra, right, wrong
from openzaya.engine.engine import Engine
from openzaya.optim import MuonConfig, OptimConfig
from openzaya.rl.config import Group, Prompt, RLConfig, Rollout
from openzaya.rl.pipeline.actor import Actor
from openzaya.rl.pipeline.buffer import GroupBuffer
from openzaya.rl.pipeline.packer import pack_groups
from openzaya.rl.pipeline.trainer import replayed_logprobs
from openzaya.rl.pipeline.weight_sync import WeightPublisher, fingerprint
from openzaya.rl.stages import RLStage, run_rl
from openzaya.rl.tails import TailEntry, TailPool
from openzaya.text.chat import ChatTemplate

TOKENIZER = tiny_tokenizer()
CHAT = ChatTemplate.pinned()
CONFIG = RLConfig(
    steps=4,
    prompts_per_step=3,
    group_size=8,
    max_response_tokens=6,
    max_oversampling=1.0,
    sync_every=1,
    min_groups=1,
    micro_tokens=64,
    length_norm=6.0,
    optim=OptimConfig(muon=MuonConfig(lr=0.02, momentum=None, weight_decay=0.0), lr_adamw=0.01),
    checkpoint_every_steps=2,
    slots=24,
    context_tokens=64,
)


def model_for_words():
    """Return a tiny model with the tiny tokenizer's vocabulary."""
    return tiny_model(vocabulary=TOKENIZER.vocab_size)


def prompts_of(step, attempt, pool):
    """Return the prompts of a step; the first one's text depends on the tails kept so far."""
    words = ["a b", "b c", f"c {'a' if len(pool) % 2 else 'b'}"]
    return [
        Prompt((Message("user", word),), {"n": i}, "ab"[i % 2], f"{step}.{i}")
        for i, word in enumerate(words)
    ]


def says_a(_prompt, text):
    """Reward a reply that holds the letter a."""
    return right() if "a" in text else wrong("no a")


def groups_of(score=says_a, config=CONFIG, model=None):
    """Roll out one batch."""
    engine = Engine(model or model_for_words(), max_slots=24, max_tokens=64)
    actor = Actor(engine, TOKENIZER, CHAT, score, config)
    return actor.rollout(prompts_of(0, 0, TailPool(4, 4)), 0, 0)


def fake_group(version=0, rewards=(1.0, 0.0)):
    """Return a group without a model behind it."""
    rollouts = tuple(
        Rollout([3, 2], [-1.0, -0.5], np.zeros((3, 2), np.uint8), version, "x", r, False, False)
        for r in rewards
    )
    return Group(Prompt((Message("user", "q"),), None, "s", "k"), [4, 5], rollouts)


def test_replayed_logprobs_are_those_the_sampler_recorded():
    model = model_for_words()
    groups, _ = groups_of(model=model)
    advantages = torch.ones(len(groups), CONFIG.group_size)
    packs = pack_groups(groups, advantages, 64, model.device)
    assert len(packs) > 1
    for packed in packs:
        logprobs = replayed_logprobs(model, packed, CONFIG.temperature)
        torch.testing.assert_close(logprobs.detach(), packed.logprobs_R, rtol=0, atol=1e-4)
    tokens = sum(len(r.token_ids) for g in groups for r in g.rollouts)
    assert sum(len(p.targets_R) for p in packs) == tokens


def test_packs_hold_every_rollout_with_an_advantage_once_and_whole():
    groups, _ = groups_of()
    advantages = torch.zeros(len(groups), CONFIG.group_size)
    advantages[0, 1], advantages[2, 5] = 2.0, -1.0
    packs = pack_groups(groups, advantages, 1000, torch.device("cpu"))
    wanted = [(groups[0], groups[0].rollouts[1], 2.0), (groups[2], groups[2].rollouts[5], -1.0)]
    assert len(packs) == 1
    packed = packs[0]
    inputs = sorted(tuple(g.prompt_ids + r.token_ids[:-1]) for g, r, _ in wanted)
    assert sorted(tuple(x.tolist()) for x in packed.ids_T.split(packed.lengths)) == inputs
    assert packed.replay_TL.shape[0] == len(packed.ids_T) == sum(packed.lengths)
    targets = [t for _, r, _ in wanted for t in r.token_ids]
    assert sorted(packed.targets_R.tolist()) == sorted(targets)
    counts = {a: sum(len(r.token_ids) for _, r, x in wanted if x == a) for a in (2.0, -1.0)}
    assert {a: int((packed.advantages_R == a).sum()) for a in counts} == counts


def test_an_infra_verdict_drops_its_whole_group_from_every_statistic():
    def score(prompt, text):
        return (
            infra("verifier died")
            if prompt.payload["n"] == 1 and "b" in text
            else says_a(prompt, text)
        )

    groups, stats = groups_of(score)
    assert [group.prompt.payload["n"] for group in groups] == [0, 2]
    assert (stats.groups, stats.infra_groups) == (2, 1)
    assert set(stats.rewards) == {"a"}
    assert stats.tokens == sum(len(r.token_ids) for g in groups for r in g.rollouts)


def test_the_canary_zeroes_the_reward_before_group_statistics():
    canary = replace(CONFIG.canary, threshold=0.99, chunk_tokens=2)
    groups, stats = groups_of(lambda p, t: right(), replace(CONFIG, canary=canary))
    flagged = [r for g in groups for r in g.rollouts if r.is_flagged]
    assert flagged
    assert stats.flagged == len(flagged)
    assert all(r.reward == 0.0 for r in flagged)
    assert all(r.reward == 1.0 for g in groups for r in g.rollouts if not r.is_flagged)


def test_rollouts_depend_on_step_and_place_only():
    first, second = groups_of()[0], groups_of()[0]
    assert [r.token_ids for g in first for r in g.rollouts] == [
        r.token_ids for g in second for r in g.rollouts
    ]
    assert first[0].rollouts[0].token_ids != first[0].rollouts[1].token_ids


def test_the_buffer_is_first_in_first_out_bounded_and_never_stale():
    buffer = GroupBuffer(capacity=3, max_lag=2)
    for version in (0, 1, 2, 3):
        buffer.push(fake_group(version))
    assert (len(buffer), buffer.num_evicted) == (3, 1)
    assert [g.min_version for g in buffer.take(2, version=4)] == [2, 3]
    assert buffer.num_stale == 1
    assert len(buffer) == 0


def test_torn_weights_are_not_published():
    model = model_for_words()
    engine = Engine(model, max_slots=2, max_tokens=32)
    publisher = WeightPublisher(model, engine)
    expected = fingerprint(model)
    assert publisher.publish(expected) == engine.weights_version == 1
    with torch.no_grad():
        model.norm.weight[0] += 1e-3
    with pytest.raises(EngineError, match="fingerprint"):
        publisher.publish(expected)
    assert engine.weights_version == 1


def test_the_tail_pool_is_bounded_and_survives_json():
    pool = TailPool(size=2, tails_per_prompt=3)
    for key in ("x", "y", "x", "z"):
        pool.add(key, TailEntry((Message("user", key),), {"n": 1}, "s", [f"{key}1", f"{key}2"]))
    assert list(pool.entries) == ["x", "z"]
    assert pool.entries["x"].tails == ["x2", "x1", "x2"]
    again = TailPool(2, 3)
    again.load(pool.to_json())
    assert again.entries == pool.entries


class Killed(Exception):
    """Stands for kill -9."""


def reinforce(folder, steps=4, die_at=None, score=says_a, config=CONFIG):
    """Run the stage; return weights, metrics by step and the state."""
    model = model_for_words()
    stage = RLStage(model, score, TOKENIZER, CHAT, replace(config, steps=steps), tail_tokens=4)
    seen = {}

    def on_step(step, outcome):
        seen[step] = outcome.metrics
        if step == die_at:
            raise Killed

    state = run_rl(stage, prompts_of, folder, on_step=on_step)
    return model.state_dict(), seen, state


@pytest.mark.parametrize("die_at", [1, 3])
def test_a_resumed_stage_is_bit_identical_to_one_that_was_never_stopped(tmp_path, die_at):
    whole, metrics, state = reinforce(tmp_path / "whole")
    with pytest.raises(Killed):
        reinforce(tmp_path / "killed", die_at=die_at)
    resumed, later, again = reinforce(tmp_path / "killed")
    assert min(later) == 2 * (die_at // 2) + 1
    assert all(metrics[step] == later[step] for step in later)
    assert again.rewards == state.rewards
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_reinforcement_raises_the_reward_of_a_tiny_bandit(tmp_path):
    _, _, state = reinforce(tmp_path, steps=14)
    assert sum(state.rewards[-3:]) / 3 > sum(state.rewards[:3]) / 3 + 0.1


def test_a_negated_reward_goes_the_other_way(tmp_path):
    _, _, state = reinforce(
        tmp_path, steps=14, score=lambda p, t: wrong("a") if "a" in t else right()
    )
    assert sum(state.rewards[-3:]) / 3 > sum(state.rewards[:3]) / 3 + 0.05


def test_too_few_groups_with_contrast_change_nothing_and_end_in_a_clear_error(tmp_path):
    config = replace(CONFIG, max_useless_steps=2)
    before = model_for_words().state_dict()
    model = model_for_words()
    stage = RLStage(model, lambda p, t: right(), TOKENIZER, CHAT, config, tail_tokens=4)
    with pytest.raises(EngineError, match="2 steps in a row"):
        run_rl(stage, prompts_of, tmp_path)
    assert all(torch.equal(before[n], t) for n, t in model.state_dict().items())


def test_on_policy_metrics_say_so(tmp_path):
    _, metrics, _ = reinforce(tmp_path, steps=1)
    figures = metrics[1]
    assert math.isclose(figures["rl/ratio_ess"], 1.0, abs_tol=1e-5)
    assert figures["rl/mismatch_kl"] < 1e-8
    assert figures["rl/infra_groups"] == 0.0


def test_settings_that_cannot_work_are_refused():
    with pytest.raises(ConfigError, match="group_size is 1"):
        RLConfig(group_size=1)
    with pytest.raises(ConfigError, match="sync_every is 5"):
        RLConfig(sync_every=5)
