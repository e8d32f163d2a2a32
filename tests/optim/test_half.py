"""Muon in half precision: how exact it is, and that a matrix has the same bits in any company."""

import sys

import pytest
import torch
from directions import KINDS, error_of, exact, in_bf16, matrix_of, stack
from torch import nn

from openzaya.core.errors import ConfigError
from openzaya.optim import Muon, MuonConfig, newton_schulz
from openzaya.optim.groups import claim_parameters
from openzaya.optim.native import library
from openzaya.optim.newton_schulz import kernels_of

CPU = torch.device("cpu")
SHAPES = [(1024, 512), (512, 512), (96, 128), (37, 91), (130, 70), (256, 16), (16, 256), (65, 64)]


@pytest.fixture(autouse=True)
def has_half():
    if reason := library.reason_against_half():
        pytest.skip(reason)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", SHAPES)
def test_it_is_several_times_as_exact_as_bf16(shape, kind):
    matrix = matrix_of(kind, *shape)
    wanted = exact(matrix)
    error = error_of(newton_schulz(matrix.unsqueeze(0))[0], wanted)
    assert error < error_of(in_bf16(matrix), wanted) / 2.5
    if kind == "random":
        assert error < 4e-3


@pytest.mark.parametrize("steps", [1, 2, 3, 4, 6, 7])
@pytest.mark.parametrize("shape", [(24, 70), (70, 24), (33, 33)])
def test_any_number_of_iterations(shape, steps):
    matrix = stack(1, *shape)
    wanted = exact(matrix[0], steps)
    assert error_of(newton_schulz(matrix, steps)[0], wanted) < 5e-3


@pytest.mark.parametrize("shape", [(1, 5), (5, 1), (1, 1), (2, 2), (3, 200), (200, 3)])
def test_the_smallest_shapes(shape):
    matrix = stack(1, *shape)
    assert error_of(newton_schulz(matrix)[0], exact(matrix[0])) < 8e-3


def test_any_shape_up_to_a_few_tiles_and_rests():
    for rows in (1, 7, 8, 11, 12, 13, 31, 32, 33, 63, 64, 65, 76, 97):
        for columns in (1, 12, 32, 33, 64, 65, 96, 97, 129):
            matrix = stack(1, rows, columns)
            assert error_of(newton_schulz(matrix)[0], exact(matrix[0])) < 1e-2, (rows, columns)


def test_nothing_gives_nothing():
    for shape in ((0, 4, 4), (2, 0, 4), (2, 4, 0)):
        assert newton_schulz(torch.zeros(shape)).shape == shape


def test_a_zero_matrix_gives_zeros_beside_others_that_are_not():
    matrices = stack(3, 6, 40)
    matrices[1] = 0
    result = newton_schulz(matrices)
    assert bool((result[1] == 0).all())
    assert torch.equal(result[0], newton_schulz(matrices[:1])[0])


@pytest.mark.parametrize("power", [-110, -84, -20, 20, 100])
def test_powers_of_two_change_no_bit(power):
    """2^-84 is about 1e-25, where squares would vanish in fp32."""
    matrices = stack(2, 40, 24)
    assert torch.equal(newton_schulz(matrices * 2.0**power), newton_schulz(matrices))


def test_the_largest_possible_sums_stay_in_range():
    """All energy in one entry, spread evenly over a diagonal, or over all, where sums of equal
    numbers are all rounded the same way."""
    one = torch.zeros(1, 96, 64)
    one[0, 70, 50] = -3.0
    for matrix, most in ((one, 1e-3), (torch.eye(64).unsqueeze(0), 1e-3), (one * 0 + 1, 4e-2)):
        assert error_of(newton_schulz(matrix)[0], exact(matrix[0])) < most


class Matrices(nn.Module):
    """Shapes that share a part and shapes that are cut into several, with and without rests."""

    def __init__(self) -> None:
        super().__init__()
        self.wide = nn.Parameter(stack(1, 20, 44, seed=1)[0])
        self.experts = nn.Parameter(stack(5, 40, 24, seed=2))
        self.square = nn.Parameter(stack(1, 70, 70, seed=3)[0])
        self.conv_weight = nn.Parameter(stack(32, 8, 2, seed=4))


def moved(threads: int = 1, steps: int = 3, **settings) -> dict[str, torch.Tensor]:
    """Return weights and averages after some steps."""
    model = Matrices()
    muon = Muon(claim_parameters(model.named_parameters()), MuonConfig(**settings))
    torch.set_num_threads(threads)
    for step in range(steps):
        for parameter in model.parameters():
            draw = torch.Generator().manual_seed(step)
            parameter.grad = torch.randn(parameter.shape, generator=draw)
        muon.step()
    return {name: p.detach() for name, p in model.named_parameters()} | muon.state_dict()


def test_the_bits_depend_neither_on_threads_nor_on_the_matrices_beside(monkeypatch):
    wanted = moved(threads=1)
    beside = moved(threads=3)
    monkeypatch.setattr("openzaya.optim.muon.PART_ELEMENTS_CPU", 1000)
    alone = moved(threads=2)
    for name, tensor in wanted.items():
        assert torch.equal(tensor, beside[name]), name
        assert torch.equal(tensor, alone[name]), name


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"nesterov": False, "momentum": 0.5, "scale": "none"},
        {"momentum": None, "weight_decay": 0.0},
        {"momentum": 0.0},
        {"momentum_warmup_steps": 2, "num_ns_steps": 4},
    ],
)
def test_a_step_is_that_in_fp32_up_to_what_half_precision_costs(settings):
    start = Matrices().state_dict()
    half = moved(lr=0.01, **settings)
    wanted = moved(lr=0.01, arithmetic="float32", **settings)
    assert half.keys() == wanted.keys()
    for name, tensor in wanted.items():
        if name in start:
            # Differences of moves, as the weights themselves hide them.
            move, expected = half[name] - start[name], tensor - start[name]
            assert 0 < error_of(move, expected.double()) < 5e-3, name
        else:
            torch.testing.assert_close(half[name], tensor, atol=1e-6, rtol=1e-6)


def test_a_missing_gradient_is_a_zero():
    model = Matrices()
    before = model.square.detach().clone()
    Muon(claim_parameters(model.named_parameters()), MuonConfig(lr=0.1, weight_decay=0.5)).step()
    torch.testing.assert_close(model.square.detach(), before * 0.95)


def test_where_there_is_no_half_precision_it_is_fp32(monkeypatch):
    wanted = moved(arithmetic="float32")
    assert kernels_of(CPU, "auto").startswith("zaya-optim-")
    assert kernels_of(CPU, "float32") == "torch"
    module = sys.modules["openzaya.optim.newton_schulz"]
    monkeypatch.setattr(module, "reason_against_half", lambda: "none here")
    assert kernels_of(CPU, "auto") == "torch"
    for name, tensor in moved().items():
        assert torch.equal(tensor, wanted[name]), name


def test_without_a_compiler_it_says_so_once(monkeypatch, caplog):
    def broken():
        raise ConfigError("no compiler here")

    monkeypatch.setattr(library, "kernels", broken)
    library.reason_against_half.cache_clear()
    try:
        assert kernels_of(CPU, "auto") == "torch"
        assert bool(newton_schulz(stack(1, 4, 4)).isfinite().all())
        assert caplog.text.count("slower without our C++: no compiler here") == 1
    finally:
        library.reason_against_half.cache_clear()


def test_settings_that_cannot_work_are_refused():
    with pytest.raises(ConfigError, match="choose of auto, float32"):
        MuonConfig(arithmetic="float16")
    with pytest.raises(ConfigError, match="num_ns_steps is 0"):
        MuonConfig(num_ns_steps=0)
