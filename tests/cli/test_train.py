"""`openzaya train` on the bundled model: SFT by adapters and whole, resume, refusals."""

import json
import re
import shutil

import numpy as np
import pytest
import torch
from tiny_training import tiny_model, window

from openzaya.cli import main as cli
from openzaya.cli.samplers import model_folder
from openzaya.core.errors import CheckpointError, DataError
from openzaya.core.log import read_metrics
from openzaya.model.checkpoint import load
from openzaya.recipes import finetune
from openzaya.recipes.finetune import FinetuneConfig, has_target, split_data
from openzaya.text.document import Document, Segment
from openzaya.text.tokenizer import TextTokenizer
from openzaya.train.evaluate import held_out_loss
from openzaya.train.lock import RunLock
from openzaya.train.threads import record_threads, threads_of

QUICK = ["--threads", "1", "--set", "tokens_per_step=600", "--set", "context_tokens=256"]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """Return a folder of prepared conversations with the bundled model's tokenizer."""
    root = tmp_path_factory.mktemp("train")
    lines = [
        json.dumps({"question": f"{a} + {b} = ?", "answer": str(a + b), "reasoning": "add " * 9})
        for a in range(8)
        for b in range(8)
    ]
    (root / "sums.jsonl").write_text("\n".join(lines))
    words = ["data", "prepare", str(root / "data"), str(root / "sums.jsonl"), "-q", "-j", "1"]
    assert cli.main([*words, "--tokenizer", str(model_folder("nano"))]) == 0
    return root / "data"


def train(capsys, *words):
    code = cli.main(["train", *map(str, words)])
    shown = capsys.readouterr()
    return code, shown


@pytest.mark.parametrize(("kind", "lora"), [("sft", ["--lora", "4"]), ("continue", [])])
def test_training_lowers_the_held_out_loss_and_the_result_is_a_model_folder(
    prepared, tmp_path, capsys, kind, lora
):
    from openzaya.model.adapter_files import load_adapter

    words = [kind, "--model", "nano", "--data", prepared, "--out", tmp_path, *lora, *QUICK]
    words += ["--set", "steps=6", "--set", "lr=0.01", "--json"]
    code, shown = train(capsys, *words)
    assert code == 0, shown.err
    report = json.loads(shown.out)
    assert report["held-out loss"]["after"] < report["held-out loss"]["before"] - 0.05
    result = load(tmp_path / "model")
    assert (tmp_path / "model" / "chat_template.jinja").is_file()
    records = read_metrics(tmp_path / "metrics.jsonl")
    assert [record["step"] for record in records] == [1, 2, 3, 4, 5, 6]
    assert records[-1]["eval/loss"] == pytest.approx(report["held-out loss"]["after"], abs=1e-4)
    if lora:
        assert report["trained_parameters"] < 60_000
        base = load(model_folder("nano"))
        load_adapter(base, tmp_path / "adapter")
        ours, theirs = (m.layers[0].self_attn.qkv_proj.q_proj.weight for m in (result, base))
        assert float((ours - theirs).detach().abs().max()) < 1e-6


def test_the_same_command_resumes_and_another_one_is_refused(prepared, tmp_path, capsys):
    words = ["sft", "--model", "nano", "--data", prepared, "--lora", "2", *QUICK]
    words += ["--set", "checkpoint_every_steps=2", "--json"]
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    assert train(capsys, *words, "--out", whole, "--set", "steps=4")[0] == 0
    assert train(capsys, *words, "--out", cut, "--set", "steps=4")[0] == 0
    newest = max((cut / "checkpoints").glob("step_*"))
    shutil.rmtree(newest)
    shutil.rmtree(cut / "model")
    rare = ["--set", "checkpoint_every_steps=9", "--set", "evaluate_every_steps=9"]
    code, shown = train(capsys, *words, "--out", cut, "--set", "steps=4", *rare)
    assert code == 0, shown.err
    names = ["model/model.safetensors", "adapter/adapter_model.safetensors"]
    for name in names:
        assert (whole / name).read_bytes() == (cut / name).read_bytes()
    code, shown = train(capsys, *words, "--out", cut, "--set", "steps=5")
    assert code == 2
    assert "steps: 4 -> 5" in shown.err


def test_adapters_are_kept_without_their_model_and_go_on_with_no_other(prepared, tmp_path, capsys):
    """Wherever the model lies by then."""
    base, out = tmp_path / "base", tmp_path / "out"
    shutil.copytree(model_folder("nano"), base)
    words = ["sft", "--data", prepared, "--lora", "2", "--out", out, *QUICK]
    words += ["--set", "steps=2", "--set", "checkpoint_every_steps=1", "--json"]
    assert train(capsys, *words, "--model", base)[0] == 0
    (newest, *_) = sorted((out / "checkpoints").glob("step_*"), reverse=True)
    stored = (newest / "tensors.safetensors").stat().st_size
    assert stored < (base / "model.safetensors").stat().st_size / 3
    result = (out / "model" / "model.safetensors").read_bytes()
    shutil.rmtree(newest)
    assert train(capsys, *words, "--model", base.rename(tmp_path / "moved"))[0] == 0
    assert (out / "model" / "model.safetensors").read_bytes() == result
    model = load(tmp_path / "moved")
    with torch.no_grad():
        model.norm.weight += 0.01
    model.save(tmp_path / "moved")
    code, shown = train(capsys, *words, "--model", tmp_path / "moved")
    assert code == 2
    assert re.search(r"holds another run \(content: \w{64} -> \w{64}\)", shown.err)


def test_a_run_is_resumed_bit_for_bit_however_busy_the_machine_is_by_then(
    prepared, tmp_path, capsys, monkeypatch
):
    """With two threads the step's two microbatches run side by side, with one they are one."""
    words = ["continue", "--model", "nano", "--data", prepared, "--set", "tokens_per_step=2048"]
    words += ["--set", "micro_tokens=2048", "--set", "context_tokens=256", "--set", "steps=3"]
    words += ["--set", "checkpoint_every_steps=1", "--json"]
    for name, free in {"whole": [2], "cut": [2, 1], "other": [1]}.items():
        out = tmp_path / name
        for threads in free:
            monkeypatch.setattr("openzaya.backends.machine.choose_threads", lambda n=threads: n)
            shutil.rmtree(out / "checkpoints" / "step_00000003", ignore_errors=True)
            code, shown = train(capsys, *words, "--out", out)
            assert code == 0, shown.err
    whole, cut, other = (
        (tmp_path / name / "model" / "model.safetensors").read_bytes()
        for name in ("whole", "cut", "other")
    )
    assert cut == whole
    assert other != whole, "the number of threads makes no difference here, so this shows nothing"


@pytest.mark.parametrize("text", [b"\xff", b"two", "\u00b2".encode(), b""])
def test_a_damaged_number_of_threads_is_none(tmp_path, text):
    record_threads(tmp_path)
    assert threads_of(tmp_path) == torch.get_num_threads()
    (tmp_path / "threads").write_bytes(text)
    assert threads_of(tmp_path) == 0


def test_data_of_another_tokenizer_are_refused(prepared, tmp_path, capsys):
    from text.tiny_tokenizers import BARE

    other = tmp_path / "data"
    shutil.copytree(prepared, other)
    shutil.rmtree(other / "tokenizer")
    BARE.save(other / "tokenizer")
    code, shown = train(capsys, "sft", "--model", "nano", "--data", other, "--out", tmp_path / "o")
    assert code == 2
    assert "prepare the data again" in shown.err


def test_a_run_that_cannot_begin_leaves_its_folder_to_the_next(prepared, tmp_path, capsys):
    words = ["sft", "--model", "nano", "--data", prepared, "--out", tmp_path, *QUICK]
    words += ["--set", "steps=1", "--json"]
    code, shown = train(capsys, *words, "--set", "context_tokens=4000")
    assert code == 2
    assert "too few windows of 4000 tokens with something to train on: 1 of 1" in shown.err
    assert not list(tmp_path.iterdir())
    assert train(capsys, *words)[0] == 0


def test_a_window_without_a_trained_token_is_not_held_out():
    """Its loss would be 0.0, whatever the model."""
    model = tiny_model()
    with_target, without = window([9, 12], source="a"), window([9, 12], source="a")
    without.loss_mask[:] = False
    without.loss_mask[[0, 9]] = True  # the first token of a document has no prediction
    assert [has_target(with_target), has_target(without)] == [True, False]
    assert held_out_loss(model, [without], 64) == {}
    alone = held_out_loss(model, [with_target], 64)
    assert held_out_loss(model, [without, with_target], 64) == alone


def conversation(trained):
    """Return 30 tokens of a user, of which the last ten may be an answer."""
    parts = [Segment("text", "user", 0, 20, loss=False)]
    parts += [Segment("answer", "assistant", 20, 10, loss=trained)]
    return Document(np.arange(3, 33, dtype=np.int32) % 24, tuple(parts), "a")


def test_only_windows_with_something_to_predict_are_held_out_and_two_are_needed():
    """The others stay in training, and do not change which ones are held out."""
    model, config = tiny_model(), FinetuneConfig(context_tokens=32, held_out_share=0.3)
    documents = [conversation(trained=i % 2 == 0) for i in range(20)]
    mixture, held_out = split_data("sft", {"a": documents}, model, config)
    assert [has_target(window) for window in held_out] == [True] * 6
    assert mixture.num_tokens == 14 * 30
    with pytest.raises(DataError, match="something to train on: 1 of 20, expected at least 2"):
        split_data("sft", {"a": [conversation(i == 0) for i in range(20)]}, model, config)


@pytest.mark.parametrize(
    ("setting", "complaint"),
    [
        ("held_out_share=0", "held_out_share is 0.0; choose a number above 0"),
        ("held_out_share=nan", "held_out_share is nan"),
        ("warmup_share=-1", "warmup_share is -1.0; choose a number from 0 to 1"),
        ("epochs=0", "epochs is 0.0; choose a number above 0"),
        ("lr=inf", "lr is inf; choose a number from 0"),
        ("device=nowhere", "device is 'nowhere', which does not work here"),
        ("tokens_per_step=20", "tokens_per_step is 20, expected at least"),
        ("lora_targets=experts", "lora_targets ['experts'], but there are no adapters; add --lora"),
    ],
)
def test_settings_that_no_run_can_have_are_refused_and_leave_the_folder_alone(
    prepared, tmp_path, capsys, setting, complaint
):
    words = ["sft", "--model", "nano", "--data", prepared, "--out", tmp_path, *QUICK]
    code, shown = train(capsys, *words, "--set", setting)
    assert code == 2
    assert complaint in shown.err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("rank", [0, -1])
def test_adapters_of_no_rank_are_refused_and_not_taken_for_the_whole_model(
    prepared, tmp_path, capsys, rank
):
    words = ["sft", "--model", "nano", "--data", prepared, "--out", tmp_path, *QUICK]
    code, shown = train(capsys, *words, "--lora", rank)
    assert code == 2
    assert f"--lora is {rank}; give a rank from 1, or leave it out to train the whole" in shown.err
    assert not list(tmp_path.iterdir())


def test_the_folder_is_held_from_the_first_evaluation_to_the_last_and_the_export(
    prepared, tmp_path, capsys, monkeypatch
):
    """Two commands at once would export over each other."""
    held = []

    def holding(name):
        real = getattr(finetune, name)

        def work(*args):
            with pytest.raises(CheckpointError, match="is in use by pid"), RunLock(tmp_path):
                pass
            held.append(name)
            return real(*args)

        monkeypatch.setattr(finetune, name, work)

    for name in ("held_out_loss", "save_result"):
        holding(name)
    words = ["sft", "--model", "nano", "--data", prepared, "--out", tmp_path, *QUICK]
    code, shown = train(capsys, *words, "--set", "steps=1")
    assert code == 0, shown.err
    assert held == ["held_out_loss", "held_out_loss", "save_result", "held_out_loss"]
    with RunLock(tmp_path):
        code, shown = train(capsys, *words, "--set", "steps=1")
    assert code == 3
    assert "is in use by pid" in shown.err


def test_a_tokenizer_with_more_ids_than_the_model_has_is_refused(prepared, tmp_path, capsys):
    tiny_model().save(tmp_path / "model")
    TextTokenizer.load(model_folder("nano")).save(tmp_path / "model")
    words = ["sft", "--model", tmp_path / "model", "--data", prepared, "--out", tmp_path / "out"]
    code, shown = train(capsys, *words, *QUICK)
    assert code == 2
    assert "a tokenizer of 286 ids and a model of 24; put the tokenizer there" in shown.err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("damage", [b"{", b"\xff", b"[1]"])
def test_a_damaged_claim_is_a_clear_error(prepared, tmp_path, capsys, damage):
    (tmp_path / "run.json").write_bytes(damage)
    words = ["sft", "--model", "nano", "--data", prepared, "--out", tmp_path, *QUICK]
    code, shown = train(capsys, *words)
    assert code == 2
    assert "run.json is damaged" in shown.err


def test_several_processes_are_sent_to_the_command_that_divides_the_work(
    prepared, tmp_path, capsys, monkeypatch
):
    monkeypatch.setenv("RANK", "1")
    words = ["sft", "--model", "nano", "--data", prepared, "--out", tmp_path / "run", *QUICK]
    monkeypatch.setenv("WORLD_SIZE", "2")
    code, shown = train(capsys, *words)
    assert code == 2
    assert "torchrun -m openzaya.train.distributed" in shown.err
    assert not (tmp_path / "run").exists()


def test_other_code_is_refused_unless_allowed_and_other_trackers_are_no_other_run(
    prepared, tmp_path, capsys, monkeypatch
):
    words = ["sft", "--model", "nano", "--data", prepared, "--out", tmp_path, "--lora", "2"]
    words += [*QUICK, "--set", "steps=1"]
    missing = ("openzaya.train.trackers.find_spec", lambda _name: None)
    with monkeypatch.context() as patch:
        patch.setattr(*missing)
        code, shown = train(capsys, *words, "--set", "trackers=wandb")
    assert code == 2
    assert "'wandb' is not installed" in shown.err
    code, shown = train(capsys, *words)
    assert code == 0, shown.err
    monkeypatch.setattr("openzaya.train.lineage.code_revision", lambda _packages: {"torch": "3.0"})
    code, shown = train(capsys, *words)
    assert code == 3
    assert "allow_changed = code" in shown.err
    code, shown = train(capsys, *words, "--set", "allow_changed=code")
    assert code == 0, shown.err


@pytest.mark.parametrize("name", ["model", "metrics.jsonl"])
def test_a_folder_with_somebody_elses_results_is_refused_and_stays_as_it_is(
    prepared, tmp_path, capsys, name
):
    """The model that is trained, for one, or the folder of a speedrun."""
    (tmp_path / "config.toml").write_text("seed = 7\n")
    shutil.copytree(model_folder("nano"), tmp_path / name)
    words = ["--model", tmp_path / name, "--data", prepared, "--out", tmp_path, *QUICK]
    code, shown = train(capsys, "sft", *words)
    assert code == 2
    assert f"holds {name}, which `openzaya train` did not write" in shown.err
    assert (tmp_path / "config.toml").read_text() == "seed = 7\n"
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(["config.toml", name])
