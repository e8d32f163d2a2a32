"""Checkpoints of several ranks: same bits on the same mesh, same run on another."""

import errno
import os
import shutil
from pathlib import Path

import pytest
import torch
from ranks import spawn
from tiny_training import IN_FP32, stage, tiny_model, windows_of

from openzaya.core.errors import CheckpointError
from openzaya.core.log import MetricWriter, read_metrics
from openzaya.model.checkpoint import load
from openzaya.recipes.nano.vocabulary import build_tokenizer
from openzaya.text.tokenizer import TextTokenizer
from openzaya.train import ckpt
from openzaya.train.distributed import planner
from openzaya.train.distributed.cluster import Cluster
from openzaya.train.distributed.export import export_model
from openzaya.train.distributed.mesh import MeshConfig, Ranks
from openzaya.train.lock import RunLock
from openzaya.train.loop import run_stage
from openzaya.train.saver import Saving

TWO = {"dp_shard": 2}
SLOW_EP = pytest.param({"ep": 2}, marks=pytest.mark.slow)


class Stopped(Exception):
    """The run ends here, as if it were killed between two steps."""


def train(rank, mesh, folder, last=0, export=False):
    """Train the tiny stage, or its first steps; return the tokens that were seen by step."""
    seen = {}

    def windows(step):
        seen[step] = [w.tokens.tolist() for w in windows_of(step)]
        return windows_of(step)

    def stop(state, _report):
        if state.step == last:
            raise Stopped

    model = tiny_model()
    extra, cluster = {}, None
    if mesh is not None:
        cluster = Cluster(model, Ranks(MeshConfig(**mesh)))
        extra["parallel"] = cluster
    if rank == 0:
        extra["writer"] = MetricWriter(folder / "metrics.jsonl")
    try:
        run_stage(model, stage(optim=IN_FP32), windows, folder, on_step=stop, **extra)
    except Stopped:
        return seen
    if export:
        if rank == 0:
            build_tokenizer().save(folder)
        export_model(model, cluster, folder / "model", tokenizer=folder)
    return seen


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A run on two ranks that nobody disturbed, and one that ended after its first checkpoint."""
    root = tmp_path_factory.mktemp("runs")
    spawn(train, 2, TWO, root / "whole", 0, True)
    spawn(train, 2, TWO, root / "cut", 4)
    return root


def go_on(runs, folder, mesh):
    """Go on with the run that was cut, on some ranks; return what was seen and the end."""
    shutil.copytree(runs / "cut", folder)
    size = 1 if mesh is None else MeshConfig(**mesh).size
    seen = train(0, None, folder) if mesh is None else spawn(train, size, mesh, folder)[0]
    return seen, ckpt.load_newest(folder)


def test_two_ranks_write_a_file_each_and_no_pickle(runs):
    names = sorted(path.name for path in ckpt.checkpoints(runs / "whole")[-1].iterdir())
    assert names == [
        "MANIFEST.json",
        "shard-00001-model-00001-of-00001.safetensors",
        "shard-00002-model-00001-of-00001.safetensors",
        "state.json",
    ]
    ckpt.verify(ckpt.checkpoints(runs / "whole")[-1])


def test_two_ranks_go_on_to_the_bits_of_the_undisturbed_run(runs, tmp_path):
    seen, end = go_on(runs, tmp_path / "run", TWO)
    whole = ckpt.load_newest(runs / "whole")
    assert min(seen) == 3
    assert end.state == whole.state
    assert end.tensors.keys() == whole.tensors.keys()
    assert all(torch.equal(end.tensors[name], t) for name, t in whole.tensors.items())
    assert read_metrics(tmp_path / "run/metrics.jsonl") == read_metrics(
        runs / "whole/metrics.jsonl"
    )


@pytest.mark.parametrize("mesh", [None, {"dp_shard": 3}, SLOW_EP])
def test_other_ranks_go_on_with_the_same_data_in_the_same_order(runs, tmp_path, mesh, caplog):
    seen, end = go_on(runs, tmp_path / "run", mesh)
    assert seen == {s: [w.tokens.tolist() for w in windows_of(s)] for s in range(3, 8)}
    whole = ckpt.load_newest(runs / "whole")
    for name, tensor in whole.tensors.items():
        torch.testing.assert_close(end.tensors[name], tensor, atol=1e-4, rtol=1e-3)
    losses = [
        [line["train/loss"] for line in read_metrics(folder / "metrics.jsonl")]
        for folder in (tmp_path / "run", runs / "whole")
    ]
    assert losses[0] == pytest.approx(losses[1], abs=1e-5)
    if mesh is None:
        assert "need not be bit-identical (machine.mesh" in caplog.text


def in_dtype(rank, folder, dtype, allowed=()):
    """Train in a dtype to compute in; return why it is refused."""
    del rank
    model = tiny_model()
    cluster = Cluster(model, Ranks(MeshConfig()), dtype)
    saving = Saving(allow_changed=allowed)
    try:
        run_stage(
            model,
            stage(steps=1),
            lambda _step: windows_of(0),
            folder,
            saving=saving,
            parallel=cluster,
        )
    except CheckpointError as error:
        return str(error)
    return ""


def test_another_dtype_to_compute_in_is_another_run(tmp_path):
    assert spawn(in_dtype, 1, tmp_path, None) == [""]
    (error,) = spawn(in_dtype, 1, tmp_path, torch.bfloat16)
    assert "made with other model (model.dtype: torch.float32 -> torch.bfloat16)" in error
    assert spawn(in_dtype, 1, tmp_path, torch.bfloat16, ("model",)) == [""]


def test_one_process_writes_what_two_ranks_read(tmp_path):
    folder = tmp_path / "run"
    train(0, None, folder, 4)
    seen = spawn(train, 2, TWO, folder)[0]
    assert min(seen) == 3
    assert ckpt.load_newest(folder).step == 8


def test_a_second_copy_of_the_weights_is_not_written(tmp_path):
    spawn(train, 2, {"dp_replicate": 2}, tmp_path, 4)
    newest = ckpt.checkpoints(tmp_path)[-1]
    assert [path.name[:11] for path in newest.glob("shard-*")] == ["shard-00001"]
    assert ckpt.load_newest(tmp_path).step == 3


def test_the_exported_folder_is_the_trained_model(runs):
    model = load(runs / "whole" / "model")
    weights = ckpt.load_newest(runs / "whole").part("model")
    assert all(torch.equal(t, weights[name]) for name, t in model.state_dict().items())


def test_the_exported_folder_has_the_tokenizer_of_the_data(runs):
    assert TextTokenizer.load(runs / "whole" / "model").sha256 == build_tokenizer().sha256
    assert (runs / "whole" / "model" / "chat_template.jinja").is_file()


def test_other_data_are_refused_until_they_are_allowed(tmp_path):
    def go(data, **saving):
        model = tiny_model()
        saving = Saving(data={"web": data}, **saving)
        run_stage(model, stage(steps=1), windows_of, tmp_path, saving=saving)

    go("1 of abc")
    go("1 of abc")
    with pytest.raises(CheckpointError, match=r"other data \(data.web: 1 of abc -> 2 of abc\)"):
        go("2 of abc")
    go("2 of abc", allow_changed=("data",))


def test_a_damaged_shard_is_found_by_all_and_the_one_before_is_taken(runs, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(runs / "whole", folder)
    newest = ckpt.checkpoints(folder)[-1]
    path = next(newest.glob("shard-00002-*"))
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2] ^= 1
    path.write_bytes(raw)
    before = ckpt.checkpoints(folder)[-2].name
    assert spawn(newest_of, 2, folder) == [before, before]
    assert list(folder.glob("*.quarantined"))


def newest_of(rank, folder):
    """Return the name of the checkpoint that a rank loads."""
    cluster = Cluster(tiny_model(), Ranks(MeshConfig(**TWO)))
    with cluster.saver(folder, {}, Saving()) as saver:
        return saver.load().path.name


def test_a_folder_in_use_is_refused_on_every_rank(tmp_path):
    with RunLock(tmp_path), pytest.raises(AssertionError) as caught:
        spawn(newest_of, 2, tmp_path)
    assert str(caught.value).count(f"in use by pid {os.getpid()}") == 2


def refused(rank, folder, is_shared=True):
    """Return why a rank's save fails: a state that is not finite on rank 1, or a folder apart."""
    model = tiny_model()
    cluster = Cluster(model, Ranks(MeshConfig(**TWO)))
    tensors = {f"model/{name}": t for name, t in model.state_dict().items()}
    if not is_shared:
        folder = folder / str(rank)
    elif rank == 1:
        tensors["model/norm.weight"].to_local()[0] = float("nan")
    try:
        with cluster.saver(folder, {}, Saving()) as saver:
            saver.save(1, tensors, {}, is_last=True)
    except CheckpointError as error:
        return str(error)
    return ""


def test_what_is_wrong_on_one_rank_is_an_error_on_all_and_leaves_nothing(tmp_path):
    errors = spawn(refused, 2, tmp_path)
    assert all("rank 1" in error and "not finite" in error for error in errors)
    assert not any("make room" in error for error in errors)
    assert not list(tmp_path.glob("step_*"))


def out_of_space(rank, folder):
    """Return why the last save fails when the disk of rank 1 is full."""

    def write_data(*_args):
        raise OSError(errno.ENOSPC, "No space left on device")

    if rank == 1:  # a process of its own
        planner.HuggingFaceStorageWriter.write_data = write_data
    try:
        train(rank, TWO, folder)
    except CheckpointError as error:
        return str(error)
    return ""


def test_a_rank_without_space_fails_the_save_on_all(tmp_path):
    errors = spawn(out_of_space, 2, tmp_path)
    assert all("No space left" in error for error in errors)
    assert all(error.count("make room") == 1 for error in errors)
    assert not list(tmp_path.glob("step_*"))


def test_a_folder_that_the_ranks_do_not_share_is_refused_before_anything_is_lost(tmp_path):
    errors = spawn(refused, 2, tmp_path, False)
    assert all("rank 1: " in error and "all ranks share" in error for error in errors)
    assert not list(tmp_path.glob("*/step_*"))


def reads_apart(rank, folder, other):
    """Return why a rank that has another folder than rank 0 cannot load."""
    cluster = Cluster(tiny_model(), Ranks(MeshConfig(**TWO)))
    try:
        with cluster.saver(other if rank else folder, {}, Saving()) as saver:
            saver.load()
    except CheckpointError as error:
        return str(error)
    return ""


def test_a_checkpoint_that_one_rank_cannot_see_is_not_taken_for_damaged(runs, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(runs / "whole", folder)
    errors = spawn(reads_apart, 2, folder, tmp_path / "other")
    assert all("rank 1: " in error and "all ranks share" in error for error in errors)
    assert not list(folder.glob("*.quarantined"))


def dies(rank, folder):
    """Rank 1 is gone in its third step; return what rank 0 ran into."""
    model = tiny_model()
    cluster = Cluster(model, Ranks(MeshConfig(**TWO)))

    def end(state, _report):
        if rank == 1 and state.step == 3:
            os._exit(9)

    try:
        run_stage(model, stage(), windows_of, folder, on_step=end, parallel=cluster)
    except RuntimeError as error:
        os.write(2, b"rank 0 ended\n")
        (Path(folder) / "cause").write_text(str(error))
        os._exit(1)


@pytest.mark.slow
def test_when_a_rank_dies_the_others_end_with_a_cause_and_do_not_hang(tmp_path):
    with pytest.raises(AssertionError, match="died without a word"):
        spawn(dies, 2, tmp_path)
    cause = (tmp_path / "cause").read_text()
    assert "onnection closed by peer" in cause or "onnection reset" in cause
