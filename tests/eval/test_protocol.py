"""Scores are means over problems, and their errors count problems, not samples."""

from math import isnan, sqrt

import pytest

from openzaya.eval.protocol import score_of


def test_the_error_is_that_of_a_mean_over_problems():
    score = score_of([1.0, 0.0, 1.0, 1.0])
    assert score.mean == 0.75
    assert score.error == pytest.approx(sqrt(0.25 / 4))
    assert score.num_problems == 4
    assert isnan(score_of([]).mean)
