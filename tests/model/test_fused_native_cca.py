"""Our C++ mixing of CCA gives the numbers and gradients of its formulas in fp64."""

import math
from dataclasses import fields, replace

import pytest
import torch
from model.tiny import distance
from torch import Tensor
from torch.nn import functional as F

from openzaya.core.native.build import compiler
from openzaya.model.fused import regions
from openzaya.model.fused.native.cca import MixWeights, mix
from openzaya.model.rope import rope_tables

pytestmark = pytest.mark.skipif(compiler() is None, reason="there is no C++ compiler")

LENGTHS = [1, 2, 31, 3, 32, 33, 1, 64, 65, 2, 129]
NAMES = ("q", "k", "v", "x", *(field.name for field in fields(MixWeights)))
TOLERANCE = 5e-6


def draw(lengths: list[int], heads: tuple[int, int], width: int, dtype=torch.float32):
    """Return projections and weights as leaves, and gradients of queries, keys and values."""
    generator = torch.Generator().manual_seed(width + sum(lengths))
    tokens, both = sum(lengths), sum(heads)

    def noise(*shape: int, scale: float = 1.0) -> Tensor:
        return torch.randn(*shape, generator=generator) * scale

    x = noise(tokens, both * width + 2 * (heads[1] * width // 2)).requires_grad_()
    weights = MixWeights(
        depthwise_C2=noise(both * width, 2, scale=0.7).requires_grad_(),
        shift_C=noise(both * width, scale=0.3).requires_grad_(),
        grouped_CP2=noise(both * width, width, 2, scale=(2 * width) ** -0.5).requires_grad_(),
        bias_C=noise(both * width, scale=0.3).requires_grad_(),
        temp_K=(0.7 + noise(heads[1]).abs()).requires_grad_(),
    )
    grads = [noise(tokens, count, width) for count in (heads[0], heads[1], heads[1])]
    return x, weights, grads


def leaves(x: Tensor, weights: MixWeights) -> list[Tensor]:
    return [x, *(getattr(weights, field.name) for field in fields(weights))]


def layout(lengths: list[int], width: int, pairs: int | None = None):
    positions = torch.cat([torch.arange(length) for length in lengths])
    ends = torch.tensor([0, *lengths]).cumsum(0).to(torch.int32)
    return ends, rope_tables(positions, 100.0, width // 4 * 2 if pairs is None else 2 * pairs)


def back(x: Tensor, distance: int) -> Tensor:
    """Return each row's predecessor in one document; zeros before it."""
    return F.pad(x, (0, 0, distance, 0))[: x.shape[0]]


def one_document(x: Tensor, weights: MixWeights, width: int, rope: tuple[Tensor, Tensor]):
    """Return queries, keys and values of one document, formula by formula."""
    channels, keys = weights.shift_C.shape[0], weights.temp_K.shape[0]
    u, v = x[:, :channels], x[:, channels:]
    first = back(u, 1) * weights.depthwise_C2[:, 0] + u * weights.depthwise_C2[:, 1]
    first = first + weights.shift_C
    # In front of the document the first convolution gives its shift.
    before = torch.cat((weights.shift_C.unsqueeze(0), first[:-1]))
    taps = weights.grouped_CP2.view(-1, width, width, 2)
    heads = [y.view(len(x), -1, width) for y in (before, first, u)]
    conv = torch.einsum("tji,joi->tjo", heads[0], taps[..., 0])
    conv = conv + torch.einsum("tji,joi->tjo", heads[1], taps[..., 1])
    conv = conv + weights.bias_C.view(-1, width)
    raw_q, raw_k = heads[2][:, :-keys], heads[2][:, -keys:]
    mean = (raw_q.unflatten(1, (keys, -1)) + raw_k.unsqueeze(2)) / 2
    q = conv[:, :-keys] + mean.flatten(1, 2)
    k = conv[:, -keys:] + mean.mean(dim=2)
    q, k = (F.normalize(y, dim=-1, eps=1e-9) * math.sqrt(width) for y in (q, k))
    q, k = (regions._rotated(y, rope) for y in (q, k * weights.temp_K.unsqueeze(-1)))
    half = v.shape[1] // 2
    values = torch.cat((v[:, :half], back(v[:, half:], 1)), dim=1)
    return q, k, values.view(len(x), keys, width)


def reference(x: Tensor, weights: MixWeights, lengths: list[int], width: int, rope):
    cos, sin = (table.double().split(lengths) for table in rope)
    parts = [
        one_document(part, weights, width, angles)
        for part, *angles in zip(x.split(lengths), cos, sin, strict=True)
    ]
    return [torch.cat(column) for column in zip(*parts, strict=True)]


def run(x, weights, grads, lengths, pairs=None):
    width = grads[0].shape[-1]
    found = mix(x, weights, *layout(lengths, width, pairs))
    return [*found, *torch.autograd.grad(found, leaves(x, weights), grads)]


def check(x, weights, grads, lengths, *, pairs=None, tolerance=TOLERANCE):
    width = grads[0].shape[-1]
    exact = [y.detach().double().requires_grad_() for y in leaves(x, weights)]
    wide = MixWeights(**dict(zip(NAMES[4:], exact[1:], strict=True)))
    rope = layout(lengths, width, pairs)[1]
    wanted = reference(exact[0], wide, lengths, width, rope)
    wanted = [*wanted, *torch.autograd.grad(wanted, exact, [g.double() for g in grads])]
    found = run(x, weights, grads, lengths, pairs)
    for name, mine, theirs in zip(NAMES, found, wanted, strict=True):
        # Of the temperature's gradient little is left: a sum over tokens of both signs.
        assert distance(mine, theirs) < tolerance * (10 if name == "temp_K" else 1), name


@pytest.mark.parametrize("heads", [(4, 4), (4, 2), (4, 1), (1, 1)], ids=str)
def test_groups(heads):
    check(*draw(LENGTHS, heads, 32), LENGTHS)


@pytest.mark.parametrize("width", [2, 8, 16, 20, 48, 128])
def test_head_widths(width):
    check(*draw(LENGTHS, (4, 2), width), LENGTHS)


@pytest.mark.parametrize("pairs", [0, 1, 7, 8, 9, 16])
def test_any_number_of_channels_is_rotated(pairs):
    check(*draw(LENGTHS, (2, 1), 32), LENGTHS, pairs=pairs)


@pytest.mark.parametrize("length", [1, 2, 3, 31, 32, 33, 34, 63, 64, 65, 66])
def test_lengths_about_the_edges_of_tiles(length):
    check(*draw([length], (2, 1), 16), [length])


@pytest.mark.parametrize("scale", [1e-5, 1e4])
def test_small_and_large_projections(scale):
    x, weights, grads = draw(LENGTHS, (4, 2), 32)
    with torch.no_grad():
        x.mul_(scale)
        weights.shift_C.mul_(scale)
        weights.bias_C.mul_(scale)
    check(x, weights, grads, LENGTHS)


def test_a_head_shorter_than_the_floor_is_scaled_by_a_constant():
    """As in the compiled regions: the floor's gradient has no part along the head."""
    x, weights, grads = draw([40], (2, 1), 32)
    with torch.no_grad():
        x.mul_(1e-9)
        weights.shift_C.zero_()
        weights.bias_C.zero_()
    found = run(x, weights, grads, [40])
    positions = torch.arange(40)
    _, rope = layout([40], 32)
    u, v = x[:, :96], x[:, 96:]
    pairs = regions.first_convolution(
        u, weights.depthwise_C2, weights.shift_C, (positions >= 1, positions >= 2), 32
    )
    taps = weights.grouped_CP2.view(3, 32, 32, 2).permute(0, 3, 2, 1).flatten(1, 2)
    conv = torch.bmm(pairs.transpose(0, 1), taps)
    q, k = regions.mix_heads(conv, u, weights.bias_C, weights.temp_K, rope)
    values = regions.delay(v, positions >= 1).view(40, 1, 32)
    wanted = [q, k, values]
    wanted += torch.autograd.grad(wanted, leaves(x, weights), grads)
    assert float(q.detach().norm(dim=-1).max()) < 1.0  # not sqrt(P): the floor is what divides
    for name, mine, theirs in zip(NAMES, found, wanted, strict=True):
        assert distance(mine, theirs) < TOLERANCE, name


def test_zeros_have_finite_gradients():
    x, weights, grads = draw([5], (2, 1), 32)
    with torch.no_grad():
        for leaf in leaves(x, weights):
            leaf.zero_()
    assert all(bool(found.isfinite().all()) for found in run(x, weights, grads, [5]))


def test_two_runs_give_the_same_bits_and_so_does_a_document_alone():
    x, weights, grads = draw(LENGTHS, (4, 2), 32)
    packed = run(x, weights, grads, LENGTHS)
    assert all(map(torch.equal, packed, run(x, weights, grads, LENGTHS)))
    pieces = [y.detach().split(LENGTHS) for y in (x, *grads, *packed[:4])]
    for part, *rest in zip(*pieces, strict=True):
        alone = run(part.clone().requires_grad_(), weights, rest[:3], [len(part)])
        assert all(map(torch.equal, alone[:4], rest[3:]))


def test_frozen_weights_get_no_gradient_and_the_projections_the_same():
    x, weights, grads = draw(LENGTHS, (4, 2), 32)
    wanted = run(x, weights, grads, LENGTHS)[3]
    frozen = MixWeights(**{n: getattr(weights, n).detach() for n in NAMES[4:]})
    found = mix(x, frozen, *layout(LENGTHS, 32))
    assert torch.equal(torch.autograd.grad(found, x, grads)[0], wanted)
    one = replace(frozen, temp_K=weights.temp_K)
    found = mix(x.detach(), one, *layout(LENGTHS, 32))
    (grad,) = torch.autograd.grad(found, weights.temp_K, grads)
    assert torch.equal(grad, run(x, weights, grads, LENGTHS)[-1])


def test_what_is_no_number_stays_none_and_inside_its_document():
    lengths = [40, 50]
    x, weights, grads = draw(lengths, (2, 1), 32)
    with torch.no_grad():
        x[45, 3] = math.nan
    q, k, _, x_grad, *_ = run(x, weights, grads, lengths)
    for found in (q[45, 0], k[45, 0], x_grad[45, :32]):
        assert bool(found.isnan().any())
    for found in (q[:40], k[:40], x_grad[:40], q[48:], k[48:], q[:, 1]):
        assert not bool(found.isnan().any())
