"""Laws of the buffer: whole groups, oldest first, bounded, never stale."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_rl import group, with_rollout

from openzaya.core.errors import DataError
from openzaya.rl.pipeline.buffer import GroupBuffer

EVENTS = st.lists(
    st.one_of(
        st.tuples(st.just("push"), st.integers(0, 4)),
        st.tuples(st.just("take"), st.integers(1, 4)),
        st.tuples(st.just("update"), st.just(1)),
    ),
    max_size=60,
)


@given(events=EVENTS, capacity=st.integers(1, 6), max_lag=st.integers(0, 3))
@settings(max_examples=80, deadline=None)
def test_no_group_is_stale_lost_or_handed_out_twice_and_the_oldest_goes_first(
    events: list[tuple[str, int]], capacity: int, max_lag: int
) -> None:
    buffer = GroupBuffer(capacity, max_lag)
    updates = pushed = 0
    taken: list[int] = []
    for event, number in events:
        if event == "update":
            updates += 1
        elif event == "push":
            buffer.push(group([0.0, 1.0], version=max(0, updates - number), key=str(pushed)))
            pushed += 1
        else:
            for found in buffer.take(number, updates):
                assert updates - found.min_version <= max_lag
                taken.append(int(found.prompt.key))
        assert len(buffer) <= capacity
    assert taken == sorted(set(taken))
    assert len(taken) + len(buffer) + buffer.num_stale + buffer.num_evicted == pushed


def test_a_full_buffer_loses_its_oldest_group() -> None:
    buffer = GroupBuffer(2, max_lag=9)
    for key in "abc":
        buffer.push(group([0.0, 1.0], key=key))
    assert [g.prompt.key for g in buffer.take(9, 0)] == ["b", "c"]
    assert buffer.num_evicted == 1


def test_age_is_that_of_the_oldest_token_of_the_oldest_member() -> None:
    fresh = group([0.0, 1.0], version=5)
    mixed = with_rollout(fresh, 1, versions=[5, 2, 5])
    assert (fresh.min_version, mixed.min_version) == (5, 2)
    buffer = GroupBuffer(4, max_lag=2)
    buffer.push(mixed)
    buffer.push(fresh)
    assert buffer.take(4, 5) == [fresh]
    assert buffer.num_stale == 1


def test_a_saved_buffer_comes_back_equal() -> None:
    buffer = GroupBuffer(4, max_lag=2)
    buffer.num_evicted, buffer.num_stale = 3, 1
    before = [group([0.0, 1.0], lengths=[2, 5]), group([1.0, 0.0, 1.0], prompt_ids=[7])]
    for made in before:
        buffer.push(made)
    tensors, state = buffer.state()
    restored = GroupBuffer(4, max_lag=2)
    restored.load(tensors, json.loads(json.dumps(state)))
    assert (restored.num_evicted, restored.num_stale) == (3, 1)
    after = restored.take(4, 0)
    assert [g.prompt for g in after] == [g.prompt for g in before]
    for old, new in zip(before, after, strict=True):
        assert new.prompt_ids == old.prompt_ids
        for x, y in zip(old.rollouts, new.rollouts, strict=True):
            assert np.array_equal(x.experts, y.experts)
            assert (x.token_ids, x.logprobs, x.versions) == (y.token_ids, y.logprobs, y.versions)
            assert (x.reward, x.text) == (y.reward, y.text)
    assert GroupBuffer(1, 1).state()[0] == {}


def test_a_payload_that_json_would_change_is_refused_rather_than_lost() -> None:
    buffer = GroupBuffer(4, max_lag=2)
    made = group([0.0, 1.0])
    object.__setattr__(made.prompt, "payload", {"pair": (1, 2)})
    buffer.push(made)
    with pytest.raises(DataError, match="payload"):
        buffer.state()
