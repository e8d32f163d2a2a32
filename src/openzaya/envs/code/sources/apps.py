"""Sets in the format of APPS and in that of verification records: statements with JSON tests.

codeparrot/apps, BAAI/TACO: `input_output` is JSON text {"inputs", "outputs"[, "fn_name"]}.
PrimeIntellect/verifiable-coding-problems: `verification_info` holds "test_cases", each a text pair
("stdin_stdout") or a call ("function_call", "fn_name").
agentica-org/DeepCoder-Preview-Dataset: `tests` is JSON text in one of both forms, or a list of
LiveCodeBench's pairs with the function's name in `metadata`.

None of them marks a test as visible: the examples stand in the statement, all tests are held out.
Inputs and outputs of functions are values, or JSON texts of values in tests of type "functional".
Outputs come wrapped in a list of one in some sets; they are unwrapped when all outputs of a problem
are lists of one item. A dict whose keys are all numbers once had integers for keys: such problems
are skipped, since no JSON value can be their answer.

Source: data card of BAAI/TACO (fields, license in its header); the forms of the other sets as
public users read them; the licenses of apps and DeepCoder from memory of their cards.
"""

import re
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any

from openzaya.envs.code.comparators import Comparator, Comparison
from openzaya.envs.code.problem import Mode, Problem, Program, Provenance, Test
from openzaya.envs.code.sources.codeforces import number_in
from openzaya.envs.code.sources.records import (
    Record,
    Report,
    SkipError,
    arguments_of,
    each,
    entry_of,
    limits_of,
    list_of,
    result_of,
    rule_of,
    text_of,
    text_or,
    text_tests,
    unpacked,
)
from openzaya.sandbox.executor import MIB

CLOSE = Comparator(kind=Comparison.VALUE_NUMERIC)
"""These sets come from checks by Python's ==, for which 1 is 1.0."""
LANGUAGES = {"python": "python", "python3": "python", "cpp": "cpp", "c++": "cpp"}
NAMES = ("bisect", "collections", "functools", "heapq", "itertools", "math", "operator", "string")
PRELUDE = "\n".join(
    (
        *(f"from {name} import *" for name in (*NAMES, "typing", "builtins")),
        f"import {', '.join(NAMES)}, random, re, sys",
        "sys.setrecursionlimit(50_000)",
    )
)
"""What sites that ask for a class Solution do for it: the usual names are there, the builtins
under their own, and recursion may be deep."""
NUMBER_KEY = re.compile(r"-?[0-9]{1,100}")
MAX_PROGRAMS = 20
FENCED = re.compile(r"```[a-z0-9+]*\n(.*?)```", re.DOTALL)
HUB = "https://huggingface.co/datasets/"


@dataclass(frozen=True, slots=True)
class Cases:
    """The tests of a record, in its own form."""

    function: str
    """What to call, or empty for programs that read stdin."""
    inputs: list[Any]
    outputs: list[Any]


def apps(record: Record, _: Report) -> Problem:
    """Turn a record of codeparrot/apps into a problem."""
    name = text_or(record, "problem_id", "id") or text_of(record, "url")
    return asked(record, f"apps/{name}", provenance_of("codeparrot/apps", name, "MIT"))


def taco(record: Record, _: Report) -> Problem:
    """Turn a record of BAAI/TACO into a problem."""
    name = text_or(record, "url", "name", "id")
    if not name:
        raise SkipError("no url")
    return asked(record, f"taco/{name}", provenance_of("BAAI/TACO", name, "MIT"))


def asked(record: Record, name: str, provenance: Provenance) -> Problem:
    """Return the problem of a record with `question`, `input_output` and `solutions`."""
    table = unpacked(record, "input_output")
    if not isinstance(table, dict):
        raise SkipError("no input_output")
    starter = text_or(record, "starter_code")
    problem = built(name, text_of(record, "question"), starter, cases_of_table(table), provenance)
    return replace(
        problem,
        accepted=programs(problem, unpacked(record, "solutions") or []),
        limits=limits_of(
            number_in(text_or(record, "time_limit")),
            number_in(text_or(record, "memory_limit")) * MIB,
        ),
    )


def verifiable(record: Record, _: Report) -> Problem:
    """Turn a record of PrimeIntellect/verifiable-coding-problems into a problem."""
    name = text_of(record, "problem_id")
    info = unpacked(record, "verification_info")
    if not isinstance(info, dict):
        raise SkipError("no verification_info")
    language = LANGUAGES.get(str(info.get("language", "python")).lower())
    if language is None:
        raise SkipError("its solution is in another language")
    cases = cases_of_list(list_of(info.get("test_cases"), "test_cases"), "")
    provenance = provenance_of("PrimeIntellect/verifiable-coding-problems", name, "unknown")
    problem = built(f"verifiable/{name}", text_of(record, "prompt"), "", cases, provenance)
    gold = text_or(record, "gold_standard_solution")
    return replace(problem, accepted=programs(problem, [gold] if gold else [], language))


def deepcoder(record: Record, report: Report) -> Problem:
    """Turn a record of agentica-org/DeepCoder-Preview-Dataset into a problem.

    Its records have no names: the number of the record in what is read stands for one.
    """
    tests, metadata = unpacked(record, "tests"), unpacked(record, "metadata")
    name = str(metadata.get("func_name") or "") if isinstance(metadata, dict) else ""
    if isinstance(tests, dict):
        cases = cases_of_table(tests)
    else:
        cases = cases_of_list(list_of(tests, "tests"), name)
    label = str(report.num_read)
    problem = built(
        f"deepcoder/{label}",
        text_of(record, "problem"),
        text_or(record, "starter_code"),
        cases,
        provenance_of("agentica-org/DeepCoder-Preview-Dataset", label, "MIT"),
    )
    return replace(problem, accepted=programs(problem, record.get("solutions") or []))


def provenance_of(source: str, name: str, terms: str) -> Provenance:
    """Return where a record is from."""
    return Provenance(source=f"{source}: {name}", license=terms, url=f"{HUB}{source}")


def cases_of_table(table: dict[str, Any]) -> Cases:
    """Read {"inputs": [...], "outputs": [...], "fn_name": ...}."""
    return Cases(
        str(table.get("fn_name") or ""),
        list_of(table.get("inputs"), "inputs"),
        list_of(table.get("outputs"), "outputs"),
    )


def cases_of_list(items: list[Any], function: str) -> Cases:
    """Read [{"input", "output", "type" or "testtype", "fn_name"}, ...], which all must be alike."""
    if not all(isinstance(item, dict) for item in items):
        raise SkipError("tests is no list of objects")
    kinds = {str(item.get("type") or item.get("testtype") or "stdin") for item in items}
    if kinds <= {"function_call", "functional"}:
        names = {str(item.get("fn_name") or function) for item in items}
        if len(names) != 1 or names == {""}:
            raise SkipError("no name of the function")
        function = names.pop()
    elif kinds <= {"stdin_stdout", "stdin"}:
        function = ""
    else:
        raise SkipError("tests of several kinds")
    as_text = "functional" in kinds
    return Cases(
        function,
        [item["input"] for item in with_both(items)],
        [result_of(item["output"]) if as_text else item["output"] for item in items],
    )


def with_both(items: list[Any]) -> list[Any]:
    """Return the items after checking that each has an input and an output."""
    if not all("input" in item and "output" in item for item in items):
        raise SkipError("a test lacks its input or output")
    return items


def built(name: str, statement: str, starter: str, cases: Cases, provenance: Provenance) -> Problem:
    """Return the problem of a statement and tests in their source's form."""
    if not cases.inputs:
        raise SkipError("no tests")
    if not cases.function:
        tests = text_tests(cases.inputs, cases.outputs)
        return Problem(
            id=name,
            statement=statement,
            mode=Mode.STDIN,
            private_tests=tests,
            comparator=rule_of(tests),
            provenance=provenance,
        )
    return Problem(
        id=name,
        statement=statement,
        mode=Mode.FUNCTION,
        entry=entry_of(cases.function, starter),
        starter=starter,
        prelude=PRELUDE if "class Solution" in starter else "",
        private_tests=call_tests(cases),
        comparator=CLOSE,
        provenance=provenance,
    )


def call_tests(cases: Cases) -> tuple[Test, ...]:
    """Return the tests of a function; see the module's text for wrapped outputs."""
    if len(cases.inputs) != len(cases.outputs):
        raise SkipError("inputs and outputs differ in number")
    inputs, outputs = [arguments_of(given) for given in cases.inputs], cases.outputs
    singles = [value for value in outputs if isinstance(value, list) and len(value) == 1]
    if len(singles) == len(outputs):
        outputs = [value[0] for value in singles]
    if any(map(has_number_keys, chain(outputs, *inputs))):
        raise SkipError("a dict whose keys were numbers")
    return tuple(
        Test(input=given, output=expected) for given, expected in zip(inputs, outputs, strict=True)
    )


def has_number_keys(value: object) -> bool:
    """Say whether a value is a dict, not empty, whose keys all read as integers."""
    return isinstance(value, dict) and bool(value) and all(map(NUMBER_KEY.fullmatch, value))


def programs(problem: Problem, texts: object, language: str = "python") -> tuple[Program, ...]:
    """Return a record's solutions, out of their fences where they have any."""
    found = [text for text in list_of(texts, "solutions") if isinstance(text, str) and text.strip()]
    fenced = [(FENCED.search(text), text) for text in found[:MAX_PROGRAMS]]
    return tuple(
        Program(source=match[1] if match else text, language=language, entry=problem.entry)
        for match, text in fenced
    )


load_apps = each(apps)
load_taco = each(taco)
load_verifiable = each(verifiable)
load_deepcoder = each(deepcoder)
