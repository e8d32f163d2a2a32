"""Our C++ for single rows gives the regions' numbers and gradients, of any width and length."""

import inspect
import math

import pytest
import torch
from model.tiny import distance, tiny_model, tokens

from openzaya.core.errors import ConfigError
from openzaya.core.native.build import compiler
from openzaya.model.fused import regions
from openzaya.model.fused.native import library, rows

pytestmark = pytest.mark.skipif(compiler() is None, reason="there is no C++ compiler")
EPS = 1e-5
SHARED = [
    "norm_rows",
    "add_branch",
    "add_branch_and_norm",
    "first_state",
    "averaged_state",
    "choose",
]


def arguments(name, count, width):
    """Return random arguments of a region, in fp64."""
    generator = torch.Generator().manual_seed(count * 1000 + width)

    def draw(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    x, y, vector = draw(count, width), draw(count, width), draw(width)
    scaling = [draw(width) for _ in range(4)]
    return {
        "norm_rows": [x, vector, EPS],
        "add_branch": [x, y, scaling],
        "add_branch_and_norm": [x, y, scaling, vector, EPS],
        "first_state": [x, vector, EPS],
        "averaged_state": [x, y, vector, scaling[0], EPS],
        "choose": [2 * x, 0.1 * vector, None],
        "replay": [2 * x, 0.1 * vector, torch.arange(count) % width],
        "shift_and_scale": [x, vector, scaling[0]],
    }[name]


def leaves(args):
    flat = [x for arg in args for x in (arg if isinstance(arg, list) else [arg])]
    return [x for x in flat if isinstance(x, torch.Tensor) and x.is_floating_point()]


def in_dtype(args, dtype):
    """Return fresh leaves of a dtype."""

    def one(x):
        if isinstance(x, list):
            return [one(part) for part in x]
        if isinstance(x, torch.Tensor) and x.is_floating_point():
            return x.to(dtype, copy=True).requires_grad_()
        return x

    return [one(x) for x in args]


def outputs_and_gradients(function, args, used=slice(None)):
    """Return what a function returns, and the gradients of a sum of some of it.

    The gradients of its results come as transposed matrices, so their rows are not contiguous.
    """
    outputs = function(*args)
    outputs = outputs if isinstance(outputs, tuple) else (outputs,)
    generator = torch.Generator().manual_seed(1)
    total = 0.0
    for out in [x for x in outputs if x.requires_grad][used]:
        weights = torch.randn(out.shape[::-1], generator=generator).to(out.dtype)
        total = total + (out.mT if out.ndim == 2 else out).mul(weights).sum()
    total.backward()
    # What nothing flows to has no gradient in one and a zero in the other.
    grads = [torch.zeros_like(x) if x.grad is None else x.grad for x in leaves(args)]
    return [x.detach().double() for x in (*outputs, *grads)]


def is_near(found, wanted):
    """Tell whether two tensors are the same but for fp32; zeros must be zeros."""
    return distance(found, wanted) < 2e-6 if wanted.any() else not found.any()


def exact(name, args, monkeypatch, **settings):
    """Return the same of a region that computes in fp64."""
    if name == "shift_and_scale":
        return outputs_and_gradients(lambda x, b, s: (x + b) * s, args, **settings)
    region = getattr(regions, "choose" if name == "replay" else name)
    with monkeypatch.context() as patch:
        patch.setattr(torch.Tensor, "float", lambda x: x)
        return outputs_and_gradients(region, args, **settings)


@pytest.mark.parametrize("width", [5, 16, 33, 128])
@pytest.mark.parametrize("count", [1, 7, 200])
@pytest.mark.parametrize("name", [*SHARED, "replay", "shift_and_scale"])
def test_values_and_gradients_are_those_of_the_region(name, count, width, monkeypatch):
    args = arguments(name, count, width)
    function = getattr(rows, "choose" if name == "replay" else name)
    found = outputs_and_gradients(function, in_dtype(args, torch.float32))
    wanted = exact(name, in_dtype(args, torch.float64), monkeypatch)
    for mine, theirs in zip(found, wanted, strict=True):
        assert is_near(mine, theirs)


@pytest.mark.parametrize("name", ["add_branch_and_norm", "averaged_state"])
@pytest.mark.parametrize("used", [slice(0, 1), slice(1, 2)], ids=["sum", "normed"])
def test_one_of_two_results_can_be_left_unused(name, used, monkeypatch):
    args = arguments(name, 9, 24)
    found = outputs_and_gradients(getattr(rows, name), in_dtype(args, torch.float32), used)
    wanted = exact(name, in_dtype(args, torch.float64), monkeypatch, used=used)
    for mine, theirs in zip(found, wanted, strict=True):
        assert is_near(mine, theirs)


@pytest.mark.parametrize("name", SHARED)
def test_names_and_arguments_are_those_of_the_regions(name):
    ours, theirs = (inspect.signature(getattr(module, name)) for module in (rows, regions))
    assert ours == theirs


@pytest.mark.parametrize("name", [*SHARED, "shift_and_scale"])
@pytest.mark.parametrize("strange", [math.nan, math.inf])
def test_what_is_no_number_stays_none_in_its_row_alone(name, strange):
    args = in_dtype(arguments(name, 3, 33), torch.float32)
    with torch.no_grad():
        args[0][1, 20] = strange
    outputs = getattr(rows, name)(*args)
    for out in outputs if isinstance(outputs, tuple) else (outputs,):
        if out.is_floating_point():
            assert torch.isfinite(out.reshape(3, -1)).all(dim=1).tolist() == [True, False, True]


@pytest.mark.parametrize("name", SHARED)
def test_no_rows_give_no_rows_and_zero_gradients(name):
    args = in_dtype(arguments(name, 0, 24), torch.float32)
    outputs = outputs_and_gradients(getattr(rows, name), args)
    assert outputs[0].shape[0] == 0
    assert not any(bool(x.any()) for x in outputs)


def test_equal_classes_are_decided_for_the_first():
    scores = torch.zeros(2, 17)
    expert_T, gate_T, _ = rows.choose(scores, torch.zeros(17), None)
    assert expert_T.tolist() == [0, 0]
    assert gate_T.tolist() == pytest.approx([1 / 17] * 2)


def test_a_score_of_minus_infinity_has_no_share():
    scores = torch.randn(3, 9)
    scores[1, 4] = -math.inf
    expert_T, _, probs = rows.choose(scores, torch.tensor([0.0] * 4 + [9.0] + [0.0] * 4), None)
    assert torch.allclose(probs, scores.softmax(dim=-1), rtol=1e-6)
    assert probs[1, 4] == 0
    assert (expert_T == 4).all()


def test_a_model_trains_without_the_library_where_it_does_not_compile(monkeypatch, caplog):
    def broken():
        raise ConfigError("no compiler here")

    monkeypatch.setattr(library, "kernels", broken)
    library._reason_against_library.cache_clear()
    try:
        model = tiny_model(1)
        assert not model.takes_fused()
        assert model.kernels_of_training() == "torch"
        model.trunk(tokens(8)).hidden_TD.sum().backward()
        assert caplog.text.count("slower without our C++: no compiler here") == 1
    finally:
        library._reason_against_library.cache_clear()


def test_only_fp32_training_takes_the_library():
    model = tiny_model(1)
    assert model.takes_fused()
    assert model.kernels_of_training().startswith("zaya-fused-")
    with torch.no_grad():
        assert not model.takes_fused()
    low = tiny_model(1).bfloat16()
    assert not low.takes_fused()
    assert low.kernels_of_training() == "torch"
