"""The chunked loss equals the plain one, gradients included, and never holds all logits."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from openzaya.train.loss import chunked_cross_entropy


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
    """No tensor of the forward or backward pass has the vocabulary as columns and many rows."""
    hidden, head, targets, weights = inputs(60)
    widest = 0

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            nonlocal widest
            result = func(*args, **(kwargs or {}))
            if isinstance(result, torch.Tensor) and result.ndim == 2 and result.shape[1] == 13:
                widest = max(widest, result.shape[0])
            return result

    with Watch():
        loss, _ = chunked_cross_entropy(hidden, head, targets, weights, chunk=9)
        loss.backward()
    assert 0 < widest <= 9


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
