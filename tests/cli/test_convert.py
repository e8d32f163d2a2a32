"""`openzaya convert` rewrites folders, with their tokenizer, whole or not at all."""

import argparse
import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from openzaya.cli import convert
from openzaya.core.errors import CheckpointError, ConfigError
from openzaya.model.checkpoint import Source, load, save_model
from openzaya.model.presets import preset
from openzaya.model.zaya import Zaya
from openzaya.train.lock import LOCK, RunLock


@pytest.fixture
def source(tmp_path: Path) -> Path:
    config = preset("nano", num_hidden_layers=2, hidden_size=16, moe_intermediate_size=8)
    model = Zaya(config)
    model.init_weights(torch.Generator().manual_seed(0))
    save_model(model, tmp_path / "source")
    (tmp_path / "source" / "tokenizer.json").write_text("{}")
    return tmp_path / "source"


def run(*words: str, json_wanted: bool = False) -> int:
    parser = argparse.ArgumentParser()
    convert.configure(parser)
    args = parser.parse_args(words)
    args.json = json_wanted
    return convert.run(args)


def test_a_folder_goes_to_the_legacy_layout_and_back(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    legacy, back = tmp_path / "legacy", tmp_path / "back"
    assert run(str(source), str(legacy), "--layout", "legacy") == 0
    assert "target_layout: legacy" in capsys.readouterr().out
    assert (legacy / "tokenizer.json").exists()
    assert Source(legacy).layout == "legacy"
    assert run(str(legacy), str(back), json_wanted=True) == 0
    assert json.loads(capsys.readouterr().out)["source_layout"] == "legacy"
    found, wanted = load(back).state_dict(), load(source).state_dict()
    assert all(torch.equal(found[name], value) for name, value in wanted.items())


def test_a_used_target_and_a_missing_source_are_refused(source: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is not an empty folder"):
        run(str(source), str(source))
    with pytest.raises(CheckpointError, match="is not a model folder"):
        run(str(tmp_path / "none"), str(tmp_path / "new"))
    for size in ("0", "nan", "inf"):
        with pytest.raises(ConfigError, match="a number above 0"):
            run(str(source), str(tmp_path / "new"), "--max-shard-gb", size)
    assert not (tmp_path / "new").exists()


def test_a_target_that_cannot_be_put_in_place_is_refused_before_the_work(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    for target in (str(tmp_path / "link"), "."):
        with pytest.raises(ConfigError, match="is not an empty folder"):
            run(str(source), target)


def test_a_source_in_the_place_where_the_target_is_built_is_not_deleted(
    source: Path, tmp_path: Path
) -> None:
    partial = source.rename(tmp_path / "new.partial")
    with pytest.raises(ConfigError, match="would be deleted"):
        run(str(partial), str(tmp_path / "new"))
    assert isinstance(load(partial), Zaya)


def test_damage_is_not_given_checksums_that_fit(source: Path, tmp_path: Path) -> None:
    shard = source / "model.safetensors"
    data = bytearray(shard.read_bytes())
    data[-1] ^= 1
    shard.write_bytes(data)
    with pytest.raises(CheckpointError, match="damaged"):
        run(str(source), str(tmp_path / "new"))
    assert not (tmp_path / "new").exists()


def test_the_settings_of_generation_are_kept(source: Path, tmp_path: Path) -> None:
    settings = {"eos_token_id": [1, 106], "temperature": 0.6}
    (source / "generation_config.json").write_text(json.dumps(settings))
    run(str(source), str(tmp_path / "new"))
    assert json.loads((tmp_path / "new" / "generation_config.json").read_text()) == settings


def test_a_failed_conversion_leaves_no_target(source: Path, tmp_path: Path) -> None:
    (source / "model.safetensors").write_bytes(b"short")
    with pytest.raises(CheckpointError, match="cannot be read"):
        run(str(source), str(tmp_path / "new"))
    assert not (tmp_path / "new").exists()


def test_two_conversions_into_one_target_do_not_mix(source: Path, tmp_path: Path) -> None:
    target, partial = tmp_path / "new", tmp_path / "new.partial"
    with RunLock(partial):
        (partial / "model.safetensors").write_bytes(b"the other's")
        with pytest.raises(CheckpointError, match=r"new\.partial is in use by pid"):
            run(str(source), str(target))
    assert (partial / "model.safetensors").read_bytes() == b"the other's"
    assert run(str(source), str(target)) == 0  # the other was killed
    assert isinstance(load(target), Zaya)
    assert not partial.exists()
    assert not (target / LOCK).exists()


def test_a_target_that_another_conversion_made_meanwhile_is_kept(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target, enter = tmp_path / "new", RunLock.__enter__

    def late(lock: RunLock) -> RunLock:
        target.mkdir()
        (target / "config.json").write_text("the other's")
        return enter(lock)

    monkeypatch.setattr(RunLock, "__enter__", late)
    with pytest.raises(ConfigError, match="is not an empty folder"):
        run(str(source), str(target))
    assert [path.name for path in target.iterdir()] == ["config.json"]


def test_a_folder_of_somebody_elses_in_the_place_is_not_deleted(
    source: Path, tmp_path: Path
) -> None:
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "thesis.tex").write_text("...")
    (tmp_path / "link.partial").symlink_to(mine)
    with pytest.raises(ConfigError, match="would be deleted"):
        run(str(source), str(tmp_path / "link"))
    mine.rename(tmp_path / "new.partial")
    with pytest.raises(ConfigError, match="would be deleted"):
        run(str(source), str(tmp_path / "new"))
    assert (tmp_path / "new.partial" / "thesis.tex").exists()


def test_ctrl_c_leaves_nothing(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(convert.shutil, "copyfile", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(str(source), str(tmp_path / "new"))
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


def test_a_full_disk_is_told_with_the_target_and_leaves_nothing(
    source: Path, tmp_path: Path
) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "openzaya", "convert", str(source), str(tmp_path / "new")],
        env={**os.environ, "PYTHONPATH": str(Path(convert.__file__).parents[2])},
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (8192, 8192)),
        capture_output=True,
        text=True,
    )
    told = f"openzaya: error: {tmp_path / 'new'} could not be written: [Errno 27]"
    assert (done.returncode, done.stderr[: len(told)]) == (3, told)
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


def test_the_bundled_model_has_its_name_here_too(tmp_path: Path) -> None:
    assert run("nano", str(tmp_path / "int8"), "--weights", "int8") == 0
    assert Source(tmp_path / "int8").form is not None
