"""Routing can be replayed, gradient flows through the weight only, and biases even out the load."""

import pytest
import torch
from model.tiny import MIXED, tiny_model, tokens

from openzaya.core.errors import CheckpointError, ConfigError, RequestError
from openzaya.model.balance import BalanceConfig, RouterBalancer
from openzaya.model.zaya import Zaya

SKIP = 4


def skipping_model(**changes: object) -> Zaya:
    """Return a model that skips about half of the choices of its second layer."""
    model = tiny_model(7, **changes)
    model.router_biases()[1][-1] += 0.3
    return model


@pytest.mark.parametrize("skip_mode", ["zero", "identity"])
def test_replaying_the_recorded_choices_repeats_the_run_bit_for_bit(skip_mode: str) -> None:
    model = skipping_model(skip_mode=skip_mode, **MIXED)
    ids, lengths = tokens(40, 2), [11, 29]
    first = model.trunk(ids, lengths)
    assert (first.experts_TL == SKIP).any()
    assert len(first.experts_TL.unique()) >= 4
    with torch.no_grad():
        # The choices come from the record: biases no longer matter.
        for balance in model.router_biases():
            balance += torch.randn(5)
    assert (model.trunk(ids, lengths).experts_TL != first.experts_TL).any()
    again = model.trunk(ids, lengths, replay_TL=first.experts_TL.to(torch.uint8))
    assert torch.equal(again.experts_TL, first.experts_TL)
    assert torch.equal(again.hidden_TD, first.hidden_TD)


def test_replay_decides_the_result_token_by_token_and_layer_by_layer() -> None:
    model = tiny_model(7)
    ids = tokens(10, 2)
    with torch.no_grad():
        base = model.trunk(ids)
        changed = base.experts_TL.clone()
        changed[6, 1] = (changed[6, 1] + 1) % 4
        other = model.trunk(ids, replay_TL=changed)
    assert torch.equal(other.experts_TL, changed)
    moved = (other.hidden_TD - base.hidden_TD).abs().amax(dim=1)
    assert moved[:6].max() < 1e-5
    assert moved[6] > 1e-2


def test_the_choice_is_by_probability_plus_bias_and_the_weight_is_the_bare_probability() -> None:
    router = skipping_model().layers[1].mlp.gate
    h = torch.randn(50, 24, generator=torch.Generator().manual_seed(1))
    before = torch.randn(50, 12, generator=torch.Generator().manual_seed(2))
    found = router(h, before, None)
    state = router.down_proj(h) + before * router.router_states_scale
    probs = router.router_mlp(state).softmax(-1)
    choice = (probs + router.balancing_biases).argmax(-1)
    torch.testing.assert_close(found.state_TR, state)
    assert torch.equal(found.expert_T, choice)
    assert (choice != probs.argmax(-1)).any()
    torch.testing.assert_close(found.gate_T, probs.gather(1, choice[:, None])[:, 0])


def test_gradient_goes_through_the_weight_and_the_depth_average_not_the_choice() -> None:
    model = tiny_model(7)
    ids = tokens(30, 4)
    recorded = model.trunk(ids).experts_TL
    weight = torch.randn(30, 24, generator=torch.Generator().manual_seed(3))

    def gradients(replay: torch.Tensor | None) -> dict[str, torch.Tensor]:
        model.zero_grad()
        (model.trunk(ids, replay_TL=replay).hidden_TD * weight).sum().backward()
        return {name: p.grad.clone() for name, p in model.named_parameters()}

    live, replayed = gradients(None), gradients(recorded)
    for name in live:
        torch.testing.assert_close(live[name], replayed[name], rtol=0, atol=0)
    router = "layers.0.mlp.gate.down_proj.weight"
    assert live[router].norm() > 0
    # All of the last layer's tokens skip: no path but none from its gate (zero output).
    skipped = recorded.clone()
    skipped[:, 2] = SKIP
    last = gradients(skipped)
    assert last["layers.2.mlp.gate.router_mlp.out_proj.weight"].norm() == 0
    assert last["layers.2.mlp.experts.down_proj"].norm() == 0
    # Layer 0's mixture skips too: its router still learns, through the next layers' state.
    skipped = recorded.clone()
    skipped[:, 0] = SKIP
    first = gradients(skipped)
    assert first["layers.0.mlp.gate.router_mlp.out_proj.weight"].norm() == 0
    assert first[router].norm() > 1e-4
    assert first["layers.1.mlp.gate.router_states_scale"].norm() > 1e-4
    model.zero_grad()


def test_the_gradient_of_the_weight_is_that_of_the_chosen_probability() -> None:
    mixture = tiny_model(7).layers[0].mlp
    h = torch.randn(6, 24, generator=torch.Generator().manual_seed(1))
    for classes in ([0, 1, 2, 3, 0, 1], [3, 3, 0, 0, 1, 2]):
        chosen = torch.tensor(classes)
        out, _ = mixture(h, None, chosen)
        scores = mixture.gate.router_mlp(mixture.gate.down_proj(h))
        gate = scores.softmax(-1).gather(1, chosen[:, None])
        plain = (out / gate).detach()
        weight = mixture.gate.router_mlp.out_proj.weight
        (found,) = torch.autograd.grad(out.sum(), weight)
        (wanted,) = torch.autograd.grad((gate * plain).sum(), weight)
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-6)
        assert found.norm() > 0


def test_each_expert_computes_its_own_gated_product() -> None:
    mixture = tiny_model(7).layers[0].mlp
    h = torch.randn(7, 24, generator=torch.Generator().manual_seed(1))
    chosen = torch.tensor([2, 0, 2, 3, 4, 0, 2])
    out, routing = mixture(h, None, chosen)
    for row, expert in enumerate(chosen.tolist()):
        wanted = torch.zeros(24)
        if expert != SKIP:
            gate, up = (mixture.experts.gate_up_proj[expert] @ h[row]).chunk(2)
            wanted = mixture.experts.down_proj[expert] @ (gate * gate.sigmoid() * up)
        torch.testing.assert_close(out[row], wanted * routing.gate_T[row], rtol=1e-4, atol=1e-5)


def test_a_replay_that_does_not_fit_is_refused() -> None:
    model = tiny_model(7)
    with pytest.raises(RequestError, match=r"shape \(4, 2\); expected \(4, 3\)"):
        model.trunk(tokens(4), replay_TL=torch.zeros(4, 2, dtype=torch.int64))
    for bad in (-1, 5):
        with pytest.raises(RequestError, match="experts are 0 to 3 and 4 means skip"):
            model.trunk(tokens(4), replay_TL=torch.full((4, 3), bad))


def balance(model: Zaya, balancer: RouterBalancer, steps: int) -> list[list[float]]:
    """Let the balancer act for some steps; return the load entropy of each."""
    history = []
    with torch.no_grad():
        for step in range(steps):
            for part in range(2):
                balancer.observe(model.trunk(tokens(64, 2 * step + part)).experts_TL)
            history.append(balancer.load_entropy())
            balancer.step()
    return history


def skewed_model(seed: int = 7, **changes: object) -> Zaya:
    """Return a model whose biases send nearly everything to expert 0."""
    model = tiny_model(seed, **changes)
    for bias in model.router_biases():
        bias.copy_(torch.tensor([0.3, 0.0, 0.0, 0.0, -1.0]))
    return model


def test_the_balancer_evens_out_a_skewed_load() -> None:
    model = skewed_model(1, num_hidden_layers=2)
    history = balance(model, RouterBalancer(model, BalanceConfig(learning_rate=1e-2)), 100)
    assert max(history[0]) < 0.2
    for layer in zip(*history[-20:], strict=True):
        assert sum(layer) / 20 > 0.85


def test_balancing_biases_keep_mean_zero_and_the_skip_bias_stays() -> None:
    model = skewed_model()
    with torch.no_grad():
        model.router_biases()[1][-1] = 0.1
    balance(model, RouterBalancer(model, BalanceConfig(learning_rate=0.02)), 5)
    for bias, skip in zip(model.router_biases(), (-1.0, 0.1, -1.0), strict=True):
        assert abs(float(bias[:-1].sum())) < 1e-6
        assert float(bias[-1]) == pytest.approx(skip)


@pytest.mark.parametrize("method", ["adam", "distance"])
def test_at_a_rate_of_zero_the_biases_keep_every_bit_and_their_mean(method) -> None:
    model = skewed_model()
    before = [bias.clone() for bias in model.router_biases()]
    balancer = RouterBalancer(model, BalanceConfig(method=method, learning_rate=0.0))
    trunk = model.trunk(tokens(64))
    balancer.observe(trunk.experts_TL, trunk.probs_TLX)
    balancer.step()
    assert balancer.last_LX.any()
    assert all(map(torch.equal, model.router_biases(), before))


def test_the_first_step_moves_each_bias_by_the_rate_against_its_error() -> None:
    model = tiny_model(0)
    for bias in model.router_biases():
        bias.zero_()
    balancer = RouterBalancer(model, BalanceConfig(learning_rate=0.01))
    # Shares 1/2, 1/2, 0, 0 of the routed tokens; skips do not count.
    choices = torch.tensor([0, 1, 0, 1, 4, 4, 4, 4])
    balancer.observe(choices[:, None].expand(-1, 3)[:3])
    balancer.observe(choices[:, None].expand(-1, 3)[3:])
    assert balancer.load_entropy() == pytest.approx([0.5] * 3)
    balancer.step()
    for bias in model.router_biases():
        torch.testing.assert_close(bias, torch.tensor([-0.01, -0.01, 0.01, 0.01, 0.0]))


def test_an_even_load_moves_nothing() -> None:
    model = tiny_model(0)
    for bias in model.router_biases():
        bias.zero_()
    balancer = RouterBalancer(model)
    balancer.observe(torch.arange(4)[:, None].expand(-1, 3))
    balancer.step()
    assert all(float(bias.abs().max()) == 0 for bias in model.router_biases())


def test_a_resumed_balancer_goes_on_as_if_never_stopped() -> None:
    generator = torch.Generator().manual_seed(0)
    loads = [torch.randint(0, 2 + step % 4, (40, 3), generator=generator) for step in range(9)]

    def advance(balancer: RouterBalancer, some: list[torch.Tensor]) -> None:
        for load in some:
            balancer.observe(load)
            balancer.step()

    whole = skewed_model()
    balancer = RouterBalancer(whole)
    advance(balancer, loads[:5])
    balancer.observe(loads[5])
    state = {name: value.clone() for name, value in balancer.state_dict().items()}
    weights = {name: value.clone() for name, value in whole.state_dict().items()}
    balancer.step()
    advance(balancer, loads[6:])
    results = []
    for remembers in (True, False):
        model = tiny_model(0)
        model.load_state_dict(weights)
        resumed = RouterBalancer(model)
        if remembers:
            resumed.load_state_dict(state)
        resumed.step()
        advance(resumed, loads[6:])
        results.append(torch.stack(model.router_biases()))
    assert torch.equal(results[0], torch.stack(whole.router_biases()))
    assert not torch.allclose(results[1], results[0])


def test_a_state_of_another_model_is_refused() -> None:
    state = RouterBalancer(tiny_model(0)).state_dict()
    with pytest.raises(CheckpointError, match=r"shape \(2, "):
        RouterBalancer(tiny_model(0, num_hidden_layers=2)).load_state_dict(state)
    with pytest.raises(ConfigError, match="beta"):
        BalanceConfig(beta1=1.0)
