"""The CPU's experts in C++ give the numbers and gradients of a plain loop in fp64."""

import pytest
import torch

from openzaya.model.fused.experts import grouped
from openzaya.model.fused.native import experts as native
from openzaya.model.fused.native.experts import mix_experts, sorted_by_expert
from openzaya.model.fused.native.library import reason_against_native

pytestmark = pytest.mark.skipif(
    bool(reason_against_native(torch.float32, torch.device("cpu"))), reason="no C++ compiler"
)
NAMES = ("h", "weight", "gate_up", "down")


def inputs(tokens, width, inner, num_experts, seed=0):
    """Return rows, weights and stacks."""
    draw = torch.Generator().manual_seed(seed)
    shapes = (
        (tokens, width),
        (tokens,),
        (num_experts, 2 * inner, width),
        (num_experts, width, inner),
    )
    return [torch.randn(*shape, generator=draw).requires_grad_() for shape in shapes]


def plain(h, expert, weight, gate_up, down, *, identity_skip):
    """Return what `mix_experts` should, token by token."""
    rows = []
    for x, e, w in zip(h, expert.tolist(), weight, strict=True):
        if e == gate_up.shape[0]:
            rows.append(w * x * float(identity_skip))
            continue
        gate, up = (gate_up[e] @ x).chunk(2)
        rows.append(w * (down[e] @ (torch.nn.functional.silu(gate) * up)))
    nothing = 0 * (gate_up.sum() + down.sum())  # a gradient of zeros where all tokens skip
    return torch.stack(rows) + nothing


def with_gradients(mix, given, expert, **settings):
    """Return the output and the gradients of a sum that weighs every number apart."""
    h, weight, *stacks = leaves = [x.detach().clone().requires_grad_() for x in given]
    out = mix(h, expert, weight, *stacks, **settings)
    (out * torch.linspace(-1, 2, out.numel(), dtype=out.dtype).view_as(out)).sum().backward()
    return [out.detach(), *(leaf.grad for leaf in leaves)]


def ours(h, expert, weight, gate_up, down, **settings):
    """Call `mix_experts`."""
    return mix_experts(h, expert, weight, (gate_up, down), **settings)


def routed(tokens, num_experts, empty=(), seed=0):
    """Return random classes, the skip class among them, none of `empty`."""
    classes = torch.tensor([e for e in range(num_experts + 1) if e not in empty])
    return classes[
        torch.randint(len(classes), (tokens,), generator=torch.Generator().manual_seed(seed))
    ]


CASES = {
    "many": (16, 32, routed(50, 4)),
    "widths that leave remainders": (20, 36, routed(50, 4)),
    "narrower than a vector": (8, 4, routed(50, 4)),
    "experts without tokens": (20, 12, routed(50, 4, empty=(0, 2))),
    "no token skips": (20, 12, routed(50, 4, empty=(4,))),
    "all skip": (20, 12, torch.full((7,), 4)),
    "one": (20, 12, torch.tensor([2])),
    "one that skips": (20, 12, torch.tensor([4])),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("identity_skip", [False, True])
def test_values_and_gradients_are_those_of_a_loop_in_fp64(case, identity_skip):
    width, inner, expert = CASES[case]
    given = inputs(len(expert), width, inner, 4)
    found = with_gradients(ours, given, expert, identity_skip=identity_skip)
    exact = [x.detach().double() for x in given]
    wanted = with_gradients(plain, exact, expert, identity_skip=identity_skip)
    for name, mine, theirs in zip(("out", *NAMES), found, wanted, strict=True):
        torch.testing.assert_close(mine.double(), theirs, rtol=2e-5, atol=2e-5, msg=name)


def test_tokens_keep_their_order_within_an_expert_and_skipping_ones_come_last():
    expert = torch.tensor([2, 3, 0, 2, 3, 0, 2])
    order, ends, kept = sorted_by_expert(expert, 3)
    assert order.tolist() == [2, 5, 0, 3, 6, 1, 4]
    assert ends.tolist() == [2, 2, 5]
    assert kept == 5


def test_two_runs_give_the_same_bits():
    expert = routed(300, 4)
    given = inputs(300, 20, 12, 4)
    first, second = (with_gradients(ours, given, expert, identity_skip=True) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize("frozen", [("gate_up", "down"), ("h",), ("down",)], ids=str)
def test_what_is_frozen_costs_no_product_and_changes_no_other_gradient(frozen, monkeypatch):
    expert = routed(30, 4)
    given = inputs(30, 20, 12, 4)
    _, *wanted = with_gradients(ours, given, expert, identity_skip=False)
    leaves = [
        x.detach().clone().requires_grad_(name not in frozen)
        for name, x in zip(NAMES, given, strict=True)
    ]
    out = ours(leaves[0], expert, *leaves[1:], identity_skip=False)
    products = []
    monkeypatch.setattr(native, "grouped", lambda *args: products.append(0) or grouped(*args))
    (out * torch.linspace(-1, 2, out.numel()).view_as(out)).sum().backward()
    assert len(products) == 4 - len(frozen)
    for name, leaf, grad in zip(NAMES, leaves, wanted, strict=True):
        assert (leaf.grad is None) == (name in frozen)
        assert name in frozen or torch.equal(leaf.grad, grad), name


def test_strided_rows_and_gradients_are_taken():
    expert = torch.stack([routed(30, 4), torch.zeros(30, dtype=torch.int64)], dim=1)[:, 0]
    given = inputs(30, 20, 12, 4)
    wanted = with_gradients(ours, given, expert.contiguous(), identity_skip=True)[0]
    h = given[0].detach().t().contiguous().t().requires_grad_()
    out = ours(h, expert, *given[1:], identity_skip=True)
    torch.testing.assert_close(out, wanted)
    out.sum().backward()  # the gradient has no strides


def test_large_gates_saturate_and_nan_stays():
    h = torch.ones(1, 4)
    expert, weight = torch.tensor([0]), torch.ones(1)
    for scale, wanted in ((50.0, 200.0), (-50.0, 0.0)):
        gate_up = torch.cat((torch.full((1, 4, 4), scale), torch.full((1, 4, 4), 0.25)), dim=1)
        out = ours(h, expert, weight, gate_up, torch.eye(4)[None], identity_skip=False)
        torch.testing.assert_close(out, torch.full((1, 4), wanted))
    gate_up[0, 0, 0] = torch.nan
    out = ours(h, expert, weight, gate_up, torch.eye(4)[None], identity_skip=False)
    assert bool(out.isnan().any())
