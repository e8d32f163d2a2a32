"""Sets of functions without contest tests: CodeIO-PyEdu-Reasoning and CodeARC-Problems.

hkust-nlp/CodeIO-PyEdu-Reasoning(-Raw): `refcode` defines `funcname`, called with the keyword
arguments of each of `ios`. Some records have no pairs and are skipped.

anjiangwei/CodeARC-Problems: one function a problem, and calls of it as Python text. A set of calls
has no outputs, so those come from running the function (`with_outputs`).

Source: data card of CodeIO-PyEdu-Reasoning-Raw; for CodeARC its repository (one function a file, a
docstring with examples), the names of the record's fields from memory.
"""

import ast
import re
from collections.abc import Sequence
from dataclasses import replace

from openzaya.core.errors import DataError, SandboxError
from openzaya.envs.code.comparators import Comparator, Comparison
from openzaya.envs.code.problem import Mode, Problem, Program, Provenance, Test
from openzaya.envs.code.runner import Runner
from openzaya.envs.code.sources.leetcode import literal_of, parsed
from openzaya.envs.code.sources.records import (
    Record,
    Report,
    SkipError,
    each,
    list_of,
    text_of,
    text_or,
    unpacked,
)
from openzaya.envs.code.values import Json, check_value, same_value

NUM_PUBLIC = 3
"""Pairs that are shown; the others are held out."""
CLOSE = Comparator(kind=Comparison.VALUE_CLOSE)
FUNCTION = re.compile(r"^def ([A-Za-z_]\w*)\(", re.MULTILINE)


def code_io(record: Record, report: Report) -> Problem:
    """Turn a record of hkust-nlp/CodeIO-PyEdu-Reasoning into a problem."""
    source = text_of(record, "refcode")
    entry = text_or(record, "funcname") or "main_solution"
    tests = []
    for item in list_of(unpacked(record, "ios") or [], "ios"):
        try:
            tests.append(Test(input=check_value(item["input"]), output=check_value(item["output"])))
        except (KeyError, TypeError, DataError):
            report.tests_dropped["a pair that is no JSON value"] += 1
    if not tests:
        raise SkipError("no pairs")
    label = str(report.num_read)
    return Problem(
        id=f"codeio/{label}",
        statement=text_of(record, "problem_description"),
        mode=Mode.FUNCTION,
        entry=entry,
        io_spec=text_or(record, "io_requirements"),
        public_tests=tuple(tests[:NUM_PUBLIC]),
        private_tests=tuple(tests[NUM_PUBLIC:]),
        accepted=(Program(source=source, entry=entry),),
        comparator=CLOSE,
        provenance=Provenance(
            source=f"hkust-nlp/CodeIO-PyEdu-Reasoning: {label}",
            license="ODC-BY",
            url="https://huggingface.co/datasets/hkust-nlp/CodeIO-PyEdu-Reasoning-Raw",
        ),
        tags=tuple(filter(None, [text_or(record, "category")])),
    )


def code_arc(record: Record, report: Report) -> Problem:
    """Turn a record of anjiangwei/CodeARC-Problems into a problem, without tests as yet."""
    name = text_or(record, "problem_id", "id", "task_id") or str(report.num_read)
    source = text_or(record, "function_code", "code", "solution", "function")
    names = FUNCTION.findall(source)
    entry = text_or(record, "function_name") or (names[-1] if names else "")
    if not entry or entry not in names:
        raise SkipError("it defines no function")
    return Problem(
        id=f"codearc/{name}",
        statement=text_or(record, "problem_description", "description")
        or f"Find out what {entry} computes.",
        mode=Mode.FUNCTION,
        entry=entry,
        accepted=(Program(source=source, entry=entry),),
        comparator=CLOSE,
        provenance=Provenance(
            source=f"anjiangwei/CodeARC-Problems: {name}",
            license="Apache-2.0",
            url="https://huggingface.co/datasets/anjiangwei/CodeARC-Problems",
        ),
    )


def read_call(text: str) -> list[Json] | dict[str, Json]:
    """Read the arguments of a call like `f(3.5, [1])` without evaluating it; DataError if not."""
    call = parsed(text)
    if not isinstance(call, ast.Call) or (call.args and call.keywords):
        raise DataError("not a call with positional or with named arguments")
    if call.args or not call.keywords:
        return [literal_of(argument) for argument in call.args]
    return {str(keyword.arg): literal_of(keyword.value) for keyword in call.keywords}


def with_outputs(
    problem: Problem, inputs: Sequence[Json], runner: Runner, *, num_public: int = 10
) -> Problem:
    """Return the problem with tests on `inputs`, answered by its first accepted program.

    Inputs on which the program fails, or two runs disagree, are left out. Raises DataError for a
    problem without an accepted program, SandboxError when the sandbox failed.
    """
    if not problem.accepted:
        raise DataError(f"problem {problem.id!r} has no accepted program to answer with")
    program = problem.accepted[0]
    runs = [
        runner.run(program, inputs, limits=problem.limits, prelude=problem.prelude, fresh=True)
        for _ in range(2)
    ]
    tests = []
    for given, first, second in zip(inputs, *runs, strict=True):
        if first.infra or second.infra:
            raise SandboxError(f"a reference could not run: {first.infra or second.infra}")
        if first.ok and second.ok and same_value(first.value, second.value):
            tests.append(Test(input=given, output=first.value))
    return replace(
        problem, public_tests=tuple(tests[:num_public]), private_tests=tuple(tests[num_public:])
    )


load_code_io = each(code_io)
load_code_arc = each(code_arc)
