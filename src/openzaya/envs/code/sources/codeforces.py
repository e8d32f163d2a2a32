"""open-r1/codeforces with its submissions, and MatrixStudio/Codeforces-Python-Submissions.

A checker of open-r1/codeforces is a Python script that is given the names of three files (input,
expected output, output) and prints 1 or 0; it runs in a box of its own, never with a candidate.

Source: data cards of open-r1/codeforces and open-r1/codeforces-submissions (fields, verdicts); the
checker's call from memory of the first; MatrixStudio's fields as public users of the set read them.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import replace

from openzaya.envs.code.problem import (
    Failure,
    Mode,
    Problem,
    Program,
    Provenance,
    Rejected,
    Test,
)
from openzaya.envs.code.sources.records import (
    Record,
    Report,
    SkipError,
    each,
    kept,
    limits_of,
    rule_of,
    tests_of_pairs,
    text_of,
    text_or,
)
from openzaya.sandbox.executor import MIB

MAX_PROGRAMS = 20
FAILURES = {
    "WRONG_ANSWER": Failure.WRONG_ANSWER,
    "CHALLENGED": Failure.WRONG_ANSWER,
    "PARTIAL": Failure.WRONG_ANSWER,
    "TIME_LIMIT_EXCEEDED": Failure.TIME,
    "IDLENESS_LIMIT_EXCEEDED": Failure.TIME,
    "MEMORY_LIMIT_EXCEEDED": Failure.MEMORY,
    "RUNTIME_ERROR": Failure.CRASH,
    "CRASHED": Failure.CRASH,
    "COMPILATION_ERROR": Failure.COMPILE,
    "REJECTED": Failure.UNKNOWN,
    "FAILED": Failure.UNKNOWN,
}
"""Verdicts that say something of a program; SKIPPED and TESTING do not."""
FIRST_NUMBER = re.compile(r"[0-9]{1,6}(?:\.[0-9]{1,6})?")

CHECKER = """
import contextlib, io, sys
SCRIPT = {script!r}
def check(given, output, expected):
    names = []
    for name, text in (("input", given), ("expected", expected), ("output", output)):
        names.append("/tmp/" + name + ".txt")
        with open(names[-1], "w") as file:
            file.write(text)
    sys.argv = ["checker.py", *names]
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        try:
            exec(compile(SCRIPT, "checker.py", "exec"), {{"__name__": "__main__"}})
        except SystemExit:
            pass
    words = said.getvalue().split()
    return float(words[-1]) >= 1
"""
"""Our side of the call: files in, the last printed word out. Runs in a box."""


def codeforces(record: Record, report: Report) -> Problem:
    """Turn a record of open-r1/codeforces into a problem."""
    name = text_of(record, "id")
    statement = text_of(record, "description")
    if text_or(record, "interaction_format"):
        raise SkipError("it is interactive")
    if text_or(record, "input_mode") not in ("", "stdio"):
        raise SkipError("it reads or writes files")
    public = tests_of_pairs(record.get("examples"), "examples")
    held_out = whole_tests(tests_of_pairs(record.get("official_tests"), "official_tests"), report)
    if not public + held_out:
        raise SkipError("no tests")
    script = text_or(record, "generated_checker")
    return Problem(
        id=f"codeforces/{name}",
        statement=titled(text_or(record, "title"), statement, text_or(record, "note")),
        mode=Mode.STDIN,
        io_spec="\n\n".join(
            filter(None, (text_or(record, "input_format"), text_or(record, "output_format")))
        ),
        public_tests=public,
        private_tests=tuple(test for test in held_out if test not in public),
        comparator=rule_of((*public, *held_out)),
        checker=Program(source=CHECKER.format(script=script), entry="check") if script else None,
        limits=limits_of(record.get("time_limit"), (record.get("memory_limit") or 0) * MIB),
        provenance=Provenance(
            source=f"open-r1/codeforces: {name}",
            license="CC-BY-4.0",
            url="https://huggingface.co/datasets/open-r1/codeforces",
        ),
        tags=tuple(record.get("tags") or ()),
        difficulty=float(record.get("rating") or 0) or None,
    )


def titled(title: str, statement: str, note: str) -> str:
    """Return a statement with its title and note."""
    parts = (title, statement, f"Note: {note}" if note else "")
    return "\n\n".join(part for part in parts if part)


def whole_tests(tests: tuple[Test, ...], report: Report) -> tuple[Test, ...]:
    """Return the tests that the site did not cut; cut texts end in three points."""
    whole = tuple(
        test
        for test in tests
        if not any(str(text).rstrip().endswith("...") for text in (test.input, test.output))
    )
    report.tests_dropped["a test that its site shows in part"] += len(tests) - len(whole)
    return whole


def attach_submissions(
    problems: Iterable[Problem], records: Iterable[Record], report: Report
) -> Iterator[Problem]:
    """Yield problems of open-r1/codeforces with the programs of open-r1/codeforces-submissions.

    At most 20 accepted and 20 rejected programs a problem are taken, in the order of records.
    """
    table = {problem.id: problem for problem in problems}
    accepted: dict[str, list[Program]] = {}
    rejected: dict[str, list[Rejected]] = {}
    for record in records:
        name = f"codeforces/{text_or(record, 'problem_id')}"
        if name not in table:
            report.skipped["a submission to a problem that was not loaded"] += 1
            continue
        add_submission(
            record, "source", accepted.setdefault(name, []), rejected.setdefault(name, []), report
        )
    for name, problem in table.items():
        yield replace(
            problem,
            accepted=(*problem.accepted, *accepted.get(name, ())),
            rejected=(*problem.rejected, *rejected.get(name, ())),
        )


def add_submission(
    record: Record,
    field: str,
    accepted: list[Program],
    rejected: list[Rejected],
    report: Report,
) -> None:
    """Sort one submission into the lists, by its verdict; count it when it fits neither."""
    language = language_of(text_or(record, "programmingLanguage"))
    source, verdict = text_or(record, field), text_or(record, "verdict")
    if language is None or not source:
        report.tests_dropped["a program in another language"] += 1
    elif verdict == "OK":
        accepted[:] = [*accepted, Program(source=source, language=language)][:MAX_PROGRAMS]
    elif verdict in FAILURES:
        program = Program(source=source, language=language)
        found = Rejected(program=program, failure=FAILURES[verdict])
        rejected[:] = [*rejected, found][:MAX_PROGRAMS]
    else:
        report.tests_dropped["a program without a verdict"] += 1


def language_of(name: str) -> str | None:
    """Return the sandbox's name of a language of Codeforces, or None for one that we do not run."""
    if name.startswith(("Python 3", "PyPy 3")):
        return "python"
    return "cpp" if name.startswith(("C++", "GNU C++", "MS C++", "Clang++")) else None


def load_submissions(records: Iterable[Record], report: Report) -> Iterator[Problem]:
    """Group the rows of MatrixStudio/Codeforces-Python-Submissions by problem; each is one program.

    All problems are in memory until the last row is read.
    """
    problems: dict[str, Problem] = {}
    accepted: dict[str, list[Program]] = {}
    rejected: dict[str, list[Rejected]] = {}
    for record in records:
        name = f"{text_or(record, 'contestId')}/{text_or(record, 'index')}"
        if name not in problems:
            problem = kept(submission_problem, record, report)
            if problem is None:
                continue
            problems[name] = problem
        add_submission(
            record, "code", accepted.setdefault(name, []), rejected.setdefault(name, []), report
        )
    for name, problem in problems.items():
        yield replace(problem, accepted=tuple(accepted[name]), rejected=tuple(rejected[name]))


def submission_problem(record: Record, report: Report) -> Problem:
    """Return the problem that a row of MatrixStudio's set belongs to."""
    statement = text_of(record, "problem-description")
    contest, index = text_or(record, "contestId"), text_or(record, "index")
    demo = zip(record.get("demo-input") or (), record.get("demo-output") or (), strict=False)
    public = tuple(Test(input=str(left), output=str(right)) for left, right in demo)
    tests = whole_tests(tests_of_pairs(record.get("test_cases"), "test_cases"), report)
    if not public + tests:
        raise SkipError("no tests")
    return Problem(
        id=f"codeforces_python/{contest}/{index}",
        statement=titled(text_or(record, "name", "title"), statement, text_or(record, "note")),
        mode=Mode.STDIN,
        io_spec="\n\n".join(
            filter(
                None,
                (text_or(record, "input-specification"), text_or(record, "output-specification")),
            )
        ),
        public_tests=public,
        private_tests=tuple(test for test in tests if test not in public),
        comparator=rule_of((*public, *tests)),
        limits=limits_of(
            number_in(text_or(record, "time-limit")),
            number_in(text_or(record, "memory-limit")) * MIB,
        ),
        provenance=Provenance(
            source=f"MatrixStudio/Codeforces-Python-Submissions: {contest} {index}",
            license="unknown",
            url="https://huggingface.co/datasets/MatrixStudio/Codeforces-Python-Submissions",
        ),
        tags=tuple(record.get("tags") or ()),
        difficulty=float(record.get("rating") or 0) or None,
    )


def number_in(text: str) -> float:
    """Return the first number of a text like "2 seconds", or 0."""
    match = FIRST_NUMBER.search(text)
    return float(match[0]) if match else 0.0


load_codeforces = each(codeforces)
