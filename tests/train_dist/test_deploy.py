"""The launch templates parse, and what they start exists; torchrun starts it for real."""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml
from ranks import prepared, spawn

from openzaya.core.errors import OpenZayaError, TrainingStopped
from openzaya.core.log import read_metrics
from openzaya.model.checkpoint import load
from openzaya.train import ckpt
from openzaya.train.distributed import launch
from openzaya.train.distributed.mesh import MeshConfig

ROOT = Path(__file__).parents[2]
SBATCH = ROOT / "deploy" / "slurm" / "train.sbatch"
YAML = sorted((ROOT / "deploy" / "kubernetes").glob("*.yaml"))
MODULE = "openzaya.train.distributed"


def command_of(node):
    """Return the command of the only container in a Kubernetes object."""
    if isinstance(node, dict):
        if "containers" in node:
            (container,) = node["containers"]
            return container["command"]
        node = list(node.values())
    found = [command_of(child) for child in node if isinstance(child, dict | list)]
    return next((command for command in found if command), None)


def commands():
    """Return every template's command as words."""
    text = SBATCH.read_text().replace("\\\n", " ")
    words = re.search(r"^srun .*?(torchrun .*?) \|\| code", text, re.MULTILINE)[1]
    plain = re.sub(r'"(\$\w+)(/\w+)?"', r"1", words)
    found = {"train.sbatch": plain.replace("$HEAD_NODE", "head").split()}
    return found | {path.name: command_of(yaml.safe_load(path.read_text())) for path in YAML}


@pytest.mark.parametrize("name", commands())
def test_a_template_starts_our_command_with_flags_that_exist(name):
    command = commands()[name]
    assert command[0] == "torchrun"
    start = command.index("-m")
    assert command[start + 1] == MODULE
    args = launch.parser().parse_args(command[start + 2 :])
    assert args.out
    assert args.export
    if name != "train.sbatch":
        assert MeshConfig.parse(args.mesh, 32).size == 32


@pytest.mark.parametrize("name", commands())
def test_torchrun_takes_a_templates_flags_and_hands_on_the_signals_that_we_obey(name):
    from torch.distributed.run import get_args_parser

    words = [word.replace('"', "") for word in commands()[name][1:]]
    args = get_args_parser().parse_args(words)
    assert args.training_script == MODULE
    assert {"SIGTERM", "SIGUSR1"} <= set(args.signals_to_handle.split(","))
    assert args.shutdown_timeout == 240


@pytest.mark.parametrize("path", YAML, ids=lambda path: path.name)
def test_a_pod_may_live_longer_than_its_last_checkpoint_takes(path):
    text = path.read_text()
    grace = int(re.search(r"terminationGracePeriodSeconds: (\d+)", text)[1])
    assert grace > int(re.search(r"--shutdown-timeout=(\d+)", text)[1])


def test_an_operator_starts_what_ended_with_an_error_again():
    """A run that a signal stopped ends with one on every node, and with none when it is done."""
    job, jobset, pytorchjob = (
        yaml.safe_load((ROOT / "deploy/kubernetes" / f"{name}.yaml").read_text())["spec"]
        for name in ("job", "jobset", "pytorchjob")
    )
    assert job["template"]["spec"]["restartPolicy"] == "OnFailure"
    assert job["backoffLimit"] > 0
    assert jobset["failurePolicy"]["maxRestarts"] > 0
    worker = pytorchjob["pytorchReplicaSpecs"]["Worker"]
    assert worker["restartPolicy"] == "OnFailure"
    assert pytorchjob["elasticPolicy"]["maxRestarts"] > 0
    assert TrainingStopped.exit_code == 75


def test_the_sbatch_script_is_bash_and_leaves_time_for_a_checkpoint():
    assert subprocess.run(["bash", "-n", str(SBATCH)], check=False).returncode == 0
    text = SBATCH.read_text()
    notice = int(re.search(r"#SBATCH --signal=USR1@(\d+)", text)[1])
    assert notice > int(re.search(r"--shutdown-timeout=(\d+)", text)[1])


@pytest.mark.parametrize(
    ("marker", "exit_code", "expected", "requeued"),
    [("STOPPED", 1, 0, True), ("DONE", 0, 0, False), ("", 7, 7, False)],
)
def test_the_sbatch_script_requeues_a_run_that_was_stopped_and_no_other(
    tmp_path, marker, exit_code, expected, requeued
):
    """With programs of our own in the place of srun and scontrol."""
    for stale in ("DONE", "STOPPED"):  # of the start before this one
        (tmp_path / stale).touch()
    scripts = {
        "srun": f'echo "$SRUN_CPUS_PER_TASK" > "$OUT/cores"; '
        f'[ -z "{marker}" ] || touch "$OUT/{marker}"; exit {exit_code}',
        "scontrol": f'if [ "$1" = show ]; then echo node1; else echo "$@" > {tmp_path}/asked; fi',
    }
    for name, body in scripts.items():
        (tmp_path / name).write_text(f"#!/bin/bash\n{body}\n")
        (tmp_path / name).chmod(0o755)
    environment = {
        "PATH": f"{tmp_path}:{os.environ['PATH']}",
        "OUT": str(tmp_path),
        "SLURM_JOB_ID": "42",
        "SLURM_JOB_NUM_NODES": "1",
        "SLURM_JOB_NODELIST": "node1",
        "SLURM_CPUS_PER_TASK": "64",
    }
    done = subprocess.run(["bash", str(SBATCH)], env=environment, capture_output=True, check=False)
    assert done.returncode == expected, done.stderr
    assert (tmp_path / "cores").read_text() == "64\n"
    assert (tmp_path / "asked").exists() == requeued
    if requeued:
        assert (tmp_path / "asked").read_text() == "requeue 42\n"


def marks(folder):
    """Return how the run in a folder ended, by its own words."""
    return [name for name in ("DONE", "STOPPED") if (folder / "run" / name).exists()]


def go(rank, folder, *words):
    """Run the command on one rank; return why it is refused, and the marks that it leaves."""
    del rank
    flags = ["--model", "nano", "--data", f"{folder}/data", "--out", f"{folder}/run"]
    flags += ["--config", f"{folder}/stage.toml", "--set", "tokens_per_step=600"]
    try:
        launch.train(launch.parser().parse_args([*flags, *words]), torch.device("cpu"))
    except OpenZayaError as error:
        return str(error), marks(folder)
    return "", marks(folder)


def test_a_start_that_is_refused_leaves_what_the_run_before_said_and_a_step_does_not(
    tmp_path, monkeypatch
):
    prepared(tmp_path)
    settings = ["--set", "steps=2", "--set", "checkpoint_every_steps=1"]
    assert spawn(go, 1, tmp_path, *settings) == [("", ["DONE"])]
    ((error, found),) = spawn(go, 1, tmp_path, "--set", "steps=3")
    assert "made with other config" in error
    assert found == ["DONE"]
    shutil.rmtree(tmp_path / "run" / ckpt.name_of(2))
    (tmp_path / "run" / "STOPPED").touch()

    def watch_of(_inputs, _cluster):
        def watch(_state, _report):
            assert marks(tmp_path) == []
            return {}

        return watch

    monkeypatch.setattr(launch, "watch_of", watch_of)  # ranks are forks of this process
    assert spawn(go, 1, tmp_path, *settings) == [("", ["DONE"])]


def torchrun(folder, processes, *flags, meet=("--standalone",)):
    """Start the command as the templates do."""
    command = [sys.executable, "-m", "torch.distributed.run", *meet]
    command += [f"--nproc-per-node={processes}", "--signals-to-handle=SIGTERM,SIGINT,SIGUSR1"]
    command += ["--shutdown-timeout=60", "-m", MODULE, "--model", "nano"]
    command += ["--data", f"{folder}/data=1", "--config", f"{folder}/stage.toml"]
    command += ["--out", f"{folder}/run", *flags]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_torchrun_hands_a_signal_on_and_the_run_goes_on_on_other_ranks(tmp_path, number):
    prepared(tmp_path)
    first = torchrun(tmp_path, 2, "--mesh", "cp=2", "--set", "steps=400")
    metrics = tmp_path / "run" / "metrics.jsonl"
    deadline = time.monotonic() + 90
    while not (metrics.exists() and metrics.read_bytes().count(b"\n") >= 3):
        assert time.monotonic() < deadline, first.communicate(timeout=5)
        assert first.poll() is None, first.communicate()[1]
        time.sleep(0.05)
    first.send_signal(number)
    said = first.communicate(timeout=90)[1]
    assert first.returncode != 0
    assert "was stopped by" in said, said
    assert (tmp_path / "run" / "STOPPED").exists()
    stopped = ckpt.load_newest(tmp_path / "run").step
    assert f"after step {stopped} of 400" in said
    steps = stopped + 2
    second = torchrun(tmp_path, 3, "--set", f"steps={steps}", "--export", f"{tmp_path}/model")
    said = second.communicate(timeout=120)[1]
    assert second.returncode != 0, "other settings are refused"
    assert "steps: 400" in said
    third = torchrun(tmp_path, 3, "--set", "steps=400", "--set", "seed=0")
    while len(read_metrics(metrics)) < steps:
        assert third.poll() is None, third.communicate()[1]
        time.sleep(0.05)
    third.send_signal(signal.SIGTERM)
    third.communicate(timeout=90)
    assert ckpt.load_newest(tmp_path / "run").step >= steps


@pytest.mark.slow
def test_a_node_that_got_no_signal_does_not_end_in_success_either(tmp_path):
    """Two nodes of one rank; an operator would take the other one's work for done."""
    prepared(tmp_path)
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    meet = ["--nnodes=2", "--rdzv-backend=c10d", f"--rdzv-endpoint=localhost:{port}"]
    words = ["--set", "steps=400"]
    nodes = [torchrun(tmp_path, 1, *words, meet=[*meet, "--max-restarts=0"]) for _ in range(2)]
    metrics = tmp_path / "run" / "metrics.jsonl"
    deadline = time.monotonic() + 90
    while not (metrics.exists() and metrics.read_bytes().count(b"\n") >= 3):
        assert time.monotonic() < deadline
        assert all(node.poll() is None for node in nodes), nodes[0].communicate()[1]
        time.sleep(0.05)
    nodes[0].send_signal(signal.SIGTERM)
    said = [node.communicate(timeout=90)[1] for node in nodes]
    assert all("was stopped by" in text for text in said), said
    assert all(node.returncode != 0 for node in nodes)
    assert "exitcode  : 75" in said[1], said[1]


@pytest.mark.slow
def test_torchrun_trains_to_the_end_and_exports_a_model(tmp_path):
    prepared(tmp_path)
    words = ["--mesh", "ep=2", "--held-out", f"{tmp_path}/data", "--set", "evaluate_every_steps=4"]
    run = torchrun(tmp_path, 2, *words, "--export", f"{tmp_path}/model")
    said = run.communicate(timeout=120)[1]
    assert run.returncode == 0, said
    assert (tmp_path / "run" / "DONE").exists()
    assert load(tmp_path / "model").config.num_experts == 8
    lines = read_metrics(tmp_path / "run" / "metrics.jsonl")
    losses = [line["train/loss"] for line in lines]
    assert len(losses) == 6
    assert losses[-1] < losses[0]
    held_out = {line["step"]: line["eval/loss"] for line in lines if "eval/loss" in line}
    assert list(held_out) == [4, 6]
    assert held_out[6] < held_out[4] < losses[0]
