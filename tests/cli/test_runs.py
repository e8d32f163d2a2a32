"""`openzaya runs` over what `openzaya solve` recorded, and batches that can be started again."""

import asyncio
import json
import os
import re
import sqlite3
import sys
from pathlib import Path

import pytest
from backends.mock_openai import Mock, status
from cli.test_solve import SMALL, serving, solve

from openzaya.cli import main as cli
from openzaya.cli.journals import default_journal
from openzaya.core.errors import UpstreamError
from openzaya.core.records import Message
from openzaya.ttc import MarkovianRSAConfig
from openzaya.ttc.journal import Journal, RunSpec


def run(capsys, *words):
    """Return the exit code and what went to stdout."""
    code = cli.main(["runs", *words])
    return code, capsys.readouterr().out


def recorded(capsys, *words):
    """Solve one question and return the id of its run."""
    assert solve(Mock(content=r"so \boxed{42}"), *SMALL, *words) == 0
    capsys.readouterr()
    return json.loads(run(capsys, "list", "--json")[1])[0]["id"]


def test_a_solved_question_is_listed_and_shown_with_its_lineage(capsys):
    run_id = recorded(capsys)
    _, out = run(capsys, "list")
    assert run_id in out
    assert "done" in out
    _, out = run(capsys, "show", run_id)
    assert "answer:   42" in out
    assert "stage 1: 15 tokens; 42 (3)" in out
    assert out.count("<- ") == 3
    assert "* the answer and its ancestors" in out
    detail = json.loads(run(capsys, "show", run_id, "--json")[1])
    assert detail["run"]["answer"] == "42"
    _, out = run(capsys, "show", run_id, "--candidate", "1/2")
    assert "--- user\n" in out
    assert "what is it?" in out
    assert "--- tail\n" in out


def test_a_list_has_a_line_for_each_run_or_four_where_it_would_not_fit(capsys, monkeypatch):
    run_id = recorded(capsys)

    def no_terminal(*_):
        raise OSError

    monkeypatch.setattr("os.get_terminal_size", no_terminal)
    monkeypatch.delenv("COLUMNS", raising=False)
    heading, line = run(capsys, "list")[1].splitlines()
    assert heading.split() == ["id", "began", "state", "preset", "tokens", "question", "answer"]
    _, day, hour, state, preset, tokens, *texts = line.split()
    assert (state, texts) == ("done", ["what", "is", "it?", "42"])
    assert [line.rindex(word) for word in ("done", "what", "42")] == [
        heading.index(word) for word in ("state", "question", "answer")
    ]
    monkeypatch.setenv("COLUMNS", str(len(heading)))
    assert run(capsys, "list")[1].splitlines() == [heading, line]
    monkeypatch.setenv("COLUMNS", "40")
    lines = run(capsys, "list")[1].splitlines()
    about = f"  {day} {hour}, {preset}, {tokens} tokens"
    assert lines == [f"{run_id}  done", about, "  what is it?", "  -> 42"]
    assert max(map(len, lines)) <= 40


def test_a_run_names_its_preset_also_where_nobody_did(capsys):
    assert recorded(capsys)
    with serving(Mock(content=r"so \boxed{42}")) as mock:
        assert cli.main(["solve", "what is it?", "--model", mock.url, *SMALL]) == 0
    capsys.readouterr()
    listed = json.loads(run(capsys, "list", "--json")[1])
    assert [entry["preset"] for entry in listed] == ["16k", "light"]


def test_the_page_of_a_run_is_one_file_with_all_of_its_candidates(capsys, tmp_path, monkeypatch):
    run_id = recorded(capsys)
    monkeypatch.chdir(tmp_path)
    code, out = run(capsys, "view", run_id)
    page = tmp_path / f"run-{run_id}.html"
    assert (code, out) == (0, f"{page}\n")
    text = page.read_text(encoding="utf-8")
    inside = json.loads(re.search(r'<script[^>]*type="application/json"[^>]*>(.*?)<', text)[1])
    assert inside["run"]["run"]["id"] == run_id
    assert len(inside["candidates"]) == 6
    assert all(c["text"].endswith(r"\boxed{42}") and c["prompt"] for c in inside["candidates"])
    opened = []
    monkeypatch.setattr("webbrowser.open", opened.append)
    named = tmp_path / "a page.html"
    assert run(capsys, "view", run_id, "--open", "-o", str(named), "--json")[0] == 0
    assert opened == [named.as_uri()]
    assert run(capsys, "view", run_id, "-o", str(tmp_path / "none" / "x.html"))[0] == 2
    assert run(capsys, "view", "0" * 24)[0] == 2


def test_the_journal_can_be_switched_off_named_or_unwritable(capsys, tmp_path, monkeypatch):
    assert solve(Mock(), *SMALL, "--set", "journal=none") == 0
    assert json.loads((capsys.readouterr(), run(capsys, "list", "--json")[1])[1]) == []
    named = str(tmp_path / "named.sqlite")
    assert solve(Mock(), *SMALL, "--set", f"journal={named}") == 0
    capsys.readouterr()
    assert len(json.loads(run(capsys, "list", "--json", "--journal", named)[1])) == 1
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "file"))
    assert solve(Mock(), *SMALL) == 0
    assert "this run is not recorded" in capsys.readouterr().err
    assert solve(Mock(), *SMALL, "--set", f"journal={tmp_path}/file/x") == 1


def test_a_failed_run_is_resumed_without_repeating_what_it_had(capsys):
    failing = [None, None, None, *[status(400, "no luck")] * 3]
    mock = Mock(faults=[play or good_fault for play in failing])
    with serving(mock):
        words = ["--model", mock.url, "--preset", "light", *SMALL]
        cli.main(["solve", "what is it?", *words, "--set", "max_attempts=1"])
        capsys.readouterr()
        shown = json.loads(run(capsys, "list", "--json")[1])[0]
        assert shown["state"] == "done"
        assert shown["degraded"]
        assert run(capsys, "resume", shown["id"])[0] == 2
    mock = Mock(faults=[status(401, "who are you")] * 99)
    assert solve(mock, *SMALL) == 4
    capsys.readouterr()
    failed = json.loads(run(capsys, "list", "--json", "--state", "failed")[1])[0]
    assert "HTTP 401" in failed["error"]
    mock = Mock(content=r"\boxed{9}")
    with serving(mock):
        code, out = run(capsys, "resume", failed["id"], "--model", mock.url)
    assert (code, out) == (0, "9\n")


def test_a_run_of_a_gateway_is_left_as_it_is_until_its_model_is_named(capsys):
    """The gateway's name of the model is no place."""

    async def begin():
        async with Journal.open(default_journal()) as journal:
            spec = RunSpec(
                question=(Message("user", "what?"),),
                config=MarkovianRSAConfig(num_candidates=2, tails_per_prompt=1, rounds=0),
                sampler={"model": "tiny"},
            )
            run_id = (await journal.begin(spec)).run_id
            await journal.fail(run_id, UpstreamError("no luck"))
            return run_id

    run_id = asyncio.run(begin())
    assert cli.main(["runs", "resume", run_id]) == 2
    assert "calls its model 'tiny'; say with --model where" in capsys.readouterr().err
    assert json.loads(run(capsys, "list", "--json")[1])[0]["state"] == "failed"
    with serving(Mock(content=r"\boxed{9}")) as mock:
        assert run(capsys, "resume", run_id, "--model", mock.url) == (0, "9\n")


async def good_fault(mock, request, body):
    from backends.mock_openai import good

    return await good(mock, request, body)


def test_exports_are_whole_runs_and_examples_that_training_takes(capsys, tmp_path):
    from openzaya.data.recognize import recognize

    recorded(capsys)
    out = tmp_path / "runs.jsonl"
    assert run(capsys, "export", "-o", str(out))[0] == 0
    line = json.loads(out.read_text())
    assert len(line["candidates"]) == 6
    assert line["candidates"][0]["text"].endswith(r"\boxed{42}")
    assert run(capsys, "export", "--format", "aggregation", "-o", str(out))[0] == 0
    examples = [json.loads(text) for text in out.read_text().splitlines()]
    assert len(examples) == 3
    conversation = recognize(examples[0])
    assert [m["role"] for m in conversation.messages] == ["user", "assistant"]
    assert "what is it?" in conversation.messages[0]["content"]
    assert conversation.messages[1]["content"] == r"so \boxed{42}"
    assert examples[0]["agrees"]
    assert run(capsys, "export", "--state", "failed") == (0, "")


def test_a_reader_of_an_export_may_leave(capsys, monkeypatch):
    """`openzaya runs export | head -1` is no error of a file."""
    recorded(capsys)
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "w", buffering=1) as stdout:
        monkeypatch.setattr(sys, "stdout", stdout)
        assert cli.main(["runs", "export"]) == cli.EXIT_BROKEN_PIPE
    assert capsys.readouterr().err == ""


def test_prune_forgets_and_refuses_to_guess(capsys):
    run_id = recorded(capsys)
    assert run(capsys, "prune")[0] == 2
    assert run(capsys, "prune", "--keep", "1")[1] == "0 runs forgotten\n"
    assert run(capsys, "prune", "--id", run_id)[1] == "1 runs forgotten\n"
    assert run(capsys, "show", run_id)[0] == 2
    assert "no runs yet" in run(capsys, "list")[1]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["show", "nope"], "no run 'nope'"),
        (["resume", "nope"], "no run 'nope'"),
        (["list", "-n", "0"], "at least 1"),
        (["list", "--journal", "mysql://x/y"], "mysql"),
        (["list", "--journal", "nowhere/typo.sqlite"], "no journal nowhere/typo.sqlite"),
        (["prune", "--days", "-1"], "--days is -1.0; give a number from 0"),
        (["prune", "--keep", "-5"], "--keep is -5"),
        (["prune", "--max-mib", "nan"], "--max-mib is nan"),
    ],
)
def test_bad_input_exits_2(words, message, capsys):
    assert cli.main(["runs", *words]) == 2
    assert message in capsys.readouterr().err


def test_a_damaged_row_is_told_of_and_resuming_generates_what_it_held(capsys):
    with serving(Mock(content=r"so \boxed{42}")) as mock:
        assert cli.main(["solve", "what is it?", "--model", mock.url, *SMALL]) == 0
        capsys.readouterr()
        run_id = json.loads(run(capsys, "list", "--json")[1])[0]["id"]
        path = Path(os.environ["XDG_STATE_HOME"]) / "openzaya" / "runs.sqlite"
        with sqlite3.connect(path) as file:
            file.execute("UPDATE told SET content = content || '!' WHERE content IS NOT NULL")
        file.close()
        calls = len(mock.streamed)
        assert cli.main(["runs", "export"]) == 0
        told = capsys.readouterr()
        line = json.loads(told.out)
        assert {c["text"] for c in line["candidates"]} == {""}
        assert f"openzaya: row {run_id}/" in told.err
        assert "1 lines written" in told.err
        assert cli.main(["runs", "export", "--format", "aggregation"]) == 0
        assert "0 lines written" in capsys.readouterr().err
        code, out = run(capsys, "resume", run_id)
        assert (code, "42" in out) == (0, True)
        assert len(mock.streamed) == 2 * calls
        with sqlite3.connect(path) as file:
            file.execute("UPDATE told SET body = body || '!' WHERE run = ?", (run_id,))
        file.close()
        code, out = run(capsys, "show", run_id)
        assert code == 0
        assert f"lost:     row {run_id}/" in out
        assert "answer:   42" in out
