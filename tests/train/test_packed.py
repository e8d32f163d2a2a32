"""Packed training is training on the same documents one by one, whatever way a step is computed."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_training import stage, tiny_model, window

from openzaya.data.windows import Window
from openzaya.model.balance import RouterBalancer
from openzaya.optim import build_optimizer
from openzaya.train.batch import Batch
from openzaya.train.state import SpikeGuard, TrainState
from openzaya.train.step import forward_backward, train_step

WAYS = {
    "plain": {},
    "fused": {"fused": "on"},
    "recomputed": {"recompute": True},
    "fused, recomputed, offloaded": {"fused": "on", "recompute": True, "offload": True},
}


def computed(model, windows, total):
    """Return loss, gradients and expert counts of windows, each a microbatch of its own."""
    model.zero_grad(set_to_none=True)
    balancer = RouterBalancer(model)
    batches = [Batch.from_windows(part, "cpu") for part in windows]
    loss, _ = forward_backward(model, balancer, batches, total, stage())
    grads = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    return loss, grads, balancer.counts_LX


def alone(packed: Window) -> list[list[Window]]:
    """Return every document as a batch of its own."""
    parts, start = [], 0
    for length in packed.lengths:
        end = start + length
        mask = packed.loss_mask[start:end]
        parts.append([Window(packed.tokens[start:end], [length], mask, ["copies"])])
        start = end
    return parts


def assert_same(found, wanted):
    assert found[0] == pytest.approx(wanted[0], abs=1e-5)
    assert found[1].keys() == wanted[1].keys()
    for name, grad in wanted[1].items():
        torch.testing.assert_close(found[1][name], grad, atol=1e-5, rtol=1e-4, msg=name)
    assert torch.equal(found[2], wanted[2])


@pytest.mark.parametrize("way", WAYS)
@settings(max_examples=5)
@given(
    lengths=st.lists(st.sampled_from([1, 2, 3, 5, 17, 32]), min_size=2, max_size=9),
    cut=st.integers(0, 8),
    seed=st.integers(0, 3),
)
def test_loss_gradients_and_counts_do_not_depend_on_the_company_of_a_document(
    way, lengths, cut, seed
):
    """Documents of one token, and batches whose windows end anywhere between documents."""
    model = tiny_model(seed)
    for name, value in WAYS[way].items():
        setattr(model, name, value)
    cut = min(cut, len(lengths) - 1)
    windows = [window(part, seed) for part in (lengths[:cut], lengths[cut:]) if part]
    total = max(1.0, sum(Batch.from_windows([w], "cpu").total_weight for w in windows))
    wanted = computed(tiny_model(seed), [d for w in windows for d in alone(w)], total)
    assert_same(computed(model, [windows], total), wanted)
    assert_same(computed(model, [[w] for w in windows], total), wanted)


@pytest.mark.parametrize("way", WAYS)
def test_weights_and_balancing_biases_after_steps_are_those_of_one_plain_big_batch(way):
    """Neither microbatches nor layers that are computed twice count a token twice."""
    results = []
    for settings_of_way, micro_tokens in (({}, 1000), (WAYS[way], 15)):
        model = tiny_model(vocabulary=24)
        for name, value in settings_of_way.items():
            setattr(model, name, value)
        optimizers, balancer = build_optimizer(model, stage().optim), RouterBalancer(model)
        state = TrainState(SpikeGuard(6.0))
        for step in range(3):
            windows = [window([9, 6], 10 * step + i) for i in range(4)]
            config = stage(micro_tokens=micro_tokens)
            train_step(model, optimizers, balancer, windows, config, state)
        results.append((model, balancer))
    (plain, known), (other, found) = results
    for bias, wanted in zip(other.router_biases(), plain.router_biases(), strict=True):
        torch.testing.assert_close(bias, wanted, atol=1e-6, rtol=0)
    assert torch.equal(found.last_LX, known.last_LX)
    assert int(known.last_LX[0].sum()) == 60
    for name, parameter in plain.named_parameters():
        other_parameter = dict(other.named_parameters())[name]
        torch.testing.assert_close(other_parameter, parameter, atol=2e-3, rtol=1e-2, msg=name)


@pytest.mark.parametrize("fused", ["off", "on"])
def test_layers_computed_again_or_kept_elsewhere_change_no_bit(fused):
    """So a run may be resumed with or without."""
    found = []
    for recompute, offload in ((False, False), (True, False), (False, True), (True, True)):
        model = tiny_model()
        model.fused, model.recompute, model.offload = fused, recompute, offload
        found.append(computed(model, [[window([9, 6, 30], 1)]], 40.0))
    loss, grads, counts = found[0]
    for other_loss, other_grads, other_counts in found[1:]:
        assert other_loss == loss
        assert all(torch.equal(grad, other_grads[name]) for name, grad in grads.items())
        assert torch.equal(counts, other_counts)


def test_a_layer_that_is_computed_again_takes_the_experts_of_the_first_time():
    """A bias that moves in between must not change the gradient."""
    grads = []
    for moves in (False, True):
        model = tiny_model()
        model.recompute = True
        hidden = model.trunk(torch.arange(3, 23), [20]).hidden_TD
        if moves:
            for bias in model.router_biases():
                bias[0] += 10.0
        (hidden * torch.arange(16)).sum().backward()
        grads.append(model.layers[0].mlp.experts.down_proj.grad.clone())
    assert torch.equal(*grads)
