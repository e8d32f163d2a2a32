"""transformers' ZayaForCausalLM is the reference for numbers."""

import random
from typing import Any, Literal

import pytest
import torch
from model.tiny import MIXED, distance, tiny_config, tiny_model, to_hf, tokens
from torch.nn import functional as F

from openzaya.model.config import FULL, SLIDING, ZayaConfig

TOLERANCE = 2e-5


def random_config(seed: int) -> ZayaConfig:
    """Draw a small architecture; the head ratios and layer kinds go through all cases."""
    draw = random.Random(seed)
    keys = (1, 2, 4)[seed % 3]
    layers = draw.randint(1, 4)
    kinds = tuple(draw.choice((FULL, SLIDING)) for _ in range(layers))
    return tiny_config(
        vocab_size=draw.randint(20, 90),
        hidden_size=draw.choice((16, 20, 32)),
        num_hidden_layers=layers,
        num_attention_heads=keys * draw.choice((1, 2, 4)),
        num_key_value_heads=keys,
        head_dim=draw.choice((4, 8, 16)),
        moe_intermediate_size=draw.choice((4, 12, 20)),
        num_experts=draw.randint(1, 6),
        router_hidden_size=draw.choice((4, 8, 12)),
        layer_types=kinds,
        sliding_window=draw.randint(1, 12) if SLIDING in kinds else None,
        rope_theta=draw.choice((50.0, 1e4)),
        partial_rotary_factor=draw.choice((0.5, 1.0)),
        rms_norm_eps=draw.choice((1e-5, 1e-3)),
    )


@pytest.mark.parametrize("seed", range(24))
def test_logits_equal_those_of_transformers(seed: int) -> None:
    config = random_config(seed)
    model = tiny_model(seed, config)
    if seed % 4 == 0:
        # Most tokens skip: the bias outweighs every probability for half of the layers.
        for balance in model.router_biases()[::2]:
            balance[-1] += 0.5
    ids = tokens(10 + 7 * (seed % 5), seed, config.vocab_size)
    wanted = to_hf(model)(ids[None]).logits[0]
    assert distance(model(ids), wanted) < TOLERANCE
    # Without gradients other kernels run.
    with torch.no_grad():
        assert distance(model(ids), wanted) < TOLERANCE


def test_the_random_configs_cover_skips_sliding_and_many_experts() -> None:
    used: set[int] = set()
    skipped = routed = 0
    for seed in range(8):
        config = random_config(seed)
        model = tiny_model(seed, config)
        with torch.no_grad():
            choices = model.trunk(tokens(30, seed, config.vocab_size)).experts_TL
        skipped += int((choices == config.num_experts).sum())
        routed += int((choices < config.num_experts).sum())
        used |= set(choices[choices < config.num_experts].tolist())
    assert skipped > 50
    assert routed > 200
    assert len(used) >= 4


@pytest.mark.parametrize("fused", ["auto", "off"])
@pytest.mark.parametrize("changes", [{}, MIXED, {"num_key_value_heads": 1}], ids=str)
def test_gradients_equal_those_of_transformers(
    changes: dict[str, Any], fused: Literal["auto", "off"]
) -> None:
    model = tiny_model(5, **changes)
    model.fused = fused
    reference = to_hf(model)
    # transformers gives the pad row no gradient from the tokens; here no token is special.
    ids = tokens(33, 1).clamp_min(1)
    weight = torch.randn(33, 61, generator=torch.Generator().manual_seed(2))
    (model(ids) * weight).sum().backward()
    (reference(ids[None]).logits[0] * weight).sum().backward()
    wanted = {n.removeprefix("model."): p.grad for n, p in reference.named_parameters()}
    for name, parameter in model.named_parameters():
        error = (parameter.grad - wanted[name]).norm() / (wanted[name].norm() + 1e-6)
        assert error < 2e-4, name


def test_skipped_tokens_add_nothing_or_the_gate_times_the_normed_input() -> None:
    zero = tiny_model(3, num_hidden_layers=2)
    same = tiny_model(3, num_hidden_layers=2, skip_mode="identity")
    h_TD = torch.randn(9, 24, generator=torch.Generator().manual_seed(1))
    classes = torch.tensor([4, 0, 4, 1, 2, 3, 4, 4, 0])
    skips = classes == 4
    mixture = same.layers[0].mlp
    found, routing = mixture(h_TD, None, classes)
    state = F.linear(h_TD, mixture.gate.down_proj.weight, mixture.gate.down_proj.bias)
    gate = mixture.gate.router_mlp(state).softmax(-1)[:, 4:]
    torch.testing.assert_close(routing.gate_T[skips], gate[skips, 0])
    torch.testing.assert_close(found[skips], (gate * h_TD)[skips])
    plain, _ = zero.layers[0].mlp(h_TD, None, classes)
    assert plain[skips].abs().max() == 0
    torch.testing.assert_close(found[~skips], plain[~skips], rtol=0, atol=0)
    assert plain[~skips].abs().min(dim=1).values.max() > 0


def test_identity_skip_reaches_the_logits() -> None:
    zero = tiny_model(3)
    same = tiny_model(3, skip_mode="identity")
    ids = tokens(12)
    for skip, differs in ((0, False), (4, True)):
        replay = torch.full((12, 3), skip)
        outs = [m.trunk(ids, replay_TL=replay).hidden_TD for m in (zero, same)]
        assert (distance(*outs) > 1e-2) == differs
