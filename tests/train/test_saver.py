"""Saving in the background: a copy of the step, one write at a time, errors that are heard."""

import threading

import pytest
import torch

from openzaya.core.errors import CheckpointError
from openzaya.train import ckpt
from openzaya.train.saver import Saver, Saving

ME = {"config_hash": "abc", "config": {"lr": 1}}


class HeldWrites:
    """The real write, held back until it is let go; counts how many run at once."""

    def __init__(self, monkeypatch, failures=()):
        self.go = threading.Event()
        self.steps = []
        self.running = self.most = 0
        self.failures = failures
        self.real = ckpt.write
        monkeypatch.setattr(ckpt, "write", self)

    def __call__(self, folder, step, *rest):
        self.steps.append(step)
        self.running += 1
        self.most = max(self.most, self.running)
        assert self.go.wait(30)
        self.running -= 1
        if step in self.failures:
            raise CheckpointError(f"step {step} met a full disk")
        return self.real(folder, step, *rest)


def finish(saver):
    """Wait until the write in flight has ended, without asking how."""
    saver._thread.join()


def test_the_copy_is_of_the_moment_of_the_save_whatever_training_does_next(tmp_path, monkeypatch):
    held = HeldWrites(monkeypatch)
    weights, state = torch.zeros(4), {"losses": [1.0]}
    with Saver(tmp_path, ME, Saving()) as saver:
        saver.save(1, {"a": weights}, state)
        weights += 1
        state["losses"].append(2.0)
        assert ckpt.checkpoints(tmp_path) == []
        held.go.set()
    loaded = ckpt.load_newest(tmp_path, ME)
    assert torch.equal(loaded.tensors["a"], torch.zeros(4))
    assert loaded.state == {"losses": [1.0]}


def test_two_writes_never_run_at_once(tmp_path, monkeypatch):
    held = HeldWrites(monkeypatch)
    with Saver(tmp_path, ME, Saving()) as saver:
        saver.save(1, {"a": torch.ones(2)}, {})
        threading.Timer(0.1, held.go.set).start()
        for step in (2, 3):
            saver.save(step, {"a": torch.ones(2)}, {})
    assert (held.steps, held.most) == ([1, 2, 3], 1)


def test_a_failure_is_heard_at_the_next_step_and_the_third_in_a_row_is_raised(
    tmp_path, monkeypatch, caplog
):
    held = HeldWrites(monkeypatch, failures=(1, 3, 4, 5))
    held.go.set()
    with Saver(tmp_path, ME, Saving()) as saver:
        for step in (1, 2, 3, 4):
            saver.save(step, {"a": torch.ones(2)}, {})
            finish(saver)
            saver.poll()
            assert saver.wants_retry == (step != 2)
        assert "step 1 met a full disk; training goes on, failure 1" in caplog.text
        assert "step 4 met a full disk; training goes on, failure 2" in caplog.text
        saver.save(5, {"a": torch.ones(2)}, {})
        finish(saver)
        with pytest.raises(CheckpointError, match="step 5 met a full disk"):
            saver.poll()
    assert ckpt.load_newest(tmp_path).step == 2


def test_the_last_save_is_waited_for_and_its_failure_raised(tmp_path, monkeypatch):
    HeldWrites(monkeypatch, failures=(1,)).go.set()
    with (
        pytest.raises(CheckpointError, match="step 1 met"),
        Saver(tmp_path, ME, Saving()) as saver,
    ):
        saver.save(1, {"a": torch.ones(2)}, {}, is_last=True)


def test_an_error_of_training_is_not_hidden_by_one_of_saving(tmp_path, monkeypatch, caplog):
    HeldWrites(monkeypatch, failures=(1,)).go.set()

    def broken_run():
        with Saver(tmp_path, ME, Saving()) as saver:
            saver.save(1, {"a": torch.ones(2)}, {})
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        broken_run()
    assert "step 1 met a full disk" in caplog.text


def test_every_checkpoint_names_its_run_and_the_one_before_it(tmp_path):
    saving = Saving(keep=ckpt.Keep(last=9))
    with Saver(tmp_path, ME, saving) as saver:
        assert saver.load() is None
        for step in (1, 2):
            saver.save(step, {"a": torch.ones(2)}, {})
    with Saver(tmp_path, ME, saving) as saver:
        saver.load()
        saver.save(3, {"a": torch.ones(2)}, {})
    one, two, three = (ckpt.load(path) for path in ckpt.checkpoints(tmp_path))
    assert one.meta["parent"] is None
    assert two.meta["parent"] == {"step": 1, "digest": one.digest}
    assert three.meta["parent"] == {"step": 2, "digest": two.digest}
    assert one.meta["run_id"] == two.meta["run_id"] == three.meta["run_id"]


def test_the_folder_is_held_until_the_saver_is_left(tmp_path):
    with (
        Saver(tmp_path, ME, Saving()),
        pytest.raises(CheckpointError, match="in use"),
        Saver(tmp_path, ME, Saving()),
    ):
        pass
    with Saver(tmp_path, ME, Saving()):
        pass
