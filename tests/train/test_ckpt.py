"""Checkpoints are whole or absent, and a resumed run is the run that was never stopped."""

import json
import os
import random
import signal
import time

import pytest
import torch

from openzaya.core.errors import CheckpointError
from openzaya.train import ckpt
from openzaya.train.loop import run_stage

from tiny_training import stage, tiny_model, windows_of

META = {"config_hash": "abc", "config": {"lr": 1}}


def tensors(step):
    """Return tensors that say which step they are from."""
    return {"a": torch.full((300,), float(step)), "b/c": torch.arange(step + 2)}


def fill(folder, steps=(1, 2, 3)):
    """Save some checkpoints."""
    for step in steps:
        ckpt.save(folder, step, tensors(step), {"note": step}, META)


def test_what_is_saved_is_loaded_and_only_the_newest_two_are_kept(tmp_path):
    fill(tmp_path)
    assert [p.name for p in ckpt.checkpoints(tmp_path)] == ["step_00000002", "step_00000003"]
    loaded = ckpt.load_newest(tmp_path, META)
    assert (loaded.step, loaded.state, loaded.meta) == (3, {"note": 3}, META)
    assert all(torch.equal(loaded.tensors[name], t) for name, t in tensors(3).items())


def test_no_checkpoint_is_none(tmp_path):
    assert ckpt.load_newest(tmp_path / "absent") is None


@pytest.mark.parametrize("name", [ckpt.TENSORS, ckpt.STATE, ckpt.MANIFEST])
@pytest.mark.parametrize("damage", ["flip", "cut", "gone"])
def test_any_damage_is_found_and_the_one_before_is_taken(tmp_path, caplog, name, damage):
    fill(tmp_path)
    path = tmp_path / "step_00000003" / name
    raw = bytearray(path.read_bytes())
    if damage == "gone":
        path.unlink()
    elif damage == "cut":
        path.write_bytes(raw[: len(raw) // 2])
    else:
        # The manifest's own bytes are not hashed; a flip in a hash or a key must still be noticed.
        place = raw.index(b"sha256") + 12 if name == ckpt.MANIFEST else len(raw) // 2
        raw[place] ^= 1
        path.write_bytes(raw)
    assert ckpt.load_newest(tmp_path, META).step == 2
    assert "quarantined" in caplog.text
    assert list(tmp_path.glob("*.quarantined"))


def test_a_hundred_single_bit_flips_in_the_tensors_are_all_detected(tmp_path):
    path = ckpt.save(tmp_path, 1, tensors(1), {}, META) / ckpt.TENSORS
    raw = path.read_bytes()
    rng = random.Random(0)
    for _ in range(100):
        flipped = bytearray(raw)
        flipped[rng.randrange(len(raw))] ^= 1 << rng.randrange(8)
        path.write_bytes(flipped)
        with pytest.raises(CheckpointError):
            ckpt.load(path.parent)


def test_other_settings_are_refused_with_a_diff(tmp_path):
    fill(tmp_path)
    with pytest.raises(CheckpointError, match="lr: 1 -> 2"):
        ckpt.load_newest(tmp_path, {"config_hash": "def", "config": {"lr": 2}})


def test_tensors_that_are_not_finite_are_never_saved(tmp_path):
    fill(tmp_path)
    with pytest.raises(CheckpointError, match="not finite"):
        ckpt.save(tmp_path, 4, {"a": torch.tensor([1.0, float("nan")])}, {}, META)
    assert ckpt.load_newest(tmp_path).step == 3


def test_a_full_disk_is_a_clear_error_and_loses_nothing(tmp_path, monkeypatch):
    fill(tmp_path)
    usage = type("Usage", (), {"free": 10})
    monkeypatch.setattr(ckpt.shutil, "disk_usage", lambda _: usage)
    with pytest.raises(CheckpointError, match="has 10 bytes left"):
        ckpt.save(tmp_path, 4, tensors(4), {}, META)
    assert ckpt.load_newest(tmp_path).step == 3


def test_a_killed_writer_leaves_a_checkpoint_that_loads(tmp_path):
    fill(tmp_path, steps=(1,))
    for attempt in range(6):
        child = os.fork()
        if child == 0:
            step = 2
            while True:
                ckpt.save(tmp_path, step, {"a": torch.full((200_000,), float(step))}, {}, META)
                step += 1
        time.sleep(0.02 + 0.013 * attempt)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        loaded = ckpt.load_newest(tmp_path, META)
        assert bool((loaded.tensors["a"] == float(loaded.step)).all())
        assert not list(tmp_path.glob("*.quarantined"))


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


def test_a_finished_stage_is_not_trained_again(tmp_path):
    whole, _, _ = train(tmp_path)
    again, losses, _ = train(tmp_path)
    assert losses == {}
    assert all(torch.equal(whole[name], again[name]) for name in whole)


def test_the_manifest_names_sizes_and_hashes(tmp_path):
    path = ckpt.save(tmp_path, 1, tensors(1), {}, META)
    manifest = json.loads((path / ckpt.MANIFEST).read_text())
    assert manifest["files"][ckpt.STATE]["bytes"] == (path / ckpt.STATE).stat().st_size
