"""The chunked loss equals the plain one, gradients included, and never holds all logits."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.multiprocessing.reductions import StorageWeakRef
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from openzaya.model.fused.native.library import reason_against_native
from openzaya.train.loss import (
    chunk_loss,
    chunk_rows,
    chunked_cross_entropy,
    native_loss,
    tiled_loss,
)

WAYS = [tiled_loss] + [native_loss] * (
    not reason_against_native(torch.float32, torch.device("cpu"))
)


def inputs(rows: int, seed: int = 0, dtype: torch.dtype = torch.float32):
    draw = torch.Generator().manual_seed(seed)
    hidden = torch.randn(rows, 8, generator=draw).to(dtype).requires_grad_()
    head = torch.randn(13, 8, generator=draw).to(dtype).requires_grad_()
    targets = torch.randint(0, 13, (rows,), generator=draw)
    weights = torch.rand(rows, generator=draw)
    weights[::3] = 0.0
    return hidden, head, targets, weights


def plain(hidden, head, targets, weights, z_loss):
    logits = F.linear(hidden.float(), head.float())
    nll = F.cross_entropy(logits, targets, reduction="none")
    return (weights * (nll + z_loss * logits.logsumexp(-1).square())).sum(), nll


@settings(max_examples=25, deadline=None)
@given(
    rows=st.integers(1, 40),
    chunk=st.integers(1, 50),
    z_loss=st.sampled_from([0.0, 1e-2]),
    seed=st.integers(0, 9),
)
def test_loss_and_gradients_equal_plain_cross_entropy(rows, chunk, z_loss, seed):
    hidden, head, targets, weights = inputs(rows, seed)
    loss, nll = chunked_cross_entropy(hidden, head, targets, weights, chunk=chunk, z_loss=z_loss)
    (3 * loss).backward()
    ours = hidden.grad, head.grad
    hidden.grad = head.grad = None
    expected, expected_nll = plain(hidden, head, targets, weights, z_loss)
    (3 * expected).backward()
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(nll, expected_nll.detach() * (weights > 0))
    torch.testing.assert_close(ours[0], hidden.grad, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(ours[1], head.grad, atol=1e-5, rtol=1e-4)


def test_bf16_inputs_get_an_fp32_loss_and_gradients_of_their_own_type():
    hidden, head, targets, weights = inputs(20, dtype=torch.bfloat16)
    loss, _ = chunked_cross_entropy(hidden, head, targets, weights, chunk=7)
    loss.backward()
    expected, _ = plain(hidden, head, targets, weights, 0.0)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, expected)
    assert hidden.grad.dtype == head.grad.dtype == torch.bfloat16


def test_no_more_logits_than_a_chunk_exist_at_once():
    """Of all tensors with the vocabulary as columns the living ones share one chunk's memory."""
    hidden, head, targets, weights = inputs(60)
    most, living = 0, []

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            nonlocal most
            result = func(*args, **(kwargs or {}))
            if isinstance(result, torch.Tensor) and result.ndim == 2 and result.shape[1] == 13:
                storage = result.untyped_storage()
                if storage.data_ptr() != head.data_ptr():
                    living.append((StorageWeakRef(storage), storage.data_ptr(), storage.nbytes()))
                sizes = {at: size for ref, at, size in living if not ref.expired()}
                most = max(most, sum(sizes.values()))
            return result

    with Watch():
        loss, _ = chunked_cross_entropy(hidden, head, targets, weights, chunk=9)
        loss.backward()
    assert 0 < most <= 9 * 13 * 4


def test_chunks_are_large_enough_for_the_products_and_small_enough_for_the_memory():
    cpu, cuda = torch.device("cpu"), torch.device("cuda")
    assert chunk_rows(4_096, 128, cpu) == 256
    assert chunk_rows(384, 128, cpu) == 2_730  # a narrow vocabulary: what the caches hold
    assert chunk_rows(32_000, 512, cpu) == 1_024
    assert chunk_rows(262_144, 2_048, cpu) == 128  # a wide one: what memory should hold
    assert chunk_rows(1 << 26, 2_048, cpu) == 1
    assert chunk_rows(262_144, 2_048, cuda) == 2_048


def test_predictions_without_weight_get_no_gradient_even_when_all_are():
    hidden, head, targets, weights = inputs(9)
    loss, _ = chunked_cross_entropy(hidden, head, targets, weights)
    loss.backward()
    assert bool((hidden.grad[::3] == 0).all())
    assert bool((hidden.grad[1] != 0).any())
    loss, nll = chunked_cross_entropy(hidden, head, targets, torch.zeros(9))
    assert float(loss.detach()) == 0.0
    assert bool((nll == 0).all())


@pytest.mark.parametrize("grad", [True, False])
def test_the_value_is_the_same_with_and_without_gradients(grad):
    hidden, head, targets, weights = inputs(9)
    expected, _ = plain(hidden, head, targets, weights, 0.0)
    with torch.set_grad_enabled(grad):
        loss, _ = chunked_cross_entropy(hidden, head, targets, weights, chunk=4)
    torch.testing.assert_close(loss.detach(), expected.detach())
    assert loss.requires_grad == grad


def test_gradients_that_nobody_needs_are_not_computed(monkeypatch):
    """The head's of a frozen head, and any in an evaluation: they are two thirds of the work."""
    products = []

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            if func in (torch.ops.aten.mm.default, torch.ops.aten.addmm_.default):
                products.append(func)
            return func(*args, **(kwargs or {}))

    hidden, head, targets, weights = inputs(9)
    loss, _ = chunked_cross_entropy(hidden, head, targets, weights)
    loss.backward()
    wanted, hidden.grad = hidden.grad, None
    for grads, frozen, expected in ((True, False, 3), (True, True, 2), (False, False, 1)):
        products.clear()
        with torch.set_grad_enabled(grads), Watch():
            given = hidden, head.detach() if frozen else head, targets, weights
            loss, _ = chunked_cross_entropy(*given)
        assert len(products) == expected
        if frozen:
            loss.backward()
            assert torch.equal(hidden.grad, wanted)


def exact_chunk(logits, targets, weights, z_loss):
    """Return losses, their weighted sum and the logits' gradient in fp64."""
    logits = logits.double().requires_grad_()
    nll = F.cross_entropy(logits, targets, reduction="none")
    total = (weights * (nll + z_loss * logits.logsumexp(-1).square())).sum()
    total.backward()
    return nll.detach(), total.detach(), logits.grad


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("vocabulary", [1, 5, 16, 63, 64, 65, 100, 384, 4_099])
@pytest.mark.parametrize("z_loss", [0.0, 1e-2])
def test_a_chunk_in_place_equals_fp64(way, vocabulary, z_loss):
    draw = torch.Generator().manual_seed(vocabulary)
    logits = torch.randn(80, vocabulary, generator=draw) * 5
    targets = torch.randint(0, vocabulary, (80,), generator=draw)
    targets[:2] = torch.tensor([0, vocabulary - 1])
    weights = torch.rand(80, generator=draw)
    weights[::3] = 0.0
    weights[1::3] = 1.0
    wanted = exact_chunk(logits, targets, weights, z_loss)
    found = *way(logits, targets, weights, z_loss), logits
    for mine, exact in zip(found, wanted, strict=True):
        torch.testing.assert_close(mine.double(), exact, rtol=2e-6, atol=3e-6)
    assert not bool(logits[::3].any())


@pytest.mark.parametrize("way", WAYS)
def test_extreme_logits_are_exact_and_what_is_no_number_stays_in_its_row(way):
    inf, nan = torch.inf, torch.nan
    logits = torch.zeros(6, 40)
    logits[0, 3], logits[0, 35] = 3e38, -3e38
    logits[1, 3:] = -inf
    logits[2, 36] = 100.0
    logits[3, 17] = nan
    logits[4, 39] = inf
    logits[5] = -inf
    targets = torch.tensor([3, 0, 0, 0, 0, 0])
    nll, total = way(logits, targets, torch.ones(6), 0.0)
    torch.testing.assert_close(nll[:3], torch.tensor([0.0, math.log(3.0), 100.0]))
    assert bool(nll[3:].isnan().all())
    assert bool(total.isnan())
    assert not bool(logits[0].any())
    assert not bool(logits[1, 3:].any())  # exactly 0, not merely small
    assert float(logits[2, 1:36].max()) < 1e-37
    torch.testing.assert_close(logits[2, [0, 36]], torch.tensor([-1.0, 1.0]))
    assert bool(logits[3:].isnan().all())


def test_a_chunk_gives_the_same_bits_each_time_and_a_row_whatever_stands_beside_it():
    logits = torch.randn(70, 333, generator=torch.Generator().manual_seed(0))
    targets, weights = torch.arange(70), torch.linspace(0.1, 1, 70)
    runs = []
    for rows in (70, 70, 9):
        grad = logits[:rows].clone()
        nll, total, _ = chunk_loss(grad, targets[:rows], weights[:rows], 1e-3, torch.float32)
        runs.append((nll[:9], grad[:9], total))
    assert torch.equal(runs[0][2], runs[1][2])
    for other in runs[1:]:
        assert torch.equal(runs[0][0], other[0])
        assert torch.equal(runs[0][1], other[1])


@pytest.mark.parametrize("target", [-1, 13])
def test_a_target_outside_the_vocabulary_is_refused(target):
    hidden, head, targets, weights = inputs(9)
    targets[1] = target
    with pytest.raises((IndexError, RuntimeError), match=r"expected 0 to 12|out of bounds"):
        chunked_cross_entropy(hidden, head, targets, weights)
