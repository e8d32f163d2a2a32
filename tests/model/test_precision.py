"""The fp32 sets act as named, and attention stays on torch's fused kernel."""

from dataclasses import replace

import pytest
import torch
from model.tiny import MIXED, distance, tiny_config, tiny_model, to_hf, tokens
from torch.profiler import ProfilerActivity, profile

from openzaya.model.cache import Cache
from openzaya.model.config import Precision
from openzaya.model.precision import HF
from openzaya.model.zaya import Zaya


def in_bf16(model: Zaya, precision: Precision) -> Zaya:
    """Return a bf16 copy whose balancing biases stay fp32."""
    copy = Zaya(replace(model.config, precision=precision))
    copy.load_state_dict(model.state_dict())
    copy.to(torch.bfloat16)
    for kept, bias in zip(copy.router_biases(), model.router_biases(), strict=True):
        kept.data = bias.clone()
    return copy.eval()


def divergence(found: torch.Tensor, wanted: torch.Tensor) -> float:
    """Return the mean KL divergence of two tables of logits."""
    found, wanted = found.double().log_softmax(-1), wanted.double().log_softmax(-1)
    return float((wanted.exp() * (wanted - found)).sum(-1).mean())


def test_the_papers_set_is_closer_to_fp32_than_transformers_rounding() -> None:
    hf = paper = 0.0
    for seed in range(4):
        rounded = in_bf16(tiny_model(seed), "hf")
        # The fp32 run has the rounded weights, so that only the arithmetic differs.
        exact = Zaya(rounded.config)
        exact.load_state_dict({k: v.float() for k, v in rounded.state_dict().items()})
        ids = tokens(48, seed)
        with torch.no_grad():
            wanted = exact.trunk(ids)
            logits = exact.head(wanted.hidden_TD)
            outs = [
                model.head(model.trunk(ids, replay_TL=wanted.experts_TL).hidden_TD)
                for model in (rounded, in_bf16(exact, "paper"))
            ]
        hf += divergence(outs[0], logits)
        paper += divergence(outs[1], logits)
        assert outs[0].dtype is torch.bfloat16
        assert outs[1].dtype is torch.float32
    assert 0 < paper < 0.7 * hf


def test_bf16_is_as_far_from_fp32_as_transformers_is() -> None:
    far = {"hf": 0.0, "paper": 0.0, "transformers": 0.0}
    for seed in range(4):
        model = tiny_model(seed)
        for layer, bias in enumerate(model.router_biases()):
            # One expert per layer: rounding must not flip a choice.
            bias[layer] += 5
        reference = to_hf(model).to(torch.bfloat16)
        for layer, bias in zip(reference.model.layers, model.router_biases(), strict=True):
            layer.mlp.gate.balancing_biases.data = bias.clone()
        ids = tokens(48, 1)
        with torch.no_grad():
            exact = model(ids)
            far["transformers"] += divergence(reference(ids[None]).logits[0], exact)
            far["hf"] += divergence(in_bf16(model, "hf")(ids), exact)
            far["paper"] += divergence(in_bf16(model, "paper")(ids), exact)
    assert 0.8 < far["hf"] / far["transformers"] < 1.25
    assert far["paper"] < far["hf"]


def test_the_router_softmax_and_the_cca_state_are_fp32_in_the_papers_set() -> None:
    model = tiny_model(5)
    ids = tokens(20)
    for precision, dtype in (("hf", torch.bfloat16), ("paper", torch.float32)):
        low = in_bf16(model, precision)
        cache = Cache(low.config, 1, 24, torch.bfloat16)
        with torch.no_grad():
            low.trunk(ids, [20], cache)
        assert cache.conv.dtype is cache.delayed.dtype is dtype
        assert cache.keys[0].dtype is torch.bfloat16
        state = low.layers[0].self_attn.qkv_proj
        with torch.no_grad():
            u, v = state._project(torch.ones(2, 24, dtype=torch.bfloat16))
        assert u.dtype is v.dtype is dtype


@pytest.mark.parametrize("precision", ["hf", "paper"])
def test_a_bf16_cache_continues_like_the_whole_sequence(precision: Precision) -> None:
    low = in_bf16(tiny_model(6, **MIXED), precision)
    ids = tokens(20, 1)
    with torch.no_grad():
        whole = low.trunk(ids)
        wanted = low.head(whole.hidden_TD)
        cache = Cache(low.config, 1, 20, torch.bfloat16)
        parts = []
        start = 0
        for size in (9, 1, 1, 4, 1, 4):
            span = slice(start, start + size)
            out = low.trunk(ids[span], [size], cache, replay_TL=whole.experts_TL[span])
            parts.append(low.head(out.hidden_TD))
            start += size
        exact = Zaya(low.config)
        exact.load_state_dict({k: v.float() for k, v in low.state_dict().items()})
        right = exact.head(exact.trunk(ids, replay_TL=whole.experts_TL).hidden_TD)
    noise = divergence(wanted, right)
    assert divergence(torch.cat(parts), right) < 3 * noise + 1e-6


@pytest.mark.parametrize("grad", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_packed_attention_uses_the_fused_kernel(grad: bool, dtype: torch.dtype) -> None:
    model = tiny_model(0).to(dtype)
    model.fused = "off"
    with torch.set_grad_enabled(grad), profile(activities=[ProfilerActivity.CPU]) as run:
        out = model(tokens(60), [30, 28, 2])
        if grad:
            out.float().square().mean().backward()
    names = {event.key for event in run.key_averages()}
    assert any("_scaled_dot_product_flash_attention_for_cpu" in name for name in names)
    assert not any("_scaled_dot_product_attention_math" in name for name in names)


def test_decoding_uses_the_fused_kernel_too() -> None:
    model = tiny_model(0, **MIXED)
    cache = Cache(model.config, 3, 20)
    with torch.no_grad():
        model.trunk(tokens(12), [5, 4, 3], cache)
        with profile(activities=[ProfilerActivity.CPU]) as run:
            model.trunk(tokens(3), [1, 1, 1], cache)
            model.trunk(tokens(6), [2, 2, 2], cache)
    names = {event.key for event in run.key_averages()}
    assert any("_scaled_dot_product_flash_attention_for_cpu" in name for name in names)
    assert not any("_scaled_dot_product_attention_math" in name for name in names)


def test_sizes_of_a_cache_follow_its_dtype() -> None:
    config = tiny_config()
    small, large = (Cache(config, 2, 10, dtype) for dtype in (torch.bfloat16, torch.float32))
    numbers = 3 * 2 * (64 * 2 * 2 * 8 + 6 * 8 * 2 + 8)
    assert (small.nbytes, large.nbytes) == (2 * numbers, 4 * numbers)


def test_the_papers_norm_rounds_once() -> None:
    low = in_bf16(tiny_model(5), "paper").layers[0].input_layernorm
    x = torch.randn(50, 24, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        unit = x.double() * (x.double().square().mean(-1, keepdim=True) + 1e-5).rsqrt()
        wanted = (unit * low.weight.double()).float().bfloat16()
        assert (low(x) != wanted).float().mean() < 0.002
        low.rules = HF
        assert (low(x) != wanted).float().mean() > 0.1


def test_the_papers_residual_adds_the_branch_in_fp32() -> None:
    low = in_bf16(tiny_model(5), "paper").layers[0].post_mlp_residual_scale
    branch = torch.randn(50, 24, generator=torch.Generator().manual_seed(1)).bfloat16()
    stream = torch.randn(50, 24, generator=torch.Generator().manual_seed(2))
    shifted = branch.double() + low.hidden_states_bias.double()
    kept = (stream.double() + low.residual_bias.double()) * low.residual_scale.double()
    wanted = shifted * low.hidden_states_scale.double() + kept
    with torch.no_grad():
        assert distance(low(branch, stream), wanted) < 1e-6
        low.rules = HF
        assert distance(low(branch, stream), wanted) > 1e-4
