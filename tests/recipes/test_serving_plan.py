"""Serving plans agree with the specification's bytes, the quantizer and what was measured."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from openzaya.core.errors import ConfigError
from openzaya.model.presets import preset
from openzaya.recipes.planner.hardware import DEVICES
from openzaya.recipes.planner.serving import (
    WEIGHT_BYTES,
    capacity,
    decode_per_s,
    kv_bytes,
    state_bytes,
    step_bytes,
    stored_bytes,
)

ZAYA = preset("zaya1-8b")
H100, CPU = DEVICES["h100"], DEVICES["cpu"]


def test_a_sequence_of_the_full_size_takes_40_kb_a_token_and_a_state_of_215_kb():
    assert kv_bytes(ZAYA, 131_072) == 40_960 * 131_072
    assert state_bytes(ZAYA) == 40 * (2 * 1280 + 128) * 2 == 215_040
    assert kv_bytes(ZAYA, 1) == kv_bytes(ZAYA, 64) == 40_960 * 64


def test_a_sliding_layer_keeps_its_window_and_one_block():
    sliding = replace(ZAYA, layer_types=("hybrid", "hybrid_sliding") * 20, sliding_window=4096)
    assert kv_bytes(sliding, 131_072) == 1024 * 20 * (131_072 + 4096 + 64)
    assert kv_bytes(sliding, 1024) == kv_bytes(ZAYA, 1024)


@pytest.mark.parametrize("weights", ["int8", "int4"])
def test_integer_weights_take_the_bytes_of_the_real_format(weights):
    """Integers and bf16 scales of the quantized tensors, bf16 for the others."""
    import math

    from openzaya.model.checkpoint import expected_shapes
    from openzaya.model.quantize import FORMATS, is_quantized

    form = FORMATS[weights]
    total = 0
    for name, shape in expected_shapes(ZAYA).items():
        if name.endswith("balancing_biases"):
            continue
        if is_quantized(name):
            integers, scales = form.shapes(shape)
            total += math.prod(integers) * form.dtype.itemsize + 2 * math.prod(scales)
        else:
            total += 2 * math.prod(shape)
    assert sum(stored_bytes(ZAYA, weights)) == total


def test_a_step_reads_one_expert_for_one_sequence_and_nearly_all_for_many():
    experts, others = stored_bytes(ZAYA, "bf16")
    sequence = kv_bytes(ZAYA, 64) + state_bytes(ZAYA)
    assert step_bytes(ZAYA, "bf16", 1, 64) == pytest.approx(others + experts / 16 + sequence)
    both = step_bytes(ZAYA, "bf16", 2, 64)
    assert both == pytest.approx(others + experts * (1 - (15 / 16) ** 2) + 2 * sequence)
    many = step_bytes(ZAYA, "bf16", 1000, 64)
    assert many == pytest.approx(others + experts + 1000 * sequence)


@pytest.mark.parametrize(
    ("weights", "batch", "measured"),
    [("bf16", 1, 6.3), ("bf16", 8, 16.8), ("int8", 1, 9.1), ("int4", 1, 13.2), ("int4", 8, 22.7)],
)
def test_the_measured_cpu_engine_stays_below_the_bound_and_within_five_times(
    weights, batch, measured
):
    """docs/performance.md, full size, two threads."""
    bound, _ = decode_per_s(ZAYA, weights, batch, 64, CPU)
    assert measured < bound < 5 * measured


def test_what_fits_fills_the_memory_and_not_more():
    found = capacity(ZAYA, "bf16", 32_768, H100)
    sequence = found.kv_bytes + found.state_bytes
    used = found.weight_bytes + found.sequences * sequence
    assert used <= 0.92 * 80e9 < used + sequence
    assert found.full_per_s > found.single_per_s


@given(st.sampled_from(sorted(WEIGHT_BYTES)), st.integers(1, 100), st.integers(64, 100_000))
def test_more_sequences_give_more_tokens_and_longer_ones_fewer(weights, batch, context):
    rate, _ = decode_per_s(ZAYA, weights, batch, context, H100)
    assert decode_per_s(ZAYA, weights, batch + 1, context, H100)[0] > rate
    assert decode_per_s(ZAYA, weights, batch, context + 64, H100)[0] < rate


def test_many_short_sequences_are_bound_by_compute_and_a_single_one_by_memory():
    assert decode_per_s(ZAYA, "int4", 1, 64, H100)[1] == "memory"
    assert decode_per_s(ZAYA, "int4", 4096, 64, H100)[1] == "compute"


def test_what_cannot_be_served_is_refused_with_the_cure():
    small = replace(CPU, memory_bytes=16e9)
    with pytest.raises(ConfigError, match=r"4\.30 GB are missing; try smaller weights"):
        capacity(ZAYA, "bf16", 32_768, small)
    with pytest.raises(ConfigError, match="choose among bf16, int8, int4"):
        capacity(ZAYA, "fp8", 32_768, H100)
    with pytest.raises(ConfigError, match="the model takes 1 to 131072"):
        capacity(ZAYA, "bf16", 200_000, H100)
