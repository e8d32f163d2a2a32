"""What a fresh model is like, and how large the documented ones are."""

import math

import pytest
import torch
from model.tiny import MIXED, tiny_config, tokens
from torch.nn import functional as F

from openzaya.core.errors import ConfigError
from openzaya.model.config import ZayaConfig
from openzaya.model.presets import PRESETS, preset
from openzaya.model.zaya import Zaya


def fresh(config: ZayaConfig, seed: int = 0) -> Zaya:
    """Return a model drawn from a seed."""
    model = Zaya(config)
    with torch.no_grad():
        for parameter in model.parameters():
            # Whatever was there before must not matter.
            parameter.fill_(math.nan)
    model.init_weights(torch.Generator().manual_seed(seed))
    return model


def test_the_key_temperature_starts_at_one() -> None:
    for block in fresh(preset("nano")).layers:
        assert block.self_attn.qk_norm.temp.tolist() == [1.0, 1.0]


def test_every_parameter_learns_from_the_first_step_on() -> None:
    model = fresh(tiny_config(num_experts=3, **MIXED))
    ids = tokens(600, 1)
    trunk = model.trunk(ids, [200] * 3)
    counts = torch.stack([column.bincount(minlength=4)[:3] for column in trunk.experts_TL.T])
    F.cross_entropy(model.head(trunk.hidden_TD), ids.roll(-1)).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        if ".experts." in name:
            layer = int(name.split(".")[1])
            learns = parameter.grad.flatten(1).norm(dim=1) > 0
            assert learns.tolist() == (counts[layer] > 0).tolist(), name
        else:
            assert float(parameter.grad.norm()) > 0, name
    # The test means something: most experts have tokens.
    assert int((counts > 0).sum()) >= 6


def test_a_seed_decides_all_weights() -> None:
    first, again, other = (fresh(tiny_config(), seed).state_dict() for seed in (1, 1, 2))
    for name, value in first.items():
        assert torch.equal(value, again[name]), name
        if value.ndim > 1:
            assert not torch.equal(value, other[name]), name


def test_fresh_weights_have_the_documented_spread() -> None:
    model = fresh(preset("nano"))
    state = model.state_dict()
    depth = 1 / math.sqrt(2 * 4)
    wanted = {
        "embed_tokens.weight": 0.02,
        "layers.1.self_attn.qkv_proj.q_proj.weight": 1 / math.sqrt(128),
        "layers.1.self_attn.qkv_proj.conv_qk_depthwise.weight": 1 / math.sqrt(2),
        "layers.1.self_attn.qkv_proj.conv_qk_grouped.weight": 1 / math.sqrt(64),
        "layers.1.self_attn.o_proj.weight": depth / math.sqrt(128),
        "layers.1.mlp.experts.gate_up_proj": 1 / math.sqrt(128),
        "layers.1.mlp.experts.down_proj": depth / math.sqrt(128),
        "layers.1.mlp.gate.router_mlp.fc1.weight": 1 / math.sqrt(32),
        "layers.1.mlp.gate.router_mlp.out_proj.weight": 0.1 / math.sqrt(32),
    }
    for name, std in wanted.items():
        assert float(state[name].std()) == pytest.approx(std, rel=0.15), name
    for name, value in state.items():
        if name.endswith(("residual_scale", "states_scale", "norm.weight")) and value.ndim == 1:
            depth_average = name.endswith("router_states_scale")
            assert value.unique().tolist() == [0.0 if depth_average else 1.0], name
        elif name.endswith("bias"):
            assert not value.any(), name
    assert not state["embed_tokens.weight"][0].any()
    for bias in model.router_biases():
        assert bias.tolist() == [0.0] * 8 + [-1.0]


def test_documented_sizes() -> None:
    large, small = preset("zaya1-8b"), preset("s")
    assert large.num_parameters() == 8_840_488_784
    assert large.num_active_parameters(with_head=False) == pytest.approx(753.6e6, abs=5e4)
    assert large.num_active_parameters() == pytest.approx(1_290.7e6, abs=5e4)
    assert small.num_parameters() == pytest.approx(122.0e6, abs=5e4)
    assert small.num_active_parameters(with_head=False) == pytest.approx(11.3e6, abs=5e4)


@pytest.mark.parametrize("name", PRESETS)
def test_the_formula_counts_the_parameters_that_exist(name: str) -> None:
    config = preset(name)
    with torch.device("meta"):
        model = Zaya(config)
    assert config.num_parameters() == sum(p.numel() for p in model.parameters())


def test_active_parameters_are_those_that_one_token_reaches() -> None:
    model = fresh(tiny_config())
    model(torch.tensor([5])).square().sum().backward()
    reached = 0
    for name, parameter in model.named_parameters():
        if ".experts." in name:
            used = parameter.grad.flatten(1).abs().amax(dim=1) > 0
            reached += int(used.sum()) * parameter[0].numel()
        elif name != "embed_tokens.weight":
            reached += parameter.numel()
    assert model.config.num_active_parameters(with_head=False) == reached


def test_misspelt_presets_and_fields_get_a_suggestion() -> None:
    with pytest.raises(ConfigError, match="did you mean 'nano'"):
        preset("nan0")
    with pytest.raises(ConfigError, match="did you mean 'num_experts'"):
        preset("nano", num_expert=3)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_key_value_heads": 3}, "does not divide"),
        ({"hidden_size": 0}, "hidden_size is 0"),
        ({"num_experts": True}, "num_experts is True"),
        ({"num_attention_heads": 1, "num_key_value_heads": 1, "head_dim": 3}, "must be even"),
        ({"partial_rotary_factor": 0.4}, "choose a factor"),
        ({"layer_types": ("hybrid",)}, "names 1 layers"),
        ({"layer_types": ("hybrid", "full", "hybrid")}, "known types"),
        ({"layer_types": ("hybrid_sliding",) * 3}, "set the number of tokens"),
        ({"skip_mode": "none"}, "choose 'zero' or 'identity'"),
        ({"precision": "fp8"}, "choose 'hf' or 'paper'"),
        ({"rope_theta": 0}, "number > 0"),
    ],
)
def test_fields_that_do_not_fit_are_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        tiny_config(**changes)


def test_another_rotary_base_changes_only_the_layers_of_its_type() -> None:
    model = fresh(tiny_config(**MIXED))
    ids = tokens(12, 1)

    def attended(layer: int) -> torch.Tensor:
        kept: list[torch.Tensor] = []
        hook = model.layers[layer].self_attn.register_forward_hook(
            lambda _module, _args, out: kept.append(out)
        )
        with torch.no_grad():
            model(ids)
        hook.remove()
        return kept[0]

    before = [attended(layer) for layer in range(2)]
    model.set_rope_theta({"hybrid_sliding": 3.0})
    after = [attended(layer) for layer in range(2)]
    assert torch.equal(before[0], after[0])
    assert not torch.allclose(before[1], after[1], rtol=1e-3)
    with pytest.raises(ConfigError, match="has no 'hybrid_sliding' layers"):
        fresh(tiny_config()).set_rope_theta({"hybrid_sliding": 3.0})
    with pytest.raises(ConfigError, match="must be > 0"):
        model.set_rope_theta(0.0)
