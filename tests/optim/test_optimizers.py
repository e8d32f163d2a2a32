"""Ownership of every parameter, clipping, skipping, masters and state by name."""

import math

import pytest
import torch
from torch import nn

from openzaya.core.errors import CheckpointError, ConfigError
from openzaya.model.presets import preset
from openzaya.model.zaya import Zaya
from openzaya.optim import MuonConfig, OptimConfig, build_optimizer
from openzaya.optim.groups import Rule, claim_parameters


def small_model() -> Zaya:
    model = Zaya(
        preset(
            "nano",
            vocab_size=32,
            hidden_size=32,
            num_hidden_layers=2,
            head_dim=8,
            moe_intermediate_size=16,
            num_experts=4,
            router_hidden_size=8,
            eos_token_id=1,
        )
    )
    model.init_weights(torch.Generator().manual_seed(0))
    return model


def set_gradients(model: nn.Module, seed: int = 0) -> None:
    draw = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=draw).to(parameter.dtype)


def test_the_real_model_is_claimed_as_the_paper_splits_it():
    """Muon: projections, experts, router matrices, head-wise convolution. AdamW: all else."""
    claims = claim_parameters(small_model().named_parameters())
    muon = {c.name.split(".", 2)[-1] for c in claims if c.rule.owner == "muon"}
    assert muon == {
        "self_attn.qkv_proj.q_proj.weight",
        "self_attn.qkv_proj.k_proj.weight",
        "self_attn.qkv_proj.v_proj_current.weight",
        "self_attn.qkv_proj.v_proj_delayed.weight",
        "self_attn.qkv_proj.conv_qk_grouped.weight",
        "self_attn.o_proj.weight",
        "mlp.gate.down_proj.weight",
        "mlp.gate.router_mlp.fc1.weight",
        "mlp.gate.router_mlp.fc2.weight",
        "mlp.gate.router_mlp.out_proj.weight",
        "mlp.experts.gate_up_proj",
        "mlp.experts.down_proj",
    }
    assert len(claims) == len(list(small_model().parameters()))
    assert all(c.rule.decay == (c.rule.owner == "muon") for c in claims)


def test_a_grouped_convolution_is_one_matrix_per_head():
    model = small_model()
    name = "layers.0.self_attn.qkv_proj.conv_qk_grouped.weight"
    claim = next(c for c in claim_parameters(model.named_parameters()) if c.name == name)
    view = claim.matrices(claim.parameter)
    heads = model.config.num_attention_heads + model.config.num_key_value_heads
    assert view.shape == (heads, 8, 8 * 2)
    assert torch.equal(view[1], claim.parameter[8:16].flatten(1))
    assert view.data_ptr() == claim.parameter.data_ptr()


def test_a_parameter_that_no_rule_wants_or_that_comes_twice_is_refused():
    parameter = nn.Parameter(torch.zeros(2, 2, 2, 2))
    with pytest.raises(ConfigError, match="odd"):
        claim_parameters([("odd", parameter)])
    vector = nn.Parameter(torch.zeros(2))
    with pytest.raises(ConfigError, match="twice"):
        claim_parameters([("bias", vector), ("bias", vector)])
    with pytest.raises(ConfigError, match="bias"):
        claim_parameters([("bias", vector)], (Rule("weight", (1,), "adamw", "vector"),))


def test_frozen_parameters_stay_as_they_are():
    model = small_model()
    model.embed_tokens.weight.requires_grad_(False)
    before = model.embed_tokens.weight.clone()
    optimizers = build_optimizer(model)
    set_gradients(model)
    optimizers.step()
    assert torch.equal(model.embed_tokens.weight, before)


def test_vectors_move_as_with_torch_adamw_without_decay():
    model, reference = small_model(), small_model()
    config = OptimConfig(lr_adamw=0.01, clip_norm=math.inf)
    optimizers = build_optimizer(model, config)
    adamw = torch.optim.AdamW(
        [reference.embed_tokens.weight, reference.norm.weight],
        lr=0.005,
        betas=(0.9, 0.95),
        weight_decay=0.0,
        fused=False,
    )
    for seed in range(3):
        set_gradients(model, seed)
        set_gradients(reference, seed)
        optimizers.step(lr_scale=0.5)
        adamw.step()
    torch.testing.assert_close(model.embed_tokens.weight, reference.embed_tokens.weight)
    torch.testing.assert_close(model.norm.weight, reference.norm.weight)


def test_clipping_scales_all_gradients_to_the_limit_and_reports_the_norm_before():
    model = small_model()
    optimizers = build_optimizer(model, OptimConfig(clip_norm=0.5))
    set_gradients(model)
    expected = torch.sqrt(sum(p.grad.square().sum() for p in model.parameters()))
    norm = optimizers.step()
    assert norm == pytest.approx(float(expected), rel=1e-5)
    assert optimizers.grad_norm() == pytest.approx(0.5, rel=1e-4)
    for parameter in model.parameters():
        parameter.grad *= 0.5
    optimizers.step()
    assert optimizers.grad_norm() == pytest.approx(0.25, rel=1e-4)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_gradient_that_is_not_finite_changes_nothing(bad):
    model = small_model()
    optimizers = build_optimizer(model)
    set_gradients(model)
    model.norm.weight.grad[3] = bad
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    state = {name: t.clone() for name, t in optimizers.state_dict().items()}
    assert not math.isfinite(optimizers.step())
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())
    assert all(torch.equal(t, state[name]) for name, t in optimizers.state_dict().items())


def test_bf16_weights_have_fp32_masters_that_collect_steps_too_small_for_bf16():
    """Steps of 2.5e-4 on weights near 1 vanish in bf16 one by one, but not 200 of them."""
    model = nn.Linear(4, 4, dtype=torch.bfloat16)
    nn.init.ones_(model.weight)
    config = OptimConfig(muon=MuonConfig(lr=2.5e-4, momentum=None, scale="none", weight_decay=0.0))
    optimizers = build_optimizer(model, config)
    for _ in range(200):
        model.weight.grad = torch.eye(4, dtype=torch.bfloat16)
        model.bias.grad = torch.zeros(4, dtype=torch.bfloat16)
        optimizers.step()
    assert float(model.weight.detach().diagonal().max()) == pytest.approx(0.95, abs=0.02)
    assert model.weight.dtype == torch.bfloat16
    assert "master/weight" in optimizers.state_dict()


def test_a_loaded_state_continues_bit_for_bit_for_both_optimizers():
    model = small_model()
    first = build_optimizer(model)
    set_gradients(model, 1)
    first.step()
    copy = small_model()
    copy.load_state_dict(model.state_dict())
    second = build_optimizer(copy)
    second.load_state_dict({name: t.clone() for name, t in first.state_dict().items()})
    for optimizers, owner in ((first, model), (second, copy)):
        set_gradients(owner, 2)
        optimizers.step()
    other = dict(copy.named_parameters())
    assert all(torch.equal(p, other[name]) for name, p in model.named_parameters())


def test_a_state_that_does_not_fit_is_refused_by_name():
    optimizers = build_optimizer(small_model())
    state = dict(optimizers.state_dict())
    state["adamw/norm.weight/exp_avg"] = torch.zeros(5)
    with pytest.raises(CheckpointError, match=r"norm\.weight/exp_avg"):
        optimizers.load_state_dict(state)
    del state["adamw/norm.weight/exp_avg"]
    with pytest.raises(CheckpointError, match="missing"):
        optimizers.load_state_dict(state)


def test_forgotten_gradients_are_gone():
    model = small_model()
    optimizers = build_optimizer(model)
    set_gradients(model)
    optimizers.zero_grad()
    assert all(p.grad is None for p in model.parameters())
    assert optimizers.grad_norm() == 0.0


@pytest.mark.parametrize(
    "settings",
    [
        {"clip_norm": 0.0},
        {"lr_adamw": -1.0},
        {"betas": (0.9, 1.0)},
        {"betas": (-0.1, 0.9)},
        {"eps": 0.0},
    ],
)
def test_settings_that_cannot_work_are_refused(settings):
    with pytest.raises(ConfigError):
        OptimConfig(**settings)


def test_without_masters_matrices_in_bf16_collect_small_steps_on_average_and_repeatably():
    """Steps of 2.5e-4 on weights near 1, where bf16 has steps of 8e-3 above and 4e-3 below."""
    results = []
    for masters in ("all", "adamw", "adamw"):
        model = nn.Linear(64, 64, dtype=torch.bfloat16)
        nn.init.ones_(model.weight)
        muon = MuonConfig(lr=2.5e-4, momentum=None, scale="none", weight_decay=0.0)
        optimizers = build_optimizer(model, OptimConfig(muon=muon, masters=masters))
        for _ in range(100):
            model.weight.grad = torch.eye(64, dtype=torch.bfloat16)
            model.bias.grad = torch.zeros(64, dtype=torch.bfloat16)
            optimizers.step()
        state = optimizers.state_dict()
        assert ("master/weight" in state) == (masters == "all")
        assert "master/bias" in state
        results.append(model.weight.detach().clone())
    exact, first, again = (float(w.float().diagonal().mean()) for w in results)
    assert exact < 0.99
    assert first == pytest.approx(exact, abs=0.003)
    assert first == again
    assert torch.equal(results[1], results[2])
