"""The driver: it learns, it resumes bit for bit, it refills, it stops with a reason."""

import os
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tiny_rl
import torch
from tiny_training import terminate_while_saving

from openzaya.core.errors import (
    CheckpointError,
    ConfigError,
    DataError,
    EnvError,
    TrainingStopped,
)
from openzaya.core.log import MetricWriter, read_metrics
from openzaya.core.records import Message, Verdict, infra, right, wrong
from openzaya.rl import stages
from openzaya.rl.config import Prompt, RLConfig
from openzaya.rl.spine import LengthRewardConfig
from openzaya.rl.stages import RLStage, run_rl
from openzaya.rl.tails import TailEntry, TailPool
from openzaya.train import ckpt
from openzaya.train.lock import RunLock
from openzaya.train.saver import Saver, Saving


def weights(stage: RLStage) -> dict[str, torch.Tensor]:
    return {**stage.model.state_dict(), **stage.optimizers.state_dict()}


def test_a_tiny_model_learns_to_write_what_is_rewarded(tmp_path: Path) -> None:
    """Rewarded is a reply with a digit; 26 steps lift it from about a fifth to nearly always."""
    settings = tiny_rl.config(
        steps=26,
        group_size=8,
        slots=24,
        checkpoint_every_steps=26,
        max_oversampling=1.0,
        max_response_tokens=7,
    )
    stage, outcomes = tiny_rl.run(tmp_path, settings)
    rewards = stage.state.rewards
    assert len(rewards) == 26
    assert sum(rewards[:3]) / 3 < 0.4
    assert sum(rewards[-3:]) / 3 > 0.75
    assert all(o.metrics["rl/mismatch_kl"] < 1e-6 for o in outcomes if o.metrics["rl/applied"])
    assert stage.state.updates == sum(o.metrics["rl/applied"] for o in outcomes)


LAGGING = {"sync_every": 2, "wait_batches": 2, "max_oversampling": 4.0}


@pytest.mark.parametrize("changes", [{}, LAGGING], ids=["in step", "lagging sampler"])
def test_a_resumed_run_is_bit_identical_to_one_that_was_never_stopped(
    tmp_path: Path, changes: dict[str, Any]
) -> None:
    """Stopped between checkpoints, as kill -9 does; the work after the last one is done again."""
    settings = tiny_rl.config(steps=7, checkpoint_every_steps=3, **changes)
    straight, expected = tiny_rl.run(tmp_path / "a", settings)

    class KilledError(Exception):
        pass

    def die(step: int, _outcome: object) -> None:
        if step == 5:
            raise KilledError

    with pytest.raises(KilledError):
        run_rl(tiny_rl.stage(settings), tiny_rl.prompts, tmp_path / "b", on_step=die)
    resumed, found = tiny_rl.run(tmp_path / "b", settings)
    assert len(found) == 4
    assert [o.metrics for o in found] == [o.metrics for o in expected[3:]]
    texts = [[r.text for g in o.groups for r in g.rollouts] for o in found]
    assert texts == [[r.text for g in o.groups for r in g.rollouts] for o in expected[3:]]
    for name, tensor in weights(straight).items():
        assert torch.equal(tensor, weights(resumed)[name]), name
    assert resumed.state == straight.state
    assert resumed.pool.to_json() == straight.pool.to_json()
    assert resumed.pool.entries
    assert resumed.buffer.state()[1] == straight.buffer.state()[1]


def test_a_lagging_sampler_trains_on_rollouts_of_bounded_recorded_age(tmp_path: Path) -> None:
    settings = tiny_rl.config(steps=8, **LAGGING)
    stage, outcomes = tiny_rl.run(tmp_path, settings)
    ages = [o.metrics["rl/staleness"] for o in outcomes]
    assert max(ages) == 2
    assert not stage.publisher.is_shared
    versions = {v for o in outcomes for g in o.groups for r in g.rollouts for v in r.versions}
    assert versions <= set(range(9))
    assert len(versions) > 1
    # off-policy for real: the trainer's probabilities are not the sampler's
    assert max(o.metrics["rl/mismatch_kl"] for o in outcomes) > 1e-6
    assert all(o.metrics["rl/trained_groups"] <= 3 for o in outcomes)


def test_other_settings_in_the_same_folder_are_refused(tmp_path: Path) -> None:
    tiny_rl.run(tmp_path, tiny_rl.config(steps=2))
    with pytest.raises(CheckpointError, match="steps"):
        tiny_rl.run(tmp_path, tiny_rl.config(steps=3))


def test_other_code_is_refused_unless_it_is_allowed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = tiny_rl.config(steps=2)
    straight, _ = tiny_rl.run(tmp_path, settings)
    recorded = ckpt.load_newest(tmp_path)
    assert recorded is not None
    files = ("rl/pipeline/trainer.py", "engine/engine.py", "envs/base.py", "model/zaya.py")
    assert set(files) <= recorded.meta["code"].keys()
    monkeypatch.setattr("openzaya.train.lineage.code_revision", lambda _packages: {"torch": "3.0"})
    with pytest.raises(CheckpointError, match="made with other code"):
        tiny_rl.run(tmp_path, settings)
    stage = tiny_rl.stage(settings)
    run_rl(stage, tiny_rl.prompts, tmp_path, saving=Saving(allow_changed=("code",)))
    assert stage.state == straight.state


def test_a_folder_in_use_is_refused(tmp_path: Path) -> None:
    with RunLock(tmp_path), pytest.raises(CheckpointError, match="is in use by pid"):
        tiny_rl.run(tmp_path, tiny_rl.config())


def test_a_signal_saves_the_step_and_the_run_goes_on_as_if_there_had_been_none(
    tmp_path: Path,
) -> None:
    settings = tiny_rl.config(steps=5, checkpoint_every_steps=5)
    straight, _ = tiny_rl.run(tmp_path / "a", settings)

    def ask(step: int, _outcome: object) -> None:
        if step == 3:
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(TrainingStopped, match="after step 3 of 5, which is saved"):
        run_rl(tiny_rl.stage(settings), tiny_rl.prompts, tmp_path / "b", on_step=ask)
    resumed, found = tiny_rl.run(tmp_path / "b", settings)
    assert len(found) == 2
    assert all(torch.equal(t, weights(resumed)[name]) for name, t in weights(straight).items())


@pytest.mark.parametrize(("at_step", "saved"), [(2, 3), (5, 5)])
def test_a_signal_at_any_moment_ends_the_stage_with_the_named_step_saved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at_step: int, saved: int
) -> None:
    """Here it comes when the loop has just looked for one."""
    terminate_while_saving(monkeypatch, stages.RLStage, at_step)
    with pytest.raises(TrainingStopped, match=f"after step {saved} of 5, which is saved"):
        run_rl(tiny_rl.stage(tiny_rl.config(steps=5)), tiny_rl.prompts, tmp_path)
    found = ckpt.load_newest(tmp_path)
    assert found is not None
    assert found.step == saved


def test_long_steps_are_saved_by_the_clock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each look at the clock is 400 seconds later; a save is due after 900."""
    now = iter(range(0, 100_000, 400))
    monkeypatch.setattr("openzaya.train.loop.monotonic", lambda: float(next(now)))
    saved: list[int] = []
    real = stages.RLStage.save

    def save(stage: stages.RLStage, saver: Saver, *, is_last: bool) -> None:
        saved.append(stage.state.step)
        real(stage, saver, is_last=is_last)

    monkeypatch.setattr(stages.RLStage, "save", save)
    tiny_rl.run(tmp_path, tiny_rl.config(steps=5, checkpoint_every_steps=1000))
    assert saved == [3, 5]


def test_a_run_that_met_slow_verdicts_goes_on_with_more_patience(tmp_path: Path) -> None:
    settings = tiny_rl.config(steps=2)
    straight, _ = tiny_rl.run(tmp_path, settings)
    patient = replace(settings, score_limit_s=900.0, max_infra_share=0.5, max_useless_steps=99)
    resumed, outcomes = tiny_rl.run(tmp_path, patient)
    assert outcomes == []
    assert resumed.state == straight.state


def test_a_run_without_a_prompt_that_fits_says_so() -> None:
    stage = tiny_rl.stage(tiny_rl.config(context_tokens=8, max_useless_steps=1))
    with pytest.raises(DataError, match=r"in the last one 9 prompts were too long and 0 groups"):
        stage.step(tiny_rl.prompts)


def test_useless_groups_are_observed_but_never_trained_on_and_end_the_run(tmp_path: Path) -> None:
    settings = tiny_rl.config(steps=9, max_useless_steps=2, max_oversampling=2.0)
    for verdict, name in [(right(), "rl/all_right_share"), (wrong("no"), "rl/all_wrong_share")]:
        stage = tiny_rl.stage(settings, scorer=lambda _p, _t, v=verdict: v)
        before = {k: v.clone() for k, v in stage.model.state_dict().items()}
        outcome = stage.step(tiny_rl.prompts)
        assert len(outcome.groups) == 6  # refilled up to twice the prompts, then gave up
        assert outcome.metrics[name] == 1.0
        assert outcome.metrics["rl/kept_share"] == outcome.metrics["rl/applied"] == 0.0
        assert stage.trainer.solve_rates.state_dict()["sums"]["a"][2] == 4
        with pytest.raises(DataError, match="2 steps in a row"):
            stage.step(tiny_rl.prompts)
        assert all(torch.equal(v, before[k]) for k, v in stage.model.state_dict().items())
        assert stage.engine.weights_version == 0


def test_a_batch_is_refilled_until_enough_groups_have_contrast(tmp_path: Path) -> None:
    """Prompts with key "...0" are hopeless; the batch of 3 is filled from the others."""

    def hard(prompt: Prompt, text: str) -> Verdict:
        if prompt.payload["i"] == 0:
            return wrong("hopeless")
        return right() if text[:1] < "M" else wrong("no")

    stage = tiny_rl.stage(tiny_rl.config(max_oversampling=9.0), scorer=hard)
    outcome = stage.step(tiny_rl.prompts)
    assert outcome.metrics["rl/trained_groups"] == 3
    assert len(outcome.groups) > 3
    kept = outcome.metrics["rl/kept_share"] * len(outcome.groups)
    assert len(stage.buffer) == round(kept) - 3  # the surplus waits for the next step


def test_stale_groups_do_not_count_as_waiting_so_the_batch_is_made_of_fresh_ones() -> None:
    stage = tiny_rl.stage()
    stage.state.updates = 5
    stage.publisher.restore(5)
    for key in "xyz":
        stage.buffer.push(tiny_rl.group([0.0, 1.0, 0.0, 0.0], version=0, key=key))
    outcome = stage.step(tiny_rl.prompts)
    assert outcome.groups
    assert outcome.metrics["rl/trained_groups"] >= 1
    assert outcome.metrics["rl/stale_groups"] == 3
    assert outcome.metrics["rl/staleness"] == 0


def test_groups_that_are_too_few_for_an_update_wait_for_more(tmp_path: Path) -> None:
    settings = tiny_rl.config(min_groups=3, max_oversampling=1.0)
    calls = 0

    def one_mixed(prompt: Prompt, text: str) -> Verdict:
        nonlocal calls
        calls += 1
        return right() if prompt.payload["i"] == 1 and calls % 2 else wrong("no")

    stage = tiny_rl.stage(settings, scorer=one_mixed)
    applied = [stage.step(tiny_rl.prompts).metrics["rl/applied"] for _ in range(3)]
    assert applied == [0.0, 0.0, 1.0]
    assert len(stage.buffer) == 0
    assert stage.state.updates == stage.engine.weights_version == 1


def test_infra_is_counted_and_stops_the_run_when_it_is_frequent(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def flaky(prompt: Prompt, text: str) -> Verdict:
        return infra("sandbox down") if prompt.payload["i"] == 1 else tiny_rl.score(prompt, text)

    monkeypatch.setattr(stages, "INFRA_WINDOW", 60)
    settings = tiny_rl.config(steps=99, max_useless_steps=99, max_oversampling=1.0)
    stage = tiny_rl.stage(settings, scorer=flaky)
    for _ in range(4):
        outcome = stage.step(tiny_rl.prompts)
        assert outcome.metrics["rl/infra_groups"] == 1
        assert "rl/reward/b" not in outcome.metrics
        assert len(outcome.groups) == 2
    with pytest.raises(EnvError, match="sandbox down"):
        stage.step(tiny_rl.prompts)
    tolerant = tiny_rl.stage(tiny_rl.config(max_infra_share=0.34, min_groups=99), scorer=flaky)
    for _ in range(6):
        tolerant.step(tiny_rl.prompts)


def test_groups_that_could_not_be_judged_are_told_of_with_the_reason(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def flaky(prompt: Prompt, text: str) -> Verdict:
        return infra("sandbox down") if prompt.payload["i"] == 1 else tiny_rl.score(prompt, text)

    stage = tiny_rl.stage(tiny_rl.config(max_oversampling=1.0), scorer=flaky)
    stage.step(tiny_rl.prompts)
    assert "rl, step 1: groups dropped because they could not be judged: 1 (" in caplog.text
    assert "sandbox down" in caplog.text


def test_a_source_of_prompts_that_runs_dry_is_an_error_and_not_an_endless_loop() -> None:
    with pytest.raises(DataError, match="no prompts"):
        tiny_rl.stage().step(lambda _step, _attempt, _pool: [])


def test_every_figure_is_declared_and_written(tmp_path: Path) -> None:
    writer = MetricWriter(tmp_path / "metrics.jsonl")
    stage = tiny_rl.stage(tiny_rl.config(steps=2))
    run_rl(stage, tiny_rl.prompts, tmp_path / "run", writer=writer)
    records = read_metrics(tmp_path / "metrics.jsonl")
    assert [r["step"] for r in records] == [1, 2]
    for name in ("reward", "reward/a", "rare_share", "load_entropy", "entropy_estimate"):
        assert f"rl/{name}" in records[-1]
    assert records[-1]["rl/response_tokens"] > 0


def test_the_pool_is_bounded_keeps_the_newest_tails_and_survives_json() -> None:
    pool = TailPool(size=2, tails_per_prompt=3)
    question = (Message("user", "q"), Message("assistant", "a", reasoning="r"))
    for key, tails in [("a", ["1"]), ("b", ["2"]), ("a", ["3", "4", "5"]), ("c", ["6"])]:
        pool.add(key, TailEntry(question, {"x": 1}, "s", tails, solve_rate=0.25))
    assert {key: entry.tails for key, entry in pool.entries.items()} == {
        "a": ["3", "4", "5"],
        "c": ["6"],
    }
    restored = TailPool(2, 3)
    restored.load(pool.to_json())
    assert restored.entries == pool.entries
    with pytest.raises(DataError, match="payload"):
        pool.add("d", TailEntry(question, {1: 2}, "s", ["7"]))


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"group_size": 1}, "group_size"),
        ({"temperature": 0.0}, "temperature"),
        ({"steps": 0}, "steps"),
        ({"sync_every": 3, "wait_batches": 2}, "max_lag"),
        ({"wait_batches": 3, "buffer_batches": 2, "max_lag": 9}, "buffer"),
        ({"score_limit_s": 0.0}, "score_limit_s"),
        (
            {"length_reward": LengthRewardConfig(), "max_response_tokens": 320},
            "at most max_response_tokens = 320: .* set length_reward.max_tokens=320",
        ),
    ],
)
def test_settings_that_cannot_work_are_refused(changes: dict[str, Any], match: str) -> None:
    with pytest.raises(ConfigError, match=match):
        RLConfig(**changes)


def test_defaults_are_the_papers() -> None:
    config = RLConfig()
    assert (config.prompts_per_step, config.group_size) == (128, 16)
    assert (config.dppo.delta_low, config.dppo.delta_high) == (0.1, 0.1)
    assert (config.canary.threshold, config.sync_every, config.max_lag) == (0.05, 2, 2)
    assert config.optim.muon.momentum is None
    assert (config.max_response_tokens, config.micro_tokens) == (81_920, 131_072)
