"""Answers that are made to be expensive: none raises, none earns, none takes long."""

import sys
import time

import pytest

from openzaya.core.records import Judgement
from openzaya.envs.math.gold import Rules, parse_gold
from openzaya.envs.math.grade import grade

LONGEST_CPU_S = 2.5
GOLDS = {
    "number": parse_gold("42"),
    "large set": parse_gold(rf"\{{{','.join(rf'{k} pi' for k in range(1, 120))}\}}"),
    "formula": parse_gold("x^2+1", None, Rules(variables=("x",))),
    "interval": parse_gold("[0,1)"),
    "word": parse_gold("yes"),
}
ROOTS = "*".join(rf"(1+\sqrt{{{p}}})" for p in (2, 3, 5, 7, 11, 13, 17, 19, 23, 29))
INVERSES = "+".join(rf"\frac{{1}}{{\sqrt{{{p}}}+\sqrt{{{p + 4}}}+1}}" for p in range(2, 99))
CANCELLED = "e^{e^{10}}-e^{e^{10}}+" + "+".join(rf"\sin({k}x)" for k in range(120))
BOXED = {
    "calls of calls": "sin " * 1500 + "x",
    "roots of roots": r"\sqrt" * 1500 + "2",
    "angles": r"\angle" * 1500 + "2",
    "fractions without end": r"\frac" * 900 + "2",
    "a deep sum": "1+" * 900 + "42",
    "factorials": "42" + "!" * 1500,
    "percentages": "42" + "%" * 1500,
    "deep and long": "(1" * 25 + ("+1" * 60 + ")") * 25,
    "signs": "-" * 3000 + "x",
    "dollars": "$" * 5000 + "x",
    "towers in a sum": "+".join("e^{e^{x}}" for _ in range(140)),
    "hidden by cancellation": CANCELLED,
    "many roots": ROOTS,
    "inverses of sums of roots": INVERSES,
    "power of a root": r"(1+\sqrt{2})^{4000}",
    "power of a power": "((x+1)^{60})^{60}",
    "powers side by side": "*".join("(x+1)^{99}" for _ in range(100)),
    "other elements": ",".join(rf"{k}\pi" for k in range(200, 400)),
    "union of the same": "(0,1)" + r"\cup(0,1)" * 120,
    "brackets": "[" * 80,
    "bars": "|" * 3000,
    "set-builders": "{x|" * 500,
    "subscripts": "x_" * 1500 + "1",
    "nines": "9" * 4000,
    "many digits beside pi": r"\pi+1." + "9" * 3990,
    "root of many digits": r"\sqrt{" + "9" * 3999 + "}",
    "high root of many digits": r"\sqrt[3999]{" + "9" * 3990 + "}",
    "nested text": r"\text{" * 2000 + "yes" + "}" * 2000,
    "units": "5 cm/" * 1500,
    "both signs": r"\pm" * 2000 + "1",
    "inverse sines": r"\arcsin" * 70 + "(0.5)",
}
REPLIES = {
    **{name: f"\\boxed{{{answer}}}" for name, answer in BOXED.items()},
    "dollars without a box": "$" * 200_000 + "x",
    "empty boxes": r"\boxed{} " * 40_000,
    "stated empty boxes": r"answer is \boxed{} " * 20_000,
    "statements without end": "answer is " * 80_000,
    "spaces": "the answer " + " " * 400_000 + "x",
    "spaces before a brace": r"\boxed" + " " * 400_000,
}


@pytest.mark.parametrize("name", REPLIES)
def test_expensive_replies_are_refused_soon(name):
    for kind, gold in GOLDS.items():
        began = time.process_time()
        verdict = grade(gold, REPLIES[name], started_in_think=False)
        assert time.process_time() - began < LONGEST_CPU_S, kind
        assert verdict.judgement is Judgement.WRONG or (name, kind) == ("nested text", "word")


@pytest.mark.slow
def test_no_answer_needs_more_than_half_of_the_stack():
    """Who calls the grader stands deep in a stack of their own."""
    depth = 0
    frame = sys._getframe()
    while frame is not None:
        depth, frame = depth + 1, frame.f_back
    before = sys.getrecursionlimit()
    sys.setrecursionlimit(depth + 500)
    try:
        for reply in REPLIES.values():
            for gold in GOLDS.values():
                grade(gold, reply, started_in_think=False)
    finally:
        sys.setrecursionlimit(before)
