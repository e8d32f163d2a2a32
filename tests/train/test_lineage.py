"""A resume that is not the same run is refused, and the refusal says in what."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tiny_training import stage, tiny_model

import openzaya
from openzaya.core.errors import CheckpointError, ConfigError
from openzaya.model.checkpoint import load
from openzaya.train import lineage
from openzaya.train.lineage import (
    code_revision,
    content_of,
    identity,
    listed,
    refuse_changes,
    shape_of,
)

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


def test_settings_that_change_no_number_may_change_and_nothing_else_of_their_name():
    """A data set may be named as a setting is."""
    wanted = identity(stage(recompute=True, offload=True, checkpoint_every_steps=5))
    refuse_changes(PATH, identity(stage()), wanted, ())
    with pytest.raises(CheckpointError, match=r"data\.recompute: a -> b"):
        refuse_changes(PATH, {"data": {"recompute": "a"}}, {"data": {"recompute": "b"}}, ())


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
    with pytest.raises(ConfigError, match="'weights'; choose of config, model, tokenizer, data, "):
        refuse_changes(PATH, {}, {}, ("weights",))


def test_long_lists_of_changes_are_cut():
    assert listed([str(i) for i in range(10)]).endswith("7; and 2 more")


@pytest.mark.parametrize(
    ("other", "dtype", "line"),
    [
        ({}, torch.bfloat16, "model.dtype: torch.bfloat16 -> torch.float32"),
        ({"rms_norm_eps": 0.5}, torch.float32, "model.config.rms_norm_eps: 0.5 -> "),
        ({"precision": "paper"}, torch.float32, "model.config.precision: paper -> hf"),
    ],
)
def test_a_model_that_computes_something_else_is_another_run(other, dtype, line):
    found, wanted = shape_of(tiny_model(**other), dtype), shape_of(tiny_model(), torch.float32)
    with pytest.raises(CheckpointError, match="made with other model") as caught:
        refuse_changes(PATH, {"model": found}, {"model": wanted}, ())
    assert line in str(caught.value)


def test_a_models_content_is_its_weights_and_config_wherever_they_come_from(tmp_path):
    model = tiny_model(1)
    model.save(tmp_path)
    same = load(tmp_path)
    moved = tiny_model(1)
    with torch.no_grad():
        moved.layers[1].mlp.experts.down_proj[3, 2, 1] += 1e-6
    others = [moved, tiny_model(1, rms_norm_eps=0.5), tiny_model(1).bfloat16()]
    assert content_of(same) == content_of(model)
    assert len({content_of(m) for m in (model, *others)}) == 4


def test_adapters_without_their_base_are_refused_whatever_is_allowed():
    for wanted in ({"base": "def"}, {}):
        with pytest.raises(CheckpointError, match=r"alone, of the model abc, and .* (def|None); "):
            refuse_changes(PATH, {"base": "abc"}, wanted, lineage.REFUSED)
    refuse_changes(PATH, {"base": "abc"}, {"base": "abc"}, ())


def test_every_setting_of_the_stage_is_part_of_the_identity():
    assert identity(stage())["config_hash"] != identity(replace(stage(), seed=1))["config_hash"]
