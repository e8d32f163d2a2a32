"""newfacade/LeetCodeDataset: functions of a class Solution with examples as Python text.

`input_output` lists {"input": "nums = [3, 3], target = 6", "output": "[0, 1]"}. The text is parsed,
never evaluated; tests whose values are no JSON values are left out. Problems on trees and linked
lists need objects that cannot cross the channel and are skipped.

Source: fields from memory of the card, `input_output` and `task_id` as public users read them.
"""

import ast
import re

from openzaya.core.errors import DataError
from openzaya.envs.code.comparators import Comparator, Comparison
from openzaya.envs.code.problem import Mode, Problem, Program, Provenance, Test
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
from openzaya.envs.code.values import Json, check_value

MAX_LITERAL_CHARS = 200_000
NUM_PUBLIC = 2
"""The first tests are the examples of the statement; as many are shown."""
CLOSE = Comparator(kind=Comparison.VALUE_NUMERIC, relative=1e-5, absolute=1e-5)
OBJECTS = re.compile(r"\b(TreeNode|ListNode|Node)\b")
ENTRY = re.compile(r"(?:Solution\(\)\.)?([A-Za-z_]\w*)")
LEVELS = {"easy": 1.0, "medium": 2.0, "hard": 3.0}


def leetcode(record: Record, report: Report) -> Problem:
    """Turn a record of newfacade/LeetCodeDataset into a problem."""
    name = text_of(record, "task_id")
    starter = text_or(record, "starter_code")
    if OBJECTS.search(starter):
        raise SkipError("it works on trees or linked lists")
    entry = ENTRY.fullmatch(text_of(record, "entry_point").strip())
    if entry is None:
        raise SkipError("the entry point is no method")
    tests = tuple(read_tests(record, report))
    if not tests:
        raise SkipError("no tests")
    prelude = text_or(record, "prompt")
    completion = text_or(record, "completion")
    method = f"Solution.{entry[1]}"
    return Problem(
        id=f"leetcode/{name}",
        statement=text_of(record, "problem_description"),
        mode=Mode.FUNCTION,
        entry=method,
        starter=starter,
        prelude=prelude,
        public_tests=tests[:NUM_PUBLIC],
        private_tests=tests[NUM_PUBLIC:],
        accepted=(Program(source=completion, entry=method),) if completion else (),
        comparator=CLOSE,
        provenance=Provenance(
            source=f"newfacade/LeetCodeDataset: {name}",
            license="Apache-2.0",
            url="https://huggingface.co/datasets/newfacade/LeetCodeDataset",
        ),
        tags=tuple(str(tag) for tag in record.get("tags") or ()),
        difficulty=LEVELS.get(text_or(record, "difficulty").lower()),
    )


def read_tests(record: Record, report: Report) -> list[Test]:
    """Return the tests whose values are JSON values; the others are counted."""
    tests = []
    for item in list_of(unpacked(record, "input_output"), "input_output"):
        try:
            given = read_arguments(str(item["input"]))
            expected = read_literal(str(item["output"]))
        except (KeyError, TypeError, DataError):
            report.tests_dropped["a test that is no JSON value"] += 1
            continue
        tests.append(Test(input=given, output=expected))
    return tests


def read_arguments(text: str) -> dict[str, Json]:
    """Read `name = literal, name = literal` without evaluating anything; raise DataError if not."""
    call = parsed(f"f({text})")
    if not isinstance(call, ast.Call) or call.args or not call.keywords:
        raise DataError("the input is no list of named values")
    named: dict[str, Json] = {}
    for keyword in call.keywords:
        if keyword.arg is None or keyword.arg in named:
            raise DataError("the input is no list of named values")
        named[keyword.arg] = literal_of(keyword.value)
    return named


def read_literal(text: str) -> Json:
    """Read one Python literal; raise DataError for anything else."""
    return literal_of(parsed(text))


def parsed(text: str) -> ast.expr:
    """Return the syntax tree of an expression of bounded length."""
    if len(text) > MAX_LITERAL_CHARS:
        raise DataError(f"the literal has {len(text)} characters")
    try:
        return ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        raise DataError("not a Python literal") from None


def literal_of(node: ast.expr) -> Json:
    """Return the JSON value of a literal's tree: constants, signs, lists and dicts, no more."""
    try:
        return check_value(ast.literal_eval(node))
    except (ValueError, TypeError, RecursionError, MemoryError):
        raise DataError("not a Python literal") from None


load_leetcode = each(leetcode)
