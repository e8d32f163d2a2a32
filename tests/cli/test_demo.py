"""The bundled model is there, small, and does what the README shows."""

import json

import pytest

from openzaya.cli.main import main
from openzaya.cli.samplers import model_folder
from openzaya.model.checkpoint import load

MAX_BYTES = 16_000_000


def test_the_bundled_model_is_whole_small_and_has_its_report_card():
    folder = model_folder("nano")
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < MAX_BYTES
    assert (folder / "REPORT.md").is_file()
    assert load(folder, verify="always").config.num_hidden_layers == 4


def test_the_demo_compares_three_methods_at_the_same_budget(capsys):
    assert main(["demo", "--problems", "1", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    rows = {row["method"]: row for row in report["rows"]}
    assert report["problems"] == 9
    assert set(rows) == {
        "single rollout",
        "majority vote",
        "Markovian RSA, mean",
        "Markovian RSA, vote",
    }
    assert rows["majority vote"]["tokens"] <= rows["Markovian RSA, vote"]["tokens"]
    # Untrained or broken weights score 0 on every one of these.
    assert rows["single rollout"]["score"] > 0.3


def test_the_demo_ends_with_one_question_in_full(capsys):
    assert main(["demo", "--problems", "1"]) == 0
    shown = capsys.readouterr()
    assert "one question in full" in shown.out
    answer = shown.out.splitlines()[-1]
    assert sorted(answer) in (["a", "d"], ["d", "e"])  # both pairs of digits sum to 5
    assert "round 1 (final)" in shown.err


@pytest.mark.parametrize("count", ["0", "41"])
def test_more_problems_than_are_held_out_are_refused(capsys, count):
    assert main(["demo", "--problems", count]) == 2
    assert "choose 1 to 40" in capsys.readouterr().err


def test_the_report_card_committed_beside_the_model_keeps_its_promises():
    report = json.loads((model_folder("nano") / "report.json").read_text())
    hard = {
        kind: [
            report["stages"][stage]["pass@1"][kind]["hard"]["all"][0]
            for stage in ("pretrain", "midtrain", "sft", "rl")
        ]
        for kind in ("temperature 1", "greedy")
    }
    for scores in hard.values():
        assert scores == sorted(scores)
        assert scores[2] >= 0.45
    assert hard["temperature 1"][3] >= hard["temperature 1"][2] + 0.03
