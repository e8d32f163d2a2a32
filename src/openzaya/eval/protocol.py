"""How scores are counted: avg@k over problems, with the standard error over problems.

Paper: V-A (avg@k), VI-A (mean correctness of the final candidates).
"""

from dataclasses import dataclass
from math import sqrt


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
