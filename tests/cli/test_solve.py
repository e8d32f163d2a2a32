"""`openzaya solve` against a server on loopback and against a small random model."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from io import StringIO
from pathlib import Path
from types import SimpleNamespace

import pytest
from backends.mock_openai import Mock, serve, silence, status
from rich.console import Console

from openzaya.cli import main as cli
from openzaya.cli.progress import SHOWN_CHARS, Progress, clip, round_table, show_result
from openzaya.ttc import (
    Candidate,
    CandidateDone,
    MarkovianRSA,
    MarkovianRSAConfig,
    Round,
    RunStarted,
    StageDone,
)
from openzaya.ttc.budget import preview

SMALL = ["-n", "3", "--budget", "40", "--set", "tail_tokens=4", "--set", "rounds=1"]


@contextmanager
def serving(mock: Mock) -> Iterator[Mock]:
    """Run the mock in a thread of its own, as a server would."""
    ready, stop = threading.Event(), asyncio.Event()
    loops = []

    async def main() -> None:
        loops.append(asyncio.get_running_loop())
        async with serve(mock):
            ready.set()
            await stop.wait()

    thread = threading.Thread(target=asyncio.run, args=(main(),))
    thread.start()
    assert ready.wait(10)
    try:
        yield mock
    finally:
        loops[0].call_soon_threadsafe(stop.set)
        thread.join(10)


def solve(mock: Mock, *words: str, question: str = "what is it?") -> int:
    with serving(mock):
        return cli.main(["solve", question, "--model", mock.url, "--preset", "light", *words])


def test_the_answer_alone_is_on_stdout_and_the_plan_and_rounds_on_stderr(capsys):
    mock = Mock(content=r"so \boxed{42}")
    assert solve(mock, *SMALL) == 0
    out, err = capsys.readouterr()
    assert out == "42\n"
    assert "6 calls" in err
    assert f"at most {6 * 40} new tokens" in err
    assert "round 0: 3/3 candidates" in err
    assert "42 (3)" in err
    assert {b["max_tokens"] for b in mock.bodies[1:]} == {40}
    assert len(mock.bodies) == 1 + 6


def test_n_and_budget_change_what_depends_on_them(capsys):
    mock = Mock()
    assert solve(mock, "-n", "2", "--budget", "10", "--set", "ttc.rounds=1", "--json") == 0
    out, err = capsys.readouterr()
    config = json.loads(out)["config"]
    assert (config["num_candidates"], config["tails_per_prompt"]) == (2, 2)
    assert (config["budget_tokens"], config["tail_tokens"]) == (10, 10)
    assert config["final_budget_tokens"] is None
    assert config["rounds"] == 1
    assert err == ""


def test_a_strategy_is_chosen_by_name_and_reproduction_turns_every_switch_off(capsys):
    with serving(Mock(content=r"\boxed{42}")) as mock:
        words = ["--preset", "light", "-n", "5", "--budget", "60", "--json", "--set"]
        words += ["strategy=adaptive_consistency", "--set", "snap=line"]
        assert solve(mock, *words) == 0
        free = json.loads(capsys.readouterr().out)["config"]
        assert solve(mock, *words, "--set", "reproduce=true") == 0
        strict = json.loads(capsys.readouterr().out)["config"]
    assert (free["widths"], free["consensus"], free["snap"]) == ([4, 1], 0.95, "line")
    assert (strict["widths"], strict["consensus"], strict["snap"]) == ([4, 1], None, "exact")
    listed = ["runs", "list", "--json"]
    assert cli.main(listed) == 0
    assert json.loads(capsys.readouterr().out)[0]["strategy"] == "adaptive_consistency"


def test_json_is_one_object_with_every_candidate(capsys):
    assert solve(Mock(), *SMALL, "--json", "--seed", "7") == 0
    data = json.loads(capsys.readouterr().out)
    assert data["answer"] == "the answer"
    assert data["seed"] == 7
    assert [len(r["candidates"]) for r in data["rounds"]] == [3, 3]


def test_show_rounds_lists_candidates_with_parents_and_show_all_their_texts(capsys):
    mock = Mock(reasoning="deep thought", content=r"\boxed{7}")
    assert solve(mock, *SMALL, "--show", "rounds") == 0
    out, err = capsys.readouterr()
    assert out == "7\n"
    assert "round 1 (final)" in err
    assert "saw tails of" in err
    assert r"\boxed" not in err
    assert solve(mock, *SMALL, "--show", "all") == 0
    assert "round 1, slot 2:\ndeep thought\n</think>\n\n\\boxed{7}" in capsys.readouterr().err


def test_a_models_text_cannot_drive_the_terminal_or_the_markup(capsys):
    mock = Mock(reasoning="[/bold] \x1b[31m", content="[/red] [bold]x \x1b]0;owned\x07")
    assert solve(mock, *SMALL, "--show", "all") == 0
    err = capsys.readouterr().err
    assert "\x1b" not in err
    assert "\x07" not in err
    assert "[/red] [bold]x" in err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([""], "question is empty"),
        (["  \n"], "question is empty"),
        (["sort \udcff"], "half a character"),
        (["x", "-f", "y"], "give one of them"),
        (["-f", "/nowhere/q.txt"], "cannot be read"),
        (["-f", "/nowhere/q.jsonl"], "is a batch; say with -o FILE"),
        (["x", "--preset", "lite"], "did you mean 'light'"),
        (["x", "--set", "tail=3"], "tail"),
        (["x", "--set", "rounds"], "path=value"),
        (["x", "--set", "strategy=hybrids"], "did you mean 'hybrid'"),
        (["x", "--set", "reproduce=1"], "choose true or false"),
        (["x", "--preset", "light", "--set", "tails_per_prompt=20"], "choose 1 <= C <= N"),
        (["x", "--preset", "light", "-n", "0"], "num_candidates"),
    ],
)
def test_bad_input_exits_2_with_a_cure(words, message, capsys):
    assert cli.main(["solve", *words]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert message in err
    assert "Traceback" not in err


def test_a_question_is_read_from_a_file(tmp_path, capsys):
    file = tmp_path / "q.txt"
    file.write_text("why is the sky blue?\n")
    mock = Mock()
    with serving(mock):
        words = ["solve", "-f", str(file), "--model", mock.url, "--preset", "light", *SMALL]
        assert cli.main(words) == 0
    assert mock.bodies[1]["messages"] == [{"role": "user", "content": "why is the sky blue?"}]


def test_a_question_longer_than_the_servers_context_exits_2_before_any_work(capsys):
    mock = Mock(max_model_len=100)
    assert solve(mock, *SMALL, question="why " * 500) == 2
    assert "context" in capsys.readouterr().err
    assert len(mock.bodies) == 1
    assert solve(mock, "--preset", "16k") == 2
    assert "lower budget_tokens" in capsys.readouterr().err


def test_an_unreachable_or_lying_server_exits_4(capsys):
    assert cli.main(["solve", "x", "--model", "http://127.0.0.1:9", *SMALL]) == 4
    assert "cannot be reached" in capsys.readouterr().err
    mock = Mock(faults=[status(401, "who are you")] * 9)
    assert solve(mock, *SMALL) == 4
    assert "HTTP 401" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("empty", "empty has no config.json"),
        ("none", "none' is no folder here; name a model folder"),
    ],
)
def test_a_missing_model_folder_exits_3(tmp_path, capsys, name, told):
    (tmp_path / "empty").mkdir()
    assert cli.main(["solve", "x", "--model", str(tmp_path / name), "--preset", "nano"]) == 3
    shown = capsys.readouterr().err
    assert told in shown
    assert "Traceback" not in shown


def test_ctrl_c_prints_the_best_so_far_and_exits_130():
    async def good_then_silent(mock, request, body):
        from backends.mock_openai import good

        return await (good if len(mock.bodies) <= 4 else silence)(mock, request, body)

    mock = Mock(faults=[good_then_silent] * 99)
    with serving(mock):
        words = ["solve", "x", "--model", mock.url, "--preset", "light", *SMALL]
        process = subprocess.Popen(
            [sys.executable, "-m", "openzaya", *words],
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2] / "src")},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        deadline = time.monotonic() + 30
        while (len(mock.bodies) < 7 or mock.in_flight < 3) and time.monotonic() < deadline:
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=20)
        assert process.returncode == 130, err
        assert out == "the answer\n"
        assert "best answer so far" in err
        deadline = time.monotonic() + 5
        while mock.in_flight and time.monotonic() < deadline:
            time.sleep(0.01)
        assert (mock.in_flight, mock.aborted) == (0, 3)


def written(slot: int, num_tokens: int, answer: str | None) -> Candidate:
    return Candidate(
        stage=0,
        slot=slot,
        seed=slot,
        parents=(),
        text="",
        thinking="",
        answer_text="",
        answer=answer,
        tail="",
        is_finished=answer is not None,
        is_looping=False,
        num_tokens=num_tokens,
        num_prompt_tokens=5,
        finish_reason="stop",
        attempts=1,
    )


def test_the_live_table_shows_progress_answers_and_tokens_against_the_cap():
    config = MarkovianRSAConfig(
        num_candidates=4, tails_per_prompt=2, rounds=1, budget_tokens=100, tail_tokens=10
    )
    console = Console(file=StringIO(), force_terminal=True, width=120, color_system=None)
    with Progress(console=console) as progress:
        progress(RunStarted(config, preview(config, 5), 5))
        for slot, answer in enumerate(["7", "7", "[/b]8"]):
            progress(CandidateDone(written(slot, 10, answer), 10 * slot + 10))
        progress(CandidateDone(replace(written(3, 0, None), error="lost"), 30))
        progress(StageDone(0, {"7": 2, "[/b]8": 1}, 30))
        console.print(progress.table())
    shown = console.file.getvalue()
    assert "#### 4/4" in shown
    assert "7 (2), [/b]8 (1)" in shown
    assert "30 of at most 800 tokens" in shown
    assert "no answer yet" in shown


def test_an_answer_that_is_too_long_is_clipped_to_the_width_of_its_cell():
    assert clip("x" * SHOWN_CHARS) == "x" * SHOWN_CHARS
    assert clip("x" * (SHOWN_CHARS + 1)) == "x" * (SHOWN_CHARS - 3) + "..."
    assert clip("a\nb  c") == "a b c"


def test_the_live_table_of_a_narrow_terminal_cuts_the_answers_and_keeps_the_rest():
    config = MarkovianRSAConfig(
        num_candidates=8, tails_per_prompt=2, rounds=1, budget_tokens=100, tail_tokens=10
    )
    console = Console(file=StringIO(), width=40)
    with Progress(console=console) as progress:
        progress(RunStarted(config, preview(config, 5), 5))
        progress(CandidateDone(written(0, 1234, "a long answer of a model"), 1234))
        console.print(progress.table())
    row = next(line for line in console.file.getvalue().splitlines() if "1/8" in line)
    assert row.split()[:5] == ["0", "#.......", "1/8", "1234", "a"]
    assert row.rstrip().endswith("\u2026")


def test_a_narrow_terminal_cuts_the_reasoning_and_keeps_the_rest():
    found = replace(written(3, 61, "42"), parents=(3, 7), thinking="saw again that 6 * 7 = 42")
    stage = Round(0, (found,))
    table = round_table(stage, SimpleNamespace(rounds=(stage,), chosen=found))

    def last_line(width: int) -> list[str]:
        console = Console(file=StringIO(), width=width)
        console.print(table)
        return console.file.getvalue().splitlines()[-1].split()

    whole = ["*3", "3,", "7", "61", "42", *found.thinking.split()]
    assert last_line(80) == whole
    for width in (36, 40, 50):
        *kept, cut = last_line(width)
        assert whole[: len(kept)] == kept
        assert len(kept) >= 5
        assert cut.endswith("\u2026")


def test_a_run_stopped_before_its_first_candidate_still_reports(capsys):
    class Idle:
        async def sample(self, request):
            await asyncio.sleep(60)

        def count_prompt_tokens(self, messages):
            return 5

        def last_tokens(self, text, count):
            return text

    async def main():
        stop = asyncio.Event()
        stop.set()
        return await MarkovianRSA("nano").run("x", Idle(), stop=stop)

    show_result(asyncio.run(main()), "all")
    out, err = capsys.readouterr()
    assert out == "(no answer)\n"
    assert "stopped before the first candidate" in err


@pytest.mark.torch
def test_a_model_folder_is_run_in_its_own_dtype(tmp_path, monkeypatch):
    """In fp32 a folder of bf16 would take twice its size."""
    import torch
    from tiny_words import tiny_tokenizer

    from openzaya.backends import local
    from openzaya.cli.samplers import open_sampler
    from openzaya.model.presets import preset
    from openzaya.model.zaya import Zaya
    from openzaya.ttc.presets import NANO

    tokenizer = tiny_tokenizer()
    model = Zaya(preset("nano", vocab_size=tokenizer.vocab_size, num_hidden_layers=2))
    model.init_weights(torch.Generator().manual_seed(0))
    model.to(torch.bfloat16).save(tmp_path)
    tokenizer.save(tmp_path)
    loaded = []
    load = local.load_model
    monkeypatch.setattr(
        local, "load_model", lambda *a, **k: loaded.append(load(*a, **k)) or loaded[0]
    )

    async def opened():
        async with open_sampler(str(tmp_path), "", NANO):
            return loaded[0].dtype

    assert asyncio.run(opened()) is torch.bfloat16


@pytest.mark.torch
def test_a_model_folder_answers_and_refuses_a_question_beyond_its_context(tmp_path, capsys):
    import torch
    from tiny_words import tiny_tokenizer

    from openzaya.model.presets import preset
    from openzaya.model.zaya import Zaya

    tokenizer = tiny_tokenizer()
    model = Zaya(preset("nano", vocab_size=tokenizer.vocab_size, num_hidden_layers=2))
    model.init_weights(torch.Generator().manual_seed(0))
    model.save(tmp_path)
    tokenizer.save(tmp_path)
    words = ["--model", str(tmp_path), "--preset", "nano", "-n", "2", "--budget", "8", "--json"]
    assert cli.main(["solve", "abc", *words]) == 0
    data = json.loads(capsys.readouterr().out)
    assert [len(r["candidates"]) for r in data["rounds"]] == [2, 2]
    assert 4 <= data["usage"]["generated"] <= data["usage"]["cap"] == 32
    assert cli.main(["solve", "abc " * 2_000, *words]) == 2
    assert "context" in capsys.readouterr().err
