"""The chunked loss is the ordinary loss, value and gradients, whatever the chunk."""

import pytest
import torch
from torch.nn import functional as F

from openzaya.train.loss import chunked_cross_entropy


def case(seed=0, rows=37, vocabulary=11, width=6):
    generator = torch.Generator().manual_seed(seed)
    hidden = torch.randn(rows, width, generator=generator, requires_grad=True)
    head = torch.randn(vocabulary, width, generator=generator, requires_grad=True)
    targets = torch.randint(0, vocabulary, (rows,), generator=generator)
    weights = torch.rand(rows, generator=generator)
    weights[::3] = 0.0
    return hidden, head, targets, weights


@pytest.mark.parametrize("chunk", [1, 5, 37, 1000])
@pytest.mark.parametrize("z_loss", [0.0, 0.01])
def test_value_and_gradients_equal_the_plain_form(chunk, z_loss):
    hidden, head, targets, weights = case()
    logits = hidden @ head.T
    nll = F.cross_entropy(logits, targets, reduction="none")
    plain = (weights * (nll + z_loss * logits.logsumexp(-1) ** 2)).sum()
    expected = torch.autograd.grad(plain, (hidden, head))
    loss, per_token = chunked_cross_entropy(
        hidden, head, targets, weights, chunk=chunk, z_loss=z_loss
    )
    torch.testing.assert_close(loss, plain)
    torch.testing.assert_close(per_token, nll.detach())
    torch.testing.assert_close(torch.autograd.grad(3 * loss, (hidden, head)), tuple(3 * g for g in expected))


def test_bf16_inputs_still_give_an_fp32_loss():
    hidden, head, targets, weights = case()
    loss, per_token = chunked_cross_entropy(
        hidden.bfloat16(), head.bfloat16(), targets, weights, chunk=8
    )
    rounded = F.cross_entropy(
        hidden.bfloat16().float() @ head.bfloat16().float().T, targets, reduction="none"
    )
    assert loss.dtype == per_token.dtype == torch.float32
    torch.testing.assert_close(per_token, rounded.detach())


def test_the_logits_of_all_tokens_never_exist_at_once():
    hidden, head, targets, weights = case(rows=64, vocabulary=50)
    largest = 0

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            nonlocal largest
            out = func(*args, **(kwargs or {}))
            if isinstance(out, torch.Tensor) and out.ndim == 2 and out.shape[1] == 50:
                largest = max(largest, out.shape[0])
            return out

    with Watch():
        loss, _ = chunked_cross_entropy(hidden, head, targets, weights, chunk=8)
        loss.backward()
    assert largest == 8
