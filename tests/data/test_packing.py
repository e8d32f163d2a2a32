"""Packing is best-fit-decreasing, whole and dense."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from openzaya.core.errors import DataError
from openzaya.data import pack


def plain_best_fit_decreasing(lengths, window):
    """The rule itself, by looking at every open window for every document."""
    free = []
    for length in sorted(lengths, reverse=True):
        fits = [(room, i) for i, room in enumerate(free) if room >= length]
        if fits:
            free[min(fits)[1]] -= length
        else:
            free.append(window - length)
    return sorted(free)


@settings(deadline=None, max_examples=120)
@given(
    window=st.sampled_from((1, 7, 64, 512, 1_025, 5_000)),
    shares=st.lists(st.floats(0, 1), max_size=120),
)
def test_every_document_once_whole_and_as_full_as_the_plain_rule(window, shares):
    lengths = [max(1, round(share * window)) for share in shares]
    windows = pack(lengths, window)
    assert sorted(i for chosen in windows for i in chosen) == list(range(len(lengths)))
    free = [window - sum(lengths[i] for i in chosen) for chosen in windows]
    assert min(free, default=0) >= 0
    # Which of two windows with equal room is taken does not change any room.
    assert sorted(free) == plain_best_fit_decreasing(lengths, window)


def fewest_windows(lengths, window):
    """Try every way to put the longest documents first."""
    best = len(lengths)

    def place(rest, free):
        nonlocal best
        if len(free) >= best:
            return
        if not rest:
            best = len(free)
            return
        for i in {room: i for i, room in enumerate(free) if room >= rest[0]}.values():
            place(rest[1:], [*free[:i], free[i] - rest[0], *free[i + 1 :]])
        place(rest[1:], [*free, window - rest[0]])

    place(sorted(lengths, reverse=True), [])
    return best


@settings(deadline=None, max_examples=150)
@given(window=st.integers(1, 30), shares=st.lists(st.floats(0, 1), max_size=9))
def test_windows_are_no_more_than_the_proven_bound_allows(window, shares):
    """11/9 of the fewest and 6/9 of a window. Source: Dosa 2007, for decreasing lengths."""
    lengths = [max(1, round(share * window)) for share in shares]
    assert 9 * len(pack(lengths, window)) <= 11 * fewest_windows(lengths, window) + 6


@pytest.mark.parametrize("window", [4_096, 32_768, 131_072])
def test_log_normal_lengths_pack_within_a_thousandth_of_the_bound(window):
    rng = np.random.default_rng(5)
    lengths = np.clip(rng.lognormal(6.5, 1.3, 20_000).astype(int), 1, window).tolist()
    bound = -(-sum(lengths) // window)
    assert bound <= len(pack(lengths, window)) <= bound * 1.001 + 1


@settings(deadline=None, max_examples=60)
@given(
    window=st.integers(1, 40),
    runs=st.lists(st.tuples(st.integers(1, 40), st.integers(1, 9)), max_size=8),
    rng=st.randoms(use_true_random=False),
)
def test_runs_of_equal_lengths_fill_windows_as_one_by_one(window, runs, rng):
    lengths = [min(length, window) for length, count in runs for _ in range(count)]
    rng.shuffle(lengths)
    windows = pack(lengths, window)
    assert sorted(i for chosen in windows for i in chosen) == list(range(len(lengths)))
    free = [window - sum(lengths[i] for i in chosen) for chosen in windows]
    assert sorted(free) == plain_best_fit_decreasing(lengths, window)
    for chosen in windows:  # longest first, equal ones in the order given
        keys = [(-lengths[i], i) for i in chosen]
        assert keys == sorted(keys)


def test_the_same_lengths_give_the_same_windows_and_equal_ones_keep_their_order():
    assert pack([2, 2, 2, 2], 4) == [[0, 1], [2, 3]]
    assert pack([1, 3, 2, 4], 5) == [[3, 0], [1, 2]]
    assert pack([], 5) == []


def test_documents_that_cannot_fit_are_refused_with_a_cure():
    for lengths in ([5, 11], [5, 0]):
        with pytest.raises(DataError, match=r"document 1 has .* expected 1 to 10 .*ap_trim"):
            pack(lengths, 10)
    with pytest.raises(DataError, match="window is 0"):
        pack([1], 0)
