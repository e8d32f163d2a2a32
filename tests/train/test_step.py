"""One step: packing and microbatches change nothing, spikes and infinities leave no trace."""

import pytest
import torch

from openzaya.core.errors import ConfigError, DataError
from openzaya.data.windows import Window
from openzaya.model.balance import RouterBalancer
from openzaya.optim import build_optimizer
from openzaya.train.batch import Batch, split_windows
from openzaya.train.loss import chunked_cross_entropy
from openzaya.train.state import SpikeGuard, TrainState
from openzaya.train.step import forward_backward, train_step

from tiny_training import stage, tiny_model, window, windows_of


def gradients(model, windows, micro_tokens):
    """Return the loss and all gradients of a step's forward and backward."""
    model.zero_grad()
    batches = [Batch.from_windows(part, "cpu") for part in split_windows(windows, micro_tokens)]
    total = sum(float(batch.weights_T.sum()) for batch in batches)
    loss, sources = forward_backward(model, RouterBalancer(model), batches, total, stage())
    return loss, {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}, sources


def test_targets_are_the_next_tokens_of_the_same_document_only():
    batch = Batch.from_windows([window([4, 3]), window([2], seed=1)], "cpu")
    ids = batch.ids_T.tolist()
    assert batch.weights_T.tolist() == [1, 1, 1, 0, 1, 1, 0, 1, 0]
    for i, weight in enumerate(batch.weights_T.tolist()):
        if weight:
            assert batch.targets_T[i] == ids[i + 1]


def test_a_token_counts_when_it_is_a_trained_target_not_when_it_is_an_input():
    plain = window([5])
    mask = plain.loss_mask.copy()
    mask[:3] = False
    batch = Batch.from_windows([Window(plain.tokens, [5], mask, ["a"])], "cpu")
    assert batch.weights_T.tolist() == [0, 0, 1, 1, 0]


def test_an_empty_batch_is_refused():
    with pytest.raises(DataError, match="at least one window"):
        Batch.from_windows([], "cpu")


def test_packed_training_equals_training_on_the_documents_one_by_one():
    model = tiny_model()
    lengths = [9, 4, 17, 6, 2]
    packed = window(lengths)
    loss, together, _ = gradients(model, [packed], 1000)
    starts = [sum(lengths[:i]) for i in range(len(lengths))]
    total = sum(lengths) - len(lengths)
    model.zero_grad()
    alone = 0.0
    for start, length in zip(starts, lengths, strict=True):
        ids = torch.from_numpy(packed.tokens[start : start + length]).long()
        hidden = model.trunk(ids).hidden_TD[:-1]
        part, _ = chunked_cross_entropy(
            hidden, model.embed_tokens.weight, ids[1:], torch.full((length - 1,), 1 / total)
        )
        part.backward()
        alone += float(part.detach())
    assert loss == pytest.approx(alone, rel=1e-5)
    for name, parameter in model.named_parameters():
        grad = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        expected = together.get(name, torch.zeros_like(parameter))
        torch.testing.assert_close(grad, expected, rtol=1e-5, atol=1e-6, msg=name)


def test_microbatches_change_neither_loss_nor_gradients():
    model = tiny_model()
    windows = windows_of(0)
    whole, wanted, sources = gradients(model, windows, 1000)
    split, found, same_sources = gradients(model, windows, 30)
    assert len(split_windows(windows, 30)) == 3
    assert split == pytest.approx(whole, rel=1e-5)
    for name, grad in wanted.items():
        torch.testing.assert_close(found[name], grad, rtol=1e-4, atol=1e-6, msg=name)
    assert sources.keys() == same_sources.keys() == {"a", "b"}
    mean = sum(loss for loss, _ in sources.values()) / sum(n for _, n in sources.values())
    assert mean == pytest.approx(whole, rel=1e-5)


def run_steps(count, poison=-1):
    """Train a few steps; step `poison` gets a gradient that is not finite."""
    model = tiny_model()
    config = stage(warmup_steps=0)
    optimizers = build_optimizer(model, config.optim)
    balancer = RouterBalancer(model, config.balance)
    state = TrainState(SpikeGuard(config.spike_sigmas))
    reports = []
    for step in range(count):
        hook = None
        if step == poison:
            hook = model.embed_tokens.weight.register_hook(lambda grad: grad * float("nan"))
        reports.append(train_step(model, optimizers, balancer, windows_of(0), config, state))
        if hook is not None:
            hook.remove()
    return model, balancer, state, reports


def test_a_step_with_a_gradient_that_is_not_finite_changes_nothing():
    before, _, _, _ = run_steps(2)
    after, balancer, state, reports = run_steps(3, poison=2)
    assert [report.applied for report in reports] == [True, True, False]
    assert (state.step, state.skipped) == (3, 1)
    for (name, old), new in zip(before.state_dict().items(), after.state_dict().values(), strict=True):
        assert torch.equal(old, new), name
    assert not balancer.counts_LX.any()


def test_training_lowers_the_loss_and_reports_its_health():
    _, _, state, reports = run_steps(40)
    assert reports[-1].loss < reports[0].loss - 0.4
    assert all(0.0 < x <= 1.0 for x in reports[-1].load_entropy)
    assert state.tokens == 40 * 78
    assert set(reports[-1].metrics(state)) >= {"train/loss", "train/load_entropy"}


def test_the_guard_skips_only_what_is_far_above_the_usual():
    guard = SpikeGuard(sigmas=6.0)
    assert not any(guard.is_spike(loss=1.0 + 0.01 * (i % 7)) for i in range(60))
    assert guard.is_spike(loss=3.0)
    assert guard.is_spike(loss=float("nan"))
    assert not guard.is_spike(loss=1.05)
    assert not guard.is_spike(loss=0.1)
    again = SpikeGuard(sigmas=6.0)
    again.load(guard.to_json())
    assert again.is_spike(loss=3.0)


def test_settings_that_cannot_work_are_refused():
    with pytest.raises(ConfigError, match="steps is 0"):
        stage(steps=0)
    with pytest.raises(ConfigError, match="checkpoint_every_steps is 0"):
        stage(checkpoint_every_steps=0)
