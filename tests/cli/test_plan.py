"""`openzaya plan` prints what the planner says, for readers and machines, and refuses in words."""

import json

import pytest

from openzaya.cli import main as cli
from openzaya.recipes.planned import planned
from openzaya.recipes.planner.hardware import DEVICES
from openzaya.recipes.planner.layout import Layout
from openzaya.recipes.planner.planner import best_plan


def plan(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    code = cli.main(["plan", *words])
    shown = capsys.readouterr()
    return code, shown.out, shown.err


def test_the_papers_run_is_printed_with_its_step_and_its_days(capsys):
    code, out, _ = plan(capsys, "zaya1_8b", "--on", "mi300x", "--ranks", "1024")
    assert code == 0
    assert "8,840,488,784 parameters, 753,608,528 active" in out
    assert "utilization 4.4% of 1,307 TFLOP/s" in out
    assert "2.5 s a step, 57.3 TFLOP/s a device, 4.4% of its rate; planned 2.58 s" in out
    first = next(line for line in out.splitlines() if line.startswith("pretrain1 "))
    assert first.split()[:4] == ["pretrain1", "8T", "4,096", "476,838"]
    assert "cp 8" in next(line for line in out.splitlines() if line.startswith("sft "))
    assert "sft: halo of convolutions" in out


def test_json_says_what_the_planner_says(capsys):
    words = ("zaya1_8b", "--on", "h200", "--ranks", "64", "--shard", "8", "--ep", "4", "--json")
    code, out, _ = plan(capsys, *words, "--set", "layout.checkpointing=on")
    assert code == 0
    found = json.loads(out)
    assert found["refused"] == []
    config, works = planned("zaya1_8b", [], [])
    layout = Layout(ranks=64, shard=8, expert_parallel=4, context_parallel=8, checkpointing=True)
    expected = best_plan(config, works[3], [layout], DEVICES["h200"], DEVICES["h200"].utilization)
    sft = found["phases"][3]
    assert sft["step_s"] == expected.step_s
    assert sft["memory"]["total"] == expected.memory.total
    assert sft["wire_bytes"] == pytest.approx(sum(t["num_bytes"] for t in sft["traffic"]))
    assert sft["layout"]["context_parallel"] == 8


def test_nano_is_planned_on_this_kind_of_machine(capsys):
    code, out, _ = plan(capsys, "nano")
    assert code == 0
    assert "known" not in out
    assert [line.split()[0] for line in out.splitlines()[4:7]] == ["pretrain", "midtrain", "sft"]
    assert "shard 1" in out
    assert "all-gather" not in out


def test_settings_and_utilization_change_the_plan(capsys):
    words = ("nano", "--json", "--set", "pretrain.train.steps=10")
    code, out, _ = plan(capsys, *words, "--utilization", "0.5")
    found = json.loads(out)
    assert (code, found["utilization"]) == (0, 0.5)
    assert found["phases"][0]["tokens"] == 10 * 8192
    _, out, _ = plan(capsys, *words)
    assert json.loads(out)["phases"][0]["compute_s"] > found["phases"][0]["compute_s"]


def test_a_phase_that_cannot_be_laid_out_is_refused_after_those_that_can(capsys):
    code, out, err = plan(capsys, "zaya1_8b", "--on", "h200")
    assert code == 2
    assert "pretrain1 " in out
    assert "sft " not in out
    assert "sft: context_parallel is 8, which does not divide ranks = 1" in err
    code, out, err = plan(capsys, "zaya1_8b", "--on", "h100")
    assert (code, out) == (2, "")
    assert "pretrain1 does not fit: a rank needs" in err
    assert "GB are missing; try more --ranks" in err
    code, out, _ = plan(capsys, "zaya1_8b", "--on", "h100", "--json")
    assert code == 2
    assert len(json.loads(out)["refused"]) == 4


def test_what_is_wrong_with_every_phase_is_said_once(capsys):
    code, _, err = plan(capsys, "zaya1_8b", "--ranks", "0")
    assert (code, err.count("ranks is 0; choose at least 1")) == (2, 1)


def test_a_step_that_holds_no_document_is_refused_with_a_cure_that_helps(capsys):
    _, _, err = plan(capsys, "nano", "--set", "pretrain.train.tokens_per_step=1")
    assert "pretrain: a step of 1 tokens has no room for a document of 96; choose a larger" in err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["zaya", "--on", "h100"], "no recipe is called 'zaya'; did you mean 'zaya1_8b'?"),
        (["nano", "--on", "h300"], "no hardware is called 'h300'; did you mean"),
        (["nano", "--set", "layout.chekpointing=on"], "did you mean 'checkpointing'?"),
        (["nano", "--set", "pretrain.train.stepz=1"], "did you mean 'steps'?"),
        (["nano", "--utilization", "0"], "choose it in (0, 1]"),
        (["nano", "--ranks", "4", "--shard", "3"], "shard is 3, which does not divide ranks = 4"),
        (["nano", "--ranks", "4", "--ep", "3"], "expert_parallel is 3"),
        (["nano", "--serve", "--ranks", "4"], "takes no --ranks; leave it out"),
        (["nano", "--serve", "--cp", "4", "--ep", "2"], "takes no --cp, --ep; leave it out"),
    ],
)
def test_what_is_wrong_is_said_with_the_cure(capsys, words, message):
    code, out, err = plan(capsys, *words)
    assert (code, out) == (2, "")
    assert message in err


def test_serving_is_planned_in_every_format_that_fits(capsys):
    code, out, _ = plan(capsys, "zaya1_8b", "--on", "h100", "--serve")
    assert code == 0
    rows = {line.split()[0]: line.split() for line in out.splitlines()[3:6]}
    assert list(rows) == ["bf16", "int8", "int4"]
    assert rows["bf16"][1:5] == ["17.7", "1342.2", "+", "0.215"]
    words = ("--set", "serve.context_tokens=131072", "--set", "serve.weights=int4", "--json")
    code, out, _ = plan(capsys, "zaya1_8b", "--on", "cpu", "--serve", *words)
    line = json.loads(out)["serve"][0]
    assert (line["weights"], line["sequences"], line["kv_bytes"]) == ("int4", 3, 40960 * 131072)
    code, out, err = plan(
        capsys, "zaya1_8b", "--on", "cpu", "--serve", "--set", "serve.context_tokens=131072"
    )
    assert code == 2
    assert "int8" in out
    assert "bf16 weights of 17.7 GB and one sequence of 5.37 GB" in err
