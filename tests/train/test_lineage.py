"""A resume that is not the same run is refused, and the refusal says in what."""

from dataclasses import replace
from pathlib import Path

import pytest
from tiny_training import stage

import openzaya
from openzaya.core.errors import CheckpointError, ConfigError
from openzaya.train import lineage
from openzaya.train.lineage import code_revision, identity, listed, refuse_changes

PATH = Path("step_00000001")


def test_the_same_run_is_resumed_without_a_word(caplog):
    refuse_changes(PATH, identity(stage()), identity(stage()), ())
    assert caplog.text == ""


@pytest.mark.parametrize(
    ("part", "changes", "line"),
    [
        (
            "config",
            {"config": {**identity(stage())["config"], "z_loss": 0.5}},
            "z_loss: 0.5 -> 0.0",
        ),
        ("tokenizer", {"tokenizer": "abc"}, "tokenizer: abc -> "),
        ("code", {"code": {**code_revision(("train",)), "torch": "1.0"}}, "code.torch: 1.0 -> "),
    ],
)
def test_every_part_is_compared_named_and_can_be_allowed(caplog, part, changes, line):
    wanted = identity(stage(), packages=("train",))
    found = wanted | changes
    with pytest.raises(CheckpointError, match=f"made with other {part} ") as caught:
        refuse_changes(PATH, found, wanted, ())
    assert line in str(caught.value)
    with pytest.raises(CheckpointError):
        refuse_changes(PATH, found, wanted, [p for p in lineage.REFUSED if p != part])
    refuse_changes(PATH, found, wanted, (part,))
    assert line in caplog.text


@pytest.mark.parametrize("name", ["step.py", "rows.h", "kernels.cpp"])
def test_an_edited_file_is_named(tmp_path, monkeypatch, name):
    (tmp_path / "train").mkdir()
    (tmp_path / "train" / name).write_text("a = 1\n")
    (tmp_path / "train" / "loop.py").write_text("b = 1\n")
    monkeypatch.setattr(openzaya, "__file__", str(tmp_path / "__init__.py"))
    old = code_revision.__wrapped__(("train",))
    (tmp_path / "train" / name).write_text("a = 2\n")
    new = code_revision.__wrapped__(("train",))
    expected = rf"\(code\.train/{name}: \w{{12}} -> \w{{12}}\);"
    with pytest.raises(CheckpointError, match=expected):
        refuse_changes(PATH, {"code": old}, {"code": new}, ())


@pytest.mark.parametrize(
    ("changed", "line"),
    [
        ({"torch threads": 99}, "machine.torch threads: 99 -> "),
        ({"kernels": "zaya-fused-1"}, "machine.kernels: zaya-fused-1 -> torch"),
        ({"muon": "zaya-optim-1"}, "machine.muon: zaya-optim-1 -> torch"),
    ],
)
def test_another_number_of_threads_or_other_kernels_are_a_warning_only(caplog, changed, line):
    wanted = identity(stage())
    machine = wanted["machine"] | changed
    refuse_changes(PATH, wanted | {"machine": machine}, wanted, ())
    assert f"need not be bit-identical ({line}" in caplog.text


def test_only_known_parts_can_be_allowed():
    with pytest.raises(ConfigError, match="'weights'; choose of config, tokenizer, data, code"):
        refuse_changes(PATH, {}, {}, ("weights",))


def test_long_lists_of_changes_are_cut():
    assert listed([str(i) for i in range(10)]).endswith("7; and 2 more")


def test_every_setting_of_the_stage_is_part_of_the_identity():
    assert identity(stage())["config_hash"] != identity(replace(stage(), seed=1))["config_hash"]
