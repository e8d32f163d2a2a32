"""The hand-written backward passes, and the kernels that must be the fast ones."""

import pytest
import torch
from model.tiny import distance, tiny_config, tiny_model, tokens
from torch import Tensor
from torch.nn import functional as F

from openzaya.model.attention import attend
from openzaya.model.experts import Experts
from openzaya.model.norm import RMSNorm
from openzaya.model.plan import FILL, group_by_length
from openzaya.model.precision import HF
from openzaya.model.rope import rope_tables
from openzaya.model.rows import put_rows, take_rows
from openzaya.model.taps import (
    ConvWeights,
    delay_values,
    fold,
    mix_folded,
    mix_stepwise,
    norm_rotate,
)


def draw(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, dtype=torch.float64, generator=generator).requires_grad_()


def test_rms_norm_has_the_gradient_of_its_formula() -> None:
    norm = RMSNorm(6, 1e-3, HF).double()
    x = draw(5, 6)

    def run(x_ND: Tensor, weight_D: Tensor) -> Tensor:
        return torch.func.functional_call(norm, {"weight": weight_D}, (x_ND,))

    weight = draw(6, seed=1)
    assert torch.autograd.gradcheck(run, (x, weight))
    wanted = x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-3) * weight
    torch.testing.assert_close(run(x, weight), wanted)


@pytest.mark.parametrize(("queries", "keys"), [(4, 2), (2, 2), (4, 1)])
def test_folded_convolutions_are_the_two_convolutions_plus_the_mean(
    queries: int, keys: int
) -> None:
    width, rows = 2, 5
    channels = (queries + keys) * width
    parts = (
        draw(channels, 2, seed=1),
        draw(channels, seed=2),
        draw(channels, width, 2, seed=3),
        draw(channels, seed=4),
    )
    u = draw(rows, channels)

    def run(u_MC: Tensor, *weights: Tensor) -> Tensor:
        return mix_folded(u_MC, fold(*weights), queries)

    assert torch.autograd.gradcheck(run, (u, *parts), fast_mode=True)
    depthwise, shift, grouped, bias = parts
    first = F.conv1d(u.t()[None], depthwise[:, None], shift, groups=channels)
    second = F.conv1d(first, grouped, bias, groups=queries + keys)[0]
    convolved = second.view(queries + keys, width, rows - 2).transpose(1, 2)
    heads = u[2:].view(rows - 2, queries + keys, width).transpose(0, 1)
    shared = heads[queries:].repeat_interleave(queries // keys, dim=0)
    mean = (heads[:queries] + shared) / 2
    both = torch.cat((mean, mean.view(keys, -1, rows - 2, width).mean(1)))
    torch.testing.assert_close(run(u, *parts), convolved + both)
    window = torch.stack((u[:-2], u[1:-1], u[2:]), dim=-1)
    weights = ConvWeights(depthwise_C2=depthwise, shift_C=shift, grouped_CP2=grouped, bias_C=bias)
    torch.testing.assert_close(mix_stepwise(window, weights, queries), convolved + both)


def test_norm_and_rotation_have_the_gradient_of_their_formula() -> None:
    x, scale = draw(3, 4, 6), draw(3, seed=1)
    cos, sin = (table.double() for table in rope_tables(torch.tensor([0, 3, 1, 7]), 9.0, 4))

    def run(x_JNP: Tensor, scale_J: Tensor) -> Tensor:
        return norm_rotate(x_JNP, scale_J, (cos, sin), 1e-9)

    assert torch.autograd.gradcheck(run, (x, scale))
    found = run(x, scale)
    torch.testing.assert_close(found.norm(dim=-1), scale.abs()[:, None].expand(3, 4))
    # A complex product turns channel r with channel r + 2 by position times frequency.
    unit = x / x.norm(dim=-1, keepdim=True) * scale[:, None, None]
    turned = torch.complex(unit[..., :2], unit[..., 2:4]) * torch.complex(cos, sin)
    torch.testing.assert_close(found, torch.cat((turned.real, turned.imag, unit[..., 4:]), -1))


def test_a_vector_below_the_floor_is_divided_by_the_floor() -> None:
    tables = rope_tables(torch.tensor([2]), 9.0, 2)
    x = torch.tensor([[[3e-4, 0.0, 4e-4]]], dtype=torch.float64).requires_grad_()
    cos, sin = (table.double() for table in tables)
    scale = torch.tensor([2.0], dtype=torch.float64)
    out = norm_rotate(x, scale, (cos, sin), 1e-2)
    assert float(out.detach().norm()) == pytest.approx(2.0 * 5e-4 / 1e-2)
    assert torch.autograd.gradcheck(lambda y: norm_rotate(y, scale, (cos, sin), 1e-2), (x,))


def test_delay_take_and_put_have_inverse_gradients() -> None:
    assert torch.autograd.gradcheck(delay_values, (draw(6, 4),))
    delayed = delay_values(torch.arange(24.0).view(6, 4))
    assert delayed[0].tolist() == [8, 9, 6, 7]
    index = torch.tensor([4, 0, 3])
    assert torch.autograd.gradcheck(lambda x: take_rows(x, index), (draw(5, 2),))
    assert torch.autograd.gradcheck(lambda x: put_rows(x, index, 5), (draw(3, 2),))
    assert put_rows(torch.ones(3, 1), index, 5).flatten().tolist() == [1, 0, 0, 1, 1]
    all_rows = torch.tensor([2, 0, 1])
    assert torch.autograd.gradcheck(lambda x: put_rows(x, all_rows, 3), (draw(3, 2),))


@pytest.mark.parametrize("counts", [[2, 0, 3], [0, 0, 5], [0, 0, 0]])
def test_experts_have_the_gradient_of_their_formula(counts: list[int]) -> None:
    experts = Experts(tiny_config(num_experts=3, hidden_size=4, moe_intermediate_size=2)).double()

    def run(x_ND: Tensor, gate_up: Tensor, down: Tensor) -> Tensor:
        weights = {"gate_up_proj": gate_up, "down_proj": down}
        return torch.func.functional_call(experts, weights, (x_ND, counts))

    assert torch.autograd.gradcheck(
        run, (draw(sum(counts), 4), draw(3, 4, 4, seed=1), draw(3, 4, 2, seed=2))
    )


def test_striped_sliding_attention_is_the_masked_one() -> None:
    q, k, v = draw(2, 4, 13, 6), draw(2, 2, 13, 6, seed=1), draw(2, 2, 13, 6, seed=2)
    place = torch.arange(13)
    for window in (1, 3, 5, 12, 13, 40):
        mask = (place <= place[:, None]) & (place > place[:, None] - window)
        wanted = F.scaled_dot_product_attention(q, k, v, mask, enable_gqa=True)
        torch.testing.assert_close(attend(q, k, v, window), wanted)
        torch.testing.assert_close(attend(q, k, v, None)[:, :, :1], wanted[:, :, :1])


def test_length_groups_take_every_document_once_and_waste_little() -> None:
    lengths = [3, 100, 97, 80, 79, 12, 3, 1]
    groups = group_by_length(lengths)
    assert sorted(i for group in groups for i in group) == list(range(8))
    for group in groups:
        sizes = [lengths[i] for i in group]
        assert min(sizes) >= FILL * max(sizes)
    assert [len(group) for group in groups] == [3, 1, 1, 2, 1]


def test_only_experts_that_were_hit_are_read() -> None:
    # An expert of NaN that nobody visits must leave no trace, forward and backward.
    model = tiny_model(1, num_hidden_layers=1)
    with torch.no_grad():
        model.layers[0].mlp.experts.gate_up_proj[2] = float("nan")
        model.layers[0].mlp.experts.down_proj[2] = float("nan")
    replay = torch.tensor([[0], [1], [3], [0], [4]])
    hidden = model.trunk(tokens(5), replay_TL=replay).hidden_TD
    assert bool(hidden.isfinite().all())
    hidden.sum().backward()
    assert model.layers[0].mlp.experts.gate_up_proj.grad[2].abs().max() == 0
    assert all(bool(p.grad.isfinite().all()) for p in model.parameters())


def test_skipped_rows_never_reach_an_expert() -> None:
    model = tiny_model(2, num_hidden_layers=1)
    everyone = torch.full((6, 1), 4)
    out = model.trunk(tokens(6), replay_TL=everyone)
    out.hidden_TD.sum().backward()
    experts = model.layers[0].mlp.experts
    assert experts.gate_up_proj.grad is None or experts.gate_up_proj.grad.abs().max() == 0
    assert distance(out.hidden_TD, model.trunk(tokens(6), replay_TL=everyone).hidden_TD) == 0
