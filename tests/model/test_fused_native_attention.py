"""Our C++ attention gives the numbers and gradients of an explicit masked softmax in fp64."""

import math

import pytest
import torch
from model.tiny import distance
from torch import Tensor

from openzaya.core.native.build import compiler
from openzaya.model.documents import Documents
from openzaya.model.fused.attention import attend_packed
from openzaya.model.fused.native.attention import attend

pytestmark = pytest.mark.skipif(compiler() is None, reason="there is no C++ compiler")

LENGTHS = [1, 2, 63, 3, 64, 65, 1, 129, 31, 98]
TOLERANCE = 5e-6


def documents(lengths: list[int]) -> Documents:
    return Documents.of(lengths, torch.device("cpu"))


def draw(lengths: list[int], heads: tuple[int, int], width: int, scale: float = 1.0):
    """Return queries, keys and values as leaves, and a gradient of the output."""
    generator = torch.Generator().manual_seed(width + sum(lengths))
    shapes = [(sum(lengths), count, width) for count in (heads[0], heads[1], heads[1])]
    q, k, v = (torch.randn(shape, generator=generator) for shape in shapes)
    grad = torch.randn(sum(lengths), heads[0] * width, generator=generator)
    return [x.requires_grad_() for x in (q * scale, k, v)], grad


def softmax_attention(q_THP: Tensor, k_TKP: Tensor, v_TKP: Tensor, lengths: list[int], window):
    """Return the same by a table of all pairs of tokens."""
    document_T = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths))
    back_TT = torch.arange(len(document_T)).unsqueeze(-1) - torch.arange(len(document_T))
    seen_TT = (document_T.unsqueeze(-1) == document_T) & (back_TT >= 0)
    if window is not None:
        seen_TT &= back_TT < window
    group = q_THP.shape[1] // k_TKP.shape[1]
    k_THP, v_THP = (x.repeat_interleave(group, dim=1) for x in (k_TKP, v_TKP))
    scores = torch.einsum("thp,shp->hts", q_THP, k_THP) / math.sqrt(q_THP.shape[-1])
    weights = scores.masked_fill(~seen_TT, -math.inf).softmax(dim=-1)
    return torch.einsum("hts,shp->thp", weights, v_THP).flatten(1)


def run(inputs, grad, lengths, window):
    out = attend(*inputs, documents(lengths), documents(lengths), window)
    return [out.detach(), *torch.autograd.grad(out, inputs, grad)]


def check(inputs, grad, lengths, window, tolerance=TOLERANCE):
    exact = [x.detach().double().requires_grad_() for x in inputs]
    out = softmax_attention(*exact, lengths, window)
    wanted = [out, *torch.autograd.grad(out, exact, grad.double())]
    found = run(inputs, grad, lengths, window)
    for name, mine, theirs in zip(("out", "q", "k", "v"), found, wanted, strict=True):
        if bool(theirs.any()):
            assert distance(mine, theirs) < tolerance, name
        else:  # a token that sees itself alone: its weight is 1 whatever the score
            assert float(mine.abs().max()) < tolerance, name


@pytest.mark.parametrize("window", [None, 1, 4, 31, 64, 100, 1000])
@pytest.mark.parametrize("heads", [(4, 4), (4, 2), (4, 1)], ids=str)
def test_documents_windows_and_groups(heads, window):
    inputs, grad = draw(LENGTHS, heads, 32)
    check(inputs, grad, LENGTHS, window)


@pytest.mark.parametrize("way", [attend, attend_packed])
@pytest.mark.parametrize("window", [None, 2, 40, 100])
def test_the_last_tokens_of_documents_see_what_the_whole_documents_would(way, window):
    counts = [1, 1, 63, 2, 1, 40, 1, 65, 31, 64]
    (q, k, v), grad = draw(LENGTHS, (4, 2), 32)
    is_last = [i >= n - count for n, count in zip(LENGTHS, counts, strict=True) for i in range(n)]
    last_T = torch.tensor(is_last)
    exact = [x.detach().double().requires_grad_() for x in (q, k, v)]
    wanted = softmax_attention(*exact, LENGTHS, window)[last_T]
    wanted_grads = torch.autograd.grad(wanted, exact, grad[last_T].double())
    some = q.detach()[last_T].requires_grad_()
    found = way(some, k, v, documents(counts), documents(LENGTHS), window)
    found_grads = torch.autograd.grad(found, (some, k, v), grad[last_T])
    assert distance(found, wanted) < TOLERANCE
    assert distance(found_grads[0], wanted_grads[0][last_T]) < TOLERANCE
    for mine, theirs in zip(found_grads[1:], wanted_grads[1:], strict=True):
        assert distance(mine, theirs) < TOLERANCE


@pytest.mark.parametrize("width", [1, 8, 16, 20, 48, 128, 256])
def test_head_widths(width):
    inputs, grad = draw(LENGTHS, (4, 2), width)
    check(inputs, grad, LENGTHS, 70)


@pytest.mark.parametrize("length", [1, 2, 15, 16, 17, 31, 32, 33, 63, 64, 65, 95, 96, 97, 128, 129])
def test_lengths_about_the_edges_of_tiles_and_blocks(length):
    inputs, grad = draw([length], (2, 1), 32)
    check(inputs, grad, [length], None)


@pytest.mark.parametrize("scale", [1e-6, 30.0, 1e3])
def test_scores_that_are_all_alike_or_far_apart(scale):
    inputs, grad = draw(LENGTHS, (4, 2), 32, scale)
    # A score of 1,000 has rounding errors of 6e-5, which its exponential keeps.
    check(inputs, grad, LENGTHS, None, tolerance=max(TOLERANCE, 3e-6 * scale))


def test_the_largest_score_may_come_last_or_first():
    inputs, grad = draw([200], (2, 1), 32)
    for factor_T in (torch.linspace(0, 60, 200), torch.linspace(60, 0, 200)):
        with torch.no_grad():
            inputs[0].fill_(1.0)
            inputs[1].copy_(factor_T.view(-1, 1, 1).expand_as(inputs[1]) / 8)
        check(inputs, grad, [200], None, tolerance=1e-4)


def test_views_that_are_not_contiguous_are_taken():
    inputs, grad = draw(LENGTHS, (4, 2), 32)
    turned = [x.detach().transpose(0, 1).contiguous().transpose(0, 1) for x in inputs]
    check([x.requires_grad_() for x in turned], grad.t().contiguous().t(), LENGTHS, 50)


@pytest.mark.parametrize("window", [None, 40])
def test_two_runs_give_the_same_bits_and_so_does_a_document_alone(window):
    inputs, grad = draw(LENGTHS, (4, 2), 32)
    packed = run(inputs, grad, LENGTHS, window)
    assert all(map(torch.equal, packed, run(inputs, grad, LENGTHS, window)))
    pieces = [x.detach().split(LENGTHS) for x in (*inputs, grad, *packed)]
    for *parts, part_grad, out, q, k, v in zip(*pieces, strict=True):
        leaves = [x.clone().requires_grad_() for x in parts]
        alone = run(leaves, part_grad, [len(out)], window)
        assert all(map(torch.equal, alone, (out, q, k, v)))


@pytest.mark.parametrize("which", [0, 1, 2])
def test_what_is_no_number_stays_none_and_inside_its_document(which):
    lengths = [40, 50]
    inputs, grad = draw(lengths, (2, 1), 32)
    with torch.no_grad():
        inputs[which][45, 0, 3] = math.nan
    found = run(inputs, grad, lengths, None)
    assert bool(found[0][45].isnan().any())
    assert bool(found[1][45].isnan().any())
    for x in found:
        assert not bool(x[:40].isnan().any())
