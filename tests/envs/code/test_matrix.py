"""Many programs on many inputs in one real box, each pair on its own."""

import pytest

from openzaya.envs.code.matrix import Matrix, MatrixLimits, read_rows
from openzaya.envs.code.problem import Failure
from openzaya.sandbox.executor import Result, Status

DOUBLE = "def solve(x):\n    return [2 * x, (x,)]\n"
LOOP = "def solve(x):\n    while x > 1:\n        pass\n    return x\n"
STUBBORN = """\
def solve(x):
    while True:
        try:
            while True:
                pass
        except BaseException:
            pass
"""
STATE = """\
def solve(x):
    before = globals().get("left", 0)
    globals()["left"] = x
    return before
"""


@pytest.fixture(scope="module")
def matrix(executor):
    return Matrix(executor, MatrixLimits(cpu_s=0.1))


def test_every_program_meets_every_input_in_order(matrix):
    programs = [DOUBLE.replace("2", str(k)) for k in range(50)]
    rows = matrix.run(programs, [{"x": 1}, {"x": 5}])
    assert [[cell.value for cell in row] for row in rows] == [
        [[k, [1]], [5 * k, [5]]] for k in range(50)
    ]


def test_failures_are_named_and_spoil_no_other_program(matrix):
    programs = [
        LOOP,
        STUBBORN,
        "def solve(x):\n    return 1 // (x - 2)\n",
        "def solve(x):\n    return {x}\n",
        "def solve(x):\n    return 'a' * 100_000\n",
        "def solve(x):\n    return [0] * 10**12\n",
        "def solve(x):\n    import os; os._exit(0)\n",
        "def solve(x)\n    return x\n",
        "def solve(x):\n    return solve(x)\n",
        "import sys\ndef solve(x):\n    sys.exit(0)\n",
        DOUBLE,
    ]
    rows = matrix.run(programs, [{"x": 1}, {"x": 2}, {"x": 3}])
    late, crash = Failure.TIME, Failure.CRASH
    assert [[cell.failure for cell in row] for row in rows] == [
        [None, late, late],
        [late] * 3,
        [None, crash, None],
        [Failure.BAD_VALUE] * 3,
        [Failure.OUTPUT] * 3,
        [Failure.MEMORY] * 3,
        [late] * 3,  # it never reports; what was not reached counts as late
        [Failure.COMPILE] * 3,
        [crash] * 3,
        [crash] * 3,
        [None] * 3,
    ]
    assert rows[0][1].detail == ""  # its alarm told the driver
    assert rows[1][0].detail == "not reached"  # it swallowed the alarm and was killed


def test_nothing_of_one_input_is_seen_by_the_next(matrix):
    assert [cell.value for cell in matrix.run([STATE], [{"x": 1}, {"x": 2}])[0]] == [0, 0]


def test_programs_that_read_stdin_get_their_text_and_return_what_they_print(matrix):
    source = "import sys\nn = int(input())\nprint(sys.stdin.read().split()[n])\n"
    rows = matrix.run([source], ["1\na b\n", "0\nc d\n", ""])
    assert [cell.value for cell in rows[0][:2]] == ["b\n", "c\n"]
    assert rows[0][2].failure is Failure.CRASH


def test_a_column_comes_from_the_cache_when_it_is_asked_for_again(matrix):
    first = matrix.run_column([DOUBLE, STATE], {"x": 77})
    hits = matrix.cache.hits
    assert matrix.run_column([DOUBLE, STATE], {"x": 77}) == first
    assert matrix.cache.hits == hits + 2


@pytest.mark.parametrize("status", [Status.INFRA, Status.TIME_WALL, Status.MEMORY, Status.SIGNAL])
def test_a_box_that_does_not_end_well_is_our_failure(status):
    rows = read_rows(Result(status=status, stdout=b"[[{},{},{}],[{},{},{}]]"), 2, 3)
    assert [[bool(cell.infra) for cell in row] for row in rows] == [[True] * 3] * 2


def test_an_unreadable_report_is_our_failure():
    rows = read_rows(Result(status=Status.OK, stdout=b"[[{"), 1, 1)
    assert rows[0][0].infra
