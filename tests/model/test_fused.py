"""The fused training forward gives the plain one's numbers, gradients and choices."""

import pytest
import torch
from model.tiny import MIXED, distance, tiny_model, tokens

from openzaya.core.errors import ConfigError
from openzaya.model import zaya
from openzaya.model.fused.compiling import COMPILING, region
from openzaya.model.fused.experts import reason_against_grouping
from openzaya.model.lora import LoraConfig, adapters, add_lora


@pytest.fixture(params=["native", "torch"])
def kernels(request, monkeypatch):
    """Run the fused forward in our C++, and as torch's operations."""
    if request.param == "torch":
        monkeypatch.setattr(zaya, "reason_against_native", lambda _dtype, _device: "not wanted")


LENGTHS = [1, 2, 20, 3, 30, 4]
CASES = [{}, MIXED, {"skip_mode": "identity"}, {"num_key_value_heads": 1}]


def run(model, fused, **settings):
    """Return hidden rows, choices and all gradients of a loss that weighs every number apart."""
    model.fused = fused
    for name, value in settings.items():
        setattr(model, name, value)
    model.zero_grad()
    trunk = model.trunk(tokens(sum(LENGTHS)), LENGTHS)
    weights = torch.linspace(0.1, 1.0, trunk.hidden_TD.numel()).view_as(trunk.hidden_TD)
    (trunk.hidden_TD.square() * weights).sum().backward()
    grads = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    return trunk, grads


def skipping_model(**changes):
    """Return a model in which many tokens skip."""
    model = tiny_model(1, **changes)
    with torch.no_grad():
        for balance in model.router_biases():
            balance[-1] = 0.2
    return model


@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize("changes", CASES, ids=str)
@pytest.mark.parametrize("settings", [{}, {"recompute": True}, {"offload": True}], ids=str)
def test_hidden_rows_gradients_and_choices_are_those_of_the_plain_forward(changes, settings):
    model = skipping_model(**changes)
    plain, wanted = run(model, "off")
    fused, found = run(model, "on", **settings)
    assert torch.equal(plain.experts_TL, fused.experts_TL)
    assert int((plain.experts_TL == model.config.num_experts).sum()) > 20
    assert distance(fused.hidden_TD, plain.hidden_TD) < 1e-5
    assert found.keys() == wanted.keys()
    for name, grad in wanted.items():
        assert distance(found[name], grad) < 1e-5, name


@pytest.mark.usefixtures("kernels")
def test_adapters_of_a_frozen_model_get_the_gradients_of_the_plain_forward():
    model = skipping_model()
    add_lora(model, LoraConfig(rank=2, targets=("attention", "experts")))
    with torch.no_grad():
        for _, adapter in adapters(model):
            adapter.lora_b.normal_(0.0, 0.1, generator=torch.Generator().manual_seed(3))
    _, wanted = run(model, "off")
    _, found = run(model, "on")
    assert found.keys() == wanted.keys()
    for name, grad in wanted.items():
        assert distance(found[name], grad) < 3e-5, name


@pytest.mark.usefixtures("kernels")
def test_a_replay_is_followed_and_its_gates_stay_live():
    model = skipping_model()
    model.fused = "on"
    replay = torch.randint(0, 5, (60, 3), generator=torch.Generator().manual_seed(1))
    fused = model.trunk(tokens(60), LENGTHS, replay_TL=replay)
    assert torch.equal(fused.experts_TL, replay)
    model.fused = "off"
    plain = model.trunk(tokens(60), LENGTHS, replay_TL=replay)
    assert distance(fused.hidden_TD, plain.hidden_TD) < 1e-5


@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize("empty", [0, 2, 3])
def test_an_expert_without_tokens_gets_a_zero_gradient(empty):
    model = skipping_model()
    model.fused = "on"
    replay = torch.full((60, 3), (empty + 1) % 4)
    trunk = model.trunk(tokens(60), LENGTHS, replay_TL=replay)
    trunk.hidden_TD.sum().backward()
    grad = model.layers[1].mlp.experts.down_proj.grad
    assert not bool(grad[empty].any())
    assert bool(grad[(empty + 1) % 4].any())


def test_bf16_rounds_no_more_than_the_plain_paper_forward():
    model = tiny_model(2, precision="paper")
    replay = model.trunk(tokens(60), LENGTHS).experts_TL
    exact = model.trunk(tokens(60), LENGTHS, replay_TL=replay).hidden_TD
    low = tiny_model(2, precision="paper").bfloat16()
    for mine, theirs in zip(low.router_biases(), model.router_biases(), strict=True):
        mine.data = theirs.clone()
    errors = {}
    exact = exact.detach()
    for fused in ("on", "off"):
        low.fused = fused
        found = low.trunk(tokens(60), LENGTHS, replay_TL=replay).hidden_TD.detach()
        errors[fused] = float((found.float() - exact).norm() / exact.norm())
    assert errors["on"] < 0.03
    assert errors["on"] < 1.3 * errors["off"]


def test_a_region_that_cannot_be_compiled_runs_eagerly_and_says_so(caplog, monkeypatch):
    def broken(_graph, _inputs):
        raise RuntimeError("no compiler here")

    monkeypatch.setattr(COMPILING, "on_cpu", True)
    monkeypatch.setattr(COMPILING, "backend", broken)
    monkeypatch.setattr(COMPILING, "failures", {})

    @region
    def twice(x):
        return x * 2

    assert torch.equal(twice(torch.ones(3)), torch.full((3,), 2.0))
    assert "twice" in COMPILING.failures
    assert "twice could not be compiled" in caplog.text


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
def test_compiled_regions_give_the_same_numbers(monkeypatch, backend):
    model = skipping_model()
    _, wanted = run(model, "off")
    model.recompute = backend == "inductor"  # which keeps the tensors that it likes
    monkeypatch.setattr(zaya, "reason_against_native", lambda _dtype, _device: "not wanted")
    monkeypatch.setattr(COMPILING, "on_cpu", True)
    monkeypatch.setattr(COMPILING, "backend", backend)
    _, found = run(model, "on")
    assert COMPILING.failures == {}
    for name, grad in wanted.items():
        assert distance(found[name], grad) < 3e-5, name


def test_shapes_that_the_grouped_product_refuses_are_named():
    cpu, cuda = torch.device("cpu"), torch.device("cuda")
    assert reason_against_grouping(torch.float32, cpu, [24, 16]) == ""
    assert "a width is 18" in reason_against_grouping(torch.float32, cpu, [24, 18])
    assert "float32 on cuda" in reason_against_grouping(torch.float32, cuda, [24])
    assert "a width is 12" in reason_against_grouping(torch.bfloat16, cuda, [24, 12])
    model = tiny_model(hidden_size=22)
    model.fused = "on"
    with pytest.raises(ConfigError, match="a width is 22"):
        model.trunk(tokens(4))
