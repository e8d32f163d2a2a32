"""The index work of context parallelism, expert dispatch and dealing: no processes needed."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_training import tiny_model, window

from openzaya.core.errors import ConfigError
from openzaya.train.distributed.experts import by_expert
from openzaya.train.distributed.mesh import MeshConfig
from openzaya.train.distributed.optim import owners_of
from openzaya.train.distributed.pieces import PIECES, Pieces, halo_tokens, key_tokens, route
from openzaya.train.distributed.share import CostModel, deal, microbatches

BATCHES = st.tuples(st.integers(1, 4), st.lists(st.integers(1, 12), min_size=1, max_size=8))


def divided(num_ranks, lengths):
    """Return pieces of documents, evened out by one more document."""
    missing = -sum(lengths) % (PIECES * num_ranks)
    return Pieces((*lengths, missing) if missing else tuple(lengths), num_ranks)


def document_of(pieces):
    """Return document and position of every token."""
    documents = np.repeat(np.arange(len(pieces.lengths)), pieces.lengths)
    positions = np.concatenate([np.arange(n) for n in pieces.lengths])
    return documents, positions


@given(BATCHES)
def test_every_token_is_on_one_rank_and_parts_say_which(batch):
    pieces = divided(*batch)
    ranks = range(pieces.num_ranks)
    tokens = [pieces.tokens(rank) for rank in ranks]
    assert sorted(np.concatenate(tokens)) == list(range(sum(pieces.lengths)))
    assert {len(own) for own in tokens} == {PIECES * pieces.width}
    documents, positions = document_of(pieces)
    for rank in ranks:
        assert (pieces.owner(tokens[rank]) == rank).all()
        spans = [np.arange(p.first, p.first + p.length) for p in pieces.parts(rank)]
        assert (np.concatenate(spans) == tokens[rank]).all()
        for part in pieces.parts(rank):
            assert documents[part.first] == part.document
            assert positions[part.first] == part.offset
            assert documents[part.first + part.length - 1] == part.document


@given(BATCHES)
def test_a_rank_is_brought_what_its_parts_look_back_on_and_never_another_document(batch):
    pieces = divided(*batch)
    documents, positions = document_of(pieces)
    for rank in range(pieces.num_ranks):
        halo, keys = halo_tokens(pieces, rank), key_tokens(pieces, rank)
        for part in pieces.continued(rank):
            before = [t for t in halo if part.first - 2 <= t < part.first]
            assert len(before) == min(2, part.offset)
            assert set(documents[before]) == {part.document}
            own = [t for t in keys if documents[t] == part.document and t < part.first]
            assert sorted(positions[own]) == list(range(part.offset))
        assert len(keys) == len(set(keys))


@settings(max_examples=50)
@given(BATCHES)
def test_what_one_rank_sends_is_what_the_other_expects(batch):
    pieces = divided(*batch)
    ranks = range(pieces.num_ranks)
    wanted = [key_tokens(pieces, rank) for rank in ranks]
    routes = [route(pieces, rank, wanted) for rank in ranks]
    sent = [
        np.split(pieces.tokens(rank)[routes[rank].send_N], np.cumsum(routes[rank].sends)[:-1])
        for rank in ranks
    ]
    for rank in ranks:
        arriving = np.concatenate([sent[other][rank] for other in ranks])
        assert (arriving == routes[rank].arriving_G).all()
        assert routes[rank].receives == [len(sent[other][rank]) for other in ranks]
        assert sorted(arriving) == sorted(wanted[rank])


def test_rows_stored_by_sender_are_sorted_by_expert():
    # Two senders, three experts: a b b | a c, as sent.
    order = by_expert(torch.tensor([[1, 2, 0], [1, 0, 1]]))
    assert order.tolist() == [0, 3, 1, 2, 4]


def test_head_and_tail_pieces_give_every_rank_the_same_causal_work():
    pieces = Pieces((64,), 4)
    assert len({int(pieces.tokens(rank).sum()) for rank in range(4)}) == 1


@given(st.lists(st.integers(1, 60), min_size=1, max_size=12), st.integers(1, 5))
def test_windows_are_dealt_whole_once_and_evenly(lengths, num_groups):
    windows = [window([n], seed=i) for i, n in enumerate(lengths)]
    cost = CostModel(1.0, 0.1)
    parts = deal(windows, num_groups, cost)
    assert sorted(id(w) for part in parts for w in part) == sorted(map(id, windows))
    loads = [sum(map(cost.window, part)) for part in parts]
    dearest = max(map(cost.window, windows))
    assert max(loads) <= sum(loads) / num_groups + dearest
    passes = microbatches(windows, num_groups, 64, cost)
    assert len({len(part) for part in passes}) == 1


def test_attention_makes_long_documents_dearer_than_their_tokens():
    cost = CostModel.of(tiny_model().config)
    assert cost.window(window([40])) > 2 * cost.window(window([20]))


@given(st.lists(st.integers(1, 100), min_size=1, max_size=30), st.integers(1, 6))
def test_matrices_are_owned_evenly(work, num_ranks):
    loads = [0] * num_ranks
    for owner, cost in zip(owners_of(work, num_ranks), work, strict=True):
        loads[owner] += cost
    assert max(loads) <= sum(work) / num_ranks + max(work)


def test_a_mesh_is_read_completed_and_refused():
    assert MeshConfig.parse("cp=2", 8) == MeshConfig(dp_shard=4, cp=2)
    assert MeshConfig.parse("", 3) == MeshConfig(dp_shard=3)
    mesh = MeshConfig(dp_replicate=2, dp_shard=2, ep=2, cp=1)
    assert MeshConfig.parse(str(mesh), 8) == mesh
    for text, match in (("tp=2", "not one of"), ("ep=2,ep=4", "each once"), ("cp=3", "8 proc")):
        with pytest.raises(ConfigError, match=match):
            MeshConfig.parse(text, 8)
    with pytest.raises(ConfigError, match="at least 1"):
        MeshConfig(ep=0)
