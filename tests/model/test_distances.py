"""Distances of balancing biases from an even load: by definition, added up, and at work."""

from collections.abc import Callable

import pytest
import torch
from model.tiny import tiny_model, tokens
from torch import Tensor

from openzaya.core.errors import CheckpointError, ConfigError
from openzaya.model.balance import BalanceConfig, RouterBalancer
from openzaya.model.distances import distances, even_distances, histograms
from openzaya.model.zaya import Zaya

BY_DISTANCE = BalanceConfig(method="distance")


def draw(seed: int, num_tokens: int = 200) -> tuple[Tensor, Tensor]:
    """Return probabilities of four experts and skipping, and a bias."""
    generator = torch.Generator().manual_seed(seed)
    probs_TX = torch.randn(num_tokens, 5, generator=generator).mul(2).softmax(-1)
    balance_X = torch.randn(5, generator=generator) * 0.2
    return probs_TX, balance_X


@pytest.mark.parametrize("seed", range(3))
def test_a_bias_that_rises_by_a_little_more_than_the_distance_wins_the_token(seed: int) -> None:
    probs_TX, balance_X = draw(seed)
    distance_TE = distances(probs_TX, balance_X)
    for expert in range(4):
        for slack, wins in ((1e-4, True), (-1e-4, False)):
            for token in range(0, 200, 7):
                moved_X = balance_X.clone()
                moved_X[expert] += distance_TE[token, expert] + slack
                assert (int((probs_TX[token] + moved_X).argmax()) == expert) is wins


@pytest.mark.parametrize("seed", range(4))
def test_the_even_distance_is_the_quantile_of_the_sorted_distances(seed: int) -> None:
    """Up to the width of a bin, a fifth."""
    distance_TE = distances(*draw(seed, 1000))
    found_E = even_distances(histograms(distance_TE).unsqueeze(0), torch.tensor([250.0]))[0]
    exact_E = distance_TE.sort(dim=0).values[249]
    torch.testing.assert_close(found_E, exact_E, rtol=0.25, atol=2e-3)


def test_distances_on_both_sides_of_the_bins_are_kept() -> None:
    distance_TE = torch.tensor([[-50.0], [-1e-9], [0.0], [1e-9], [50.0]])
    found_H = histograms(distance_TE)[0]
    assert found_H.nonzero().flatten().tolist() == [0, 63, 64, 127]
    assert found_H[64] == 2
    for share, low, high in ((0.5, -4.0, -3.2), (4.9, 3.2, 4.0), (5.0, 3.9, 4.1)):
        (way,) = even_distances(found_H.view(1, 1, -1), torch.tensor([share]))[0].tolist()
        assert low <= way <= high


def skewed_model(seed: int = 1) -> Zaya:
    """Return a model that sends nearly everything to expert 0."""
    model = tiny_model(seed)
    with torch.no_grad():
        for bias in model.router_biases():
            bias.copy_(torch.tensor([0.5, 0.0, 0.0, 0.0, -1.0]))
    return model


def observe(model: Zaya, balancer: RouterBalancer, parts: int = 1, seed: int = 0) -> None:
    """Run the model over 240 tokens as `parts` microbatches and observe them."""
    for ids_T in tokens(240, seed).chunk(parts):
        trunk = model.trunk(ids_T, [8] * (len(ids_T) // 8))
        balancer.observe(trunk.experts_TL, trunk.probs_TLX)


def test_a_skewed_load_is_even_after_a_few_steps() -> None:
    model = skewed_model()
    balancer = RouterBalancer(model, BY_DISTANCE)
    history = []
    for step in range(12):
        observe(model, balancer, seed=step)
        history.append(balancer.load_entropy())
        balancer.step()
    assert max(history[0]) < 0.5
    assert min(min(layers) for layers in history[6:]) > 0.9


def test_microbatches_and_recomputed_layers_change_no_bias() -> None:
    biases, sums = [], []
    for parts, recompute in ((1, False), (5, False), (5, True)):
        model = skewed_model()
        model.recompute = recompute
        balancer = RouterBalancer(model, BY_DISTANCE)
        observe(model, balancer, parts)
        sums.append(balancer.histograms_LN.sum())
        balancer.step()
        biases.append(torch.stack(model.router_biases()))
        assert not bool(balancer.tally_LN.any())
    assert float(sums[0]) == 240 * 3 * 4
    assert sums[0] == sums[1] == sums[2]
    assert torch.equal(biases[0], biases[1])
    assert torch.equal(biases[0], biases[2])
    assert not torch.equal(biases[0], torch.stack(skewed_model().router_biases()))


def test_the_fused_forward_returns_the_probabilities_of_the_plain_one() -> None:
    model = skewed_model()
    RouterBalancer(model, BY_DISTANCE)
    model.fused = "off"
    plain = model.trunk(tokens(40), [40]).probs_TLX
    model.fused = "on"
    fused = model.trunk(tokens(40), [40]).probs_TLX
    assert plain is not None
    assert fused is not None
    torch.testing.assert_close(plain, fused, rtol=1e-4, atol=1e-6)
    assert not plain.requires_grad
    assert not fused.requires_grad
    torch.testing.assert_close(plain.sum(-1), torch.ones(40, 3))


def test_probabilities_are_returned_only_where_they_are_used() -> None:
    model = skewed_model()
    assert model.trunk(tokens(4)).probs_TLX is None
    RouterBalancer(model, BY_DISTANCE)
    assert model.trunk(tokens(4)).probs_TLX is not None
    with torch.no_grad():
        assert model.trunk(tokens(4)).probs_TLX is None
    RouterBalancer(model)
    assert model.trunk(tokens(4)).probs_TLX is None


def test_the_skip_bias_stays_and_the_mean_stays_zero() -> None:
    model = skewed_model()
    with torch.no_grad():
        model.router_biases()[1][-1] = 0.1
    balancer = RouterBalancer(model, BY_DISTANCE)
    observe(model, balancer)
    balancer.step()
    for bias, skip in zip(model.router_biases(), (-1.0, 0.1, -1.0), strict=True):
        assert abs(float(bias[:-1].sum())) < 1e-6
        assert float(bias[-1]) == pytest.approx(skip)


def test_a_layer_whose_tokens_all_skip_is_left_alone() -> None:
    model = skewed_model()
    kept_X = torch.tensor([0.75, -0.25, -0.25, -0.25, 9.0])
    with torch.no_grad():
        model.router_biases()[1].copy_(kept_X)
    balancer = RouterBalancer(model, BY_DISTANCE)
    observe(model, balancer)
    balancer.step()
    assert torch.equal(model.router_biases()[1], kept_X)
    assert not torch.equal(model.router_biases()[2], skewed_model().router_biases()[2])


def resumed(state: dict[str, Tensor] | None, weights: dict[str, Tensor]) -> Tensor:
    """Return the biases of a balancer that went on from the middle of a step."""
    model = skewed_model()
    model.load_state_dict(weights)
    balancer = RouterBalancer(model, BY_DISTANCE)
    if state is not None:
        balancer.load_state_dict(state)
    observe(model, balancer, seed=5)
    balancer.step()
    return torch.stack(model.router_biases())


def test_a_resumed_balancer_goes_on_bit_for_bit() -> None:
    model = skewed_model()
    balancer = RouterBalancer(model, BY_DISTANCE)
    observe(model, balancer, seed=3)
    balancer.step()
    observe(model, balancer, seed=4)
    state, weights = balancer.state_dict(), {n: t.clone() for n, t in model.state_dict().items()}
    observe(model, balancer, seed=5)
    balancer.step()
    assert torch.equal(resumed(state, weights), torch.stack(model.router_biases()))
    assert not torch.equal(resumed(None, weights), torch.stack(model.router_biases()))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: BalanceConfig(method="distance", pace=0.0), "pace is 0.0"),
        (lambda: BalanceConfig(method="distance", pace=1.5), "pace is 1.5"),
    ],
)
def test_a_pace_outside_its_range_is_refused(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make()


def test_a_state_of_the_other_method_is_refused() -> None:
    state = RouterBalancer(tiny_model(0)).state_dict()
    with pytest.raises(CheckpointError, match="another way of balancing"):
        RouterBalancer(tiny_model(0), BY_DISTANCE).load_state_dict(state)
