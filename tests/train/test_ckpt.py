"""Checkpoints are whole or absent."""

import json
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from openzaya.core.errors import CheckpointError, ConfigError
from openzaya.train import ckpt
from openzaya.train.manifest import MANIFEST, SCHEMA, DamagedCheckpoint, decode, digest_of, encode

GOLDEN = Path(__file__).parents[1] / "golden" / "checkpoint_schema_1"
# Programs and not forks: a fork of a process with threads waits for ever for what they held.
SAVE_WITH_A_LIMIT = """
import resource, sys
from pathlib import Path
import torch
from openzaya.core.errors import CheckpointError
from openzaya.train import ckpt

resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]),) * 2)
try:
    ckpt.save(Path(sys.argv[1]), 4, {"a": torch.zeros(200_000)}, {}, {})
except CheckpointError as error:
    sys.exit(f"CheckpointError: {error}")
"""
SAVE_FOR_EVER = """
import itertools, json, sys
from pathlib import Path
import torch
from openzaya.train import ckpt

for step in itertools.count(int(sys.argv[2])):
    print(step, flush=True)
    tensor = torch.full((200_000,), float(step))
    ckpt.save(Path(sys.argv[1]), step, {"a": tensor}, {}, json.loads(sys.argv[3]))
"""
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


@pytest.mark.parametrize("name", [ckpt.TENSORS, ckpt.STATE, MANIFEST])
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
    loaded = ckpt.load_newest(tmp_path, META)
    for attempt in range(4):
        words = [tmp_path, str(loaded.step + 1), json.dumps(META)]
        with subprocess.Popen(
            [sys.executable, "-c", SAVE_FOR_EVER, *words], stdout=subprocess.PIPE
        ) as child:
            for expected in (1, 2):  # the second line comes when the first save is whole
                assert int(child.stdout.readline()) == loaded.step + expected
            time.sleep(0.019 * attempt)
            child.kill()
        before, loaded = loaded, ckpt.load_newest(tmp_path, META)
        assert loaded.step > before.step
        assert bool((loaded.tensors["a"] == float(loaded.step)).all())
        assert not list(tmp_path.glob("*.quarantined"))


def test_single_bit_flips_in_the_manifest_are_all_detected(tmp_path):
    """In its own digest too, and where another case is the same value: 1e-08 is 1E-08."""
    meta = {"config": {"eps": 1e-8}}
    path = ckpt.save(tmp_path, 1, tensors(1), {"note": 7}, meta) / MANIFEST
    raw = path.read_bytes()
    case = 8 * raw.index(b"e-08") + 5
    for place in [case, *random.Random(0).sample(range(8 * len(raw)), 400)]:
        flipped = bytearray(raw)
        flipped[place // 8] ^= 1 << place % 8
        path.write_bytes(flipped)
        with pytest.raises(DamagedCheckpoint):
            decode(path)


def test_verify_compares_sha256_and_load_compares_crc32(tmp_path):
    """A manifest that lies about one of them is caught by the one that reads it."""
    path = ckpt.save(tmp_path, 1, tensors(1), {}, META)
    ckpt.verify(path)
    manifest = json.loads((path / MANIFEST).read_text())
    del manifest["digest"]
    for kind, check in (("sha256", ckpt.verify), ("crc32", ckpt.load)):
        lying = json.loads(json.dumps(manifest))
        lying["files"][ckpt.TENSORS][kind] = "0" * len(lying["files"][ckpt.TENSORS][kind])
        lying["digest"] = digest_of(lying)
        (path / MANIFEST).write_bytes(encode(lying))
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
    manifest = json.loads((path / MANIFEST).read_text())
    assert manifest["files"][ckpt.STATE]["bytes"] == (path / ckpt.STATE).stat().st_size


def test_the_keep_policy_keeps_the_last_and_every_so_many_steps(tmp_path):
    for step in range(1, 8):
        keep = ckpt.Keep(last=2, every_steps=3)
        ckpt.save(tmp_path, step, tensors(step), {}, META, keep)
    assert [ckpt.step_of(path) for path in ckpt.checkpoints(tmp_path)] == [3, 6, 7]
    with pytest.raises(ConfigError, match="at least 1"):
        ckpt.Keep(last=0)


def exchange(folder):
    """Give two checkpoints each other's tensors."""
    newest, older = folder / "step_00000003" / ckpt.TENSORS, folder / "step_00000002" / ckpt.TENSORS
    kept = newest.read_bytes()
    newest.write_bytes(older.read_bytes())
    older.write_bytes(kept)


@pytest.mark.parametrize(
    ("damage", "complaint"),
    [
        (lambda f: (f / "step_00000003" / "more.safetensors").write_text(""), "nobody wrote more"),
        (lambda f: (f / "step_00000003" / "nested").mkdir(), "nobody wrote nested"),
        (lambda f: (f / "step_00000003").rename(f / "step_00000009"), "is that of step 3"),
    ],
)
def test_files_too_many_and_a_manifest_of_another_step_are_found(
    tmp_path, caplog, damage, complaint
):
    fill(tmp_path)
    damage(tmp_path)
    assert ckpt.load_newest(tmp_path, META).step == 2
    assert complaint in caplog.text


def test_when_no_checkpoint_is_intact_training_does_not_start_over_silently(tmp_path):
    fill(tmp_path)
    exchange(tmp_path)
    with pytest.raises(CheckpointError, match=r"all 2 checkpoints .* are damaged"):
        ckpt.load_newest(tmp_path, META)
    assert len(list(tmp_path.glob("*.quarantined"))) == 2


def test_a_checkpoint_of_a_newer_version_is_refused_and_stays_where_it_is(tmp_path):
    fill(tmp_path)
    path = tmp_path / "step_00000003" / MANIFEST
    manifest = json.loads(path.read_text())
    del manifest["digest"]
    manifest["schema"] = SCHEMA + 1
    manifest["digest"] = digest_of(manifest)
    path.write_bytes(encode(manifest))
    with pytest.raises(CheckpointError, match=f"has schema {SCHEMA + 1}, this version reads"):
        ckpt.load_newest(tmp_path, META)
    assert path.exists()


def test_a_checkpoint_of_schema_1_still_loads(tmp_path):
    shutil.copytree(GOLDEN, tmp_path / "run")
    loaded = ckpt.load_newest(tmp_path / "run", META)
    assert (loaded.step, loaded.state, loaded.meta) == (3, {"tokens": 12}, META)
    assert torch.equal(loaded.part("model")["a"], torch.arange(6.0).view(2, 3))


def test_a_checkpoint_that_does_not_know_its_code_is_refused_unless_that_is_allowed(tmp_path):
    shutil.copytree(GOLDEN, tmp_path / "run")
    wanted = {**META, "code": {"train/step.py": "0123"}}
    with pytest.raises(CheckpointError, match="made with other code"):
        ckpt.load_newest(tmp_path / "run", wanted)
    assert ckpt.load_newest(tmp_path / "run", wanted, ("code",)).step == 3


@pytest.mark.parametrize("allowed_bytes", [0, 10_000, 500_000, 799_999])
def test_a_write_that_the_system_cuts_short_is_a_clear_error_and_loses_nothing(
    tmp_path, allowed_bytes
):
    """A process may write files of so many bytes only: the kernel fails its write (EFBIG)."""
    fill(tmp_path)
    child = subprocess.run(
        [sys.executable, "-c", SAVE_WITH_A_LIMIT, tmp_path, str(allowed_bytes)],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert child.stderr.startswith("CheckpointError: "), child.stderr
    assert "could not be written" in child.stderr
    assert "intact" in child.stderr
    assert sorted(path.name for path in tmp_path.glob("step_*")) == [
        "step_00000002",
        "step_00000003",
    ]
    assert ckpt.load_newest(tmp_path, META).step == 3
