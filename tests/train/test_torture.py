"""Runs that are killed at random moments and disks that fill up: `bench/checkpoints.py`, small."""

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from tiny_training import stage, tiny_model, windows_of

from openzaya.core.log import MetricWriter, read_metrics
from openzaya.train import ckpt
from openzaya.train.loop import run_stage

TMPFS = 'mount -t tmpfs -o size=1m tmpfs "$0" && exec "$@"'


def train(folder):
    """Run the tiny stage to its end, with a checkpoint every second step."""
    writer = MetricWriter(folder / "metrics.jsonl")
    settings = stage(steps=12, checkpoint_every_steps=2)
    run_stage(tiny_model(), settings, windows_of, folder, writer=writer)


def in_child(folder):
    """Fork a process that trains; return its id."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            train(folder)
            code = 0
        finally:
            os._exit(code)
    return child


def kill_and_resume(folder, whole, moment):
    """Kill a training process at a share of its steps, resume it, and compare with the whole run.

    The child has just written that step's metrics, so kills before, within and after saves occur.
    """
    child = in_child(folder)
    metrics, deadline = folder / "metrics.jsonl", time.monotonic() + 60
    while time.monotonic() < deadline:
        if metrics.exists() and metrics.read_bytes().count(b"\n") >= 12 * moment:
            break
        time.sleep(0.001)
    time.sleep(moment * 0.01)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    train(folder)
    one, two = (ckpt.load(path / ckpt.name_of(12)) for path in (folder, whole))
    assert one.state == two.state
    assert all(torch.equal(t, two.tensors[name]) for name, t in one.tensors.items())
    assert read_metrics(folder / "metrics.jsonl") == read_metrics(whole / "metrics.jsonl")
    assert not list(folder.glob("*.quarantined"))


@pytest.mark.parametrize("trials", [2, pytest.param(20, marks=pytest.mark.slow)])
def test_a_killed_training_process_resumes_to_the_bits_of_the_undisturbed_one(tmp_path, trials):
    assert os.waitpid(in_child(tmp_path / "whole"), 0)[1] == 0
    rng = random.Random(trials)
    for trial in range(trials):
        kill_and_resume(tmp_path / str(trial), tmp_path / "whole", rng.uniform(0.3, 0.9))


FILL_AND_SAVE = """
import sys
from pathlib import Path
import torch
from openzaya.core.errors import CheckpointError
from openzaya.train import ckpt
folder = Path(sys.argv[1])
ckpt.save(folder, 1, {"a": torch.ones(50_000)}, {}, {})
for looks_first, expected in ((True, "bytes left"), (False, "No space left on device")):
    ckpt.FREE_SPACE_FACTOR = 1.2 if looks_first else 0.0
    try:
        ckpt.save(folder, 2, {"a": torch.ones(250_000)}, {}, {})
    except CheckpointError as error:
        assert expected in str(error) and "intact" in str(error), error
    else:
        raise AssertionError("a megabyte was saved on what is left of one")
    assert [path.name for path in folder.glob("step_*")] == ["step_00000001"]
    assert bool((ckpt.load_newest(folder).tensors["a"] == 1).all())
"""


def can_mount(folder):
    """Say whether an unprivileged tmpfs can be had here."""
    command = ["unshare", "-Urm", "sh", "-c", TMPFS, str(folder), "true"]
    if shutil.which("unshare") is None:
        return False
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


@pytest.mark.slow
def test_a_disk_that_is_really_full_is_a_clear_error_and_loses_nothing(tmp_path):
    if not can_mount(tmp_path):
        pytest.skip("needs user namespaces; the EFBIG test in test_ckpt runs everywhere")
    script = [sys.executable, "-c", FILL_AND_SAVE, str(tmp_path)]
    environment = {**os.environ, "PYTHONPATH": str(Path(ckpt.__file__).parents[2])}
    done = subprocess.run(
        ["unshare", "-Urm", "sh", "-c", TMPFS, str(tmp_path), *script],
        capture_output=True,
        text=True,
        env=environment,
        check=False,
    )
    assert done.returncode == 0, done.stderr
