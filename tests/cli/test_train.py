"""`openzaya train` on the bundled model: SFT by adapters and whole, resume, refusals."""

import json
import shutil

import pytest

from openzaya.cli import main as cli
from openzaya.cli.samplers import model_folder
from openzaya.core.log import read_metrics

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
    from openzaya.model.checkpoint import load
    from openzaya.model.lora import load_adapter

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
    code, shown = train(capsys, *words, "--out", cut, "--set", "steps=4")
    assert code == 0, shown.err
    names = ["model/model.safetensors", "adapter/adapter_model.safetensors"]
    for name in names:
        assert (whole / name).read_bytes() == (cut / name).read_bytes()
    code, shown = train(capsys, *words, "--out", cut, "--set", "steps=5")
    assert code == 2
    assert "steps: 4 -> 5" in shown.err


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
    assert "too few windows of 4000 tokens: 1" in shown.err
    assert not list(tmp_path.iterdir())
    assert train(capsys, *words)[0] == 0


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
