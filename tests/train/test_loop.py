"""A resumed run is the run that was never stopped; failures stop it or do not, as they should."""

import json
import math
import os
import signal

import pytest
import torch
from tiny_training import (
    IN_FP32,
    OPTIM,
    stage,
    terminate_while_saving,
    tiny_model,
    windows_of,
)

from openzaya.core.errors import CheckpointError, DataError, OpenZayaError, TrainingStopped
from openzaya.core.log import MetricWriter, read_metrics
from openzaya.model.lora import LoraConfig, add_lora
from openzaya.optim.newton_schulz import kernels_of
from openzaya.train import ckpt, loop
from openzaya.train.loop import run_stage
from openzaya.train.saver import Saving

IN_STEP = Saving(in_background=False)
"""Saves inside the step: failures come at a step that is known."""


class Killed(Exception):
    """Stands for kill -9: nothing after it runs."""


def train(folder, die_at=None):
    """Run the tiny stage; return the weights and the losses from step to step."""
    losses = {}

    def on_step(state, report):
        losses[state.step] = report.loss
        if state.step == die_at:
            raise Killed

    model = tiny_model()
    summary = run_stage(model, stage(), windows_of, folder, on_step=on_step)
    return model.state_dict(), losses, summary


@pytest.mark.parametrize("die_at", [2, 5, 7])
def test_a_resumed_run_is_bit_identical_to_one_that_was_never_stopped(tmp_path, die_at):
    whole, losses, summary = train(tmp_path / "whole")
    with pytest.raises(Killed):
        train(tmp_path / "killed", die_at=die_at)
    resumed, later, again = train(tmp_path / "killed")
    assert min(later) == 3 * (die_at // 3) + 1
    assert all(losses[step] == loss for step, loss in later.items())
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    assert again.loss_by_source() == summary.loss_by_source()


def adapt(folder, base="base", last=0, seed=0):
    """Train adapters on the tiny stage; return all weights."""

    def stop(state, _report):
        if state.step == last:
            raise Killed

    model = tiny_model(seed)
    add_lora(model, LoraConfig(rank=2, targets=("attention", "experts")))
    run_stage(model, stage(), windows_of, folder, on_step=stop, saving=Saving(base=base))
    return model.state_dict()


def test_adapters_are_saved_alone_and_resumed_bit_for_bit_on_their_base_only(tmp_path):
    whole = adapt(tmp_path / "whole")
    with pytest.raises(Killed):
        adapt(tmp_path / "cut", last=5)
    kept = ckpt.load_newest(tmp_path / "cut").part("model")
    assert {name.rpartition(".")[2] for name in kept} == {"lora_a", "lora_b", "balancing_biases"}
    with pytest.raises(CheckpointError, match="give the model that they were trained on"):
        adapt(tmp_path / "cut", base="other")
    resumed = adapt(tmp_path / "cut")
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


@pytest.mark.parametrize("changes", [{"moe_intermediate_size": 16}, {"num_hidden_layers": 3}])
def test_weights_of_another_shape_are_refused_though_a_change_of_model_is_allowed(
    tmp_path, changes
):
    train(tmp_path)
    allowed = Saving(allow_changed=("model",))
    with pytest.raises(CheckpointError, match="the weights do not fit the model"):
        run_stage(tiny_model(**changes), stage(), windows_of, tmp_path, saving=allowed)


def test_a_base_without_a_name_is_in_the_checkpoint(tmp_path):
    whole = adapt(tmp_path, base="")
    resumed = adapt(tmp_path, base="", seed=1)
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_a_checkpoint_names_what_computed_it(tmp_path):
    model = tiny_model()
    run_stage(model, stage(steps=1, warmup_steps=0), windows_of, tmp_path)
    machine = ckpt.load_newest(tmp_path).meta["machine"]
    assert machine["kernels"] == model.kernels_of_training()
    assert machine["muon"] == kernels_of(model.device, "auto")


def test_muon_in_half_precision_trains_as_in_fp32(tmp_path):
    seen = {}
    for optim in (OPTIM, IN_FP32):
        losses = seen[optim.muon.arithmetic] = []
        run_stage(
            tiny_model(),
            stage(optim=optim),
            windows_of,
            tmp_path / optim.muon.arithmetic,
            on_step=lambda _state, report, losses=losses: losses.append(report.loss),
        )
    assert seen["auto"] == pytest.approx(seen["float32"], abs=2e-3)
    assert seen["auto"][-1] < seen["auto"][0] - 0.05


def test_a_finished_stage_is_not_trained_again(tmp_path):
    whole, _, _ = train(tmp_path)
    again, losses, _ = train(tmp_path)
    assert losses == {}
    assert all(torch.equal(whole[name], again[name]) for name in whole)


def test_a_resume_after_a_damaged_checkpoint_gives_the_same_end(tmp_path, caplog):
    whole, _, _ = train(tmp_path / "whole")
    with pytest.raises(Killed):
        train(tmp_path / "killed", die_at=7)
    path = tmp_path / "killed" / "step_00000006" / ckpt.TENSORS
    path.write_bytes(path.read_bytes()[:-1])
    resumed, later, _ = train(tmp_path / "killed")
    assert min(later) == 4
    assert "quarantined" in caplog.text
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_other_settings_are_refused_and_named(tmp_path):
    train(tmp_path)
    with pytest.raises(CheckpointError, match=r"z_loss: 0\.0 -> 0\.1"):
        run_stage(tiny_model(), stage(z_loss=0.1), windows_of, tmp_path)


def test_how_often_a_run_saves_and_evaluates_is_no_other_run(tmp_path):
    whole, _, _ = train(tmp_path / "whole")
    with pytest.raises(Killed):
        train(tmp_path / "cut", die_at=5)
    model, other = tiny_model(), stage(checkpoint_every_steps=1, evaluate_every_steps=2)
    run_stage(model, other, windows_of, tmp_path / "cut")
    assert len(ckpt.checkpoints(tmp_path / "cut")) == 2
    assert all(torch.equal(whole[name], t) for name, t in model.state_dict().items())


def test_metrics_of_steps_that_are_done_again_are_written_once(tmp_path):
    writer = MetricWriter(tmp_path / "metrics.jsonl")

    def die(state, _report):
        if state.step == 5:
            raise Killed

    with pytest.raises(Killed):
        run_stage(tiny_model(), stage(), windows_of, tmp_path, on_step=die, writer=writer)
    run_stage(tiny_model(), stage(), windows_of, tmp_path, writer=writer)
    records = read_metrics(tmp_path / "metrics.jsonl")
    assert [record["step"] for record in records] == list(range(1, 9))
    assert all(math.isfinite(record["train/loss"]) for record in records)


def test_the_stage_sets_the_rotary_base(tmp_path):
    model = tiny_model()
    run_stage(model, stage(steps=1, warmup_steps=0, rope_theta=123.0), windows_of, tmp_path)
    assert set(model.rope_thetas.values()) == {123.0}


def test_no_data_is_a_data_error(tmp_path):
    with pytest.raises(DataError, match="step 0 of tiny"):
        run_stage(tiny_model(), stage(), lambda _step: [], tmp_path)


def test_three_broken_steps_in_a_row_stop_the_stage_with_good_weights(tmp_path):
    model = tiny_model()
    before = {name: t.clone() for name, t in model.state_dict().items()}
    model.norm.register_forward_hook(lambda _module, _args, output: output * math.nan)
    with pytest.raises(OpenZayaError, match="stopped at step 3"):
        run_stage(model, stage(), windows_of, tmp_path)
    assert all(torch.equal(before[name], t) for name, t in model.state_dict().items())
    assert ckpt.load_newest(tmp_path) is None


def failing_saves(monkeypatch, failures):
    """Let the saves of the given numbers, counted from 0, fail; return the list of attempts."""
    real, attempts = ckpt.write, []

    def write(folder, step, *rest):
        attempts.append(step)
        if len(attempts) - 1 in failures:
            raise CheckpointError("the disk is full")
        return real(folder, step, *rest)

    monkeypatch.setattr(ckpt, "write", write)
    return attempts


def test_a_step_that_is_not_finite_leaves_the_summary_a_number(tmp_path):
    model = tiny_model()
    hooks = []

    def windows(step):
        """Break the second step."""
        if step == 1:
            breaks = lambda _module, _args, output: output * math.nan  # noqa: E731
            hooks.append(model.norm.register_forward_hook(breaks))
        elif hooks:
            hooks.pop().remove()
        return windows_of(step)

    summary = run_stage(model, stage(steps=3), windows, tmp_path)
    assert sorted(summary.loss_by_source()) == ["a", "b"]
    assert all(math.isfinite(loss) for loss in summary.loss_by_source().values())
    text = (tmp_path / "step_00000003" / ckpt.STATE).read_text()
    assert json.loads(text, parse_constant=pytest.fail)["skipped"] == 1


def test_a_failed_save_is_tried_again_at_the_next_step(tmp_path, monkeypatch, caplog):
    attempts = failing_saves(monkeypatch, {0, 1})
    run_stage(tiny_model(), stage(), windows_of, tmp_path, saving=IN_STEP)
    assert attempts == [3, 4, 5, 6, 8]
    assert "the disk is full" in caplog.text
    assert ckpt.load_newest(tmp_path).step == 8


def test_training_stops_when_saving_keeps_failing_or_fails_at_the_end(tmp_path, monkeypatch):
    attempts = failing_saves(monkeypatch, {0, 1, 2})
    with pytest.raises(CheckpointError, match="disk is full"):
        run_stage(tiny_model(), stage(), windows_of, tmp_path / "a", saving=IN_STEP)
    assert attempts == [3, 4, 5]
    monkeypatch.undo()
    failing_saves(monkeypatch, {2})
    with pytest.raises(CheckpointError, match="disk is full"):
        run_stage(tiny_model(), stage(), windows_of, tmp_path / "b")


def test_wall_time_alone_makes_a_checkpoint(tmp_path, monkeypatch):
    """Each look at the clock is 400 seconds later; a save is due after 900."""
    now = iter(range(0, 100_000, 400))
    monkeypatch.setattr(loop, "monotonic", lambda: float(next(now)))
    attempts = failing_saves(monkeypatch, set())
    run_stage(tiny_model(), stage(checkpoint_every_steps=1000), windows_of, tmp_path)
    assert attempts[0] == 3
    assert attempts[-1] == 8


def test_the_state_on_disk_is_json_without_tensors(tmp_path):
    train(tmp_path)
    state = json.loads((tmp_path / "step_00000008" / ckpt.STATE).read_text())
    assert state["tokens"] == 8 * 78
    assert len(state["guard"]["loss"]) == 8


def test_saving_in_the_step_and_in_the_background_give_the_same_checkpoints(tmp_path):
    for name, saving in (("a", IN_STEP), ("b", Saving())):
        run_stage(tiny_model(), stage(), windows_of, tmp_path / name, saving=saving)
    for step in (6, 8):
        one, two = (ckpt.load(tmp_path / name / ckpt.name_of(step)) for name in "ab")
        assert one.state == two.state
        assert all(torch.equal(one.tensors[name], two.tensors[name]) for name in one.tensors)


def test_sigterm_saves_the_step_and_the_resumed_run_is_bit_identical(tmp_path):
    def terminate(state, _report):
        if state.step == 4:
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(TrainingStopped, match="after step 4 of 8, which is saved") as caught:
        run_stage(tiny_model(), stage(), windows_of, tmp_path / "stopped", on_step=terminate)
    assert caught.value.exit_code == 75
    assert ckpt.load_newest(tmp_path / "stopped").step == 4
    whole, _, _ = train(tmp_path / "whole")
    resumed, later, _ = train(tmp_path / "stopped")
    assert min(later) == 5
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


@pytest.mark.parametrize(("at_step", "saved"), [(4, 5), (8, 8)])
def test_a_sigterm_at_any_moment_ends_the_stage_with_the_named_step_saved(
    tmp_path, monkeypatch, at_step, saved
):
    """Here it comes when the loop has just looked for one."""
    terminate_while_saving(monkeypatch, loop.Run, at_step)
    with pytest.raises(TrainingStopped, match=f"after step {saved} of 8, which is saved"):
        run_stage(tiny_model(), stage(), windows_of, tmp_path)
    assert ckpt.load_newest(tmp_path).step == saved


def test_a_second_trainer_in_the_folder_is_refused(tmp_path):
    def intrude(_state, _report):
        with pytest.raises(CheckpointError, match="in use by pid"):
            train(tmp_path)

    run_stage(tiny_model(), stage(steps=1, warmup_steps=0), windows_of, tmp_path, on_step=intrude)


def test_another_tokenizer_is_refused_and_can_be_allowed(tmp_path):
    with pytest.raises(Killed):
        train(tmp_path, die_at=5)
    with pytest.raises(CheckpointError, match="tokenizer:  -> other"):
        run_stage(
            tiny_model(), stage(), windows_of, tmp_path, saving=Saving(tokenizer_hash="other")
        )
    saving = Saving(tokenizer_hash="other", allow_changed=("tokenizer",))
    run_stage(tiny_model(), stage(), windows_of, tmp_path, saving=saving)
    assert ckpt.load_newest(tmp_path).step == 8
