"""`openzaya data`: prepare prints the card, inspect shows masks and trimming."""

import json

import pytest
from text.tiny_tokenizers import BARE

from openzaya.cli import main as cli


@pytest.fixture
def prepared(tmp_path, capsys):
    BARE.save(tmp_path / "model")
    record = {"question": "[bold]Why?", "answer": "Because.", "reasoning": "step " * 40}
    lines = [json.dumps(record), json.dumps({"text": "\x1b[31mred"}), "{"]
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    words = ["data", "prepare", str(tmp_path / "out"), f"mine={tmp_path / 'a.jsonl'}"]
    words += ["--tokenizer", str(tmp_path / "model"), "--context", "120", "-j", "1"]
    assert cli.main([*words, "--json"]) == 0
    shown = capsys.readouterr()
    assert "2 documents" in shown.err
    assert "1 bad" in shown.err
    return tmp_path / "out", json.loads(shown.out), words


def test_prepare_prints_the_card_and_a_second_time_the_same_one(prepared, capsys):
    _, card, words = prepared
    assert card["documents"] == 2
    assert card["sources"]["mine"]["bad"] == {"invalid JSON": 1}
    assert cli.main([*words, "--quiet"]) == 0
    shown = capsys.readouterr()
    assert shown.err == ""
    assert f"Fingerprint `{card['fingerprint']}`" in shown.out
    assert "| 120 | 1 | 1 | 0 | 0 | 0 |" in shown.out


def test_a_system_that_does_not_tell_which_cores_are_ours_prepares_too(prepared, monkeypatch):
    """macOS has no such call."""
    *_, words = prepared
    monkeypatch.delattr("os.sched_getaffinity", raising=False)
    monkeypatch.setattr("os.cpu_count", lambda: 1)
    assert words[-2:] == ["-j", "1"]
    assert cli.main([*words[:-2], "--quiet"]) == 0


def test_inspect_shows_text_mask_and_cut_and_obeys_no_control_characters(prepared, capsys):
    folder, *_ = prepared
    assert cli.main(["data", "inspect", str(folder)]) == 0
    shown = capsys.readouterr().out
    assert "[bold]Why?" in shown
    assert "[... 40 tokens ...]" in shown
    assert "cut_last" in shown
    assert cli.main(["data", "inspect", str(folder), "--whole", "--verify"]) == 0
    assert "step " * 40 in capsys.readouterr().out
    assert cli.main(["data", "inspect", str(folder), "--index", "-1"]) == 0
    shown = capsys.readouterr().out
    assert "\x1b[31m" not in shown
    assert "\ufffd[31mred" in shown


def test_inspect_gives_machines_the_segments_and_every_cut(prepared, capsys):
    folder, *_ = prepared
    words = ["data", "inspect", str(folder), "--json", "--context", "120", "--context", "10"]
    assert cli.main([*words, "--context", "4096"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [part["text"] for part in found["segments"] if part["kind"] == "answer"] == ["Because."]
    assert found["trained_tokens"] == sum(
        part["tokens"] for part in found["segments"] if part["trained"]
    )
    trim = found["trim"]
    assert [trim[context]["rule"] for context in ("10", "120", "4096")] == [
        "dropped",
        "cut_last",
        "whole",
    ]
    assert trim["120"]["kept_tokens"] == 120
    (cut,) = trim["120"]["cuts"]
    assert cut["tokens"] == found["tokens"] - 120 == trim["120"]["reasoning_cut_tokens"]
    text = "".join(part["text"] for part in found["segments"])
    assert text[: text.index("step")] + "step " * 40 in text
    assert cut["after"] in text


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["inspect", "OUT", "--index", "2"], "choose 0 to 1"),
        (["inspect", "OUT/none"], "it continues where it stopped"),
        (["prepare", "x", "a=b", "a=c", "--tokenizer", "M"], "write NAME=PATH"),
        (["prepare", "x", "a.jsonl", "--tokenizer", "M", "-j", "0"], "expected at least 1"),
        (["prepare", "x", "a.jsonl", "--tokenizer", "M", "--set", "chunk=1"], "chunk_bytes"),
    ],
)
def test_wrong_words_are_answered_with_a_cure(prepared, capsys, change, message):
    folder, *_ = prepared
    assert cli.main(["data", *(word.replace("OUT", str(folder)) for word in change)]) == 2
    assert message in capsys.readouterr().err


def test_a_missing_package_is_named_with_its_extra(tmp_path, monkeypatch, capsys):
    """A `None` in sys.modules makes an import fail as if the package were absent."""
    import sys

    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    BARE.save(tmp_path / "model")
    (tmp_path / "a.parquet").write_bytes(b"PAR1")
    words = ["data", "prepare", str(tmp_path / "out"), str(tmp_path / "a.parquet")]
    assert cli.main([*words, "--tokenizer", str(tmp_path / "model")]) == 1
    assert "pip install 'openzaya[data]'" in capsys.readouterr().err


def test_the_bundled_models_tokenizer_is_named_nano(tmp_path, capsys):
    """Attempts become aggregation examples, and those become data, with no folder at hand."""
    reasoned = [f"<think>\nbecause {i}\n</think>\n\nadkqx" for i in range(3)]
    lines = [{"question": "sort qdkax", "attempts": reasoned, "target": "adkqx"}]
    lines.append({"question": "sort cba", "attempts": ["abc"], "target": "abc"})
    pools, pairs, out = (str(tmp_path / name) for name in ("pools.jsonl", "pairs.jsonl", "out"))
    (tmp_path / "pools.jsonl").write_text("\n".join(map(json.dumps, lines)))
    assert cli.main(["data", "aggregate", pairs, pools, "--tokenizer", "nano"]) == 0
    shown = capsys.readouterr()
    assert shown.out == f"examples in {pairs}: 1\n"
    assert "tail_source is 'thinking'" in shown.err  # the attempt without reasoning shows nothing
    assert "because" in (tmp_path / "pairs.jsonl").read_text()
    assert cli.main(["data", "aggregate", pools, pools, "--tokenizer", "nano"]) == 2
    assert "is read and would be overwritten" in capsys.readouterr().err
    assert len((tmp_path / "pools.jsonl").read_text().splitlines()) == 2
    words = ["data", "prepare", out, pairs, "--tokenizer", "nano", "--loss", "last", "-j", "1"]
    assert cli.main([*words, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["documents"] == 1
