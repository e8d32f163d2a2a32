"""Sequences over many blocks: pieces, windows, forks and resumed states change no number."""

from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from model.tiny import MIXED, distance, feed, tiny_config, tiny_model, tokens
from torch import Tensor

from openzaya.core.errors import ConfigError
from openzaya.model.blocks import BLOCK_TOKENS, BlockPool, OutOfBlocksError, blocks_of
from openzaya.model.cache import Cache
from openzaya.model.cache_parts import State, blocks_within
from openzaya.model.zaya import Zaya

TOLERANCE = 1e-5
FULL_MODEL = tiny_model(1)
NARROW_MODEL = tiny_model(2, **MIXED)
# A window of more than a block, and one layer that needs no full blocks at all.
WIDE_MODEL = tiny_model(3, layer_types=("hybrid_sliding",) * 3, sliding_window=BLOCK_TOKENS + 7)
ALL_MODELS = [FULL_MODEL, NARROW_MODEL, WIDE_MODEL]
MODELS = st.sampled_from(ALL_MODELS)
LONGEST = 4 * BLOCK_TOKENS
EDGES = [n * BLOCK_TOKENS + d for n in range(1, 4) for d in (-2, -1, 0, 1, 2)]


def whole(model: Zaya, ids: Tensor) -> Tensor:
    with torch.no_grad():
        return model.trunk(ids).hidden_TD


def pieces_of(ids: Tensor, cuts: set[int]) -> list[Tensor]:
    ends = [*sorted(cut for cut in cuts if cut < len(ids)), len(ids)]
    return [ids[start:end] for start, end in zip([0, *ends[:-1]], ends, strict=True)]


def cuts(longest: int = LONGEST) -> st.SearchStrategy[set[int]]:
    """Places to cut a sequence, often next to the end of a block."""
    near = st.sampled_from([edge for edge in EDGES if edge < longest])
    return st.sets(near | st.integers(1, longest - 1), max_size=6)


@settings(max_examples=25, deadline=None)
@given(model=MODELS, where=cuts())
def test_pieces_that_end_anywhere_in_a_block_give_the_whole_sequence(
    model: Zaya, where: set[int]
) -> None:
    ids = tokens(LONGEST - 5, 3)
    cache = Cache(model.config, 2, LONGEST)
    rows = feed(model, cache, [{1: part} for part in pieces_of(ids, where)])
    assert distance(torch.cat(rows[1]), whole(model, ids)) < TOLERANCE


@settings(max_examples=25, deadline=None)
@given(model=MODELS, data=st.data())
def test_slots_of_many_blocks_do_not_mix_in_any_order_of_calls(
    model: Zaya, data: st.DataObject
) -> None:
    waiting, expected = {}, {}
    for slot in data.draw(st.permutations([0, 1, 2, 3]))[: data.draw(st.integers(2, 4))]:
        ids = tokens(data.draw(st.sampled_from([5, 60, *EDGES])), 10 + slot)
        waiting[slot], expected[slot] = pieces_of(ids, data.draw(cuts())), whole(model, ids)
    calls = []
    while any(waiting.values()):
        ready = [slot for slot, parts in waiting.items() if parts]
        chosen = data.draw(st.lists(st.sampled_from(ready), min_size=1, unique=True))
        calls.append({slot: waiting[slot].pop(0) for slot in chosen})
    rows = feed(model, Cache(model.config, 4, LONGEST), calls)
    for slot, wanted in expected.items():
        assert distance(torch.cat(rows[slot]), wanted) < TOLERANCE


def test_batched_decode_across_block_ends_matches_the_whole_sequences() -> None:
    for model in ALL_MODELS:
        sizes = [BLOCK_TOKENS - 3, BLOCK_TOKENS - 1, 2 * BLOCK_TOKENS - 2, 7]
        ids = [tokens(size + 6, size) for size in sizes]
        calls = [{i: x[:n] for i, (x, n) in enumerate(zip(ids, sizes, strict=True))}]
        pairs = list(enumerate(zip(ids, sizes, strict=True)))
        calls += [{i: x[n + step :][:1] for i, (x, n) in pairs} for step in range(6)]
        rows = feed(model, Cache(model.config, 4, LONGEST), calls)
        for i, x in enumerate(ids):
            assert distance(torch.cat(rows[i]), whole(model, x)) < TOLERANCE


@pytest.mark.parametrize("window", [1, 4, BLOCK_TOKENS, BLOCK_TOKENS + 1, 2 * BLOCK_TOKENS])
def test_sliding_layers_hold_the_blocks_of_their_window_and_no_more(window: int) -> None:
    model = tiny_model(2, **{**MIXED, "sliding_window": window})
    cache = Cache(model.config, 1, LONGEST)
    ids = tokens(LONGEST, 2)
    rows = feed(model, cache, [{0: ids[:150]}])[0]
    for at in range(150, LONGEST):
        rows += feed(model, cache, [{0: ids[at : at + 1]}])[0]
        cache.trim([0])
        seen = range(max(0, at + 2 - window), at + 1)
        expected = {position // BLOCK_TOKENS for position in seen}
        held = set(np.flatnonzero(cache.tables["hybrid_sliding"][0] >= 0).tolist())
        # The block being written stays even when a window of one token no longer sees it.
        assert expected <= held <= expected | {at // BLOCK_TOKENS}
        assert cache.pools["hybrid_sliding"].num_used == len(held)
        assert cache.pools["hybrid"].num_used == at // BLOCK_TOKENS + 1
    assert distance(torch.cat(rows), whole(model, ids)) < TOLERANCE


def test_what_other_sequences_left_in_a_block_never_reaches_its_next_owner() -> None:
    for model in ALL_MODELS:
        cache = Cache(model.config, 2, 2 * BLOCK_TOKENS)
        feed(model, cache, [{0: tokens(100, 1), 1: tokens(90, 2)}])
        for store in (*cache.keys, *cache.values):
            store.fill_(torch.nan)
        cache.reset(0)
        cache.reset(1)
        ids = tokens(100, 3)
        rows = feed(model, cache, [{1: ids[:70]}, {1: ids[70:71]}, {1: ids[71:]}])
        assert distance(torch.cat(rows[1]), whole(model, ids)) < TOLERANCE


def test_a_fork_shares_full_blocks_and_copies_the_last_one() -> None:
    for model in ALL_MODELS:
        for length in (BLOCK_TOKENS - 1, BLOCK_TOKENS, 2 * BLOCK_TOKENS + 5):
            cache = Cache(model.config, 3, LONGEST)
            ids, tails = tokens(length, 1), [tokens(70, 2), tokens(70, 3)]
            feed(model, cache, [{0: ids, 2: tokens(17, 9)}])
            cache.trim([0])
            before = {kind: pool.num_used for kind, pool in cache.pools.items()}
            cache.fork(0, 2)
            for kind, table in cache.tables.items():
                full = length // BLOCK_TOKENS
                assert (table[0, :full] == table[2, :full]).all()
                if length % BLOCK_TOKENS:
                    assert table[0, full] != table[2, full]
                # The 17 tokens that slot 2 held are gone.
                copies = length % BLOCK_TOKENS > 0
                assert cache.pools[kind].num_used == before[kind] - 1 + copies
            calls = [{0: tails[0][:1], 2: tails[1][:1]}, {2: tails[1][1:]}, {0: tails[0][1:]}]
            rows = feed(model, cache, calls)
            for slot, tail in zip((0, 2), tails, strict=True):
                wanted = whole(model, torch.cat((ids, tail)))[length:]
                assert distance(torch.cat(rows[slot]), wanted) < TOLERANCE


def test_a_moved_slot_continues_without_copying_its_blocks() -> None:
    for model in ALL_MODELS:
        cache = Cache(model.config, 3, LONGEST)
        ids = tokens(150, 1)
        feed(model, cache, [{1: ids[:100], 2: tokens(70, 2)}])
        blocks = {kind: table[1].tolist() for kind, table in cache.tables.items()}
        cache.move(1, 2)
        assert {kind: table[2].tolist() for kind, table in cache.tables.items()} == blocks
        assert cache.lengths == [0, 0, 100]
        rows = feed(model, cache, [{2: ids[100:], 1: ids}])
        assert distance(rows[2][0], whole(model, ids)[100:]) < TOLERANCE
        assert distance(rows[1][0], whole(model, ids)) < TOLERANCE


@settings(max_examples=20, deadline=None)
@given(model=MODELS, where=cuts(), decode=st.booleans())
def test_every_block_end_can_be_resumed_as_if_its_prefix_had_been_computed(
    model: Zaya, where: set[int], decode: bool
) -> None:
    ids, tail = tokens(LONGEST - 20, 5), tokens(9, 6)
    cache = Cache(model.config, 3, LONGEST)
    cache.keeps_ends = True
    calls = [{0: part} for part in pieces_of(ids, where)]
    # Something else in the same calls, so that rows are not where they would be alone.
    calls[0] = {2: tokens(BLOCK_TOKENS + 3, 8), **calls[0]}
    kept: dict[int, State] = {}
    tables = {kind: np.full(table.shape[1], -1) for kind, table in cache.tables.items()}
    for call in calls:
        feed(model, cache, [call])
        for kind, table in cache.tables.items():
            new = (table[0] >= 0) & (tables[kind] < 0)
            tables[kind][new] = table[0][new]
            for block in table[0][new].tolist():
                cache.pools[kind].share(block)
        kept.update({f.index: f.state for f in cache.filled if f.slot == 0})
        cache.filled.clear()
    assert sorted(kept) == list(range(len(ids) // BLOCK_TOKENS))
    for index, state in kept.items():
        stop = (index + 1) * BLOCK_TOKENS
        blocks = {kind: row[: index + 1].tolist() for kind, row in tables.items()}
        cache.adopt(1, blocks, state)
        assert cache.lengths[1] == stop
        parts = tail.split(1) if decode else [tail]
        rows = feed(model, cache, [{1: part} for part in parts])
        wanted = whole(model, torch.cat((ids[:stop], tail)))[stop:]
        assert distance(torch.cat(rows[1]), wanted) < TOLERANCE


def test_exhausted_pools_refuse_a_pass_and_a_fork_and_change_nothing() -> None:
    model = NARROW_MODEL
    blocks = {"hybrid": 3, "hybrid_sliding": 3}
    cache = Cache(model.config, 3, LONGEST, num_blocks=blocks)
    feed(model, cache, [{0: tokens(100, 1), 1: tokens(60, 2)}])
    cache.trim([0, 1])
    tables = {kind: table.copy() for kind, table in cache.tables.items()}
    with pytest.raises(OutOfBlocksError, match="of 3 only 0 are not in use"):
        feed(model, cache, [{0: tokens(40, 3)}])
    with pytest.raises(OutOfBlocksError):
        cache.fork(1, 2)
    assert cache.lengths == [100, 60, 0]
    for kind, table in cache.tables.items():
        np.testing.assert_array_equal(table, tables[kind])
        assert cache.pools[kind].num_available == (kind == "hybrid_sliding")
    # What fits into the blocks at hand still goes.
    feed(model, cache, [{0: tokens(28, 3), 1: tokens(4, 3)}])
    assert cache.lengths == [128, 64, 0]


def test_the_layout_is_what_native_kernels_expect() -> None:
    cache = Cache(tiny_config(**MIXED), 2, 100, torch.bfloat16, state_dtype=torch.float32)
    assert [tuple(k.shape) for k in cache.keys] == [(4, 2, 8, BLOCK_TOKENS)] * 3
    assert [tuple(v.shape) for v in cache.values] == [(4, 2, BLOCK_TOKENS, 8)] * 3
    assert all(x.is_contiguous() for x in (*cache.keys, *cache.values))
    assert {x.dtype for x in (*cache.keys, *cache.values)} == {torch.bfloat16}
    assert (tuple(cache.conv.shape), tuple(cache.delayed.shape)) == ((3, 2, 2, 48), (3, 2, 8))
    assert {cache.conv.dtype, cache.delayed.dtype} == {torch.float32}
    for table in cache.tables.values():
        assert (table.shape, table.dtype) == ((2, 2), np.int32)
    model = tiny_model(2, **MIXED)
    cache = Cache(model.config, 2, 100)
    feed(model, cache, [{1: tokens(70, 1)}])
    block, position = int(cache.tables["hybrid"][1, 1]), 69 - BLOCK_TOKENS
    keys, values = (x[0] for x in cache.read(0, torch.tensor([[[2 * block], [2 * block + 1]]]), 64))
    torch.testing.assert_close(cache.keys[0][block, :, :, position], keys[:, position])
    torch.testing.assert_close(cache.values[0][block, :, position], values[:, position])
    assert keys[:, position].abs().min() > 0
    assert keys[:, position + 1 :].abs().max() == 0


KINDS = ("hybrid", "hybrid_sliding")


class SharingMachine(RuleBasedStateMachine):
    """Slots that grow, fork, move and end, with kept blocks, against counts taken anew."""

    NUM_SLOTS = 4

    def __init__(self) -> None:
        super().__init__()
        config = tiny_config(**{**MIXED, "sliding_window": 70})
        self.cache = Cache(config, self.NUM_SLOTS, LONGEST, num_blocks=dict.fromkeys(KINDS, 7))
        self.kept: dict[str, dict[int, int]] = {kind: {} for kind in KINDS}
        for kind, pool in self.cache.pools.items():
            pool.on_evict = lambda block, kind=kind: self.evict(kind, block)
        self.serial = 0

    def evict(self, kind: str, block: int) -> None:
        assert not any((table[table >= 0] == block).any() for table in [self.cache.tables[kind]])
        # Of the kept blocks that nobody uses, the one that was dropped first.
        idle = [b for b in self.kept[kind] if self.cache.pools[kind].is_idle(b)]
        assert block in idle
        del self.kept[kind][block]
        self.cache.pools[kind].forget(block)

    @rule(slot=st.integers(0, 3), length=st.sampled_from([1, 5, 63, 64, 65, 130]))
    def append(self, slot: int, length: int) -> None:
        before = self.snapshot()
        if self.cache.lengths[slot] + length > LONGEST:
            return
        try:
            chosen = self.cache.select([slot], [length])
        except OutOfBlocksError:
            assert self.snapshot()[0] == before[0]
            return
        self.cache.advance(chosen, [length])

    @rule(src=st.integers(0, 3), dst=st.integers(0, 3))
    def fork(self, src: int, dst: int) -> None:
        if src != dst:
            try:
                self.cache.fork(src, dst)
            except OutOfBlocksError:
                assert self.cache.lengths[dst] == 0

    @rule(src=st.integers(0, 3), dst=st.integers(0, 3))
    def move(self, src: int, dst: int) -> None:
        if src != dst:
            self.cache.move(src, dst)

    @rule(slot=st.integers(0, 3))
    def end(self, slot: int) -> None:
        self.cache.reset(slot)
        assert self.cache.lengths[slot] == 0

    @rule(slot=st.integers(0, 3), kind=st.sampled_from(KINDS))
    def keep(self, slot: int, kind: str) -> None:
        for block in self.cache.tables[kind][slot][: self.cache.lengths[slot] // BLOCK_TOKENS]:
            if block >= 0:
                self.cache.pools[kind].keep(int(block))
                self.kept[kind].setdefault(int(block), 0)

    @precondition(lambda self: all(self.kept.values()))
    @rule(slot=st.integers(0, 3), count=st.integers(1, 3))
    def adopt(self, slot: int, count: int) -> None:
        count = min(count, *(len(kept) for kept in self.kept.values()))
        blocks = {kind: sorted(self.kept[kind])[:count] for kind in KINDS}
        state = State(conv_LRC=self.cache.conv[:, slot], delayed_LW=self.cache.delayed[:, slot])
        self.cache.adopt(slot, blocks, state)
        assert self.cache.lengths[slot] == count * BLOCK_TOKENS

    @precondition(lambda self: any(self.kept.values()))
    @rule(data=st.data())
    def forget(self, data: st.DataObject) -> None:
        kind = data.draw(st.sampled_from([kind for kind in KINDS if self.kept[kind]]))
        block = data.draw(st.sampled_from(sorted(self.kept[kind])))
        del self.kept[kind][block]
        self.cache.pools[kind].forget(block)

    @rule(slot=st.integers(0, 3), index=st.integers(0, 3), kind=st.sampled_from(KINDS))
    def replace(self, slot: int, index: int, kind: str) -> None:
        """A slot goes on with a kept block in place of a full one of its own."""
        if index < self.cache.lengths[slot] // BLOCK_TOKENS and self.kept[kind]:
            own = self.cache.tables[kind][slot, index]
            block = min(self.kept[kind])
            if own not in (-1, block):
                self.cache.replace(kind, slot, index, block)

    def snapshot(self) -> tuple[list[int], dict[str, list[list[int]]]]:
        tables = {kind: table.tolist() for kind, table in self.cache.tables.items()}
        return list(self.cache.lengths), tables

    @invariant()
    def counts_are_those_of_the_tables(self) -> None:
        for kind, pool in self.cache.pools.items():
            table = self.cache.tables[kind]
            owners = Counter(table[table >= 0].tolist())
            assert {b: int(n) for b, n in enumerate(pool.refs) if n} == dict(owners)
            idle = sum(block not in owners for block in self.kept[kind])
            assert (pool.num_used, pool.num_idle) == (len(owners), idle)
            assert pool.num_available == pool.num_blocks - len(owners)

    @invariant()
    def the_block_being_written_has_one_owner(self) -> None:
        for kind, pool in self.cache.pools.items():
            for slot, length in enumerate(self.cache.lengths):
                row = self.cache.tables[kind][slot]
                if length % BLOCK_TOKENS:
                    assert pool.refs[row[length // BLOCK_TOKENS]] == 1
                assert (row[blocks_of(length) :] == -1).all()
                if kind == "hybrid":
                    assert (row[: blocks_of(length)] >= 0).all()


TestSharing = SharingMachine.TestCase
TestSharing.settings = settings(max_examples=30, stateful_step_count=40, deadline=None)


def test_idle_blocks_are_given_up_in_the_order_in_which_they_fell_idle() -> None:
    pool = BlockPool(4)
    evicted: list[int] = []

    def on_evict(block: int) -> None:
        evicted.append(block)
        pool.forget(block)

    pool.on_evict = on_evict
    blocks: list[Any] = [pool.take() for _ in range(4)]
    for block in blocks[:3]:
        pool.keep(block)
    for block in (blocks[2], blocks[0], blocks[3], blocks[1]):
        pool.drop(block)
    pool.share(blocks[0])
    pool.drop(blocks[0])
    assert pool.take() == blocks[3]
    assert [pool.take() for _ in range(3)] == evicted == [blocks[2], blocks[1], blocks[0]]
    assert pool.evictions == 3
    with pytest.raises(OutOfBlocksError, match="all 4 blocks"):
        pool.take()


def test_no_more_idle_blocks_stay_than_allowed() -> None:
    pool = BlockPool(5)
    pool.on_evict, pool.max_idle = pool.forget, 2
    blocks = [pool.take() for _ in range(4)]
    for block in blocks:
        pool.keep(block)
        pool.drop(block)
    assert [pool.is_idle(block) for block in blocks] == [False, False, True, True]
    assert (pool.num_available, pool.evictions) == (5, 2)


@pytest.mark.parametrize("changes", [{}, MIXED, {"precision": "paper"}])
def test_a_cache_made_for_a_memory_takes_no_more_than_that(changes: dict[str, Any]) -> None:
    config = tiny_config(**changes)
    states = config.num_hidden_layers * (2 * config.conv_channels + config.kv_channels // 2)
    for dtype in (torch.float32, torch.bfloat16):
        blocks = blocks_within(config, 1_000_000, dtype)
        cache = Cache(config, 1, 64, dtype, num_blocks=blocks)
        (count,) = set(blocks.values())
        kept = count * states * cache.conv.itemsize
        full = cache.nbytes - cache.conv.nbytes - cache.delayed.nbytes + kept
        assert full <= 1_000_000 < full * (count + 1) / count
    with pytest.raises(ConfigError, match="1000 bytes hold no block of 64 tokens"):
        blocks_within(config, 1000, torch.float32)


def test_lengths_are_rounded_up_to_blocks() -> None:
    sizes = [0, 1, 63, 64, 65, 128, 129]
    assert [blocks_of(n) for n in sizes] == [0, 1, 1, 1, 2, 2, 3]
