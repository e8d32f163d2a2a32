"""Muon against torch's for single matrices, and its own laws for stacks."""

import pytest
import torch
from torch import nn

from openzaya.core.errors import CheckpointError, ConfigError
from openzaya.optim import Muon, MuonConfig
from openzaya.optim.groups import claim_parameters
from openzaya.optim.muon import round_at_random


class Matrices(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        draw = torch.Generator().manual_seed(3)
        self.wide = nn.Parameter(torch.randn(16, 24, generator=draw))
        self.wide_too = nn.Parameter(torch.randn(16, 24, generator=draw))
        self.tall = nn.Parameter(torch.randn(24, 8, generator=draw))
        self.experts = nn.Parameter(torch.randn(3, 16, 24, generator=draw))


def muon(model: nn.Module, **settings) -> Muon:
    return Muon(claim_parameters(model.named_parameters()), MuonConfig(**settings))


def set_gradients(model: nn.Module, seed: int) -> None:
    draw = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=draw)


@pytest.mark.parametrize("nesterov", [True, False])
def test_matrices_move_as_with_torch_optim_muon(nesterov):
    """torch iterates in bf16, so the two agree to bf16's precision; the momentum agrees exactly."""
    model = Matrices()
    singles = [nn.Parameter(p.detach().clone()) for p in (model.wide, model.wide_too, model.tall)]
    start = [p.detach().clone() for p in singles]
    reference = torch.optim.Muon(
        singles,
        lr=0.01,
        weight_decay=0.1,
        momentum=0.95,
        nesterov=nesterov,
        adjust_lr_fn="match_rms_adamw",
    )
    ours = muon(model, lr=0.01, nesterov=nesterov)
    for step in range(4):
        set_gradients(model, step)
        for single, parameter in zip(
            singles, (model.wide, model.wide_too, model.tall), strict=True
        ):
            single.grad = parameter.grad.clone()
        ours.step()
        reference.step()
    for single, parameter, old in zip(
        singles, (model.wide, model.wide_too, model.tall), start, strict=True
    ):
        moved, expected = parameter.detach() - old, single.detach() - old
        assert float((moved - expected).norm() / expected.norm()) < 0.03
    torch.testing.assert_close(
        ours.state_dict()["wide_too/momentum"], reference.state[singles[1]]["momentum_buffer"]
    )


def test_an_expert_of_a_stack_moves_like_a_matrix_of_its_own():
    model, alone = Matrices(), Matrices()
    set_gradients(model, 1)
    set_gradients(alone, 2)
    with torch.no_grad():
        alone.wide.copy_(model.experts[1])
    alone.wide.grad = model.experts.grad[1].clone()
    muon(model).step()
    muon(alone).step()
    torch.testing.assert_close(model.experts[1], alone.wide, atol=1e-6, rtol=1e-6)


def test_routers_learn_at_their_own_rate_and_nothing_else_does():
    """Two matrices of one shape and one gradient, of which one is a router's."""
    draw = torch.Generator().manual_seed(5)
    start, gradient = (torch.randn(16, 16, generator=draw) for _ in range(2))
    moves = {}
    for rate in (1.0, 0.25):
        named = {
            name: nn.Parameter(start.clone())
            for name in ("layers.0.mlp.gate.router_mlp.fc1.weight", "layers.0.self_attn.o.weight")
        }
        for parameter in named.values():
            parameter.grad = gradient.clone()
        Muon(claim_parameters(named.items()), MuonConfig(lr=0.1, router_rate=rate)).step()
        moves[rate] = [parameter.detach() - start for parameter in named.values()]
    torch.testing.assert_close(moves[1.0][0], moves[1.0][1])
    torch.testing.assert_close(moves[0.25][0], 0.25 * moves[1.0][0])
    assert torch.equal(moves[0.25][1], moves[1.0][1])


def test_an_expert_without_tokens_does_not_move_but_decays():
    model = Matrices()
    set_gradients(model, 1)
    model.experts.grad[2] = 0
    before = model.experts.detach().clone()
    muon(model, lr=0.01, weight_decay=0.5).step()
    torch.testing.assert_close(model.experts[2], before[2] * (1 - 0.005))
    assert not torch.allclose(model.experts[1], before[1] * (1 - 0.005), atol=1e-4)


@pytest.mark.parametrize(("scale", "factor"), [("match_rms_adamw", 0.2 * 24**0.5), ("none", 1.0)])
def test_the_update_has_the_norm_that_the_scale_convention_says(scale, factor):
    """Without rescaling all singular values of the step are about lr."""
    model = Matrices()
    set_gradients(model, 1)
    before = model.wide.detach().clone()
    muon(model, lr=0.1, scale=scale, weight_decay=0.0).step(lr_scale=0.5)
    values = torch.linalg.svdvals(before - model.wide.detach()) / (0.05 * factor)
    assert 0.6 < float(values.min()) <= float(values.max()) < 1.3


def test_without_momentum_there_is_no_buffer_and_no_memory_of_old_gradients():
    model, fresh = Matrices(), Matrices()
    forgetful = muon(model, momentum=None, weight_decay=0.0)
    set_gradients(model, 1)
    forgetful.step(lr_scale=0.0)
    set_gradients(model, 2)
    forgetful.step()
    set_gradients(fresh, 2)
    muon(fresh, momentum=None, weight_decay=0.0).step()
    torch.testing.assert_close(model.wide, fresh.wide)
    assert list(forgetful.state_dict()) == ["step"]


def test_momentum_rises_linearly_during_its_warm_up():
    config = MuonConfig(momentum=0.95, momentum_warmup_steps=300)
    assert [config.momentum_at(step) for step in (0, 150, 300, 999)] == pytest.approx(
        [0.85, 0.90, 0.95, 0.95]
    )


def test_a_loaded_state_continues_bit_for_bit():
    model = Matrices()
    first = muon(model)
    set_gradients(model, 1)
    first.step()
    state = {name: tensor.clone() for name, tensor in first.state_dict().items()}
    copy = Matrices()
    copy.load_state_dict(model.state_dict())
    second = muon(copy)
    second.load_state_dict(state)
    for optimizer, owner in ((first, model), (second, copy)):
        set_gradients(owner, 2)
        optimizer.step()
    assert all(
        torch.equal(a, b) for a, b in zip(model.parameters(), copy.parameters(), strict=True)
    )
    assert second.num_steps == 2


def test_a_state_of_another_model_is_refused():
    optimizer = muon(Matrices())
    state = optimizer.state_dict()
    del state["tall/momentum"]
    with pytest.raises(CheckpointError, match="tall/momentum"):
        optimizer.load_state_dict(state)
    state["tall/momentum"] = torch.zeros(2, 2)
    with pytest.raises(CheckpointError, match=r"\(2, 2\)"):
        optimizer.load_state_dict(state)


@pytest.mark.parametrize(
    "settings", [{"momentum": 1.0}, {"lr": -1.0}, {"weight_decay": -0.1}, {"router_rate": -1.0}]
)
def test_settings_that_cannot_work_are_refused(settings):
    with pytest.raises(ConfigError):
        MuonConfig(**settings)


def test_rounding_at_random_keeps_the_mean_and_gives_a_neighbor():
    exact = torch.full((20_000,), 1.0 + 2**-7 * 0.3)
    generator = torch.Generator().manual_seed(0)
    rounded = round_at_random(exact, torch.bfloat16, generator).float()
    assert set(rounded.tolist()) == {1.0, 1.0 + 2**-7}
    assert float(rounded.mean()) == pytest.approx(float(exact[0]), abs=2e-4)
    whole = torch.tensor([0.0, -1.5, 3.0])
    assert torch.equal(round_at_random(whole, torch.bfloat16, generator).float(), whole)


def test_momentum_in_bf16_moves_matrices_nearly_as_in_fp32():
    moved = []
    for dtype in ("float32", "bfloat16"):
        model = Matrices()
        before = model.experts.detach().clone()
        optimizer = muon(model, lr=0.01, weight_decay=0.0, momentum_dtype=dtype)
        for step in range(6):
            set_gradients(model, step)
            optimizer.step()
        assert optimizer.state_dict()["tall/momentum"].dtype == getattr(torch, dtype)
        moved.append(model.experts.detach() - before)
    assert 0 < float((moved[1] - moved[0]).norm() / moved[0].norm()) < 0.03


def test_parts_of_a_shape_move_as_the_whole_shape_would(monkeypatch):
    models = []
    for most in (1 << 24, 400):
        monkeypatch.setattr("openzaya.optim.muon.PART_ELEMENTS_CPU", most)
        model = Matrices()
        optimizer = muon(model)
        set_gradients(model, 1)
        optimizer.step()
        models.append((model, len(optimizer.parts)))
    (whole, few), (parts, many) = models
    assert many > few
    for a, b in zip(whole.parameters(), parts.parameters(), strict=True):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-6)
