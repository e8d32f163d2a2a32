"""All ranks read the same, or none begins."""

import pytest
import torch.distributed as dist
from ranks import prepared, spawn
from tiny_training import tiny_model

from openzaya.core.errors import ConfigError, DataError, OpenZayaError
from openzaya.train.distributed.inputs import read_alike, stage_of, tokenizer_of
from openzaya.train.distributed.launch import is_of_others, parser, verdict_of


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A prepared folder and a stage."""
    path = tmp_path_factory.mktemp("inputs")
    prepared(path)
    return path


def reads(rank, folder, flags):
    """Return why a rank refuses to begin."""
    words = ["--model", "nano", "--out", f"{folder}/run", "--config", f"{folder}/stage.toml"]
    try:
        read_alike(parser().parse_args([*words, *flags[rank]]))
    except OpenZayaError as error:
        return type(error), str(error)
    return None, ""


def test_ranks_that_read_the_same_begin(folder):
    assert spawn(reads, 2, folder, [["--data", f"{folder}/data"]] * 2) == [(None, "")] * 2


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (["--data", "DATA", "--set", "optim.lr_adamw=0.5"], "stage.optim.lr_adamw: "),
        (["--data", "DATA=2"], ": 1.0 of "),
        (["--data", "DATA", "--param-dtype", "bfloat16"], "flags"),
    ],
)
def test_ranks_that_read_something_else_are_refused_on_all(folder, other, message):
    data = f"{folder}/data"
    flags = [["--data", data], [word.replace("DATA", data) for word in other]]
    for kind, error in spawn(reads, 2, folder, flags):
        assert kind is ConfigError
        assert "rank 0 and rank 1 read something else" in error
        assert message in error


def test_what_one_rank_cannot_read_ends_all(folder):
    flags = [["--data", f"{folder}/data"], ["--data", f"{folder}/gone"]]
    errors = spawn(reads, 2, folder, flags)
    assert "rank 1: " in errors[0][1]
    assert all("gone" in error for _, error in errors)


def test_data_that_the_model_has_no_ids_for_are_refused(folder):
    with pytest.raises(DataError, match="but the model has 24"):
        tokenizer_of([folder / "data"], "tiny", tiny_model())


def test_documents_longer_than_the_model_is_meant_for_are_refused(folder):
    flags = ["--data", f"{folder}/data", "--set", "context_tokens=100_000"]
    (found,) = spawn(reads, 1, folder, [flags])
    assert found[0] is ConfigError
    assert "context_tokens is 100000, but the model is meant for" in found[1]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('steps = "many"', "steps is 'many' (str), but must be int"),
        ("steps = 1.5", "steps is 1.5 (float), but must be int"),
        ("step = 2", "has no 'steps'; a stage needs name and steps"),
        ("steps = 2\nmicro_token = 3", "has no field 'micro_token'; did you mean 'micro_tokens'?"),
        ("steps = 2\n[optim]\nbetas = [2.0, 0.5]", "betas are (2.0, 0.5)"),
    ],
)
def test_a_stage_file_that_cannot_be_meant_says_so(folder, tmp_path, line, said):
    (tmp_path / "stage.toml").write_text(f'name = "tiny"\n{line}\n')
    words = ["--model", "nano", "--out", "o", "--data", "d", "--config", f"{tmp_path}/stage.toml"]
    with pytest.raises(ConfigError) as caught:
        stage_of(parser().parse_args(words))
    assert said in str(caught.value)


def test_a_folder_of_a_run_on_one_process_is_refused(folder, tmp_path):
    (tmp_path / "run.json").touch()
    (found,) = spawn(reads, 1, folder, [["--data", f"{folder}/data", "--out", str(tmp_path)]])
    assert found[0] is ConfigError
    assert "holds a run of `openzaya train`" in found[1]


@pytest.mark.parametrize(
    ("error", "said", "code"),
    [
        (DataError("no data"), "no data", 2),
        (NotADirectoryError(20, "Not a directory", "run"), "'run'; check the path", 2),
        (OSError(28, "No space left on device"), "the space on its disk", 1),
        (KeyboardInterrupt(), "stopped by Ctrl-C", 130),
        (RuntimeError("[gloo/pair.cc:553] Connection closed"), "another rank is gone", 1),
    ],
)
def test_what_ends_a_rank_is_one_line_and_a_code(error, said, code):
    found = verdict_of(error)
    assert said in found[0]
    assert found[1] == code


def test_an_error_of_ours_keeps_its_traceback():
    assert verdict_of(RuntimeError("size mismatch")) == ("", 1)


@pytest.mark.parametrize("own", [True, False])
def test_only_errors_of_the_network_are_blamed_on_other_ranks(own):
    text = "size mismatch" if own else "[gloo/transport/tcp/pair.cc:553] Connection closed by peer"
    assert is_of_others(RuntimeError(text)) == (not own)
    assert is_of_others(dist.DistBackendError("NCCL error"))
