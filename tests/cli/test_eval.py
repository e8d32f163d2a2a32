"""`openzaya eval grade` shows how a reply becomes a verdict."""

import io
import json

import pytest

from openzaya.cli import main as cli


def grade(capsys, *words: str) -> str:
    assert cli.main(["eval", "grade", *words]) == 0
    return capsys.readouterr().out


def test_the_way_from_reply_to_verdict_is_shown(capsys):
    shown = grade(capsys, "--gold", "42", "--answer", "So it is \\boxed{6 \\cdot 7}.")
    assert "gold       42  (integer)" in shown
    assert "candidate  box at 9: 6 \\cdot 7" in shown
    assert "read as  (* 6 7)" in shown
    assert "step     form: wrong: a" in shown or "step     form: wrong" in shown
    assert "verdict    wrong, decided by form" in shown


def test_machines_get_one_json_object(capsys):
    shown = grade(
        capsys, "--gold", "(0,1)", "--kind", "interval", "--answer", "0 < x < 1", "--json"
    )
    found = json.loads(shown)
    assert found["verdict"] == "right"
    assert found["kind"] == "interval"
    assert found["candidates"][0]["marker"] == "bare"


def test_rules_change_a_verdict(capsys):
    words = ["--gold", "1/3", "--answer", "0.333", "--json"]
    assert json.loads(grade(capsys, *words))["verdict"] == "wrong"
    assert json.loads(grade(capsys, *words, "--set", "tolerance=0.001"))["verdict"] == "right"


def test_a_long_reply_comes_from_a_file_or_standard_input(capsys, tmp_path, monkeypatch):
    reply = "\\boxed{41}</think>" + "prose. " * 5000 + "\\boxed{42}"
    path = tmp_path / "reply.txt"
    path.write_text(reply)
    assert "verdict    right" in grade(capsys, "--gold", "42", "-f", str(path))
    monkeypatch.setattr("sys.stdin", io.StringIO(reply))
    assert "verdict    right" in grade(capsys, "--gold", "42", "-f", "-")


def test_a_reply_that_starts_inside_the_think_block_has_no_answer_yet(capsys):
    shown = grade(capsys, "--gold", "42", "--answer", "\\boxed{42}", "--in-think")
    assert "the reasoning was never closed" in shown


@pytest.mark.parametrize("answer", ["\ud800", "\x1b[31m42", "\0"])
def test_any_text_can_be_shown(capsys, answer):
    shown = grade(capsys, "--gold", "42", "--answer", answer)
    assert "verdict    wrong" in shown
    assert "\x1b" not in shown


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--gold", "nan", "--answer", "1"], "which no answer equals"),
        (["--gold", "1/0", "--answer", "1"], "division by zero"),
        (["--gold", "1"], "give the reply with --answer"),
        (["--gold", "1", "--answer", "1", "-f", "x"], "give the reply with --answer"),
        (["--gold", "1", "-f", "/nonexistent"], "cannot be read"),
        (["--gold", "1", "--answer", "1", "--kind", "numbr"], "choose one of"),
        (["--gold", "1", "--answer", "1", "--set", "tolerence=1"], "tolerance"),
    ],
)
def test_bad_input_is_one_line_and_code_2(capsys, words, message):
    assert cli.main(["eval", "grade", *words]) == 2
    assert message in capsys.readouterr().err
