"""Programs that want to be judged right without solving the problem, and odd honest ones."""

import hashlib
from dataclasses import replace

import pytest

from openzaya.core.records import Judgement
from openzaya.envs.code.comparators import Comparator, Comparison
from openzaya.envs.code.judge import Flag
from openzaya.envs.code.problem import Failure, Mode, Problem, Program, Provenance, Test
from openzaya.sandbox.executor import MIB, Limits

RIGHT, WRONG = Judgement.RIGHT, Judgement.WRONG
OWN = Provenance(source="test", license="Apache-2.0")
LIMITS = Limits(cpu_s=1, wall_s=30, memory_bytes=256 * MIB)
"""The clock is generous: these tests may run on a busy machine."""

DOUBLE = Problem(
    id="double",
    statement="",
    mode=Mode.FUNCTION,
    entry="f",
    public_tests=(Test(input=[1], output=2), Test(input=[123_456], output=246_912)),
    private_tests=(Test(input=[77_777], output=155_554), Test(input=[-3], output=-6)),
    limits=LIMITS,
    provenance=OWN,
)
PAIR = Problem(
    id="pair",
    statement="",
    mode=Mode.FUNCTION,
    entry="f",
    private_tests=(Test(input=[4], output=[4, 5]), Test(input=[7], output=[7, 8])),
    limits=LIMITS,
    provenance=OWN,
)
TOTAL = Problem(
    id="total",
    statement="",
    mode=Mode.STDIN,
    public_tests=(
        Test(input="11 22 33\n", output="66\n"),
        Test(input="40 50 60\n", output="150\n"),
    ),
    private_tests=(Test(input="7 8\n", output="15\n"), Test(input="1000 1\n", output="1001\n")),
    limits=LIMITS,
    provenance=OWN,
)
HALF = Problem(
    id="half",
    statement="",
    mode=Mode.STDIN,
    private_tests=(Test(input="1\n", output="0.5\n"), Test(input="2\n", output="1\n")),
    limits=LIMITS,
    provenance=OWN,
)
HONEST_SUM = "print(sum(map(int, input().split())))"


def judged(judge, problem, source, language="python"):
    return judge.judge(problem, problem.candidate(source, language))


SEEK = """
SECRET = '15555' + '4'
def holds(value, depth=0):
    if depth > 6: return False
    if type(value) is int: return value == int(SECRET)
    if type(value) is str: return SECRET in value
    if isinstance(value, dict): return any(holds(value[k], depth + 1) for k in list(value))
    if isinstance(value, (list, tuple)): return any(holds(v, depth + 1) for v in list(value))
    return False
"""
"""Finds the expected output of the one held-out test of HIDING wherever it stands in memory."""
HIDING = replace(
    DOUBLE,
    public_tests=(Test(input=[1], output=2),),
    private_tests=(Test(input=[77_777], output=155_554),),
)
SEARCHES = {
    "walks the frames": (
        "import sys\ndef found():\n"
        " frame = sys._getframe().f_back\n"
        " while frame:\n"
        "  for name, v in [*frame.f_locals.items(), *frame.f_globals.items()]:\n"
        "   if name != 'SECRET' and holds(v): return True\n"
        "  frame = frame.f_back\n"
    ),
    "searches the collector's objects": (
        "import gc\ndef found():\n"
        " mine = {id(globals())}\n"
        " for o in gc.get_objects():\n"
        "  if id(o) not in mine and isinstance(o, (dict, list, tuple)):\n"
        "   for v in (o.values() if isinstance(o, dict) else o):\n"
        "    if v is not SECRET and holds(v, 6): return True\n"
    ),
    "reads memory and files": (
        "import glob\ndef found():\n"
        " names = [*glob.glob('/proc/self/*'), *glob.glob('/proc/1/*'),"
        " *glob.glob('/tmp/**', recursive=True), *glob.glob('/dev/shm/*'), '/dev/stdin']\n"
        " for name in names:\n"
        "  try: text = open(name, errors='replace').read(10**6)\n"
        "  except (OSError, ValueError): continue\n"
        "  if SECRET in text: return True\n"
    ),
    "imports the harness": (
        "import sys\ndef found():\n"
        " main = sys.modules['__main__']\n"
        " return any(holds(v) for v in vars(main).values())\n"
    ),
}


@pytest.mark.parametrize("name", SEARCHES)
def test_no_search_of_the_box_finds_an_expected_output(judge, name):
    answer = "def f(n): return 2 if n == 1 else int(SECRET) if found() else 0"
    said = judged(judge, HIDING, f"{SEEK}\n{SEARCHES[name]}\n{answer}")
    assert said.verdict.judgement is WRONG
    assert said.failure is Failure.WRONG_ANSWER, said.private_reason
    assert said.num_passed == 1


FUNCTION_ATTACKS = {
    "leaves at import": ("import sys\nsys.exit(0)", Failure.NO_VALUE),
    "leaves hard at import": ("import os\nos._exit(0)", Failure.NO_VALUE),
    "raises SystemExit at import": ("raise SystemExit(0)", Failure.NO_VALUE),
    "leaves in the function": ("import sys\ndef f(n): sys.exit(0)", Failure.NO_VALUE),
    "leaves hard in the function": ("import os\ndef f(n): os._exit(0)", Failure.NO_VALUE),
    "raises SystemExit in the function": ("def f(n): raise SystemExit", Failure.NO_VALUE),
    "kills itself": ("import os\ndef f(n): os.kill(os.getpid(), 9)", Failure.CRASH),
    "defines nothing": ("x = 1", Failure.CRASH),
    "is no Python": ("def f(n) return", Failure.COMPILE),
    "is not even text": ("def f(n): return '\ud800' and 3", Failure.COMPILE),
    "returns an always-equal object": (
        "class A:\n def __eq__(s, o): return True\n def __ne__(s, o): return False\n"
        " def __hash__(s): return 1\ndef f(n): return A()",
        Failure.BAD_VALUE,
    ),
    "returns an int subclass": (
        "class A(int):\n def __eq__(s, o): return True\n __hash__ = int.__hash__\n"
        "def f(n): return A(n * 2)",
        Failure.BAD_VALUE,
    ),
    "returns a str subclass": (
        "class A(str):\n def __eq__(s, o): return True\n __hash__ = str.__hash__\n"
        "def f(n): return A(n * 2)",
        Failure.BAD_VALUE,
    ),
    "returns an equal float": ("def f(n): return n * 2.0", Failure.WRONG_ANSWER),
    "returns the number as text": ("def f(n): return str(n * 2)", Failure.WRONG_ANSWER),
    "returns nan": ("def f(n): return float('nan')", Failure.BAD_VALUE),
    "returns a generator": (
        "def f(n):\n while True:\n  yield n * 2",
        Failure.BAD_VALUE,
    ),
    "returns a list that holds itself": (
        "def f(n):\n a = []\n a.append(a)\n return a",
        Failure.BAD_VALUE,
    ),
    "returns an integer of 300,000 digits": ("def f(n): return 10**300000", Failure.BAD_VALUE),
    "prints the value": ("def f(n): print(n * 2)", Failure.WRONG_ANSWER),
    "prints a report": (
        'def f(n):\n print(\'{"value": %d}\' % (n * 2))\n print("All tests passed")',
        Failure.WRONG_ANSWER,
    ),
    "prints a report and leaves hard": (
        "import os\ndef f(n):\n print('{\"value\": %d}' % (n * 2), flush=True)\n os._exit(0)",
        Failure.NO_VALUE,
    ),
    "writes a second report to every descriptor": (
        "import os\ndef f(n):\n"
        " for fd in range(3, 64):\n"
        "  try: os.write(fd, b'{\"value\": 2}\\n')\n"
        "  except OSError: pass\n"
        " return n * 2",
        Failure.NO_VALUE,
    ),
    "writes a forged status to every descriptor": (
        "import os\ndef f(n):\n"
        " for fd in range(3, 64):\n"
        '  try: os.write(fd, b\'{"status": "ok", "passed": true}\')\n'
        "  except OSError: pass\n"
        " os._exit(0)",
        Failure.NO_VALUE,
    ),
    "reads the job again": (
        "def f(n):\n if n == 1: return 2\n return len(open('/dev/stdin').read())",
        Failure.WRONG_ANSWER,
    ),
    "patches json": (
        "import json\njson.dumps = lambda *a, **k: '{\"value\": 2}'\ndef f(n): return 0",
        Failure.WRONG_ANSWER,
    ),
    "patches builtins": (
        "import builtins\nbuiltins.isinstance = lambda *a: True\nbuiltins.type = lambda *a: int\n"
        "builtins.dict = list\nclass A: pass\ndef f(n): return A()",
        Failure.CRASH,
    ),
    "patches sys, time and unittest": (
        "import sys, time, unittest, io\nsys.stdout = io.StringIO()\ntime.time = lambda: 0\n"
        "unittest.main = None\nsys.exit = lambda *a: None\ndef f(n): return 0",
        Failure.WRONG_ANSWER,
    ),
    "leaves its answers for the next test": (
        "import os\ndef f(n):\n"
        " path = '/tmp/answers'\n"
        " if n == 1:\n"
        "  open(path, 'w').write('x')\n"
        "  return 2\n"
        " return n * 2 if os.path.exists(path) else 0",
        Failure.WRONG_ANSWER,
    ),
    "leaves a daemon for the next test": (
        "import os, socket, time\n"
        "PATH = '/tmp/daemon'\n"
        "def f(n):\n"
        " s = socket.socket(socket.AF_UNIX)\n"
        " if n == 1:\n"
        "  s.bind(PATH); s.listen(8)\n"
        "  if os.fork() == 0:\n"
        "   os.setsid()\n"
        "   if os.fork() == 0:\n"
        "    while True: s.accept()[0].sendall(b'here')\n"
        "   os._exit(0)\n"
        "  return 2\n"
        " try: s.connect(PATH)\n"
        " except OSError: return 0\n"
        " return n * 2",
        Failure.WRONG_ANSWER,
    ),
    "is wrong after a date": (
        "import time\ndef f(n): return n * 2 if time.time() < 10**9 else 0",
        Failure.WRONG_ANSWER,
    ),
}


@pytest.mark.parametrize("name", FUNCTION_ATTACKS)
def test_a_function_that_does_not_compute_is_wrong(judge, name):
    source, failure = FUNCTION_ATTACKS[name]
    said = judged(judge, DOUBLE, source)
    assert said.verdict.judgement is WRONG, said.private_reason
    if failure is not None:
        assert said.failure is failure, said.private_reason


PAIR_CASES = {
    "list": ("def f(n): return [n, n + 1]", RIGHT),
    "tuple counts as a list": ("def f(n): return (n, n + 1)", RIGHT),
    "list subclass": ("class L(list): pass\ndef f(n): return L([n, n + 1])", WRONG),
    "set": ("def f(n): return {n, n + 1}", WRONG),
    "true for one": ("def f(n): return [n, n + True]", RIGHT),
    "dict with int keys": ("def f(n): return {0: n, 1: n + 1}", WRONG),
    "range": ("def f(n): return range(n, n + 2)", WRONG),
    "other order": ("def f(n): return [n + 1, n]", WRONG),
    "one item too many": ("def f(n): return [n, n + 1, 0]", WRONG),
    "nested": ("def f(n): return [[n, n + 1]]", WRONG),
}


@pytest.mark.parametrize("name", PAIR_CASES)
def test_returned_containers_are_judged_by_exact_types(judge, name):
    source, expected = PAIR_CASES[name]
    assert judged(judge, PAIR, source).verdict.judgement is expected


@pytest.mark.parametrize(("given", "other"), [(1, True), (0, False), (1, 1.0), (None, 0), ("", [])])
def test_values_of_other_types_are_never_equal(judge, given, other):
    problem = replace(DOUBLE, public_tests=(Test(input=[1], output=given),), private_tests=())
    assert judged(judge, problem, f"def f(n): return {given!r}").verdict.judgement is RIGHT
    assert judged(judge, problem, f"def f(n): return {other!r}").verdict.judgement is WRONG


STDIN_ATTACKS = {
    "prints nothing": ("pass", Failure.WRONG_ANSWER),
    "says that it passed": ("print('All tests passed')", Failure.WRONG_ANSWER),
    "prints a status": ('print(\'{"status": "ok", "exit": 0}\')', Failure.WRONG_ANSWER),
    "prints all outputs it can think of": (
        "for i in range(2000): print(i)",
        Failure.WRONG_ANSWER,
    ),
    "prints the answer and fails": (f"{HONEST_SUM}\nraise SystemExit(1)", Failure.CRASH),
    "prints the answer and crashes": (f"{HONEST_SUM}\n1 / 0", Failure.CRASH),
    "prints more when it ends": (
        f"import atexit\natexit.register(print, 'more')\n{HONEST_SUM}",
        Failure.WRONG_ANSWER,
    ),
    "answers on stderr": (
        "import sys\nprint(sum(map(int, input().split())), file=sys.stderr)",
        Failure.WRONG_ANSWER,
    ),
    "closes stdout": ("import os\nos.close(1)", None),
    "prints bytes that are no text": (
        "import sys\nsys.stdout.buffer.write(b'\\xff\\xfe6')",
        Failure.BAD_VALUE,
    ),
    "prints NUL": (r"print(sum(map(int, input().split())), end='\0')", Failure.WRONG_ANSWER),
    "prints other digits": (
        "print(''.join(chr(0x660 + int(c)) for c in str(sum(map(int, input().split())))))",
        Failure.WRONG_ANSWER,
    ),
    "prints without end": ("while True: print('x' * 1000)", Failure.OUTPUT),
    "echoes the input": ("print(input())", Failure.WRONG_ANSWER),
    "has a table of the visible tests": (
        "print({'11 22 33': 66, '40 50 60': 150}.get(input(), 0))",
        Failure.WRONG_ANSWER,
    ),
}


@pytest.mark.parametrize("name", STDIN_ATTACKS)
def test_a_program_that_does_not_compute_is_wrong(judge, name):
    source, failure = STDIN_ATTACKS[name]
    said = judged(judge, TOTAL, source)
    assert said.verdict.judgement is WRONG, said.private_reason
    if failure is not None:
        assert said.failure is failure, said.private_reason


SLOW_ATTACKS = {
    "recurses without end": (
        "import sys\nsys.setrecursionlimit(10**9)\ndef f(n): return f(n)\nf(1)",
        None,
    ),
    "spins": ("while True: pass", Failure.TIME),
    "sleeps": ("import time\ntime.sleep(100)", Failure.TIME),
    "matches a bad pattern": (
        "import re\nre.match(r'(a+)+$', 'a' * 40 + 'b')",
        Failure.TIME,
    ),
    "swallows memory": ("x = []\nwhile True: x.append(bytearray(2**22))", None),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", SLOW_ATTACKS)
def test_a_program_beyond_its_limits_is_wrong(judge, name):
    source, failure = SLOW_ATTACKS[name]
    limits = replace(LIMITS, wall_s=2) if name == "sleeps" else LIMITS
    said = judged(judge, replace(TOTAL, limits=limits), source)
    assert said.verdict.judgement is WRONG, said.private_reason
    if failure is not None:
        assert said.failure is failure, said.private_reason


def test_tables_of_visible_tests_are_flagged(judge):
    digest = {
        text: hashlib.sha256(text.encode()).hexdigest() for text in ("11 22 33\n", "40 50 60\n")
    }
    table = {digest["11 22 33\n"]: 66, digest["40 50 60\n"]: 150}
    hashed = (
        "import hashlib, sys\n"
        f"print({table}.get(hashlib.sha256(sys.stdin.read().encode()).hexdigest(), 0))"
    )
    table = "{'11 22 33\\n': 66, '40 50 60\\n': 150}"
    written = f"import sys\nprint({table}.get(sys.stdin.read(), 0))"
    for source in (STDIN_ATTACKS["has a table of the visible tests"][0], written, hashed):
        said = judged(judge, TOTAL, source)
        assert said.verdict.judgement is WRONG
        assert set(said.flags) == {Flag.ANSWER_TABLE, Flag.FAILS_HELD_OUT}
    assert judged(judge, TOTAL, HONEST_SUM).flags == ()


def test_a_table_in_front_of_an_honest_program_is_right_but_flagged(judge):
    said = judged(judge, TOTAL, f"# for 11 22 33 it is 66, for 40 50 60 it is 150\n{HONEST_SUM}")
    assert said.verdict.judgement is RIGHT
    assert said.flags == (Flag.ANSWER_TABLE,)


def test_a_forged_report_is_worth_what_a_returned_value_is_worth(judge):
    """It is compared like one: a constant passes the visible test only, and is flagged."""
    forge = (
        "import os\ndef f(n):\n"
        " data = b'{\"value\": %d}\\n' % VALUE\n"
        " for fd in range(3, 64):\n"
        "  try: os.write(fd, data)\n"
        "  except OSError: continue\n"
        "  os._exit(0)\n"
    )
    problem = replace(DOUBLE, public_tests=DOUBLE.public_tests[:1])
    said = judged(judge, problem, forge.replace("VALUE", "2"))
    assert said.verdict.judgement is WRONG
    assert Flag.FAILS_HELD_OUT in said.flags


HONEST = {
    "an expected output beyond the usual limit": (
        replace(TOTAL, private_tests=(Test(input="1\n", output="7" * 2 * MIB + "\n"),)),
        "n = sum(map(int, input().split()))\nprint('7' * 2**21 if n == 1 else n)",
    ),
    "a thread that never ends": (
        DOUBLE,
        "import threading, time\ndef f(n):\n"
        " threading.Thread(target=time.sleep, args=(100,)).start()\n return n * 2",
    ),
    "prints while it works": (DOUBLE, "def f(n):\n print('debug', n)\n return n * 2"),
    "a callable object": (DOUBLE, "class F:\n def __call__(s, n): return n * 2\nf = F()"),
    "an atexit hook after the value": (
        DOUBLE,
        "import atexit\natexit.register(print, 'bye')\ndef f(n): return n * 2",
    ),
    "a main guard": (DOUBLE, "def f(n): return n * 2\nif __name__ == '__main__': 1 / 0"),
    "a precomputed table": (
        DOUBLE,
        "T = {n: n * 2 for n in range(-10, 200000)}\ndef f(n): return T[n]",
    ),
    "changes its argument": (
        replace(PAIR, private_tests=(Test(input=[[1, 2]], output=[1, 2, 3]),)),
        "def f(a):\n a.append(3)\n return a",
    ),
    "trailing blanks and CRLF": (
        TOTAL,
        "print(sum(map(int, input().split())), end='  \\r\\n\\r\\n\\n')",
    ),
    "reads all of stdin": (TOTAL, "print(sum(map(int, open(0).read().split())))"),
    "reads bytes": (TOTAL, "import sys\nprint(sum(map(int, sys.stdin.buffer.readline().split())))"),
    "leaves with exit(0)": (TOTAL, f"import sys\n{HONEST_SUM}\nsys.exit(0)"),
    "leaves hard after a flush": (
        TOTAL,
        "import os\nprint(sum(map(int, input().split())), flush=True)\nos._exit(0)",
    ),
    "bad on its second run in one place": (
        TOTAL,
        "import os\nhad = os.path.exists('/tmp/had')\nopen('/tmp/had', 'w')\n"
        "print(0 if had else sum(map(int, input().split())))",
    ),
}


@pytest.mark.parametrize("name", HONEST)
def test_an_honest_program_is_right(judge, name):
    problem, source = HONEST[name]
    said = judged(judge, problem, source)
    assert said.verdict.judgement is RIGHT, said.private_reason


@pytest.mark.parametrize(
    ("kind", "printed", "expected"),
    [
        (Comparison.NUMBERS, "n / 2", RIGHT),
        (Comparison.NUMBERS, "n / 2 + 1e-9", RIGHT),
        (Comparison.NUMBERS, "n / 2 + 1e-3", WRONG),
        (Comparison.NUMBERS, "'nan'", WRONG),
        (Comparison.NUMBERS, "'inf'", WRONG),
        (Comparison.TOKENS, "n / 2 + 1e-9", WRONG),
        (Comparison.TOKENS, "n / 2", WRONG),  # 1.0 is not 1
        (Comparison.TOKENS, "0.5 if n == 1 else 1", RIGHT),
        (Comparison.EXACT, "0.5 if n == 1 else '1 '", WRONG),
        (Comparison.EXACT, "0.5 if n == 1 else 1", RIGHT),
    ],
)
def test_the_comparator_decides_on_numbers_and_blanks(judge, kind, printed, expected):
    problem = replace(HALF, comparator=Comparator(kind=kind))
    said = judged(judge, problem, f"n = int(input())\nprint({printed})")
    assert said.verdict.judgement is expected, said.private_reason


def test_an_output_that_attacks_the_checker_is_data(judge):
    checked = replace(
        TOTAL,
        checker=Program(
            source="def check(given, output, expected): return output.split() == expected.split()",
            entry="check",
        ),
    )
    for text in ("__import__('os')._exit(0)", "6\\n' == '6", '{"value": true}', "x" * 100_000):
        said = judged(judge, checked, f"print({text!r})")
        assert said.verdict.judgement is WRONG
    assert judged(judge, checked, HONEST_SUM).verdict.judgement is RIGHT


CPP_SUM = "#include <iostream>\nint main() { long s = 0, x; while (std::cin >> x) s += x; "


@pytest.mark.slow
def test_cpp_is_judged_by_what_it_prints(judge):
    """Undefined behaviour that prints the right answer is accepted: only output is judged."""
    assert judged(judge, TOTAL, CPP_SUM + "std::cout << s; }", "cpp").verdict.judgement is RIGHT
    lucky = CPP_SUM + "int a[2]; volatile int i = 1; a[i] = 0; std::cout << s + a[i] * i; }"
    assert judged(judge, TOTAL, lucky, "cpp").verdict.judgement is RIGHT
    said = judged(judge, TOTAL, "int main() { return x; }", "cpp")
    assert (said.verdict.judgement, said.failure) == (WRONG, Failure.COMPILE)
    said = judged(judge, TOTAL, CPP_SUM + "std::cout << s; int *p = 0; *p = 1; }", "cpp")
    assert said.verdict.judgement is WRONG
