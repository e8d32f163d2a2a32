r"""Right and wrong answers whose verdict is known by how they were made, to audit a grader.

Each maker draws a value, writes it as a gold, in many right ways, and as near misses. Everything is
made of strings and integers; nothing of our parser is used, so that its errors cannot hide here.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from random import Random

from envs.math.audit_forms import FORMS
from envs.math.audit_more import MORE_FORMS

from openzaya.envs.math.gold import Gold, Rules, parse_gold

Written = tuple[str, str]
"""(style, text) of an answer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """A gold with right and wrong answers; each answer has the name of its style."""

    gold: str
    kind: str
    rules: Rules
    right: tuple[Written, ...]
    wrong: tuple[Written, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """One gold and one whole reply."""

    problem: Problem
    style: str
    """How the answer is written, for example `unicode minus`."""
    wrapping: str
    """How the reply presents it, for example `box`."""
    answer: str
    reply: str
    is_right: bool

    def gold(self) -> Gold:
        """Return the gold as the grader takes it."""
        return parse_gold(self.problem.gold, self.problem.kind, self.problem.rules)


WRAPPINGS: dict[str, Callable[[str], str]] = {
    "box": lambda answer: f"We compute.\n\nSo the result is $\\boxed{{{answer}}}$.",
    "box after thinking": lambda answer: (
        f"<think>Perhaps \\boxed{{0}}? No.</think>\n\nTherefore\n\\[\\boxed{{{answer}}}\\]"
    ),
    "heading and box": lambda answer: (
        f"### Solution\nStep 1. Simplify.\nStep 2. Solve.\n\n**Final Answer:** \\boxed{{{answer}}}"
    ),
    "box twice": lambda answer: f"\\boxed{{{answer}}}\n\nTo repeat: \\boxed{{{answer}}}",
    "box and empty box": lambda answer: f"\\boxed{{{answer}}} (as asked, in \\boxed{{}})",
    "statement": lambda answer: f"Some working.\nThe answer is ${answer}$.",
    "colon": lambda answer: f"Some working.\n\nAnswer: ${answer}$",
    "bare": lambda answer: f"${answer}$",
}
"""Ways in which a reply presents its answer."""


def problems(rng: Random) -> Iterator[Problem]:
    """Yield problems of all makers in turn, without end."""
    while True:
        for make in (*FORMS, *MORE_FORMS):
            gold, kind, rules, right, wrong = make(rng)
            yield Problem(gold=gold, kind=kind, rules=rules, right=right, wrong=wrong)


def pairs(rng: Random, count: int, *, right: bool) -> Iterator[Pair]:
    """Yield `count` right or wrong replies, one of each problem, styles in turn by chance."""
    source = problems(rng)
    made = 0
    while made < count:
        problem = next(source)
        answers = problem.right if right else problem.wrong
        style, answer = rng.choice(answers)
        wrapping = rng.choice(list(WRAPPINGS))
        yield Pair(
            problem=problem,
            style=style,
            wrapping=wrapping,
            answer=answer,
            reply=WRAPPINGS[wrapping](answer),
            is_right=right,
        )
        made += 1
