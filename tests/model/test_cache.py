"""However a sequence reaches the model, whole, packed or piece by piece, the numbers agree."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from model.tiny import MIXED, distance, feed, tiny_config, tiny_model, tokens

from openzaya.core.errors import RequestError
from openzaya.model.cache import Cache
from openzaya.model.zaya import Zaya

TOLERANCE = 5e-6
FULL_MODEL = tiny_model(1)
SLIDING_MODEL = tiny_model(2, **MIXED)
MODELS = st.sampled_from([FULL_MODEL, SLIDING_MODEL])


def cuts_of(length: int) -> st.SearchStrategy[list[int]]:
    """Cut a length into pieces, often single tokens."""

    def pieces(bounds: set[int]) -> list[int]:
        ends = [*sorted(bounds), length]
        return [end - start for start, end in zip([0, *ends[:-1]], ends, strict=True)]

    return st.sets(st.integers(1, length - 1), max_size=length - 1).map(pieces)


@settings(max_examples=40, deadline=None)
@given(model=MODELS, cuts=cuts_of(23))
def test_any_chunking_gives_the_numbers_of_the_whole_sequence(model: Zaya, cuts: list[int]) -> None:
    ids = tokens(23, 3)
    rows = feed(model, Cache(model.config, 3, 23), [{1: part} for part in ids.split(cuts)])
    with torch.no_grad():
        assert distance(torch.cat(rows[1]), model.trunk(ids).hidden_TD) < TOLERANCE


@settings(max_examples=20, deadline=None)
@given(model=MODELS, data=st.data())
def test_slots_do_not_mix_when_prefill_and_decode_share_a_call(
    model: Zaya, data: st.DataObject
) -> None:
    waiting = {}
    whole = {}
    for slot in data.draw(st.permutations([0, 1, 2, 3]))[: data.draw(st.integers(2, 4))]:
        length = data.draw(st.integers(2, 16))
        whole[slot] = tokens(length, 10 + slot)
        waiting[slot] = list(whole[slot].split(data.draw(cuts_of(length))))
    calls = []
    while any(waiting.values()):
        ready = [slot for slot, parts in waiting.items() if parts]
        chosen = data.draw(st.lists(st.sampled_from(ready), min_size=1, unique=True))
        calls.append({slot: waiting[slot].pop(0) for slot in chosen})
    rows = feed(model, Cache(model.config, 4, 16), calls)
    for slot, ids in whole.items():
        with torch.no_grad():
            assert distance(torch.cat(rows[slot]), model.trunk(ids).hidden_TD) < TOLERANCE


def test_batched_decode_at_equal_and_unequal_lengths_matches_the_whole_sequences() -> None:
    for model in (FULL_MODEL, SLIDING_MODEL):
        for sizes in ([7, 7, 7], [3, 9, 5]):
            ids = [tokens(size + 6, size + i) for i, size in enumerate(sizes)]
            calls = [{i: x[:n] for i, (x, n) in enumerate(zip(ids, sizes, strict=True))}]
            for step in range(6):
                calls.append(
                    {i: x[n + step :][:1] for i, (x, n) in enumerate(zip(ids, sizes, strict=True))}
                )
            rows = feed(model, Cache(model.config, 3, 16), calls)
            for i, x in enumerate(ids):
                with torch.no_grad():
                    assert distance(torch.cat(rows[i]), model.trunk(x).hidden_TD) < TOLERANCE


@settings(max_examples=40, deadline=None)
@given(model=MODELS, lengths=st.lists(st.integers(1, 14), min_size=1, max_size=6))
def test_packed_documents_give_the_numbers_of_separate_ones(
    model: Zaya, lengths: list[int]
) -> None:
    ids = tokens(sum(lengths), 4)
    with torch.no_grad():
        packed = model(ids, lengths)
        apart = torch.cat([model(part) for part in ids.split(lengths)])
    assert distance(packed, apart) < TOLERANCE
    assert distance(model(ids, lengths), apart) < TOLERANCE


def test_a_segment_start_is_exactly_a_sequence_start() -> None:
    # The same document at every place of a pack; all rows share one kernel, so bits must agree.
    for model in (FULL_MODEL, SLIDING_MODEL):
        ids = tokens(9, 5)
        with torch.no_grad():
            hidden_TD = model.trunk(ids.repeat(4), [9] * 4).hidden_TD
        for part in hidden_TD.split(9)[1:]:
            torch.testing.assert_close(part, hidden_TD[:9], rtol=0, atol=0)
        # Whatever stands before it: its first row depends on nothing else.
        with torch.no_grad():
            other = model.trunk(torch.cat((tokens(9, 6), ids)), [9, 9]).hidden_TD
        torch.testing.assert_close(other[9:], hidden_TD[:9], rtol=1e-6, atol=1e-6)


def input_gradient(model: Zaya, ids: torch.Tensor, lengths: list[int], row: int) -> torch.Tensor:
    """Return how much each token's embedding moves one row of the result, [T]."""
    kept: list[torch.Tensor] = []

    def keep(_module: object, args: tuple[torch.Tensor, ...]) -> None:
        args[0].retain_grad()
        kept.append(args[0])

    hook = model.layers[0].register_forward_pre_hook(keep)
    try:
        out = model(ids, lengths)
        out[row].square().sum().backward()
    finally:
        hook.remove()
        model.zero_grad()
    return kept[0].grad.abs().amax(dim=1)


@pytest.mark.parametrize("row", [0, 1, 4, 9, 14])
def test_gradients_reach_the_past_of_the_same_document_only(row: int) -> None:
    lengths = [5, 7, 3]
    ids = tokens(15, 8)
    reach = input_gradient(FULL_MODEL, ids, lengths, row)
    start = 0 if row < 5 else 5 if row < 12 else 12
    allowed = torch.zeros(15, dtype=torch.bool)
    allowed[start : row + 1] = True
    assert (reach[allowed] > 0).all()
    assert reach[~allowed].max() == 0


def test_a_sliding_layer_sees_its_window_and_the_convolutions_tail() -> None:
    # One sliding layer of window 4: keys of 3 tokens back, which look 2 further back.
    model = tiny_model(4, num_hidden_layers=1, layer_types=("hybrid_sliding",), sliding_window=4)
    reach = input_gradient(model, tokens(16, 1), [16], 12)
    assert (reach > 0).tolist() == [False] * 7 + [True] * 6 + [False] * 3


def test_a_forked_slot_continues_like_a_recomputed_one() -> None:
    for model in (FULL_MODEL, SLIDING_MODEL):
        ids, first, second = tokens(9, 1), tokens(5, 2), tokens(5, 3)
        cache = Cache(model.config, 3, 20)
        # The target held something longer before.
        feed(model, cache, [{0: ids, 2: tokens(17, 9)}])
        cache.fork(0, 2)
        rows = feed(model, cache, [{0: first[:1], 2: second[:1]}, {2: second[1:]}, {0: first[1:]}])
        for slot, tail in ((0, first), (2, second)):
            with torch.no_grad():
                wanted = model.trunk(torch.cat((ids, tail))).hidden_TD[9:]
            assert distance(torch.cat(rows[slot]), wanted) < TOLERANCE
        assert cache.lengths == [14, 0, 14]


def test_a_reset_slot_starts_anew_bit_for_bit() -> None:
    model, ids = SLIDING_MODEL, tokens(8, 1)
    cache = Cache(model.config, 2, 20)
    feed(model, cache, [{0: tokens(15, 2), 1: tokens(4, 3)}])
    cache.reset(0)
    # Beside a slot that continues, so the pass is not a fresh one.
    used = feed(model, cache, [{0: ids, 1: ids}])[0][0]
    fresh = Cache(model.config, 2, 20)
    feed(model, fresh, [{1: tokens(4, 3)}])
    clean = feed(model, fresh, [{0: ids, 1: ids}])[0][0]
    torch.testing.assert_close(used, clean, rtol=0, atol=0)


def test_what_the_cache_cannot_hold_is_refused_and_changes_nothing() -> None:
    model = FULL_MODEL
    cache = Cache(model.config, 2, 10)
    feed(model, cache, [{0: tokens(8)}])
    with torch.no_grad():
        with pytest.raises(RequestError, match=r"holds 8 tokens and cannot take 3 more"):
            model.trunk(tokens(3), [3], cache, [0])
        with pytest.raises(RequestError, match="slot 2 does not exist"):
            model.trunk(tokens(3), [3], cache, [2])
        with pytest.raises(RequestError, match="a different slot for each"):
            model.trunk(tokens(3), [1, 2], cache, [1, 1])
        with pytest.raises(RequestError, match="add up to 4 for 3 tokens"):
            model.trunk(tokens(3), [4])
    with pytest.raises(RequestError, match="no_grad"):
        model.trunk(tokens(1), [1], cache, [0])
    with pytest.raises(RequestError, match="must be at least 1"):
        Cache(tiny_config(), 0, 10)
    assert cache.lengths == [8, 0]
