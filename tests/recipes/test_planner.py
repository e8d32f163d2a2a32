"""Plans agree with forms worked out by hand, with the real model and with the known runs."""

import json
import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from openzaya.core.errors import ConfigError
from openzaya.model.presets import preset
from openzaya.recipes.planned import planned
from openzaya.recipes.planner.flops import (
    mean_keys,
    muon_flops,
    newton_schulz_flops,
    token_flops,
)
from openzaya.recipes.planner.hardware import DEVICES, device
from openzaya.recipes.planner.known import BASE_RUN, achieved_flops
from openzaya.recipes.planner.layout import Layout, Workload
from openzaya.recipes.planner.memory import (
    LOGITS_CHUNK_ELEMENTS,
    USABLE,
    activation_bytes,
    memory,
)
from openzaya.recipes.planner.parameters import parameters
from openzaya.recipes.planner.planner import (
    AS_FAST,
    MAX_SHARD,
    Plan,
    best_plan,
    candidates,
    shard_sizes,
)
from openzaya.recipes.planner.wire import traffic

ROOT = Path(__file__).parents[2]
ZAYA, PHASES = planned("zaya1_8b", [], [])
MI300X, H200, CPU = DEVICES["mi300x"], DEVICES["h200"], DEVICES["cpu"]
TINY = preset(
    "nano",
    vocab_size=10,
    eos_token_id=1,
    hidden_size=8,
    num_hidden_layers=2,
    num_attention_heads=2,
    num_key_value_heads=1,
    head_dim=4,
    moe_intermediate_size=6,
    num_experts=4,
    router_hidden_size=4,
)
WORK = Workload(name="t", steps=3, tokens_per_step=64, context_tokens=4, micro_tokens=8)


def make_plan(config, work, layout, on, utilization) -> Plan:
    return best_plan(config, work, [layout], on, utilization)


def received(work: Workload, layout: Layout) -> dict[str, float]:
    return {line.name: line.num_bytes for line in traffic(TINY, work, layout, MI300X)}


def test_the_operations_of_a_tiny_model_are_those_counted_by_hand():
    """D 8, H 2, K 1, P 4, C 12, W 4, F 6, R 4, X 5: every matrix of a layer, written out."""
    projections = 8 * 8 + 4 * 8 + 2 * (2 * 8) + 8 * 8
    convolutions = 12 * 2 + 3 * 4 * 8
    router = 4 * 8 + 2 * 4 * 4 + 5 * 4
    found = token_flops(TINY, 4)
    assert found.dense == 2 * 2 * (projections + convolutions + router)
    assert found.expert == 2 * 2 * (12 * 8 + 8 * 6)
    assert found.attention == 2 * (2 * 2 * 8) * 2.5
    assert found.head == 2 * 10 * 8
    assert found.train == 3 * (found.dense + found.expert + found.attention + found.head)


def test_a_window_limits_the_keys_of_the_layers_that_have_one():
    assert mean_keys(6, 4) == (1 + 2 + 3 + 4 + 4 + 4) / 6
    assert mean_keys(4, 9) == mean_keys(4, None) == 2.5
    mixed = replace(TINY, layer_types=("hybrid", "hybrid_sliding"), sliding_window=4)
    assert token_flops(mixed, 6).attention == 2 * 2 * 8 * (3.5 + 3)


@given(st.integers(1, 300), st.integers(1, 300))
def test_mean_keys_is_the_mean_over_the_document(length, window):
    expected = sum(min(i, window) for i in range(1, length + 1)) / length
    assert math.isclose(mean_keys(length, window), expected)


def test_newton_schulz_counts_five_times_three_products():
    assert newton_schulz_flops(2, 3) == newton_schulz_flops(3, 2) == 5 * (4 * 4 * 3 + 2 * 8)
    dense, expert = muon_flops(TINY)
    assert expert == 2 * 4 * (newton_schulz_flops(12, 8) + newton_schulz_flops(8, 6))
    assert dense > 0


@pytest.mark.parametrize("name", ["nano", "xs", "s", "zaya1-8b"])
def test_parameters_are_those_of_the_module_by_owner(name):
    """Every tensor of the real model, claimed by the optimizer's own rules."""
    import torch

    from openzaya.model.checkpoint import expected_shapes
    from openzaya.optim.groups import RULES, rule_for

    config = preset(name)
    found = {"muon": 0, "adamw": 0}
    experts = 0
    for key, shape in expected_shapes(config).items():
        if key.endswith("balancing_biases"):
            continue
        size = math.prod(shape)
        tensor = torch.nn.Parameter(torch.empty(shape, device="meta"))
        found[rule_for(key, tensor, RULES).owner] += size
        experts += size if ".experts." in key else 0
    count = parameters(config)
    assert (count.muon, count.adamw, count.expert_matrices) == (*found.values(), experts)
    assert count.total == config.num_parameters()


def test_the_full_size_is_the_papers_to_its_rounding():
    """0.76B active without the head; 8.4B lies between without and with the embedding."""
    count = parameters(ZAYA)
    assert count.total == 8_840_488_784
    assert ZAYA.num_active_parameters(with_head=False) == pytest.approx(0.76e9, rel=0.01)
    assert count.total - count.embedding < 8.4e9 < count.total


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_activations_are_what_autograd_keeps_of_the_real_model(dtype):
    """The second pair of layers keeps, within 5%, what the form says of two layers."""
    import torch

    from openzaya.model.zaya import Zaya

    if dtype == "float32" and not Zaya(preset("nano")).has_native():
        pytest.skip("without a C++ compiler the plain forward runs, which keeps more")

    def kept(layers: int) -> int:
        config = replace(
            preset("nano", hidden_size=256, moe_intermediate_size=160),
            num_hidden_layers=layers,
            layer_types=(),
        )
        model = Zaya(config)
        model.init_weights(torch.Generator().manual_seed(0))
        model.to(getattr(torch, dtype))
        own = {p.untyped_storage().data_ptr() for p in model.parameters()}
        sizes: dict[int, tuple[int, torch.Tensor]] = {}

        def pack(tensor: torch.Tensor) -> torch.Tensor:
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in own:
                sizes[storage.data_ptr()] = (storage.nbytes(), tensor)
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            model(torch.arange(1024) % 300, lengths=[512] * 2)
        return sum(size for size, _ in sizes.values())

    config = preset("nano", hidden_size=256, moe_intermediate_size=160)
    found = (kept(4) - kept(2)) / 2 / 1024
    assert activation_bytes(config, 4 if dtype == "float32" else 2) == pytest.approx(
        found, rel=0.05
    )


def test_the_papers_base_run_is_planned_and_implies_a_plausible_utilization():
    """By hand: 6 x 1.29e9 + 3 x 4 x 1024 x 2048 x 40 is 8.75 GFLOP a token, 57 TFLOP/s a device."""
    work = PHASES[0]
    assert token_flops(ZAYA, 4096).train == pytest.approx(8.75e9, rel=0.01)
    achieved = achieved_flops(ZAYA, work, BASE_RUN.ranks, BASE_RUN.step_s)
    assert achieved == pytest.approx(57.3e12, rel=0.01)
    assert pytest.approx(achieved / MI300X.flops_per_s, rel=0.01) == MI300X.utilization
    open_layouts = list(candidates(Layout(ranks=1024), None, "auto"))
    plan = best_plan(ZAYA, work, open_layouts, MI300X, MI300X.utilization)
    assert plan.step_s == pytest.approx(2.5, rel=0.1)
    assert plan.tokens_per_s / 1024 == pytest.approx(6_550, rel=0.1)
    assert plan.wire_s < BASE_RUN.step_s
    assert BASE_RUN.is_of(ZAYA, plan)
    assert not BASE_RUN.is_of(ZAYA, make_plan(ZAYA, work, Layout(ranks=512, shard=8), MI300X, 0.04))
    total = sum(
        best_plan(ZAYA, w, open_layouts, MI300X, MI300X.utilization).total_s for w in PHASES[:2]
    )
    assert total / 86_400 == pytest.approx(20.7, rel=0.1)


def test_the_long_phases_fill_the_papers_1024_ranks_exactly():
    for work in PHASES[2:]:
        layout = Layout(ranks=1024, context_parallel=work.context_parallel)
        assert layout.pass_tokens(work) * work.context_parallel == work.context_tokens
        with pytest.raises(ConfigError, match="use at most 1024 ranks"):
            replace(layout, ranks=2048).check(ZAYA, work)


def test_the_nano_recipe_takes_the_time_of_the_bundled_run_within_a_factor_of_two():
    report = json.loads((ROOT / "src/openzaya/assets/nano/report.json").read_text())
    config, works = planned("nano", [], [])
    plans = [make_plan(config, work, Layout(), CPU, CPU.utilization) for work in works]
    measured = [report["stages"][work.name]["train_s"] for work in works]
    assert [work.tokens for work in works] == [
        report["stages"][work.name]["tokens"] for work in works
    ]
    for plan, seconds in zip(plans, measured, strict=True):
        assert seconds / 2 < plan.total_s < 2 * seconds


def test_traffic_of_a_tiny_model_is_that_counted_by_hand():
    count = parameters(TINY)
    work = replace(WORK, tokens_per_step=64, micro_tokens=8, context_tokens=4)
    plain = received(work, Layout(ranks=8, shard=4))
    assert plain["weights (all-gather)"] == 2 * count.total * 3 / 4 * 2
    assert plain["gradients (reduce-scatter)"] == count.total * 3 / 4 * 4
    assert plain["gradients (all-reduce)"] == 2 * (1 / 2) * count.total / 4 * 4
    # A quarter of the matrices, three quarters of which come from others; and the way back.
    assert plain["Muon (matrices to owners)"] == 2 * count.dense_matrices / 4 * 3 / 4 * 4
    twice = received(replace(work, micro_tokens=4), Layout(ranks=8, shard=4))
    for name in ("weights (all-gather)", "gradients (all-reduce)"):
        assert twice[name] == 2 * plain[name], "before and after every pass"


def test_traffic_of_experts_and_of_shared_documents_is_that_counted_by_hand():
    layout = Layout(ranks=8, shard=4, expert_parallel=4, context_parallel=2)
    lines = received(replace(WORK, context_tokens=16), layout)
    rank_tokens, layers, width = 8, 2, 8
    assert lines["experts (all-to-all)"] == 4 * rank_tokens * layers * width * 2 * 3 / 4
    assert lines["keys, values (all-gather)"] == 8 * (2 * 4 * layers) * (2 + 4)
    # 4 documents on 4 pairs of ranks: one document each, two chunks, 2 x 12 + 2 numbers of bf16.
    assert lines["halo of convolutions"] == 1 * 2 * (2 * 12 + 2) * 2 * layers * 2
    count = parameters(TINY)
    rest = count.total - count.expert_matrices
    assert lines["gradients (reduce-scatter)"] == rest * 3 / 4 * 4
    assert received(WORK, Layout()) == {}


def test_traffic_takes_the_slow_link_as_soon_as_its_group_leaves_the_node():
    count = parameters(ZAYA)
    inside, outside = (
        {line.name: line for line in traffic(ZAYA, PHASES[0], Layout(ranks=n, shard=n), MI300X)}
        for n in (8, 16)
    )
    name = "gradients (reduce-scatter)"
    passes = Layout(ranks=8).passes(PHASES[0])
    assert inside[name].seconds == pytest.approx(passes * count.total * 7 / 8 * 4 / 448e9)
    assert outside[name].seconds == pytest.approx(passes / 2 * count.total * 15 / 16 * 4 / 50e9)


def test_memory_of_a_tiny_model_is_that_counted_by_hand():
    count = parameters(TINY)
    found = memory(TINY, WORK, Layout(ranks=2, shard=2), CPU)
    assert found.weights == found.gradients == 4 * count.total / 2
    assert found.optimizer == 4 * (count.muon + 2 * count.adamw) / 2
    assert found.logits == 2 * 4 * 8 * 10 + 4 * 10 * 8
    per_token = 2 * activation_bytes(TINY, 4) + 8 * 8
    assert found.activations == 8 * per_token
    kept = memory(TINY, WORK, Layout(ranks=2, shard=2, checkpointing=True), CPU).activations
    assert kept == 8 * (2 * 4 * (8 + 4) + activation_bytes(TINY, 4) + 8 * 8)
    assert memory(TINY, WORK, Layout(), CPU).gathered == 0
    assert found.total == sum(getattr(found, name) for name in found.__slots__)


@given(st.sampled_from([1, 2, 4, 8]), st.sampled_from([1, 2, 4]))
def test_more_shards_need_less_memory_and_bring_more_traffic(shard, factor):
    work = PHASES[0]
    a, b = (Layout(ranks=64, shard=n) for n in (shard, shard * factor))
    assert memory(ZAYA, work, b, H200).total <= memory(ZAYA, work, a, H200).total
    gathered = [
        sum(t.num_bytes for t in traffic(ZAYA, work, x, H200) if "all-gather" in t.name)
        for x in (a, b)
    ]
    assert gathered[0] <= gathered[1]


def test_checkpointing_trades_memory_for_time():
    plain, kept = (
        make_plan(ZAYA, PHASES[0], Layout(ranks=64, shard=8, checkpointing=c), MI300X, 0.2)
        for c in (False, True)
    )
    assert kept.memory.activations < plain.memory.activations / 5
    assert plain.compute_s < kept.compute_s < 4 / 3 * plain.compute_s


def test_muon_is_divided_among_ranks_until_each_has_one_matrix_of_a_stack():
    dense, expert = muon_flops(ZAYA)
    found = {
        shard: make_plan(ZAYA, PHASES[0], Layout(ranks=64, shard=shard), MI300X, 0.2).muon_flops
        for shard in (4, 16, 64)
    }
    parts = {4: (4, 4), 16: (16, 16), 64: (64, 16)}
    assert found == {shard: dense / x + expert / y for shard, (x, y) in parts.items()}


def test_the_search_takes_the_least_traffic_among_plans_as_fast():
    layouts = list(candidates(Layout(ranks=1024), None, "auto"))
    plans = [make_plan(ZAYA, PHASES[0], x, MI300X, 0.0439) for x in layouts if x.shard > 1]
    best = best_plan(ZAYA, PHASES[0], layouts, MI300X, 0.0439)
    assert best.step_s <= 1.05 * min(plan.step_s for plan in plans)
    rivals = [plan for plan in plans if plan.step_s <= 1.05 * min(p.step_s for p in plans)]
    assert best.wire_s == min(plan.wire_s for plan in rivals)
    assert best.layout.shard == 8


def test_shard_groups_divide_the_ranks_from_one_up_and_hold_whole_groups_of_experts():
    assert shard_sizes(Layout(ranks=6)) == [1, 2, 3, 6]
    assert shard_sizes(Layout(ranks=8, expert_parallel=4)) == [4, 8]
    assert max(shard_sizes(Layout(ranks=4096))) == MAX_SHARD


def test_a_plan_that_is_slower_is_not_taken_for_its_traffic():
    """Computing activations again takes time that less traffic may not buy."""
    layouts = [Layout(ranks=1024, shard=8, checkpointing=True), Layout(ranks=1024, shard=4)]
    lean, fast = (make_plan(ZAYA, PHASES[0], layout, MI300X, 0.1) for layout in layouts)
    assert lean.wire_s < fast.wire_s
    assert AS_FAST * fast.step_s < lean.step_s < AS_FAST + fast.step_s
    assert best_plan(ZAYA, PHASES[0], layouts, MI300X, 0.1) == fast


def test_what_does_not_fit_says_by_how_much_and_how_to_cure_it():
    h100 = device("H100")
    with pytest.raises(ConfigError) as caught:
        make_plan(ZAYA, PHASES[0], Layout(), h100, 0.2)
    need = memory(ZAYA, PHASES[0], Layout(), h100).total
    missing = (need - USABLE * 80e9) / 1e9
    assert f"{missing:.1f} GB are missing" in str(caught.value)
    assert "--ranks" in str(caught.value)
    assert "layout.checkpointing=on" in str(caught.value)
    layouts = candidates(Layout(ranks=8), None, "auto")
    plan = best_plan(ZAYA, PHASES[0], list(layouts), h100, 0.2)
    assert plan.memory.total <= USABLE * 80e9
    with pytest.raises(ConfigError, match="does not fit"):
        best_plan(ZAYA, PHASES[0], [Layout(), Layout(checkpointing=True)], h100, 0.2)


@pytest.mark.parametrize(
    ("layout", "message"),
    [
        (Layout(ranks=8, shard=3), "shard is 3, which does not divide ranks = 8; choose one of 1,"),
        (Layout(ranks=8, shard=8, expert_parallel=5), "expert_parallel is 5"),
        (Layout(ranks=8, context_parallel=3), "context_parallel is 3"),
        (Layout(ranks=0), "ranks is 0; choose at least 1"),
        (Layout(ranks=8, context_parallel=2), "context_parallel of at least 8"),
    ],
)
def test_impossible_layouts_are_refused_with_the_cure(layout, message):
    with pytest.raises(ConfigError, match=message):
        layout.check(ZAYA, PHASES[3])


def test_unknown_hardware_and_recipes_get_a_suggestion():
    with pytest.raises(ConfigError, match="did you mean 'mi300x'"):
        device("mi300")
    with pytest.raises(ConfigError, match="did you mean 'zaya1_8b'"):
        planned("zaya1-8b", [], [])
    with pytest.raises(ConfigError, match="choose it in"):
        make_plan(TINY, WORK, Layout(), CPU, 1.5)


def test_a_plan_counts_as_many_logits_as_training_holds():
    from openzaya.train.loss import CHUNK_ELEMENTS

    assert LOGITS_CHUNK_ELEMENTS == CHUNK_ELEMENTS


def test_the_planner_needs_no_torch():
    modules = [p.stem for p in (ROOT / "src/openzaya/recipes/planner").glob("*.py")]
    names = ", ".join(f"openzaya.recipes.planner.{m}" for m in modules if m != "__init__")
    code = f"import sys; import {names}; sys.exit('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], env={"PYTHONPATH": str(ROOT / "src")})
    assert done.returncode == 0
