"""deepmind/code_contests and ByteDance-Seed/Code-Contests-Plus: contest problems with solutions.

Contest sites ignore white space, so both compare by words, see `rule_of`. Problems with several
right outputs cannot be told apart in the first set: its tests are known to be weak there.

Source: data card of deepmind/code_contests (fields, codes of languages); for Code-Contests-Plus its
card as quoted by catalogues, and the field names that public users of the set read.
"""

from collections.abc import Iterable, Iterator
from functools import partial
from typing import Any

from openzaya.envs.code.problem import Mode, Problem, Program, Provenance, Rejected
from openzaya.envs.code.sources.records import (
    Record,
    Report,
    SkipError,
    each,
    limits_of,
    list_of,
    rule_of,
    tests_of_pairs,
    text_of,
    text_or,
    text_tests,
)
from openzaya.sandbox.executor import MIB

MAX_PROGRAMS = 20
"""Accepted, and rejected, programs kept of one problem; some have thousands."""
CODES = {2: "cpp", 3: "python"}
"""code_contests' numbers of languages that we run; 1 is Python 2, 4 is Java."""
NAMES = {"py3": "python", "python3": "python", "cpp": "cpp", "c++": "cpp"}
PICTURES = ("<image>", "<img")


def code_contests(record: Record, report: Report) -> Problem:
    """Turn a record of deepmind/code_contests into a problem."""
    name, statement = text_of(record, "name"), text_of(record, "description")
    if any(mark in statement for mark in PICTURES):
        raise SkipError("the statement needs a picture")
    if text_or(record, "input_file", "output_file"):
        raise SkipError("it reads or writes files")
    held_out = paired(record, "private_tests") + paired(record, "generated_tests")
    public = paired(record, "public_tests")
    if not public + held_out:
        raise SkipError("no tests")
    clock = record.get("time_limit") or {}
    seconds = clock.get("seconds", 0) + clock.get("nanos", 0) / 1e9
    return Problem(
        id=f"code_contests/{name}",
        statement=statement,
        mode=Mode.STDIN,
        public_tests=public,
        private_tests=held_out,
        accepted=tuple(coded(record, "solutions", report)),
        rejected=tuple(
            Rejected(program=program) for program in coded(record, "incorrect_solutions", report)
        ),
        comparator=rule_of((*public, *held_out)),
        limits=limits_of(seconds, record.get("memory_limit_bytes")),
        provenance=Provenance(
            source=f"deepmind/code_contests: {name}",
            license="CC-BY-4.0",
            url="https://huggingface.co/datasets/deepmind/code_contests",
        ),
        tags=tuple(tag for tag in record.get("cf_tags") or () if tag),
        difficulty=float(record.get("cf_rating") or record.get("difficulty") or 0) or None,
    )


def paired(record: Record, name: str) -> tuple[Any, ...]:
    """Return the tests of {"input": [...], "output": [...]}; none when the field is absent."""
    table = record.get(name) or {"input": [], "output": []}
    if not isinstance(table, dict):
        raise SkipError(f"{name} is no table of inputs and outputs")
    return text_tests(table.get("input"), table.get("output"))


def coded(record: Record, name: str, report: Report) -> Iterator[Program]:
    """Yield the programs of {"language": [code, ...], "solution": [...]} that we can run."""
    table = record.get(name) or {}
    languages, sources = table.get("language") or [], table.get("solution") or []
    if len(languages) != len(sources):
        raise SkipError(f"{name}: languages and programs differ in number")
    pairs = [(CODES.get(code), text) for code, text in zip(languages, sources, strict=True)]
    yield from runnable(pairs, report)


def runnable(pairs: Iterable[tuple[str | None, Any]], report: Report) -> Iterator[Program]:
    """Yield the first programs of (language, text) pairs in languages that we run."""
    count = 0
    for language, source in pairs:
        if language is None or not isinstance(source, str):
            report.tests_dropped["a program in another language"] += 1
        elif count < MAX_PROGRAMS:
            count += 1
            yield Program(source=source, language=language)


def code_contests_plus(record: Record, report: Report, *, ignore_checkers: bool = False) -> Problem:
    """Turn a record of ByteDance-Seed/Code-Contests-Plus into a problem.

    Its checkers, validators and generators are C++ programs on top of testlib.h, which we do not
    ship. A problem that has a checker is skipped, or compared by words with `ignore_checkers`,
    which rejects right outputs of problems that have several.
    """
    name, statement = text_of(record, "id"), text_of(record, "description")
    if text_or(record, "checker") and not ignore_checkers:
        raise SkipError("its checker needs testlib.h (load with ignore_checkers=True to compare)")
    tests = tests_of_pairs(record.get("test_cases"), "test_cases")
    if not tests:
        raise SkipError("no tests (configurations 1x to 5x have them)")
    seconds = float(record.get("time_limit") or 0) / 1_000
    megabytes = float(record.get("memory_limit") or 0)
    source = text_or(record, "source")
    return Problem(
        id=f"code_contests_plus/{source}/{name}",
        statement=statement,
        mode=Mode.STDIN,
        private_tests=tests,
        accepted=tuple(submitted(record, "correct_submissions", report)),
        rejected=tuple(
            Rejected(program=program)
            for program in submitted(record, "incorrect_submissions", report)
        ),
        comparator=rule_of(tests),
        limits=limits_of(seconds, megabytes * MIB),
        provenance=Provenance(
            source=f"ByteDance-Seed/Code-Contests-Plus: {source} {name}",
            license="CC-BY-4.0",
            url="https://huggingface.co/datasets/ByteDance-Seed/Code-Contests-Plus",
        ),
    )


def submitted(record: Record, name: str, report: Report) -> Iterator[Program]:
    """Yield the programs of [{"language": "py3", "code": text}, ...] that we can run."""
    items = list_of(record.get(name) or [], name)
    yield from runnable(
        ((NAMES.get(str(item.get("language")).lower()), item.get("code")) for item in items), report
    )


load_code_contests = each(code_contests)
load_code_contests_plus = each(code_contests_plus)
load_code_contests_plus_by_tokens = each(partial(code_contests_plus, ignore_checkers=True))
