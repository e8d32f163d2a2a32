"""A server that could answer nobody does not start, and says why."""

import argparse
import json
import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from openzaya.cli import main as cli
from openzaya.cli import serve as verb
from openzaya.cli.samplers import model_folder
from openzaya.core.errors import CheckpointError, ConfigError
from openzaya.serve.gateway.config import GatewayConfig
from openzaya.serve.keys import Keys


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a copy of the bundled model that may be changed."""
    target = shutil.copytree(model_folder("nano"), tmp_path / "model")
    (target / "checksums.json").unlink()
    return target


def start(folder: Path) -> None:
    args = argparse.Namespace(model=str(folder), max_slots=1, context=64)
    config = GatewayConfig(model_name=folder.name)
    verb.load_service(args, config, Keys(), threads=1)


@pytest.mark.parametrize(("rows", "found"), [(2, 265), (260, 265), (270, 280)])
def test_a_tokenizer_of_another_model_is_refused(folder: Path, rows: int, found: int) -> None:
    if rows > 265:  # more than the end of a thought needs
        (folder / "chat_template.jinja").write_text("code {{ messages[0].content }}")
    tensors = load_file(folder / "model.safetensors")
    name = "model.embed_tokens.weight"
    save_file({**tensors, name: tensors[name][:rows].clone()}, folder / "model.safetensors")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"vocab_size": rows}))
    with pytest.raises(CheckpointError, match=rf"id {found} into .* ids up to {rows - 1}: they"):
        start(folder)


def test_a_template_that_is_no_jinja_is_refused(folder: Path) -> None:
    (folder / "chat_template.jinja").write_text("{% if %}")
    with pytest.raises(CheckpointError, match="line 1 of the template is not jinja"):
        start(folder)


def test_a_template_that_wants_other_turns_is_taken(folder: Path) -> None:
    (folder / "chat_template.jinja").write_text("{{ raise_exception('a system turn first') }}")
    start(folder)


@pytest.mark.parametrize("name", ["a..b", ".model", "a\nb", "x" * 201])
def test_a_folder_whose_name_no_request_can_give_is_refused(folder: Path, name: str) -> None:
    with pytest.raises(ConfigError, match=r"cannot give the model's name.*--set model_name=NAME"):
        start(folder.parent / name)


@pytest.mark.parametrize("slots", ["0", "16385"])
def test_as_many_slots_as_nobody_has_memory_for_are_refused(slots: str, capsys) -> None:
    assert cli.main(["serve", "--port", "0", "--max-slots", slots]) == 2
    assert f"--max-slots is {slots}, expected 1 to 16384" in capsys.readouterr().err
