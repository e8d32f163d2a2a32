"""Microbatches on a core each: the gradients of one after another, every time to the last bit."""

import pytest
import torch
from tiny_training import stage, tiny_model, window
from torch import nn

from openzaya.model.balance import RouterBalancer
from openzaya.model.lora import LoraConfig, adapters, add_lora
from openzaya.train import side_by_side as module
from openzaya.train import step
from openzaya.train.parallel import ALONE
from openzaya.train.side_by_side import GradientSums, add_parts, num_cores, side_by_side
from openzaya.train.step import forward_backward

CPU = torch.device("cpu")


@pytest.fixture
def two_cores(monkeypatch):
    monkeypatch.setattr(module, "MIN_TOKENS", 8)
    torch.set_num_threads(2)


def trained(model, micro_tokens: int):
    """Return the loss, gradients and counts of five windows, and the number of microbatches."""
    model.zero_grad(set_to_none=True)
    config = stage(micro_tokens=micro_tokens)
    windows = [window([9, 3], seed) for seed in range(5)]
    batches = ALONE.batches(windows, micro_tokens, CPU)
    balancer = RouterBalancer(model)
    total = sum(batch.total_weight for batch in batches)
    loss, sums = forward_backward(model, balancer, batches, total, config)
    grads = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    return loss, sums, grads, balancer.counts_LX, len(batches)


def test_two_cores_give_what_one_gives(two_cores):
    """Five microbatches in three rounds, the last of which one core runs alone."""
    model = tiny_model(0)
    loss, sums, grads, counts, parts = trained(model, 24)
    assert (num_cores(CPU, 24), parts) == (2, 5)
    torch.set_num_threads(1)
    expected_loss, expected_sums, expected, expected_counts, _ = trained(model, 24)
    assert loss == pytest.approx(expected_loss, abs=1e-6)
    assert sums.keys() == expected_sums.keys()
    assert torch.equal(counts, expected_counts)
    assert grads.keys() == expected.keys()
    for name, grad in grads.items():
        torch.testing.assert_close(grad, expected[name], atol=1e-6, rtol=1e-5, msg=name)


def test_the_order_in_which_cores_finish_changes_no_bit(two_cores):
    model = tiny_model(1)
    first = trained(model, 24)
    for _ in range(5):
        again = trained(model, 24)
        assert again[0] == first[0]
        for name, grad in again[2].items():
            assert torch.equal(grad, first[2][name]), name


def test_a_gradient_that_only_one_core_has_counts(two_cores):
    model = tiny_model(2)
    batches = ALONE.batches([window([12]), window([12], 1)], 24, CPU)
    parameter = "norm.weight"

    def work(own, batch):
        if batch is batches[1]:
            own.get_parameter(parameter).square().sum().backward()
        return torch.get_num_threads()

    assert list(side_by_side(work, model, batches, 2)) == [1, 1]
    weight = model.get_parameter(parameter)
    torch.testing.assert_close(weight.grad, 2 * weight.detach())
    assert torch.get_num_threads() == 2


def test_a_copy_shares_weights_and_biases_but_no_gradients():
    model = tiny_model(3)
    copy = GradientSums(model).copy_of_model(0)
    for (name, mine), (_, own) in zip(
        copy.state_dict().items(), model.state_dict().items(), strict=True
    ):
        assert mine.data_ptr() == own.data_ptr(), name
    assert all(a is not b for a, b in zip(copy.parameters(), model.parameters(), strict=True))


def test_adapters_are_copied_with_what_they_adapt(two_cores):
    model = tiny_model(4)
    add_lora(model, LoraConfig(rank=2, targets=("attention", "experts")))
    with torch.no_grad():
        for _, adapter in adapters(model):
            adapter.lora_b.fill_(0.01)
    _, _, grads, _, parts = trained(model, 24)
    torch.set_num_threads(1)
    expected = trained(model, 24)[2]
    assert parts == 5
    assert grads.keys() == expected.keys()
    assert all(".lora_" in name for name in grads)
    for name, grad in grads.items():
        torch.testing.assert_close(grad, expected[name], atol=1e-6, rtol=1e-5, msg=name)


def test_work_that_fails_on_one_core_fails_and_keeps_the_other_from_waiting(two_cores):
    model = tiny_model(5)
    batches = ALONE.batches([window([12]), window([12], 1)], 24, CPU)

    def work(own, batch):
        if batch is batches[0]:
            raise ValueError("no")
        own.norm.weight.square().sum().backward()

    with pytest.raises(ValueError, match="no"):
        list(side_by_side(work, model, batches, 2))


@pytest.mark.parametrize(("micro_tokens", "at_once"), [(24, 2), (23, 1), (11, 1)])
def test_long_windows_run_at_once_only_while_together_they_fit(
    two_cores, monkeypatch, micro_tokens, at_once
):
    seen = []
    real = step.side_by_side
    monkeypatch.setattr(
        step, "side_by_side", lambda *args: real(*args[:3], seen.append(args[3]) or args[3])
    )
    trained(tiny_model(7), micro_tokens)
    assert [max(1, cores) for cores in seen] == [at_once]


def test_more_cores_than_threads_do_not_wait_for_ever(two_cores):
    torch.set_num_threads(1)
    batches = ALONE.batches([window([12]), window([12], 1)], 24, CPU)
    expected = [batch.ids_T.tolist() for batch in batches]

    def work(own, batch):
        own.norm.weight.square().sum().backward()
        return batch.ids_T.tolist()

    assert list(side_by_side(work, tiny_model(6), batches, 2)) == expected


@pytest.mark.parametrize("turned", [False, True])
def test_parts_are_added_up_before_they_are_added_to_the_rest(monkeypatch, turned):
    """Whatever the pieces are: 2**25 + (1.5 + 1.5) is not (2**25 + 1.5) + 1.5 in fp32."""
    monkeypatch.setattr(module, "PIECE_ELEMENTS", 7)
    some = torch.full((6, 5), 1.5).t() if turned else torch.full((5, 6), 1.5)
    weight = nn.Parameter(torch.zeros(5, 6))
    add_parts(weight, [some, some])
    assert torch.equal(weight.grad, torch.full((5, 6), 3.0))
    assert torch.equal(some, torch.full((5, 6), 1.5))
    weight.grad = torch.full((5, 6), 2.0**25)
    add_parts(weight, [some, some])
    assert torch.equal(weight.grad, torch.full((5, 6), 2.0**25 + 4))


@pytest.mark.parametrize(
    ("device", "micro_tokens", "expected"), [("cpu", 16, 2), ("cpu", 15, 1), ("cuda", 99, 1)]
)
def test_cores_need_enough_tokens_each(two_cores, device, micro_tokens, expected):
    assert num_cores(torch.device(device), micro_tokens) == expected
