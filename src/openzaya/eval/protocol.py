"""How scores are counted: avg@k over problems, with the standard error over problems.

Paper: V-A (avg@k), VI-A (mean correctness of the final candidates).
"""

from collections.abc import Callable
from dataclasses import dataclass
from math import sqrt

from openzaya.core.records import Verdict, infra
from openzaya.core.time_limit import within

Judge = Callable[[int, str], Verdict]
"""Judges a reply (thinking included) to the question with that index."""
JUDGE_LIMIT_S = 300.0
"""Most seconds to judge one reply, as in RL."""


def patient(judge: Judge) -> Judge:
    """Return a judge that calls INFRA what takes more than JUDGE_LIMIT_S, instead of hanging."""

    def ask(index: int, reply: str) -> Verdict:
        try:
            return within(JUDGE_LIMIT_S, judge, index, reply)
        except TimeoutError as error:
            return infra(f"no verdict on a reply to question {index} ({error})")

    return ask


@dataclass(frozen=True, slots=True)
class Score:
    """A mean over problems with its standard error."""

    mean: float
    error: float
    """Over problems, not over samples: samples of one problem are not independent."""
    num_problems: int

    def __str__(self) -> str:
        """Return the mean and its error as a table cell shows them."""
        return f"{self.mean:.3f} +- {self.error:.3f}"


def score_of(values: list[float]) -> Score:
    """Average one value a problem. An empty list gives nan."""
    count = len(values)
    if count == 0:
        return Score(float("nan"), float("nan"), 0)
    mean = sum(values) / count
    spread = sum((value - mean) ** 2 for value in values) / max(1, count - 1)
    return Score(mean, sqrt(spread / count), count)
