"""Scores are means over problems, and their errors count problems, not samples."""

from itertools import combinations
from math import isnan, sqrt

import pytest

from openzaya.eval.protocol import pass_at, score_of


def test_the_error_is_that_of_a_mean_over_problems():
    score = score_of([1.0, 0.0, 1.0, 1.0])
    assert score.mean == 0.75
    assert score.error == pytest.approx(sqrt(0.25 / 4))
    assert score.num_problems == 4
    assert isnan(score_of([]).mean)


@pytest.mark.parametrize(
    ("num_right", "num_samples", "k"), [(0, 5, 2), (2, 5, 3), (1, 6, 1), (4, 5, 2)]
)
def test_pass_at_k_equals_the_share_of_subsets_with_a_right_sample(num_right, num_samples, k):
    samples = [1] * num_right + [0] * (num_samples - num_right)
    subsets = list(combinations(samples, k))
    assert pass_at(num_right, num_samples, k) == pytest.approx(
        sum(any(s) for s in subsets) / len(subsets)
    )


def test_pass_at_more_than_the_samples_is_refused():
    with pytest.raises(ValueError, match="k is 9"):
        pass_at(1, 4, 9)
