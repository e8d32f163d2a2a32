"""The whole pass against the torch pass: logits, choices, cache, weights, the engine on top."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from engine.cuda.small import SHAPES, SLIDING, in_bf16, raised, small_model, tokens
from torch import Tensor

pytest.importorskip("triton")

from openzaya.engine.cuda import layers
from openzaya.engine.cuda.forward import CudaPass
from openzaya.engine.engine import Engine
from openzaya.engine.passes import TorchPass, make_pass
from openzaya.engine.request import SamplingParams
from openzaya.model.config import Precision
from openzaya.model.zaya import Zaya

SLOTS, CONTEXT = 7, 192


@pytest.fixture(autouse=True)
def few_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let short prompts route by tiles as long ones do; steps route by rows."""
    monkeypatch.setattr(layers, "MAX_ROWS", 8)


def both_passes(model: Zaya) -> tuple[CudaPass, TorchPass]:
    return CudaPass(model, SLOTS, CONTEXT), TorchPass(model, SLOTS, CONTEXT)


def run(
    forward: CudaPass | TorchPass, parts: dict[int, np.ndarray], outputs: Sequence[int] = ()
) -> tuple[Tensor, np.ndarray]:
    """Continue slots by tokens; return the logits of all tokens, or of some, and the choices."""
    ids = np.concatenate([*parts.values()])
    wanted = np.asarray(outputs or range(len(ids)))
    lengths = [len(part) for part in parts.values()]
    logits_NV, experts = forward.run(ids, lengths, [*parts], wanted, want_experts=True)
    assert experts is not None
    return logits_NV.cpu().clone(), experts


@pytest.mark.slow
@pytest.mark.parametrize("shape", SHAPES)
def test_prompts_pieces_and_steps_give_the_numbers_of_the_torch_pass(
    shape: str, device: Any
) -> None:
    model = small_model(**SHAPES[shape]).to(device)
    found, wanted = both_passes(model)
    chosen: set[int] = set()
    passes = [
        {3: tokens(62), 6: tokens(1, 2)},  # prompts, one of one token
        {0: tokens(1, 3), 3: tokens(34, 4)},  # pieces: up to a block's last place, and beyond
        {0: tokens(1, 5), 6: tokens(1, 6), 4: tokens(1, 7)},  # a step; slot 4 is new
        {0: tokens(1, 8), 6: tokens(1, 9), 4: tokens(1, 10)},  # a step; slot 0 starts a block
        {3: tokens(2, 11), 4: tokens(1, 12)},  # two documents that still need the old tail
    ]
    for number, parts in enumerate(passes):
        if number == 1:  # a prompt of 62 tokens more, without computing it
            found.cache.fork(3, 0)
            wanted.cache.fork(3, 0)
        logits, experts = run(found, parts)
        expected, choices = run(wanted, parts)
        assert expected.abs().max() > 2
        assert (logits - expected).abs().max() < 5e-5
        assert np.array_equal(experts, choices)
        chosen |= set(np.unique(experts).tolist())
    assert chosen == {0, 1, 2, 3, 4}  # somebody skips
    assert found.cache.lengths == wanted.cache.lengths
    assert torch.allclose(found.cache.conv, wanted.cache.conv, atol=1e-4)
    assert torch.allclose(found.cache.delayed, wanted.cache.delayed, atol=1e-4)
    assert not found.cache.conv[:, [1, 2, 5]].any()  # rows that were not used wrote nothing


@pytest.mark.slow
def test_only_the_wanted_logits_come_back(device: Any) -> None:
    found, _ = both_passes(small_model().to(device))
    whole, _ = run(found, {0: tokens(6)})
    some, _ = run(found, {1: tokens(3), 2: tokens(6)}, outputs=[3, 8])
    assert torch.allclose(some, whole[[0, 5]], atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["hf", "paper"])
def test_bf16_is_no_further_from_fp32_than_the_torch_pass(
    precision: Precision, device: Any
) -> None:
    model = small_model(**SLIDING)
    for layer, bias in enumerate(model.router_biases()):
        bias[layer] += 5  # one expert per layer: rounding must not flip a choice
    low = in_bf16(model, precision).to(device)
    exact = TorchPass(raised(low), SLOTS, CONTEXT)
    found, wanted = both_passes(low)
    far = {"ours": 0.0, "torch": 0.0}
    for parts in ({0: tokens(66), 1: tokens(9, 1)}, {0: tokens(1, 2), 1: tokens(1, 3)}):
        right, _ = run(exact, parts)
        for name, forward in (("ours", found), ("torch", wanted)):
            logits, _ = run(forward, parts)
            far[name] += float((logits.double() - right.double()).norm() / right.double().norm())
    assert found.cache.conv.dtype is torch.float32
    # The interpreter cuts bf16 numbers off where a device rounds them: twice the error.
    assert 0 < far["ours"] < far["torch"] * (1.3 if device.type == "cuda" else 3)


@pytest.mark.slow
def test_tails_at_inner_block_ends_are_those_of_the_torch_pass(device: Any) -> None:
    found, wanted = both_passes(small_model(num_hidden_layers=1).to(device))
    for forward in (found, wanted):
        forward.cache.keeps_ends = True
        run(forward, {2: tokens(63)}, outputs=[0])
        # The first token of this piece ends a block: half of its tail is from before the pass.
        run(forward, {2: tokens(67, 1), 1: tokens(64, 2)}, outputs=[0])
    pairs = list(zip(found.cache.filled, wanted.cache.filled, strict=True))
    assert [(own.slot, own.index) for own, _ in pairs] == [(2, 0), (2, 1), (1, 0)]
    for own, other in pairs:
        assert torch.allclose(own.state.conv_LRC, other.state.conv_LRC, atol=1e-4)
        assert torch.allclose(own.state.delayed_LW, other.state.delayed_LW, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("assign", [False, True], ids=["in place", "by other tensors"])
def test_changed_weights_count_after_a_refresh(assign: bool, device: Any) -> None:
    model, other = (small_model(seed, num_hidden_layers=1).to(device) for seed in (0, 1))
    forward = CudaPass(model, SLOTS, CONTEXT)
    before, _ = run(forward, {0: tokens(1)})
    model.load_state_dict(other.state_dict(), assign=assign)
    model.set_rope_theta(50.0)
    forward.refresh()
    after, _ = run(forward, {1: tokens(1)})
    assert not torch.allclose(before, after, atol=1e-2)
    assert torch.allclose(after, run(CudaPass(model, SLOTS, CONTEXT), {1: tokens(1)})[0])


@pytest.mark.slow
def test_the_engine_generates_what_it_generates_by_torch(device: Any) -> None:
    model = small_model(**SLIDING).to(device)
    prompts = [tokens(5).tolist(), tokens(61, 1).tolist(), tokens(2, 2).tolist()]
    params = [
        SamplingParams(max_tokens=6, temperature=0.0, capture_experts=True),
        SamplingParams(max_tokens=5, temperature=1.0, seed=3, capture_experts=True),
        SamplingParams(max_tokens=4, temperature=0.7, top_p=0.9, seed=4, capture_experts=True),
    ]
    found, wanted = (
        Engine(model, max_slots=2, max_tokens=128, kernels=kernels).generate(prompts, params)
        for kernels in ("cuda", "torch")
    )
    for own, other in zip(found, wanted, strict=True):
        assert own.token_ids == other.token_ids
        assert np.allclose(own.logprobs, other.logprobs, atol=1e-4)
        assert np.array_equal(own.experts, other.experts)


def test_nothing_is_asked_and_nothing_is_computed_twice(device: Any) -> None:
    forward = make_pass(small_model().to(device), SLOTS, CONTEXT, "cuda")
    assert isinstance(forward, CudaPass)
    assert forward.num_graphs == 0


@pytest.mark.gpu
def test_a_step_is_captured_once_for_each_number_of_rows_and_survives_new_weights() -> None:
    model, other = (small_model(seed).cuda() for seed in (0, 1))
    found, wanted = both_passes(model)
    prompts = {slot: tokens(20, slot) for slot in range(5)}
    run(found, prompts)
    run(wanted, prompts)
    for step, rows in enumerate((3, 4, 5, 3, 1, 5)):
        if step == 3:
            model.load_state_dict(other.state_dict())
            found.refresh()
        parts = {slot: tokens(1, 100 * step + slot) for slot in range(rows)}
        logits, experts = run(found, parts)
        expected, choices = run(wanted, parts)
        assert (logits - expected).abs().max() < 1e-3
        assert np.array_equal(experts, choices)
    assert found.num_graphs == 3  # of 1, 4 and 7 rows


@pytest.mark.gpu
def test_a_replayed_step_launches_no_kernel_by_itself() -> None:
    found, _ = both_passes(small_model().cuda())
    run(found, {0: tokens(9), 1: tokens(3)})
    run(found, {0: tokens(1), 1: tokens(1)})
    kind = torch.profiler.ProfilerActivity
    with torch.profiler.profile(activities=[kind.CPU, kind.CUDA]) as trace:
        run(found, {0: tokens(1), 1: tokens(1)})
    calls = {event.key: event.count for event in trace.key_averages()}
    assert calls.get("cudaGraphLaunch", 0) == 1
    assert calls.get("cuLaunchKernelEx", 0) + calls.get("cuLaunchKernel", 0) == 0
