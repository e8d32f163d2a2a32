"""Named random streams."""

import random

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from openzaya.core.seeding import numpy_stream, stream, stream_seed

names = st.lists(st.text(max_size=4) | st.integers(0, 99), max_size=4).map(tuple)


@given(seed=st.integers(0, 2**32), a=names, b=names)
def test_streams_are_equal_exactly_when_their_names_are(seed, a, b):
    assert (stream_seed(seed, *a) == stream_seed(seed, *b)) is (a == b)
    assert stream_seed(seed, *a) != stream_seed(seed + 1, *a)


def test_a_number_and_its_text_name_different_streams():
    assert stream_seed(0, "rl", 1) != stream_seed(0, "rl", "1")
    assert stream_seed(0, "rl1") != stream_seed(0, "rl", 1)


def test_seeds_are_pinned_across_releases_and_processes():
    """A changed value would silently change every recorded run."""
    assert stream_seed(0, "rl", "rollout", 7) == 3127701066895494502
    assert stream_seed(1, "data") == 2744914208482639778


def test_streams_leave_the_global_generators_alone():
    before, np_before = random.getstate(), np.random.get_state()  # noqa: NPY002
    first = (stream(3, "a").random(), float(numpy_stream(3, "a").random()))
    assert first == (stream(3, "a").random(), float(numpy_stream(3, "a").random()))
    assert random.getstate() == before
    after = np.random.get_state()  # noqa: NPY002
    assert np_before[0] == after[0]
    assert (np_before[1] == after[1]).all()
