import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from openzaya.core.errors import ConfigError
from openzaya.core.native import build
from openzaya.engine.engine import Engine
from openzaya.engine.native.forward import FOLDER, NativePass
from openzaya.engine.passes import TorchPass, make_pass
from openzaya.engine.request import SamplingParams
from openzaya.engine.sampling import SamplingTable, sample
from openzaya.model.presets import preset
from openzaya.model.quantize import FORMATS, dequantize, is_quantized, quantize
from openzaya.model.quantized import QuantizedZaya
from openzaya.model.zaya import Zaya

pytestmark = pytest.mark.skipif(build.compiler() is None, reason="there is no C++ compiler")

SLIDING = {
    "layer_types": ("hybrid", "hybrid_sliding", "hybrid_sliding", "hybrid"),
    "sliding_window": 37,
    "skip_mode": "identity",
}
CONTEXT = 256


def random_model(seed: int = 0, **changes: object) -> Zaya:
    """Return a nano model none of whose vectors is at its neutral value; some tokens skip."""
    model = Zaya(preset("nano", **{"eos_token_id": 1, **changes}))
    generator = torch.Generator().manual_seed(seed)
    model.init_weights(generator)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim == 1:
                parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.2)
            if name.endswith("router_mlp.out_proj.weight"):
                parameter.mul_(20.0)
        model.embed_tokens.weight.mul_(10.0)
        for balance_X in model.router_biases():
            balance_X.add_(torch.randn(balance_X.shape, generator=generator) * 0.05)
            balance_X[-1] = -0.1
    return model.eval()


def tokens(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(1, 384, count)


def native(model: Zaya | QuantizedZaya, threads: int = 1, slots: int = 8) -> NativePass:
    return NativePass(model, slots, CONTEXT, threads)


def run_all(forward: NativePass | TorchPass, ids: np.ndarray, slot: int, *cuts: int) -> Tensor:
    """Return the logits of every token of one document computed in pieces."""
    parts = []
    for piece in np.split(ids, cuts):
        out, _ = forward.run(piece, [len(piece)], [slot], np.arange(len(piece)), want_experts=False)
        parts.append(out.clone())
    return torch.cat(parts)


@pytest.mark.parametrize("changes", [{}, SLIDING], ids=["full", "sliding, identity skip"])
def test_logits_and_experts_are_those_of_the_model(changes: dict[str, object]) -> None:
    model = random_model(**changes)
    ids = np.concatenate([tokens(150), tokens(70, 1), tokens(1, 2)])
    with torch.no_grad():
        trunk = model.trunk(torch.from_numpy(ids), lengths=[150, 70, 1])
        expected = model.head(trunk.hidden_TD)
    found, experts = native(model).run(
        ids, [150, 70, 1], [3, 0, 5], np.arange(221), want_experts=True
    )
    assert torch.equal(torch.from_numpy(experts).long(), trunk.experts_TL)
    assert 4 in np.unique(experts) or 8 in np.unique(experts)  # somebody skips
    assert expected.abs().max() > 5
    assert (found - expected).abs().max() < 5e-5


@pytest.mark.parametrize("changes", [{}, SLIDING], ids=["full", "sliding"])
def test_a_documents_numbers_do_not_depend_on_how_it_is_cut_or_on_company(
    changes: dict[str, object],
) -> None:
    model = random_model(**changes)
    ids = tokens(200)
    forward = native(model)
    whole = run_all(forward, ids, 0)
    assert torch.equal(run_all(forward, ids, 1, 1, 2, 63, 64, 65, 130, 199), whole)
    crowd = native(model, threads=2)
    for start in range(0, 200, 25):
        pieces = [ids[start : start + 25]] + [tokens(n, n) for n in (1, 7, 13)]
        out, _ = crowd.run(
            np.concatenate(pieces), [25, 1, 7, 13], [4, 0, 1, 2], np.arange(25), want_experts=False
        )
        assert torch.equal(out, whole[start : start + 25])


def test_drawing_is_that_of_the_sampler_in_torch() -> None:
    forward = native(random_model(vocab_size=395))  # not a multiple of the vector's width
    rows = 400
    generator = torch.Generator().manual_seed(0)
    logits_BV = torch.randn(rows, 395, generator=generator) * 4
    logits_BV[:, 7] = -torch.inf
    temperatures = np.random.default_rng(0).choice([0.0, 0.5, 1.0, 1.7], rows)
    table = SamplingTable(rows)
    for row, temperature in enumerate(temperatures):
        table.open(row, SamplingParams(max_tokens=1, temperature=temperature, seed=row))
    order = np.arange(rows)
    batch = table.batch(order, torch.device("cpu"))
    uniforms = table.uniforms(order, np.zeros(rows, dtype=int))
    uniforms[:20] = [0.0] * 10 + [np.nextafter(np.float32(1), np.float32(0))] * 10
    expected = sample(logits_BV, torch.from_numpy(uniforms), batch)
    found = forward.draw(logits_BV, uniforms, batch)
    assert found is not None
    assert (found[0] == expected.tokens_B).float().mean() > 0.99
    same = found[0] == expected.tokens_B
    assert torch.allclose(found[1][same], expected.logprobs_B[same], atol=1e-5)
    assert 7 not in found[0]
    logits_BV[3, 5] = torch.nan
    assert forward.draw(logits_BV, uniforms, batch)[1][3].isnan()


@pytest.mark.parametrize("vocab", [33, 395, 1024])
def test_of_equally_likely_tokens_greedy_takes_the_first_wherever_they_lie(vocab: int) -> None:
    forward = native(random_model(vocab_size=vocab))
    table = SamplingTable(1)
    table.open(0, SamplingParams(max_tokens=1, temperature=0.0))
    batch = table.batch(np.zeros(1, dtype=int), torch.device("cpu"))
    for first in range(0, vocab, 31):
        logits_BV = torch.full((1, vocab), -1.0)
        logits_BV[0, first::97] = 2.0
        found = forward.draw(logits_BV, np.zeros(1, dtype=np.float32), batch)
        assert found is not None
        assert found[0].tolist() == [first]
        assert torch.allclose(found[1], logits_BV.log_softmax(dim=-1)[0, first], atol=1e-5)


def test_the_highest_draw_takes_the_last_possible_token_however_sums_are_rounded() -> None:
    rows, vocab, last = 100, 1003, 990
    forward = native(random_model(vocab_size=vocab))
    table = SamplingTable(rows)
    for row in range(rows):
        table.open(row, SamplingParams(max_tokens=1))
    logits_BV = torch.randn(rows, vocab, generator=torch.Generator().manual_seed(0)) * 0.1
    logits_BV[:, last + 1 :] = -torch.inf
    below_one = np.full(rows, np.nextafter(np.float32(1), np.float32(0)))
    batch = table.batch(np.arange(rows), torch.device("cpu"))
    found = forward.draw(logits_BV, below_one, batch)
    assert found is not None
    assert found[0].tolist() == [last] * rows


def test_the_state_at_an_inner_block_end_is_the_state_of_the_shorter_document() -> None:
    model = random_model()
    ids = tokens(200)
    forward = native(model)
    forward.cache.keeps_ends = True
    run_all(forward, ids, 0)
    states = {block.index: block.state for block in forward.cache.filled}
    run_all(forward, ids[:128], 1)
    assert sorted(states) == [0, 1, 2]
    assert torch.equal(states[1].conv_LRC, forward.cache.conv[:, 1])
    assert torch.equal(states[1].delayed_LW, forward.cache.delayed[:, 1])
    assert not torch.equal(states[0].conv_LRC, states[1].conv_LRC)


def in_bf16(model: Zaya) -> Zaya:
    """Return the same model in bf16, its balancing biases excepted."""
    model = model.bfloat16()
    for balance_X in model.router_biases():
        balance_X.data = balance_X.float()
    return model


def test_bf16_weights_give_what_fp32_copies_of_them_give_up_to_the_caches_rounding() -> None:
    model = in_bf16(random_model(precision="paper"))
    copy = random_model(precision="paper")
    copy.load_state_dict({k: v.float() for k, v in model.state_dict().items()})
    ids = tokens(100)
    found, expected = run_all(native(model), ids, 0), run_all(native(copy), ids, 0)
    assert 0 < (found - expected).abs().max() < 0.02 * expected.abs().max()


def quantized(model: Zaya, name: str) -> QuantizedZaya:
    """Return a quantized model; the given one becomes its dequantized copy."""
    tensors: dict[str, Tensor | tuple[Tensor, Tensor]] = {}
    for key, tensor in model.state_dict().items():
        pair = quantize(tensor, FORMATS[name]) if is_quantized(key) else None
        tensors[key] = pair or tensor
        if pair:
            tensor.copy_(dequantize(*pair))
    return QuantizedZaya(model.config, tensors)


# Rows of 96 weights end in half a block of 4-bit ones.
@pytest.mark.parametrize(
    ("name", "width"), [("int8", 128), ("int4", 128), ("int4", 96)], ids=["int8", "int4", "odd"]
)
def test_a_quantized_model_is_its_dequantized_copy_up_to_activations_of_16_bits(
    name: str, width: int
) -> None:
    model = random_model(hidden_size=width, moe_intermediate_size=width)
    small = quantized(model, name)
    found, expected = run_all(native(small), tokens(80), 0), run_all(native(model), tokens(80), 0)
    assert 0 < (found - expected).abs().max() < 1e-3 * expected.abs().max()
    for rows in (1, 2, 4, 7, 40):
        cut = run_all(native(small, threads=2), tokens(80), 0, *range(rows, 80, rows))
        assert torch.equal(cut, found)


@pytest.mark.parametrize("name", ["int8", "int4"])
def test_what_is_not_finite_stays_visible_in_a_quantized_model(name: str) -> None:
    model = random_model()
    small = quantized(model, name)
    layer = small.tensors["layers.0.input_layernorm.weight"]
    assert isinstance(layer, Tensor)
    layer[3] = torch.nan
    assert run_all(native(small), tokens(3), 0).isnan().all()


def test_bf16_weights_give_the_same_bits_for_any_number_of_tokens() -> None:
    model = in_bf16(random_model(hidden_size=96))
    whole = run_all(native(model), tokens(80), 0)
    for rows in (1, 3, 5, 8, 9, 33):
        assert torch.equal(run_all(native(model), tokens(80), 0, *range(rows, 80, rows)), whole)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
def test_long_rows_that_are_summed_in_parts_give_the_models_numbers_and_the_same_bits(
    dtype: torch.dtype,
) -> None:
    model = random_model(hidden_size=1056, moe_intermediate_size=1088, num_hidden_layers=2)
    ids = tokens(40)
    with torch.no_grad():
        expected = model.to(dtype).float()(torch.from_numpy(ids))
    model = model.to(dtype)
    for balance_X in model.router_biases():
        balance_X.data = balance_X.float()
    whole = run_all(native(model), ids, 0)
    bound = 1e-4 if dtype is torch.float32 else 0.05
    assert (whole - expected).abs().max() < bound * expected.abs().max()
    for rows in (1, 2, 3, 7):
        assert torch.equal(run_all(native(model, threads=2), ids, 0, *range(rows, 40, rows)), whole)


def compiled(source: str, folder: Path) -> Path:
    """Compile a program against the pool's header."""
    program = folder / "program"
    flags = ("-O2", "-std=c++20", "-pthread", f"-I{FOLDER}")
    compiler = build.compiler()
    assert compiler is not None
    path = Path(__file__).parent / source
    subprocess.run([compiler, *flags, str(path), "-o", str(program)], check=True)
    return program


@pytest.mark.slow
def test_a_late_helper_never_takes_a_chunk_of_a_finished_round(tmp_path: Path) -> None:
    """A helper that lost its core between looking and taking meets another round's numbers."""
    program = compiled("pool_rounds.cpp", tmp_path)
    done = subprocess.run([program, "1000000"], check=True, capture_output=True, text=True)
    assert done.stdout == "0"


@pytest.mark.slow
def test_a_helper_is_left_out_for_long_only_when_it_is_late_again_and_again(tmp_path: Path) -> None:
    program = compiled("pool_stalls.cpp", tmp_path)

    def shared(apart_ms: int) -> int:
        done = subprocess.run([program, str(apart_ms)], check=True, capture_output=True, text=True)
        return int(done.stdout)

    # A machine that is busy with something else makes it late more often: the best of three.
    assert max(shared(60) for _ in range(3)) > 75
    assert min(shared(0) for _ in range(3)) < 15


def test_weights_changed_in_place_count_from_the_next_run_and_all_after_a_refresh() -> None:
    model = random_model()
    forward = native(model)
    ids = tokens(30)
    before = run_all(forward, ids, 0)
    other = random_model(seed=1)
    model.load_state_dict(other.state_dict(), assign=True)
    forward.refresh()
    after = run_all(forward, ids, 1)
    assert not torch.equal(before, after)
    assert torch.equal(after, run_all(native(other), ids, 0))


@pytest.mark.parametrize(
    "neighbours", [{}, {"top_p": 0.9}, {"think_budget": 3, "think_end_ids": (5,)}]
)
def test_the_engine_gives_a_request_the_same_bits_alone_and_in_a_crowd(
    neighbours: dict[str, Any],
) -> None:
    model = random_model()
    params = SamplingParams(max_tokens=40, temperature=1.0, seed=5, capture_experts=True)
    alone = Engine(model, max_slots=1, kernels="native").generate([tokens(90)], params)[0]
    crowd = Engine(model, max_slots=6, prefill_tokens=50, kernels="native")
    others = [SamplingParams(max_tokens=9 + n, seed=n, **neighbours) for n in range(9)]
    prompts = [tokens(90), *(tokens(20 + 13 * n, n) for n in range(9))]
    among = crowd.generate(prompts, [params, *others])[0]
    assert among.token_ids == alone.token_ids
    assert among.logprobs == alone.logprobs
    assert among.experts is not None
    assert np.array_equal(among.experts, alone.experts)


@pytest.mark.parametrize("weights", ["fp32", "bf16", "int8", "int4"])
def test_reuse_forks_and_few_blocks_change_no_bit(weights: str) -> None:
    model: Zaya | QuantizedZaya = random_model(**SLIDING)
    if weights == "bf16":
        model = in_bf16(model)
    elif weights != "fp32":
        model = quantized(model, weights)
    stem = tokens(150)
    prompts = [stem[:n] for n in (64, 65, 127, 129, 150) for _ in range(2)]
    params = [SamplingParams(max_tokens=70, seed=n, capture_experts=True) for n in range(10)]
    engine = Engine(model, max_slots=6, prefill_tokens=50, num_blocks=9, kernels="native")
    found = engine.generate(prompts, params)
    stats = engine.stats
    assert min(stats.preemptions, stats.prefix_hit_tokens, stats.tokens_prefill_saved) > 0
    plain = Engine(model, max_slots=1, kept_blocks=0, kernels="native")
    for output, prompt, own in zip(found, prompts, params, strict=True):
        alone = plain.generate([prompt], [own])[0]
        assert (output.token_ids, output.logprobs) == (alone.token_ids, alone.logprobs)
        assert np.array_equal(output.experts, alone.experts)


def test_auto_takes_the_kernels_where_they_fit_and_torch_elsewhere() -> None:
    assert isinstance(make_pass(random_model(), 1, 8), NativePass)
    assert isinstance(make_pass(random_model(), 1, 8, "torch"), TorchPass)
    odd = Zaya(preset("nano", hidden_size=48))
    assert isinstance(make_pass(odd, 1, 8), TorchPass)
    with pytest.raises(ConfigError, match=r"hidden_size is 48, expected a multiple of 32.*torch"):
        make_pass(odd, 1, 8, "native")
    with pytest.raises(ConfigError, match=r"float64, expected float32 or bfloat16"):
        make_pass(Zaya(preset("nano")).double(), 1, 8, "native")


def test_a_quantized_model_is_refused_by_torch_with_a_cure() -> None:
    model = random_model()
    tensors = dict(model.state_dict())
    with pytest.raises(ConfigError, match=r"C\+\+ kernels only, and torch was asked for; load"):
        make_pass(QuantizedZaya(model.config, tensors), 1, 8, "torch")


def test_without_a_compiler_auto_falls_back_and_native_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    assert isinstance(make_pass(random_model(), 1, 8), TorchPass)
    with pytest.raises(ConfigError, match="no C\\+\\+ compiler"):
        make_pass(random_model(), 1, 8, "native")
