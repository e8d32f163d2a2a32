"""The JSON log is always written; trackers hear the same, and only those that exist."""

import math
import sys
import types

import pytest

import openzaya.train.step  # noqa: F401 - declares the metrics that are written here
from openzaya.core.errors import ConfigError
from openzaya.core.log import read_metrics
from openzaya.train import trackers
from openzaya.train.trackers import open_writer


@pytest.fixture
def heard(monkeypatch):
    """Install a package with wandb's three functions under the name of trackio."""
    calls = []
    fake = types.ModuleType("trackio")
    fake.init = lambda **settings: calls.append(("init", settings))
    fake.log = lambda values, step: calls.append(("log", step, values))
    fake.finish = lambda: calls.append(("finish",))
    monkeypatch.setitem(sys.modules, "trackio", fake)
    monkeypatch.setattr(trackers, "find_spec", lambda name: object() if name == "trackio" else None)
    return calls


def test_a_named_tracker_hears_finite_values_under_the_stage_and_is_finished(tmp_path, heard):
    writer = open_writer(tmp_path / "mine", ["trackio"])
    writer.write(3, "sft", {"train/loss": 1.5, "train/grad_norm": math.inf})
    writer.close()
    assert heard == [
        ("init", {"project": "openzaya", "name": "mine"}),
        ("log", 3, {"sft/train/loss": 1.5}),
        ("finish",),
    ]
    records = read_metrics(tmp_path / "mine" / "metrics.jsonl")
    assert records == [{"step": 3, "stage": "sft", "train/loss": 1.5, "train/grad_norm": None}]


def test_a_tracker_that_is_unknown_or_not_installed_is_refused(tmp_path, heard):
    with pytest.raises(ConfigError, match="no tracker is called 'mlflow'"):
        open_writer(tmp_path, ["mlflow"])
    with pytest.raises(ConfigError, match="'wandb' is not installed"):
        open_writer(tmp_path, ["wandb"])


def test_tensorboard_is_written_where_it_is_installed(tmp_path, monkeypatch):
    pytest.importorskip("tensorboard")
    writer = open_writer(tmp_path)
    writer.write(1, "sft", {"train/loss": 2.5})
    writer.close()
    (events,) = (tmp_path / "tensorboard").iterdir()
    assert b"sft/train/loss" in events.read_bytes()


def test_tensorboard_shows_steps_that_are_done_again_once(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for first, value in ((1, 1.0), (3, 2.0)):
        writer = open_writer(tmp_path)
        writer.truncate_after(first - 1, "sft")
        for number in range(first, 6):
            writer.write(number, "sft", {"train/loss": value})
        writer.close()
    shown = EventAccumulator(str(tmp_path / "tensorboard"))
    shown.Reload()
    found = [(e.step, e.value) for e in shown.Scalars("sft/train/loss")]
    assert found == [(1, 1.0), (2, 1.0), (3, 2.0), (4, 2.0), (5, 2.0)]
