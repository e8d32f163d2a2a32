"""Batches of `openzaya solve`: what is kept, done again or refused when one is started again."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from tempfile import NamedTemporaryFile

import pytest
from backends.mock_openai import Mock, status
from cli.test_runs import good_fault
from cli.test_solve import SMALL, serving
from hypothesis import given, settings
from hypothesis import strategies as st

from openzaya.cli import main as cli
from openzaya.cli.batch_files import AnswersFile, Problem, read_problems
from openzaya.core.errors import RequestError

SRC = str(Path(__file__).parents[2] / "src")


def write_problems(path, count=4):
    lines = [
        json.dumps({"id": f"p{n}", "question": f"question {n}", "answer": "42" if n else "41"})
        for n in range(count)
    ]
    path.write_text("\n".join([*lines, "no json", json.dumps({"id": "empty"})]) + "\n")


def answered(out):
    """The ids that have an answer."""
    return [
        line["id"] for line in map(json.loads, out.read_text().splitlines()) if "answer" in line
    ]


def batch(mock, tmp_path, *words):
    problems, out = tmp_path / "problems.jsonl", tmp_path / "answers.jsonl"
    files = ["-f", str(problems), "-o", str(out)]
    return ["solve", *files, "--model", mock.url, "--preset", "light", *SMALL, *words], out


def test_a_batch_answers_every_sound_line_and_judges_it(capsys, tmp_path):
    write_problems(tmp_path / "problems.jsonl")
    mock = Mock(content=r"\boxed{42}")
    with serving(mock):
        words, out = batch(mock, tmp_path, "--set", "jobs=1", "--json")
        assert cli.main(words) == 1
        figures = json.loads(capsys.readouterr().out)
        lines = {line["id"]: line for line in map(json.loads, out.read_text().splitlines())}
        assert [figures[n] for n in ("answered", "failed", "right", "wrong")] == [4, 2, 3, 1]
        assert "no JSON" in lines["line 5"]["error"]
        assert "no text" in lines["empty"]["error"]
        assert (lines["p0"]["right"], lines["p1"]["right"]) == (False, True)
        order = [b["messages"][0]["content"].split("question ")[1][0] for b in asked(mock)]
        assert order == [*"000000111111222222333333"]
        assert cli.main(words) == 1
        figures = json.loads(capsys.readouterr().out)
        assert (figures["kept"], figures["answered"], figures["failed"]) == (4, 0, 2)
        assert len(asked(mock)) == 24


def test_a_batch_goes_on_after_an_error_of_the_server_and_tries_it_again_later(capsys, tmp_path):
    write_problems(tmp_path / "problems.jsonl", 2)
    mock = Mock(content=r"\boxed{42}")
    with serving(mock):
        words, out = batch(mock, tmp_path, "--set", "jobs=1")
        mock.faults = [good_fault, *[status(400, "no")] * 3]
        assert cli.main([*words, "--set", "max_attempts=1"]) == 1
        first = [json.loads(line) for line in out.read_text().splitlines()]
        assert ["error" in line for line in first] == [True, False, True, True]
        cli.main([*words, "--set", "max_attempts=1"])
        assert sorted(answered(out)) == ["p0", "p1"]


def test_a_torn_line_is_solved_again(tmp_path):
    out = tmp_path / "answers.jsonl"
    lines = [
        '{"id": "a", "question": "x", "answer": "1", "seconds": 1, "made_with": {"seed": 0}}',
        '{"id": "b", "question": "y", "answer": null, "seconds": 1, "made_with": {"seed": 0}}',
        '{"id": "d", "error": "RequestError: no", "seconds": 1}',
        '{"id": "c", "ans',
    ]
    out.write_text("\n".join(lines))
    problems = [
        Problem(name, question, None) for name, question in zip("abcd", "xyzw", strict=True)
    ]
    with AnswersFile(out) as answers:
        assert [problem.id for problem in answers.match(problems)] == ["c", "d"]
        assert out.read_text() == "\n".join(lines)
        answers.begin({"seed": 0})
        answers.write({"id": "c"})
    assert out.read_text().splitlines() == [*lines[:2], '{"id": "c"}']


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("my notes\n", "no answers of a batch"),
        ('{"id": "p0", "question": "x", "answer": "3"}\n', "no answers of a batch"),
        ('{"id": "line 1", "answer": "3", "seconds": 1}\n', "an older openzaya wrote them"),
    ],
)
def test_a_file_that_holds_no_answers_or_old_ones_is_refused_and_left_alone(
    text, message, tmp_path
):
    out = tmp_path / "other.txt"
    out.write_text(text)
    with pytest.raises(RequestError, match=message):
        AnswersFile(out)
    assert out.read_text() == text


def test_an_output_that_cannot_be_written_or_read_again_is_refused(tmp_path):
    with pytest.raises(RequestError, match="cannot be written"):
        AnswersFile(tmp_path / "nowhere" / "answers.jsonl")
    for path in (Path("-"), Path("/dev/null"), tmp_path):
        with pytest.raises(RequestError, match="no file that a restart can read"):
            AnswersFile(path)


def test_an_output_belongs_to_one_batch_at_a_time(tmp_path):
    """The second would write the file anew, and the answers of the first would go nowhere."""
    out = tmp_path / "answers.jsonl"
    failed = '{"id": "a", "error": "x", "seconds": 1}\n'
    out.write_text(failed)
    with AnswersFile(out) as first:
        with pytest.raises(RequestError, match="another batch is writing"):
            AnswersFile(out)
        assert out.read_text() == failed
        first.begin({})
        with pytest.raises(RequestError, match="another batch is writing"):
            AnswersFile(out)
        first.write({"id": "a"})
    assert out.read_text() == '{"id": "a"}\n'


def test_a_link_to_the_answers_stays_a_link(tmp_path):
    (tmp_path / "real").write_text('{"id": "a", "error": "x", "seconds": 1}\n')
    (tmp_path / "link").symlink_to("real")
    with AnswersFile(tmp_path / "link") as answers:
        answers.begin({})
        answers.write({"id": "a"})
    assert (tmp_path / "real").read_text() == '{"id": "a"}\n'


texts = st.text(alphabet="ab\ud800", min_size=1, max_size=2)


@given(before=st.lists(texts, max_size=6), after=st.lists(texts, max_size=6))
@settings(max_examples=60, deadline=None)
def test_problems_without_an_id_keep_theirs_whatever_lines_come_and_go(before, after):
    """An id stands for a question and how often it came before, and for nothing else."""

    def ids(questions):
        lines = [json.dumps({"question": question}) for question in ["so", *questions]]
        with NamedTemporaryFile("w") as file:
            file.write("\n".join(lines))
            file.flush()
            found = read_problems(file.name)
        assert len({problem.id for problem in found}) == len(found)
        asked = [problem.question for problem in found]
        return {(q, asked[:n].count(q)): found[n].id for n, q in enumerate(asked)}

    first, second = ids(before), ids(after)
    for key in first.keys() & second.keys():
        assert first[key] == second[key]
    of = {name: question for (question, _), name in [*first.items(), *second.items()]}
    for (question, _), name in [*first.items(), *second.items()]:
        assert of[name] == question


def write_lines(tmp_path, *problems):
    text = "".join(json.dumps(problem) + "\n" for problem in problems)
    (tmp_path / "problems.jsonl").write_text(text)


async def echo(mock, request, body):
    """Answer with the last character of the question."""
    from backends.mock_openai import good

    asked_for = body["messages"][0]["content"].split("question ")[1][0]
    mock.content = rf"\boxed{{{asked_for}}}"
    return await good(mock, request, body)


def test_a_line_that_comes_or_goes_gives_no_answer_to_another_question(capsys, tmp_path):
    a, b, c = ({"question": f"question {n}", "answer": str(n)} for n in range(3))
    with serving(Mock(faults=[echo] * 99)) as mock:
        words, out = batch(mock, tmp_path, "--set", "jobs=1", "--json")
        write_lines(tmp_path, a, b, b)
        assert cli.main(words) == 0
        write_lines(tmp_path, c, b, {**a, "answer": "7"})
        capsys.readouterr()
        assert cli.main(words) == 0
        told = capsys.readouterr()
    assert "holds 1 answers to questions that" in told.err
    figures = json.loads(told.out)
    assert [figures[n] for n in ("answered", "kept", "right", "wrong")] == [1, 2, 2, 1]
    lines = [json.loads(text) for text in out.read_text().splitlines()]
    assert [line["question"] for line in lines] == [f"question {n}" for n in (0, 1, 1, 2)]
    assert [line["answer"] for line in lines] == ["0", "1", "1", "2"]
    assert [line["right"] for line in lines] == [False, True, True, True]


def test_an_id_whose_question_changed_is_refused_and_nothing_is_lost(capsys, tmp_path):
    with serving(Mock(content=r"\boxed{42}")) as mock:
        words, out = batch(mock, tmp_path)
        write_lines(tmp_path, {"id": "p", "question": "question 1"})
        assert cli.main(words) == 0
        before, calls = out.read_text(), len(mock.bodies)
        write_lines(tmp_path, {"id": "p", "question": "question 2"})
        assert cli.main(words) == 2
        told = capsys.readouterr().err
        assert "under the id 'p': found 'question 1', expected 'question 2'" in told
        assert out.read_text() == before
        assert len(mock.bodies) == calls


def test_answers_made_with_other_settings_are_refused_and_left_alone(capsys, tmp_path):
    write_lines(tmp_path, {"question": "question 1"}, {"question": " "})
    with serving(Mock(content=r"\boxed{42}")) as mock:
        words, out = batch(mock, tmp_path)
        assert cli.main(words) == 1
        before = out.read_text()
        changes = {
            "--seed=7": "seed: found 0, expected 7",
            "--budget=30": "budget_tokens: found 40, expected 30",
            "--set=strategy=hybrid": 'tail_source: found "thinking", expected "answer_or_thinking"',
        }
        for flag, message in changes.items():
            assert cli.main([*words, flag]) == 2
            assert message in capsys.readouterr().err
        mock.models = ["another"]
        assert cli.main(words) == 2
        assert 'model: found "tiny", expected "another"' in capsys.readouterr().err
        assert out.read_text() == before
    with serving(Mock()) as moved:
        assert cli.main([*batch(moved, tmp_path)[0], "--set", "jobs=1"]) == 1
    assert (len(asked(mock)), asked(moved)) == (6, [])
    assert len(answered(out)) == 1


@pytest.mark.parametrize("other", [1, "1"])
def test_an_id_given_twice_is_refused_before_any_work(other, tmp_path):
    write_lines(tmp_path, {"id": "1", "question": "x"}, {"id": None, "question": "y"})
    assert len(read_problems(str(tmp_path / "problems.jsonl"))) == 2
    write_lines(tmp_path, {"id": "1", "question": "x"}, {"id": other, "question": "y"})
    with pytest.raises(
        RequestError, match=r"line 2 of .* has the id '1', as has line 1; give each"
    ):
        read_problems(str(tmp_path / "problems.jsonl"))


def test_lines_of_a_batch_end_at_line_feeds_alone_and_bad_ones_are_told_of(tmp_path):
    file = tmp_path / "problems.jsonl"
    question = "one\u2028two\x85three"
    lines = [json.dumps({"question": question}, ensure_ascii=False), "[" * 100_000]
    file.write_text("\ufeff" + "\r\n".join(lines) + "\r\n", encoding="utf-8", newline="")
    first, second = read_problems(str(file))
    assert (first.question, first.error) == (question, "")
    assert "line 2 is no JSON" in second.error


def test_a_killed_batch_goes_on_where_it_was(tmp_path):
    write_problems(tmp_path / "problems.jsonl", 3)
    mock = Mock(content=r"\boxed{42}", delay_s=0.05)
    with serving(mock):
        words, out = batch(mock, tmp_path, "--set", "jobs=1")
        command = [sys.executable, "-m", "openzaya", *words]
        env = {**os.environ, "PYTHONPATH": SRC}
        process = subprocess.Popen(command, env=env, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 60
        while len(asked(mock)) < 10 and time.monotonic() < deadline:
            time.sleep(0.005)
        process.kill()
        process.wait()
        done = len(out.read_text().splitlines())
        again = subprocess.run(command, env=env, capture_output=True, text=True)
        assert again.returncode == 1, again.stderr
        assert f"({done} were there before)" in again.stderr
        assert done >= 1
        # Asked again: three in flight, and at most three that came but were not yet on the disk.
        assert 18 <= len(asked(mock)) <= 18 + 6
        assert answered(out) == ["p0", "p1", "p2"]


def asked(mock):
    """The bodies of the calls of runs, without those that probe the server."""
    return [b for b in mock.bodies if "question " in b["messages"][0]["content"]]


def test_a_full_disk_is_told_with_the_name_of_the_file(tmp_path):
    out = tmp_path / "answers.jsonl"
    code = (
        "import resource, signal, pathlib; from openzaya.cli.batch_files import AnswersFile;"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (40, 40));"
        f"answers = AnswersFile(pathlib.Path({str(out)!r}));"
        "answers.__enter__().write({'id': 'a'});"
        'exec(\'with answers:\\n answers.write({"id": "b" * 99})\')'
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": SRC},
        capture_output=True,
        text=True,
    )
    assert f"RequestError: {out} cannot be written: " in done.stderr.splitlines()[-1]
    assert out.read_text().startswith('{"id": "a"}\n')
