"""Each kernel against the torch module or formula that it stands for."""

from typing import Any

import numpy as np
import pytest
import torch
from engine.cuda.small import noise, small_model
from torch import Tensor

pytest.importorskip("triton")

from openzaya.engine.cuda.attention import Shares, Tiles, attend, splits_for
from openzaya.engine.cuda.cca import LayerCache, TokenAddresses
from openzaya.engine.cuda.draw import draw
from openzaya.engine.cuda.expert_rows import one_by_one
from openzaya.engine.cuda.experts import few_tokens
from openzaya.engine.cuda.grouped import gated, many_tokens
from openzaya.engine.cuda.linear import (
    outputs_per_program,
    row_linear,
    row_linear_into_stream,
    wide_linear,
)
from openzaya.engine.cuda.residual import Branch, Routed, add_and_norm
from openzaya.engine.cuda.router import Choice, choose
from openzaya.engine.cuda.router_rows import choose_rows
from openzaya.engine.cuda.weights import Norm, Scaling, Weights
from openzaya.engine.request import SamplingParams
from openzaya.engine.sampling import SamplingTable, sample
from openzaya.model.norm import RMSNorm
from openzaya.model.precision import PAPER
from openzaya.model.residual import ResidualScaling

DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 8e-3}


def distance(found: Tensor, wanted: Tensor) -> float:
    """Return the length of the difference as a share of the length."""
    assert found.shape == wanted.shape
    found, wanted = found.double().cpu(), wanted.double().cpu()
    assert found.isfinite().all()
    return float((found - wanted).norm() / wanted.norm())


def ints(*values: int, device: Any) -> Tensor:
    return torch.tensor(values, dtype=torch.int32, device=device)


def norm_of(width: int, device: Any, dtype: Any) -> tuple[Norm, RMSNorm]:
    module = RMSNorm(width, 1e-5, PAPER).to(device, dtype)
    module.weight.data += noise(width, seed=9, device=device, dtype=dtype) * 0.2
    return Norm(weight_D=module.weight.detach(), eps=1e-5), module


def scaling_of(width: int, device: Any) -> tuple[Scaling, ResidualScaling]:
    module = ResidualScaling(width, PAPER).to(device)
    for seed, vector in enumerate(module.parameters()):
        vector.data += noise(width, seed=seed, device=device) * 0.3
    vectors = (
        module.hidden_states_bias,
        module.hidden_states_scale,
        module.residual_bias,
        module.residual_scale,
    )
    return Scaling(vectors_4D=torch.stack(vectors).detach()), module


@DTYPES
@pytest.mark.parametrize("rows", [1, 3])
def test_a_product_of_normed_rows_is_that_of_the_modules(
    rows: int, dtype: torch.dtype, device: Any
) -> None:
    x_TD = noise(rows, 48, device=device) * 3
    weight_ND = noise(137, 48, seed=1, device=device, dtype=dtype)
    norm, module = norm_of(48, device, dtype)
    normed_TD = module.double()(x_TD.double())
    wanted = normed_TD @ weight_ND.double().mT
    assert distance(row_linear(x_TD, weight_ND, norm=norm), wanted) < TOLERANCE[dtype]
    wanted = x_TD.to(dtype).double() @ weight_ND.double().mT
    for found in (row_linear(x_TD.to(dtype), weight_ND), wide_linear(x_TD.to(dtype), weight_ND)):
        assert found.dtype is torch.float32
        assert distance(found, wanted) < 1e-6


@DTYPES
def test_a_product_is_added_into_the_stream_scaled(dtype: torch.dtype, device: Any) -> None:
    x_TK, stream_TD = noise(5, 64, device=device, dtype=dtype), noise(5, 40, seed=3, device=device)
    weight_DK = noise(40, 64, seed=1, device=device, dtype=dtype)
    scaling, module = scaling_of(40, device)
    wanted = module(x_TK.float() @ weight_DK.float().mT, stream_TD)
    row_linear_into_stream(x_TK, weight_DK, scaling, stream_TD)
    assert distance(stream_TD, wanted) < 1e-5


def test_a_program_takes_more_outputs_the_shorter_they_are_and_the_more_there_are() -> None:
    assert outputs_per_program(1536, 2048, 128) == 4
    assert outputs_per_program(2048, 1024, 128) == 8
    assert outputs_per_program(256, 2048, 128) == 2
    assert outputs_per_program(262_272, 2048, 128) == 16
    assert outputs_per_program(40, 16_384, 128) == 1


@DTYPES
def test_the_norm_kernel_adds_routed_rows_and_leaves_skipped_ones(
    dtype: torch.dtype, device: Any
) -> None:
    norm, module = norm_of(48, device, dtype)
    scaling, residual = scaling_of(48, device)
    stream_TD, rows_TD = noise(4, 48, device=device), noise(4, 48, seed=1, device=device)
    skipped_TD, gate_T = noise(4, 48, seed=2, device=device), noise(4, seed=3, device=device)
    rows_TD[3] = torch.nan  # nobody's row: it was never written
    order_T = torch.tensor([2, 3, 0, 1], device=device)
    choice = Choice(ints(1, 4, 0, 1, device=device), gate_T, stream_TD)
    is_kept = choice.expert_T[:, None] < 4
    for stand_in, place_T in ((skipped_TD, order_T), (None, order_T), (None, None)):
        other = torch.zeros_like(skipped_TD) if stand_in is None else stand_in
        own_rows = rows_TD[order_T]
        branch_TD = torch.where(is_kept, own_rows, other) * gate_T[:, None]
        wanted = residual(branch_TD, stream_TD)
        routed = Routed(choice=choice, num_experts=4, place_T=place_T, skipped_TD=stand_in)
        rows_ND = own_rows if place_T is None else rows_TD
        branch = Branch(rows_ND=rows_ND, scaling=scaling, routed=routed)
        own = stream_TD.clone()
        normed = add_and_norm(own, norm, branch)
        assert distance(own, wanted) < 1e-6
        assert normed.dtype is dtype
        assert distance(normed, module(wanted)) < TOLERANCE[dtype]
    assert distance(add_and_norm(stream_TD, norm), module(stream_TD)) < TOLERANCE[dtype]


@pytest.mark.parametrize("layer", [0, 1])
@pytest.mark.parametrize("decide", [choose, choose_rows], ids=["tiles", "rows"])
def test_the_router_is_that_of_the_model_and_unused_rows_skip(
    decide: Any, layer: int, device: Any
) -> None:
    model = small_model().to(device)
    router = model.layers[layer].mlp.gate
    weights = Weights(model, 8).layers[layer].router
    h_TD = noise(19, 48, device=device)
    previous_TR = noise(19, 20, seed=1, device=device)
    wanted = router(h_TD, previous_TR, None)
    latent_TR = wide_linear(h_TD, weights.down_RD)
    slot_T = torch.arange(19, dtype=torch.int32, device=device)
    slot_T[5] = -1
    record = torch.full((19, 3), 99, dtype=torch.uint8, device=device)
    found = decide(latent_TR, previous_TR, weights, slot_T, (record, 1))
    used = torch.arange(19) != 5
    assert torch.equal(found.expert_T.cpu().long()[used], wanted.expert_T.cpu()[used])
    assert found.expert_T[5] == 4
    assert distance(found.gate_T[used], wanted.gate_T[used]) < 1e-5
    assert distance(found.state_TR, wanted.state_TR) < 1e-5
    assert torch.equal(record[:, 1].cpu().long(), found.expert_T.cpu().long())
    assert (record[:, [0, 2]] == 99).all()
    assert not weights.tickets_M.any()


@DTYPES
@pytest.mark.parametrize("skip_mode", ["zero", "identity"])
@pytest.mark.parametrize(
    "classes",
    [[2], [4], [0, 2, 2, 4, 1, 2], [3] * 40 + [4, 1]],
    ids=["one", "one skips", "mixed", "one expert beyond a tile"],
)
def test_experts_of_few_and_of_many_tokens_are_those_of_the_modules(
    classes: list[int], skip_mode: str, dtype: torch.dtype, device: Any
) -> None:
    model = small_model(skip_mode=skip_mode).to(device, dtype)
    own = Weights(model, 8).layers[0]
    norm, module = norm_of(48, device, dtype)
    scaling, residual = scaling_of(48, device)
    stream_TD = noise(len(classes), 48, seed=4, device=device)
    gate_T = noise(len(classes), seed=5, device=device)
    choice = Choice(ints(*classes, device=device), gate_T, stream_TD)
    h_TD = module(stream_TD)
    experts = model.layers[0].mlp.experts
    parts = []
    for row, chosen in zip(h_TD.double(), classes, strict=True):
        if chosen == 4:
            parts.append(row if skip_mode == "identity" else torch.zeros_like(row))
            continue
        gate_F, up_F = (experts.gate_up_proj[chosen].double() @ row).chunk(2)
        hidden_F = torch.nn.functional.silu(gate_F) * up_F
        parts.append(experts.down_proj[chosen].double() @ hidden_F)
    branch_TD = torch.stack(parts).detach() * gate_T[:, None]
    wanted = residual(branch_TD, stream_TD).detach()
    found = one_by_one(stream_TD, norm, choice, own.experts, scaling)
    assert distance(found, wanted) < TOLERANCE[dtype]
    h_TD = h_TD.to(dtype)
    sorted_ND, place_T = many_tokens(h_TD, choice, own.experts)
    rows_TD = few_tokens(h_TD, choice, own.experts)
    for row, (chosen, place) in enumerate(zip(classes, place_T.tolist(), strict=True)):
        if chosen < 4:
            for rows, index in ((sorted_ND, place), (rows_TD, row)):
                assert distance(rows[index].float(), parts[row].detach()) < 3 * TOLERANCE[dtype]


@DTYPES
@pytest.mark.parametrize("window", [None, 1, 70])
@pytest.mark.parametrize("splits", [1, 4])
def test_attention_over_pages_is_attention(
    splits: int, window: int | None, dtype: torch.dtype, device: Any
) -> None:
    heads, keys, width = 4, 2, 16
    cache = LayerCache(
        keys=noise(5, keys, width, 64, device=device, dtype=dtype),
        values=noise(5, keys, 64, width, seed=1, device=device, dtype=dtype),
        conv=noise(1, device=device),
        delayed=noise(1, device=device),
        table=torch.tensor([[4, 0, 2], [3, 1, -1]], dtype=torch.int32, device=device),
    )
    cache.values[2, :, 20:] = torch.nan  # stale memory behind the last token
    # Four tokens of slot 0 up to position 140, one of slot 1 at a block's end, one unused row.
    slots, places = [0, 0, 0, 0, 1, -1], [137, 138, 139, 140, 63, 0]
    cache.values[2, :, 13:] = torch.nan
    queries_THP = noise(6, heads, width, seed=2, device=device, dtype=dtype)
    tokens = TokenAddresses(
        slot_T=ints(*slots, device=device),
        position_T=ints(*places, device=device),
        back_T=ints(0, 1, 2, 2, 0, 0, device=device),
    )
    tiles = Tiles(
        first_N=ints(0, 3, 4, 5, device=device),
        count_N=ints(3, 1, 1, 1, device=device),
        size=3,
        splits=splits,
    )
    found = attend(queries_THP, cache, tokens, tiles, window)
    assert (found[5] == 0).all()
    for row, (slot, place) in enumerate(zip(slots[:5], places, strict=False)):
        blocks = [block for block in cache.table[slot].tolist() if block >= 0]
        first = 0 if window is None else max(0, place - window + 1)
        k = torch.cat([cache.keys[block].mT for block in blocks], dim=1)[:, first : place + 1]
        v = torch.cat([cache.values[block] for block in blocks], dim=1)[:, first : place + 1]
        k, v = (x.double().repeat_interleave(heads // keys, dim=0) for x in (k, v))
        scores = (k @ queries_THP[row].double().unsqueeze(-1)).squeeze(-1) / width**0.5
        wanted = (scores.softmax(-1).unsqueeze(1) @ v).squeeze(1)
        assert distance(found[row], wanted) < TOLERANCE[dtype]


def test_shares_are_as_many_as_fill_the_device() -> None:
    assert splits_for(1, 2, 8, 132) == 8
    assert splits_for(1, 2, 2048, 132) == 64
    assert splits_for(1, 2, 9, 132) == 16
    assert splits_for(64, 2, 2048, 132) == 4
    assert splits_for(256, 2, 2048, 132) == 1


@DTYPES
def test_a_product_joins_shares_of_attention(dtype: torch.dtype, device: Any) -> None:
    rows, heads, width = 2, 3, 16
    parts_SAP = noise(4, rows * heads, width, device=device)
    logsums_SA = noise(4, rows * heads, seed=1, device=device) * 3
    logsums_SA[1, 2], logsums_SA[:, 4] = -torch.inf, -torch.inf
    weights_SA = torch.exp2(logsums_SA.double())
    total_A = weights_SA.sum(dim=0)
    joined_AP = (parts_SAP * weights_SA[:, :, None]).sum(dim=0) / total_A[:, None]
    joined_AP[4] = 0.0
    weight_DK = noise(40, heads * width, seed=2, device=device, dtype=dtype)
    scaling, module = scaling_of(40, device)
    stream_TD = noise(rows, 40, seed=3, device=device)
    branch_TD = joined_AP.reshape(rows, -1) @ weight_DK.double().mT
    wanted = module(branch_TD.float(), stream_TD)
    shares = Shares(parts_SAP=parts_SAP, logsums_SA=logsums_SA)
    row_linear_into_stream(shares, weight_DK, scaling, stream_TD)
    assert distance(stream_TD, wanted) < 1e-5


@DTYPES
def test_the_gate_of_many_tokens_is_silu(dtype: torch.dtype, device: Any) -> None:
    both_NG = noise(3, 80, device=device, dtype=dtype) * 3
    gate_NF, up_NF = both_NG.double().chunk(2, dim=1)
    wanted = torch.nn.functional.silu(gate_NF) * up_NF
    assert distance(gated(both_NG), wanted) < TOLERANCE[dtype]


def test_drawing_is_that_of_the_sampler_in_torch(device: Any) -> None:
    rows, vocab = 60, 9001
    logits_BV = noise(rows, vocab, device=device) * 4
    logits_BV[:, 7] = -torch.inf
    temperatures = np.random.default_rng(0).choice([0.0, 0.5, 1.0, 1.7], rows)
    table = SamplingTable(rows)
    for row, temperature in enumerate(temperatures):
        table.open(row, SamplingParams(max_tokens=1, temperature=temperature, seed=row))
    order = np.arange(rows)
    batch = table.batch(order, device)
    uniforms = table.uniforms(order, np.zeros(rows, dtype=int))
    uniforms[:10] = [0.0] * 5 + [np.nextafter(np.float32(1), np.float32(0))] * 5
    uniform_B = torch.from_numpy(uniforms).to(device)
    expected = sample(logits_BV, uniform_B, batch)
    assert batch.temperature_B1 is not None
    assert batch.greedy_B is not None
    heat_B, greedy_B = batch.temperature_B1.flatten(), batch.greedy_B.int()
    tokens_B, logprobs_B = draw(logits_BV, heat_B, greedy_B, uniform_B)
    same = tokens_B == expected.tokens_B.cpu()
    assert same.float().mean() > 0.9
    assert same[torch.from_numpy(temperatures == 0)].all()
    assert torch.allclose(logprobs_B[same], expected.logprobs_B.cpu()[same], atol=1e-5)
    assert 7 not in tokens_B
    # Where the tokens differ, the draw is at the very border of two.
    upto_BV = expected.kept_BV.exp().cumsum(-1).cpu()
    wrong_B = (upto_BV[order, tokens_B] - torch.from_numpy(uniforms)).abs()
    assert (wrong_B[~same] < 1e-4).all()
    logits_BV[3, 5] = torch.nan
    tokens_B, logprobs_B = draw(logits_BV, heat_B, greedy_B, uniform_B)
    assert logprobs_B[3].isnan()
    assert 0 <= tokens_B[3] < vocab
