"""One step: packing and microbatches change nothing; bad steps change nothing at all."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny_training import VOCABULARY, stage, tiny_model, window, windows_of

from openzaya.core.errors import ConfigError
from openzaya.core.seeding import numpy_stream
from openzaya.data.windows import Window
from openzaya.model.balance import RouterBalancer
from openzaya.optim import build_optimizer
from openzaya.train.batch import Batch
from openzaya.train.state import HISTORY, MIN_HISTORY, SpikeGuard, TrainState
from openzaya.train.step import forward_backward, train_step


def masked_window(lengths: list[int], seed: int = 0) -> Window:
    """Return documents of two sources of which some tokens are no targets."""
    whole = window(lengths, seed)
    mask = numpy_stream(seed, "mask").random(len(whole)) < 0.7
    return replace(whole, loss_mask=mask, sources=["ab"[i % 2] for i in range(len(lengths))])


def documents_of(packed: Window) -> list[Window]:
    """Return every document as a window of its own."""
    parts, start = [], 0
    for length, source in zip(packed.lengths, packed.sources, strict=True):
        end = start + length
        parts.append(
            Window(packed.tokens[start:end], [length], packed.loss_mask[start:end], [source])
        )
        start = end
    return parts


def gradients(model, batches, total):
    model.zero_grad(set_to_none=True)
    balancer = RouterBalancer(model)
    result = forward_backward(model, balancer, batches, total, stage())
    grads = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    return result, grads, balancer.counts_LX.clone()


@pytest.mark.parametrize("seed", range(4))
def test_packed_training_equals_training_on_documents_one_by_one(seed):
    """Loss, gradients, loss by source and expert counts; lengths 1 and 2 test the convolutions."""
    model = tiny_model(seed)
    whole = masked_window([1, 7, 2, 19, 3, 30, 11], seed)
    packed = [Batch.from_windows([whole], "cpu")]
    alone = [Batch.from_windows([part], "cpu") for part in documents_of(whole)]
    total = float(packed[0].weights_T.sum())
    (loss, sums), grads, counts = gradients(model, packed, total)
    (loss_alone, sums_alone), grads_alone, counts_alone = gradients(model, alone, total)
    assert loss == pytest.approx(loss_alone, abs=1e-5)
    assert grads.keys() == grads_alone.keys()
    for name, grad in grads.items():
        torch.testing.assert_close(grad, grads_alone[name], atol=1e-5, rtol=1e-4, msg=name)
    assert torch.equal(counts, counts_alone)
    for source, (value, weight) in sums.items():
        assert (value, weight) == pytest.approx(sums_alone[source], abs=1e-4)


def test_the_reported_loss_is_the_mean_over_trained_tokens_of_all_sources():
    model = tiny_model()
    windows = [masked_window([5, 9]), masked_window([20], 1)]
    expected, weights = 0.0, 0.0
    for part in windows:
        batch = Batch.from_windows([part], "cpu")
        logits = model(batch.ids_T, lengths=batch.lengths)
        nll = torch.nn.functional.cross_entropy(logits, batch.targets_T, reduction="none")
        expected += float((nll * batch.weights_T).sum().detach())
        weights += float(batch.weights_T.sum())
    report = train_step(
        model,
        build_optimizer(model),
        RouterBalancer(model),
        windows,
        stage(),
        TrainState(SpikeGuard(6.0)),
    )
    assert report.loss == pytest.approx(expected / weights, rel=1e-5)
    assert sum(s for s, _ in report.loss_by_source.values()) == pytest.approx(expected, rel=1e-5)
    assert set(report.loss_by_source) == {"a", "b"}
    assert sum(w for _, w in report.loss_by_source.values()) == weights


def test_the_number_of_microbatches_changes_nothing():
    windows = [masked_window([9, 6], seed) for seed in range(4)]
    results = []
    for micro_tokens in (15, 30, 1000):
        model = tiny_model()
        optimizers = build_optimizer(model)
        state = TrainState(SpikeGuard(6.0))
        config = stage(micro_tokens=micro_tokens)
        report = train_step(model, optimizers, RouterBalancer(model), windows, config, state)
        grads = {name: p.grad for name, p in model.named_parameters()}
        results.append((report, grads))
    for report, grads in results[1:]:
        assert report.loss == pytest.approx(results[0][0].loss, rel=1e-5)
        assert report.grad_norm == pytest.approx(results[0][0].grad_norm, rel=1e-4)
        assert report.load_entropy == pytest.approx(results[0][0].load_entropy)
        for name, grad in grads.items():
            torch.testing.assert_close(grad, results[0][1][name], atol=1e-6, rtol=1e-4, msg=name)


def test_a_step_that_is_not_finite_changes_neither_weights_nor_biases_nor_optimizer():
    model = tiny_model()
    optimizers, balancer = build_optimizer(model), RouterBalancer(model)
    state = TrainState(SpikeGuard(6.0))
    train_step(model, optimizers, balancer, windows_of(0), stage(), state)
    weights = {name: t.clone() for name, t in model.state_dict().items()}
    memory = {name: t.clone() for name, t in optimizers.state_dict().items()}
    averages = {name: t.clone() for name, t in balancer.state_dict().items()}
    hook = model.norm.register_forward_hook(lambda _module, _args, output: output * math.nan)
    report = train_step(model, optimizers, balancer, windows_of(1), stage(), state)
    hook.remove()
    assert not report.applied
    assert (state.step, state.skipped, state.broken_in_a_row) == (2, 1, 1)
    for known, now in (
        (weights, model.state_dict()),
        (memory, optimizers.state_dict()),
        (averages, balancer.state_dict()),
    ):
        assert all(torch.equal(known[name], tensor) for name, tensor in now.items())
    report = train_step(model, optimizers, balancer, windows_of(2), stage(), state)
    assert report.applied
    assert state.broken_in_a_row == 0
    assert not torch.equal(weights["norm.weight"], model.norm.weight)


def test_a_step_of_which_no_token_is_trained_moves_nothing_and_has_no_loss(caplog):
    """A zero would be taken for a loss, and momentum would move the weights without a gradient."""
    model = tiny_model()
    optimizers, balancer = build_optimizer(model), RouterBalancer(model)
    state = TrainState(SpikeGuard(6.0))
    assert train_step(model, optimizers, balancer, windows_of(0), stage(), state).applied
    known, usual = [x.clone() for x in model.state_dict().values()], state.guard.to_json()
    masked = [replace(w, loss_mask=np.zeros(len(w), dtype=np.bool_)) for w in windows_of(1)]
    report = train_step(model, optimizers, balancer, masked, stage(z_loss=0.1), state)
    assert math.isnan(report.loss)
    assert report.z_loss == 0.0
    assert (report.applied, state.skipped, state.broken_in_a_row) == (False, 1, 0)
    assert state.guard.to_json() == usual
    assert all(map(torch.equal, known, model.state_dict().values()))
    assert "step 2 was left out: none of its tokens is trained" in caplog.text
    assert train_step(model, optimizers, balancer, windows_of(2), stage(), state).applied


def test_a_spike_is_left_out_and_the_next_step_goes_on_with_the_next_data():
    """Weights, optimizer and balancer stay; the step, and with it the data's position, does not."""
    model = tiny_model()
    optimizers, balancer = build_optimizer(model), RouterBalancer(model)
    state = TrainState(SpikeGuard(6.0))
    seen = []

    def step():
        seen.append(state.step)
        return train_step(model, optimizers, balancer, windows_of(state.step), stage(), state)

    assert step().applied
    state.guard.load({"loss": [4.0] * MIN_HISTORY, "grad_norm": [1e-6] * MIN_HISTORY})
    before = [
        {name: t.clone() for name, t in part.state_dict().items()}
        for part in (model, optimizers, balancer)
    ]
    report = step()
    assert not report.applied
    assert math.isfinite(report.loss)
    assert math.isfinite(report.grad_norm)
    assert (state.skipped, state.broken_in_a_row) == (1, 0)
    for known, part in zip(before, (model, optimizers, balancer), strict=True):
        assert all(torch.equal(known[name], t) for name, t in part.state_dict().items())
    assert not bool(balancer.counts_LX.any())
    state.guard.load({})
    assert step().applied
    assert (seen, state.step, state.tokens) == ([0, 1, 2], 3, 3 * 78)


def test_a_step_moves_weights_and_balancing_biases_and_counts_tokens():
    model = tiny_model()
    before = [bias.clone() for bias in model.router_biases()]
    state = TrainState(SpikeGuard(6.0))
    report = train_step(
        model, build_optimizer(model), RouterBalancer(model), windows_of(0), stage(), state
    )
    assert (state.step, state.tokens, report.tokens) == (1, 78, 78)
    moved = [not torch.equal(a, b) for a, b in zip(before, model.router_biases(), strict=True)]
    assert any(moved)


def test_a_gradient_that_is_not_finite_is_left_out_though_the_loss_is_fine():
    model = tiny_model()
    balancer, state = RouterBalancer(model), TrainState(SpikeGuard(6.0))
    before = {name: t.clone() for name, t in model.state_dict().items()}
    hook = model.embed_tokens.weight.register_hook(lambda grad: grad * math.nan)
    report = train_step(model, build_optimizer(model), balancer, windows_of(0), stage(), state)
    hook.remove()
    assert math.isfinite(report.loss)
    assert not report.applied
    assert (state.skipped, state.broken_in_a_row) == (1, 1)
    assert all(torch.equal(before[name], t) for name, t in model.state_dict().items())
    assert not bool(balancer.counts_LX.any())


def test_training_lowers_the_loss_and_reports_its_health():
    model = tiny_model()
    config = stage(warmup_steps=0, steps=40)
    optimizers, balancer = build_optimizer(model, config.optim), RouterBalancer(model)
    state = TrainState(SpikeGuard(6.0))
    reports = [
        train_step(model, optimizers, balancer, windows_of(0), config, state) for _ in range(40)
    ]
    assert reports[-1].loss < reports[0].loss - 0.4
    assert all(0.0 < x <= 1.0 for x in reports[-1].load_entropy)
    assert state.tokens == 40 * 78
    metrics = reports[-1].metrics(state)
    assert metrics["train/loss"] == reports[-1].loss
    assert metrics["train/lr_scale"] == pytest.approx(1 / 8)


def guard_with_history(level: float = 1.0) -> SpikeGuard:
    guard = SpikeGuard(6.0)
    for step in range(MIN_HISTORY):
        assert not guard.is_spike(loss=level + 0.01 * (step % 3))
    return guard


def test_a_spike_is_far_above_the_recent_mean_and_never_below_it():
    guard = guard_with_history()
    assert not guard.is_spike(loss=1.05)
    assert guard.is_spike(loss=5.0)
    assert not guard.is_spike(loss=0.1)
    assert guard.is_spike(loss=math.nan)
    assert guard.is_spike(loss=math.inf)


def test_one_spike_does_not_hide_the_next():
    guard = guard_with_history()
    assert guard.is_spike(loss=1e9)
    assert guard.is_spike(loss=5.0)


def test_a_new_level_that_stays_is_accepted():
    """Other data may cost more per token; training must not stop for ever."""
    guard = guard_with_history()
    verdicts = [guard.is_spike(loss=3.0) for _ in range(40)]
    assert verdicts[0]
    assert not any(verdicts[20:])


def test_any_value_may_be_the_spike_and_the_first_steps_never_are():
    guard = SpikeGuard(6.0)
    for step in range(MIN_HISTORY):
        assert not guard.is_spike(loss=1.0 + 9 * (step == 3), grad_norm=1.0)
    assert guard.is_spike(loss=1.0, grad_norm=50.0)


def test_the_guard_survives_json_and_forgets_what_is_old():
    guard = guard_with_history()
    copy = SpikeGuard(6.0)
    copy.load(guard.to_json())
    assert copy.to_json() == guard.to_json()
    for _ in range(2 * HISTORY):
        copy.is_spike(loss=1.0)
    assert len(copy.to_json()["loss"]) == HISTORY


@pytest.mark.parametrize("name", ["steps", "checkpoint_every_steps", "micro_tokens"])
def test_settings_that_cannot_work_are_refused(name):
    with pytest.raises(ConfigError, match=f"{name} is 0"):
        stage(**{name: 0})


@pytest.mark.parametrize(
    "changes", [{"z_loss": -0.1}, {"z_loss": math.inf}, {"spike_sigmas": 0}, {"spike_sigmas": -1}]
)
def test_a_negative_weight_and_a_guard_that_skips_everything_are_refused(changes):
    with pytest.raises(ConfigError, match="choose a finite z_loss >= 0 and spike_sigmas > 0"):
        stage(**changes)
    assert stage(spike_sigmas=math.inf)


def test_a_schedule_that_cannot_work_is_refused_before_the_stage_begins():
    with pytest.raises(ConfigError, match=r"decay_fraction is 1\.5"):
        stage(decay_fraction=1.5)


def test_the_z_loss_is_logged_beside_the_loss_and_not_in_it():
    logged = {}
    for z_loss in (0.0, 0.5):
        model, settings = tiny_model(), stage(z_loss=z_loss)
        parts = build_optimizer(model, settings.optim), RouterBalancer(model, settings.balance)
        state = TrainState(SpikeGuard(6.0))
        report = train_step(model, *parts, windows_of(0), settings, state)
        logged[z_loss] = report.metrics(state)
    assert logged[0.5]["train/loss"] == pytest.approx(logged[0.0]["train/loss"], abs=1e-6)
    # The squared log-normalizer of logits near zero.
    assert logged[0.5]["train/z_loss"] == pytest.approx(0.5 * math.log(VOCABULARY) ** 2, rel=0.1)
    assert "train/z_loss" not in logged[0.0]
