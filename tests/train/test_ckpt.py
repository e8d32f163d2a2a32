"""Checkpoints are whole or absent."""

import json
import os
import random
import signal
import time

import pytest
import torch

from openzaya.core.errors import CheckpointError
from openzaya.train import ckpt

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
        raw[len(raw) // 2] ^= 1
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


def test_a_hundred_single_bit_flips_in_the_manifest_change_nothing_unnoticed(tmp_path):
    """Most break the digest; a flip inside the name of the digest's own key is harmless."""
    path = ckpt.save(tmp_path, 1, tensors(1), {"note": 7}, META) / ckpt.MANIFEST
    raw = path.read_bytes()
    rng = random.Random(0)
    detected = 0
    for _ in range(100):
        flipped = bytearray(raw)
        flipped[rng.randrange(len(raw))] ^= 1 << rng.randrange(8)
        path.write_bytes(flipped)
        try:
            loaded = ckpt.load(path.parent)
        except CheckpointError:
            detected += 1
        else:
            assert (loaded.step, loaded.state, loaded.meta) == (1, {"note": 7}, META)
    assert detected > 70


def test_verify_compares_sha256_and_load_compares_crc32(tmp_path):
    """A manifest that lies about one of them is caught by the one that reads it."""
    path = ckpt.save(tmp_path, 1, tensors(1), {}, META)
    ckpt.verify(path)
    manifest = json.loads((path / ckpt.MANIFEST).read_text())
    del manifest["digest"]
    for kind, check in (("sha256", ckpt.verify), ("crc32", ckpt.load)):
        lying = json.loads(json.dumps(manifest))
        lying["files"][ckpt.TENSORS][kind] = "0" * len(lying["files"][ckpt.TENSORS][kind])
        (path / ckpt.MANIFEST).write_text(json.dumps(lying))
        with pytest.raises(CheckpointError, match=f"{kind} is"):
            check(path)


def test_latest_names_the_newest_checkpoint(tmp_path):
    fill(tmp_path)
    assert (tmp_path / ckpt.LATEST).read_text() == "step_00000003\n"


def test_the_same_step_can_be_saved_again(tmp_path):
    fill(tmp_path, steps=(1, 2))
    ckpt.save(tmp_path, 2, tensors(5), {"note": "again"}, META)
    loaded = ckpt.load_newest(tmp_path)
    assert (loaded.step, loaded.state) == (2, {"note": "again"})
    assert torch.equal(loaded.tensors["a"], tensors(5)["a"])
    assert not list(tmp_path.glob("*.tmp-*"))


def test_leftovers_of_a_killed_writer_are_cleared_and_never_loaded(tmp_path):
    fill(tmp_path, steps=(1,))
    leftover = tmp_path / "step_00000009.tmp-abcd"
    leftover.mkdir()
    assert ckpt.load_newest(tmp_path).step == 1
    fill(tmp_path, steps=(2,))
    assert not leftover.exists()


def test_views_of_one_tensor_and_bf16_come_back_as_they_were(tmp_path):
    whole = torch.arange(12.0).view(3, 4)
    saved = {"row": whole[1], "column": whole[:, 2], "half": whole.bfloat16(), "all": whole}
    path = ckpt.save(tmp_path, 1, saved, {}, META)
    loaded = ckpt.load(path).tensors
    assert all(torch.equal(loaded[name], tensor) for name, tensor in saved.items())
    assert loaded["half"].dtype == torch.bfloat16


def test_a_folder_that_cannot_be_written_is_a_checkpoint_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match="could not be written"):
        ckpt.save(tmp_path / "file" / "runs", 1, tensors(1), {}, META)


def test_the_manifest_names_sizes_and_hashes(tmp_path):
    path = ckpt.save(tmp_path, 1, tensors(1), {}, META)
    manifest = json.loads((path / ckpt.MANIFEST).read_text())
    assert manifest["files"][ckpt.STATE]["bytes"] == (path / ckpt.STATE).stat().st_size
