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


def pass_at(num_right: int, num_samples: int, k: int) -> float:
    """Return the unbiased estimate of pass@k from `num_right` of `num_samples`.

    Source: arXiv:2107.03374, equation 1.
    """
    if not 1 <= k <= num_samples:
        raise ValueError(f"k is {k}, but there are {num_samples} samples; choose 1 <= k <= samples")
    missed = 1.0
    for i in range(num_samples - num_right + 1, num_samples + 1):
        missed *= 1 - k / i
    return 1 - missed if num_samples - num_right >= k else 1.0
