"""Newton-Schulz in fp32: the direction of U V', on stacks, at any scale."""

from functools import partial

import pytest
import torch
from directions import exact, stack
from hypothesis import given, settings
from hypothesis import strategies as st

from openzaya.optim import newton_schulz as in_any_arithmetic
from openzaya.optim.newton_schulz import (
    CPU_CHUNK_ELEMENTS,
    STEPS,
    SYMMETRIC_MIN,
    iterate,
    unit_norm,
)

newton_schulz = partial(in_any_arithmetic, arithmetic="float32")


@settings(max_examples=25, deadline=None)
@given(
    rows=st.integers(1, 24),
    columns=st.integers(1, 24),
    count=st.integers(1, 4),
    seed=st.integers(0, 99),
)
def test_it_keeps_the_singular_vectors_and_brings_singular_values_into_a_band(
    rows, columns, count, seed
):
    """U' X V is diagonal, and entries that were not tiny end up near 1."""
    matrices = stack(count, rows, columns, seed)
    u, s, vh = torch.linalg.svd(matrices, full_matrices=False)
    middle = u.mT @ newton_schulz(matrices) @ vh.mT
    diagonal = middle.diagonal(dim1=1, dim2=2)
    torch.testing.assert_close(middle, torch.diag_embed(diagonal), atol=2e-3, rtol=0)
    usual = diagonal[s > 0.05 * torch.linalg.vector_norm(s, dim=1, keepdim=True)]
    assert bool(((usual > 0.65) & (usual < 1.25)).all())


@pytest.mark.parametrize("shape", [(16, 16), (12, 40), (40, 12)])
def test_a_stack_equals_its_matrices_one_by_one(shape):
    matrices = stack(5, *shape)
    one_by_one = torch.cat([newton_schulz(matrix.unsqueeze(0)) for matrix in matrices])
    torch.testing.assert_close(newton_schulz(matrices), one_by_one, atol=1e-5, rtol=1e-5)


def test_cutting_a_large_stack_into_chunks_changes_nothing():
    """More elements than one chunk holds, and a last chunk that is not full."""
    side = 128
    count = CPU_CHUNK_ELEMENTS // side**2 + 3
    matrices = stack(count, side, side)
    result = newton_schulz(matrices)
    for index in (0, count - 1):
        alone = newton_schulz(matrices[index : index + 1])[0]
        torch.testing.assert_close(result[index], alone, atol=1e-4, rtol=1e-4)


def test_transposing_the_input_transposes_the_result():
    matrices = stack(3, 8, 20)
    torch.testing.assert_close(
        newton_schulz(matrices.mT), newton_schulz(matrices).mT, atol=1e-5, rtol=1e-5
    )


def test_a_zero_matrix_gives_zeros_beside_others_that_are_not():
    matrices = stack(3, 6, 4)
    matrices[1] = 0
    result = newton_schulz(matrices)
    assert bool((result[1] == 0).all())
    torch.testing.assert_close(result[0], newton_schulz(matrices[:1])[0], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("scale", [1e-25, 1e-8, 1e8, 1e25])
def test_the_result_does_not_depend_on_the_scale(scale):
    matrices = stack(2, 8, 8)
    torch.testing.assert_close(
        newton_schulz(matrices * scale), newton_schulz(matrices), atol=1e-4, rtol=1e-4
    )


@pytest.mark.parametrize("shape", [(2, 512, 512), (1, 520, 700), (1, 700, 520)])
def test_computing_half_of_symmetric_products_changes_nothing(shape):
    """Shorter sides of whole blocks and with a rest, wide and tall."""
    assert min(shape[1:]) >= SYMMETRIC_MIN
    matrices = stack(*shape)
    wide = matrices.mT if shape[1] > shape[2] else matrices
    expected = iterate(unit_norm(wide), STEPS)
    expected = expected.mT if shape[1] > shape[2] else expected
    torch.testing.assert_close(newton_schulz(matrices), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("shape", [(256, 512), (520, 900), (96, 80)])
@pytest.mark.parametrize("kind", ["one large value", "few values", "values from 1 to 1e-8"])
def test_small_singular_values_beside_large_ones_keep_the_accuracy_of_fp32(shape, kind):
    """Iterating on X X' squares them; done for all five steps it is wrong by up to a hundredth."""
    rows, columns = shape
    matrix = stack(1, rows, columns)[0]
    if kind == "one large value":
        matrix += 300 * stack(1, 1, columns, seed=1)[0]
    elif kind == "few values":
        matrix = matrix[:, :20] @ stack(1, 20, columns, seed=1)[0]
    else:
        u, s, vh = torch.linalg.svd(matrix, full_matrices=False)
        matrix = (u * torch.logspace(0, -8, len(s))) @ vh
    for wanted in (matrix, matrix.mT):
        expected = exact(wanted)
        error = newton_schulz(wanted.unsqueeze(0))[0].double() - expected
        assert float(error.norm() / expected.norm()) < 3e-4
