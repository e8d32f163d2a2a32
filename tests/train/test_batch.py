"""Targets never cross documents; microbatches hold every window once."""

from dataclasses import replace
from itertools import pairwise
from typing import ClassVar

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_training import window

from openzaya.core.errors import DataError
from openzaya.core.seeding import numpy_stream
from openzaya.data.windows import Window, build_windows
from openzaya.text.document import Document, text_document
from openzaya.train.batch import Batch, split_windows

LENGTHS = st.lists(st.lists(st.integers(1, 9), min_size=1, max_size=4), min_size=1, max_size=4)
RELAXED = settings(max_examples=40, deadline=None)


def masked_window(lengths: list[int], seed: int) -> Window:
    """Return documents of which some tokens are no targets."""
    whole = window(lengths, seed)
    mask = numpy_stream(seed, "mask").random(len(whole)) < 0.6
    return replace(whole, loss_mask=mask, sources=["ab"[i % 2] for i in range(len(lengths))])


@RELAXED
@given(lengths=LENGTHS)
def test_every_prediction_is_the_next_token_of_the_same_document(lengths):
    windows = [masked_window(some, seed) for seed, some in enumerate(lengths)]
    batch = Batch.from_windows(windows, "cpu")
    position = 0
    for part in windows:
        start = 0
        for length in part.lengths:
            for offset in range(length):
                weight = float(batch.weights_T[position])
                if offset == length - 1:
                    assert weight == 0.0
                else:
                    target = start + offset + 1
                    assert weight == float(part.loss_mask[target])
                    assert int(batch.targets_T[position]) == int(part.tokens[target])
                assert int(batch.ids_T[position]) == int(part.tokens[start + offset])
                position += 1
            start += length
    assert position == batch.ids_T.shape[0] == sum(batch.lengths)
    assert batch.sources == tuple(source for part in windows for source in part.sources)


def test_a_batch_reads_every_document_once():
    class Read(list[Document]):
        numbers: ClassVar[list[int]] = []

        def __getitem__(self, number):
            self.numbers.append(number)
            return super().__getitem__(number)

    documents = Read(text_document(range(n), "web") for n in (3, 9, 4, 20))
    windows = build_windows(documents, 8, window_tokens=16)
    Read.numbers.clear()
    batch = Batch.from_windows(windows, "cpu")
    assert sorted(Read.numbers) == [0, 1, 1, 2, 3, 3, 3]  # once for every piece
    assert sorted(batch.ids_T.tolist()) == sorted(t for d in documents for t in d.tokens.tolist())


def test_a_batch_of_nothing_is_refused():
    with pytest.raises(DataError, match="at least one window"):
        Batch.from_windows([], "cpu")


@RELAXED
@given(lengths=LENGTHS, budget=st.integers(1, 30))
def test_microbatches_hold_every_window_in_order_and_keep_the_budget(lengths, budget):
    windows = [window(some) for some in lengths]
    parts = split_windows(windows, budget)
    assert [id(w) for part in parts for w in part] == [id(w) for w in windows]
    assert all(len(part) == 1 or sum(map(len, part)) <= budget for part in parts)
    for first, second in pairwise(parts):
        assert sum(map(len, first)) + len(second[0]) > budget


def test_tensors_have_the_types_that_training_needs():
    batch = Batch.from_windows([window([3, 4])], "cpu")
    assert (batch.ids_T.dtype, batch.targets_T.dtype) == (torch.int64, torch.int64)
    assert batch.weights_T.dtype == torch.float32
    assert np.array_equal(batch.weights_T.numpy(), [1, 1, 0, 1, 1, 1, 0])
