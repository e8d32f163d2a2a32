"""Every public set: a record in its format becomes a problem that judges; bad ones are counted."""

import gzip
import json
from collections.abc import Iterator

import pytest
from envs.code.loader_records import BAD, METHOD, RECORDS, SUM, write
from hypothesis import given
from hypothesis import strategies as st

from openzaya.core.errors import DataError
from openzaya.core.records import Judgement
from openzaya.envs.code.loaders import SETS, load_problems
from openzaya.envs.code.problem import Failure, Mode
from openzaya.envs.code.problem_json import from_json, to_json
from openzaya.envs.code.runner import Runner
from openzaya.envs.code.sources.codeforces import attach_submissions
from openzaya.envs.code.sources.functions import read_call, with_outputs
from openzaya.envs.code.sources.records import Report
from openzaya.envs.code.values import Json


@pytest.mark.parametrize("name", RECORDS)
def test_a_record_becomes_a_problem_that_its_own_solution_passes(name, tmp_path, judge):
    problems, report = load_problems(name, [write(tmp_path, RECORDS[name])])
    assert report.num_kept == 1, str(report)
    problem = problems[0]
    assert from_json(to_json(problem)) == problem
    assert problem.statement.startswith(("Add.", "Sum"))
    assert problem.provenance.url.startswith("https://huggingface.co/datasets/")
    own = {"codeforces": SUM, "livecodebench": METHOD}  # sets without programs
    right = problem.candidate(own[name]) if name in own else problem.accepted[0]
    assert judge.judge(problem, right).verdict.judgement is Judgement.RIGHT
    wrong = "def main_solution(a, b): return 3" if name == "codeio" else "print(3)"
    if problem.entry.startswith("Solution"):
        wrong = METHOD.replace("a + b", "3")
    said = judge.judge(problem, problem.candidate(wrong))
    assert said.verdict.judgement is Judgement.WRONG


def test_every_set_of_the_table_has_a_record_here():
    assert set(SETS) - {"code_contests_plus", "codearc"} == set(RECORDS)


def test_fields_arrive_where_the_schema_has_them(tmp_path):
    (contest,), report = load_problems("code_contests", [write(tmp_path, RECORDS["code_contests"])])
    assert [test.input for test in contest.public_tests] == ["1 2\n"]
    assert [test.input for test in contest.private_tests] == ["4 5\n", "7 7\n"]
    assert [program.language for program in contest.accepted] == ["python", "cpp"]
    assert contest.rejected[0].program.source == BAD
    assert (contest.limits.cpu_s, contest.limits.memory_bytes) == (2.5, 256_000_000)
    assert (contest.difficulty, contest.tags) == (800.0, ("math",))
    assert report.tests_dropped["a program in another language"] == 1

    (site,), report = load_problems("codeforces", [write(tmp_path, RECORDS["codeforces"])])
    assert [test.input for test in site.private_tests] == [
        "10 20\n"
    ]  # not the visible, not the cut
    assert report.tests_dropped["a test that its site shows in part"] == 1
    assert (site.difficulty, site.tags) == (800.0, ("math",))
    (python,), _ = load_problems(
        "codeforces_python", [write(tmp_path, RECORDS["codeforces_python"])]
    )
    assert python.difficulty == 800.0

    (taco,), _ = load_problems("taco", [write(tmp_path, RECORDS["taco"])])
    assert (taco.mode, taco.entry) == (Mode.FUNCTION, "Solution.add")
    assert [test.output for test in taco.private_tests] == [3, 9]  # unwrapped

    (apps,), _ = load_problems("apps", [write(tmp_path, RECORDS["apps"])])
    assert [test.input for test in apps.private_tests] == ["1 2\n", "4 5\n"]

    (leet,), report = load_problems("leetcode", [write(tmp_path, RECORDS["leetcode"])])
    assert leet.public_tests[0].input == {"a": 1, "b": 2}
    assert report.tests_dropped["a test that is no JSON value"] == 2

    (live,), _ = load_problems("livecodebench", [write(tmp_path, RECORDS["livecodebench"])])
    assert (live.public_tests[0].input, live.private_tests[0].input) == ([1, 2], [4, 5])


FUNCTION = {"fn_name": "add", "inputs": [[1, 2], [3, 4]]}


@pytest.mark.parametrize(
    ("name", "change", "outputs"),
    [
        ("taco", {"input_output": FUNCTION | {"outputs": ["3", "[7]"]}}, ["3", "[7]"]),
        ("taco", {"input_output": FUNCTION | {"outputs": [["3"], ["7"]]}}, ["3", "7"]),
        (
            "verifiable",
            {
                "verification_info": {
                    "test_cases": [
                        {"type": "function_call", "fn_name": "add", "input": [1], "output": text}
                        for text in ("1", "true")
                    ]
                }
            },
            ["1", "true"],
        ),
        (
            "deepcoder",
            {"tests": [{"testtype": "functional", "input": "1\n2", "output": '"3"'}]},
            ["3"],
        ),
    ],
)
def test_only_functional_tests_hold_values_as_text(name, change, outputs, tmp_path):
    (problem,), _ = load_problems(name, [write(tmp_path, RECORDS[name] | change)])
    assert [test.output for test in problem.private_tests] == outputs


@pytest.mark.parametrize(
    "change",
    [
        {"inputs": [[{"1": 2}, 3]], "outputs": [5]},
        {"inputs": [[1, 2]], "outputs": [{"-1": 2, "10": 1}]},
        {"inputs": [[1, 2]], "outputs": [[{"3": 1}]]},
    ],
)
def test_dicts_that_had_numbers_for_keys_are_skipped(change, tmp_path):
    record = RECORDS["taco"] | {"input_output": FUNCTION | change}
    problems, report = load_problems("taco", [write(tmp_path, record)])
    assert (problems, report.skipped) == ([], {"a dict whose keys were numbers": 1})


@pytest.mark.parametrize(
    ("expected", "printed", "judgement"),
    [
        ("0.3333333333\n", "0.33333333", Judgement.RIGHT),
        ("0.3333333333\n", "0.334", Judgement.WRONG),
        ("YES 2.50\n", "YES 2.5", Judgement.RIGHT),
        ("10\n", "010", Judgement.WRONG),
        ("0.1.2\n", "0.10.2", Judgement.WRONG),
    ],
)
@pytest.mark.parametrize("name", ["code_contests", "codeforces", "apps", "livecodebench"])
def test_numbers_with_a_point_need_only_be_close(
    name, expected, printed, judgement, tmp_path, judge
):
    tests = {"input": ["1\n"], "output": [expected]}
    pair = {"input": "1\n", "output": expected}
    change = {
        "code_contests": {"public_tests": tests, "private_tests": {}, "generated_tests": {}},
        "codeforces": {"examples": [pair], "official_tests": []},
        "apps": {"input_output": {"inputs": ["1\n"], "outputs": [expected]}},
        "livecodebench": {
            "public_test_cases": [pair | {"testtype": "stdin"}],
            "private_test_cases": "",
        },
    }[name]
    (problem,), _ = load_problems(name, [write(tmp_path, RECORDS[name] | change)])
    said = judge.judge(problem, problem.candidate(f"print({printed!r})"))
    assert said.verdict.judgement is judgement


def test_a_method_finds_what_its_site_imports(tmp_path, judge):
    (problem,), _ = load_problems("livecodebench", [write(tmp_path, RECORDS["livecodebench"])])
    source = (
        "class Solution:\n    def add(self, a: List[int], b) -> int:\n"
        "        def deep(n): return n and deep(n - 1)\n"
        "        found = defaultdict(int, {a: b + deep(20_000)})\n"
        "        assert pow(3, -1, 7) == 5 and bisect.bisect([1], 1) == 1 and gcd(4, 6) == 2\n"
        "        return heapq.nlargest(1, accumulate([a, found[a]]))[0] + random.choice([0])"
    )
    said = judge.judge(problem, problem.candidate(source))
    assert said.verdict.judgement is Judgement.RIGHT, said.private_reason


def test_a_checker_script_of_codeforces_decides(tmp_path, judge):
    script = (
        "import sys\n"
        "given, expected, output = (open(name).read() for name in sys.argv[1:4])\n"
        "ok = int(output) > 1 and int(given) % int(output) == 0\n"
        "print(1 if ok else 0)\n"
    )
    record = RECORDS["codeforces"] | {
        "generated_checker": script,
        "examples": [{"input": "12\n", "output": "2\n"}],
        "official_tests": [],
    }
    (problem,), _ = load_problems("codeforces", [write(tmp_path, record)])
    for source, reward in (("print(12)", 1.0), ("print(5)", 0.0), ("print('x')", 0.0)):
        assert judge.judge(problem, problem.candidate(source)).verdict.reward == reward


def test_submissions_join_their_problems(tmp_path):
    problems, report = load_problems("codeforces", [write(tmp_path, RECORDS["codeforces"])])
    base = {"problem_id": "1/A", "programmingLanguage": "Python 3", "source": SUM}
    rows = [
        base | {"verdict": "OK"},
        base | {"verdict": "TIME_LIMIT_EXCEEDED", "programmingLanguage": "GNU C++17"},
        base | {"verdict": "SKIPPED"},
        base | {"verdict": "OK", "programmingLanguage": "Ada"},
        base | {"verdict": "OK", "problem_id": "9/Z"},
    ]
    (problem,) = attach_submissions(problems, rows, report)
    assert [program.source for program in problem.accepted] == [SUM]
    (rejected,) = problem.rejected
    assert (rejected.failure, rejected.program.language) == (Failure.TIME, "cpp")
    assert report.skipped["a submission to a problem that was not loaded"] == 1


def test_rows_of_one_problem_are_grouped(tmp_path):
    row = RECORDS["codeforces_python"]
    rows = [row, row | {"verdict": "WRONG_ANSWER", "code": BAD}, row | {"index": "B"}]
    problems, report = load_problems("codeforces_python", [write(tmp_path, *rows)])
    assert [problem.id for problem in problems] == [
        "codeforces_python/1/A",
        "codeforces_python/1/B",
    ]
    assert problems[0].rejected[0].failure is Failure.WRONG_ANSWER
    assert (report.num_read, report.num_kept) == (3, 2)


def test_a_function_with_calls_gets_its_outputs_from_the_sandbox(tmp_path, executor):
    record = {
        "problem_id": "7",
        "code": "import os\ndef half(x: float):\n    if x == 2: return os.urandom(4).hex()\n"
        "    return 1 / x",
    }
    (problem,), _ = load_problems("codearc", [write(tmp_path, record)])
    assert problem.entry == "half"
    calls: list[Json] = [
        read_call(text) for text in ("half(4.0)", "half(x=5)", "half(0)", "half(2)")
    ]
    filled = with_outputs(problem, calls, Runner(executor), num_public=1)
    assert [test.output for test in filled.public_tests] == [0.25]
    assert [test.output for test in filled.private_tests] == [0.2]  # not the crash, not the flake


@pytest.mark.parametrize(
    ("name", "change", "reason"),
    [
        ("code_contests", {"description": "see <image>"}, "picture"),
        ("code_contests", {"input_file": "in.txt"}, "files"),
        ("code_contests", {"public_tests": {"input": ["1"], "output": []}}, "differ in number"),
        ("code_contests", {"time_limit": "soon"}, "another type"),
        ("codeforces", {"interaction_format": "ask"}, "interactive"),
        ("codeforces", {"examples": [], "official_tests": []}, "no tests"),
        ("apps", {"input_output": "{"}, "no JSON"),
        ("apps", {"input_output": ""}, "no input_output"),
        ("taco", {"question": " "}, "no question"),
        ("deepcoder", {"metadata": None}, "no name of the function"),
        ("verifiable", {"verification_info": {"language": "rust"}}, "another language"),
        ("livecodebench", {"private_test_cases": "!!"}, "neither JSON nor packed"),
        ("leetcode", {"starter_code": "def f(root: TreeNode)"}, "trees"),
        ("leetcode", {"entry_point": "a; b"}, "no method"),
        ("codeio", {"ios": []}, "no pairs"),
    ],
)
def test_a_bad_record_is_skipped_with_its_reason(name, change, reason, tmp_path):
    path = write(tmp_path, RECORDS[name] | change, RECORDS[name])
    problems, report = load_problems(name, [path])
    assert len(problems) == 1
    assert report.num_read == 2
    assert any(reason in text for text in report.skipped), str(report)


def test_checkers_on_testlib_are_refused_unless_asked_for(tmp_path):
    path = write(tmp_path, RECORDS["code_contests_plus_by_tokens"])
    problems, report = load_problems("code_contests_plus", [path])
    assert problems == []
    assert "testlib" in str(report)


def test_lines_that_are_no_records_and_twins_are_counted(tmp_path):
    path = tmp_path / "part.jsonl.gz"
    line = json.dumps(RECORDS["apps"])
    with gzip.open(path, "wt") as stream:
        stream.write(f"{line}\n\nnot json\n[1]\n{line}\n")
    problems, report = load_problems("apps", [path])
    assert (len(problems), report.num_read, report.num_kept) == (1, 4, 1)
    assert report.skipped == {"the line is no JSON object": 2, "another record has its id": 1}


def test_unknown_sets_and_files_are_errors_with_a_cure(tmp_path):
    with pytest.raises(DataError, match="did you mean 'codeforces'"):
        load_problems("codeforce", [])
    with pytest.raises(DataError, match="download"):
        load_problems("apps", [tmp_path / "none.jsonl"])


def test_parquet_is_read_or_refused_with_the_cure(tmp_path):
    path = tmp_path / "part.parquet"
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        path.write_bytes(b"PAR1")
        with pytest.raises(DataError, match="pip install pyarrow"):
            load_problems("apps", [path])
        return
    parquet.write_table(pyarrow.Table.from_pylist([RECORDS["apps"]]), path)
    problems, _ = load_problems("apps", [path])
    assert problems[0].id == "apps/5"


junk = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=6,
)


@given(data=st.data(), name=st.sampled_from(sorted(RECORDS)))
def test_no_field_of_a_record_can_break_a_loader(data, name):
    record = dict(RECORDS[name])
    for field in data.draw(st.sets(st.sampled_from(sorted(record)), min_size=1, max_size=3)):
        record[field] = data.draw(junk)
    report = Report()

    def records() -> Iterator[dict[str, object]]:
        report.num_read += 1
        yield record

    problems = list(SETS[name][1](records(), report))
    assert len(problems) == report.num_kept
    assert report.num_kept + sum(report.skipped.values()) == 1
