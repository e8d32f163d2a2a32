"""Matrices for Muon to orthogonalize, and what is to come out."""

import torch

from openzaya.optim.newton_schulz import COEFFICIENTS, STEPS, iterate, unit_norm

KINDS = ("random", "one large singular value", "twenty singular values", "from 1 to 1e-8")


def stack(count: int, rows: int, columns: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(count, rows, columns, generator=torch.Generator().manual_seed(seed))


def matrix_of(kind: str, rows: int, columns: int) -> torch.Tensor:
    """Return a matrix whose singular values are as the kind says."""
    matrix = stack(1, rows, columns)[0]
    if kind == KINDS[1]:
        return matrix + 300 * stack(1, 1, columns, seed=1)[0]
    if kind == KINDS[2]:
        few = min(20, rows, columns)
        return matrix[:, :few] @ stack(1, few, columns, seed=1)[0]
    if kind == KINDS[3]:
        u, s, vh = torch.linalg.svd(matrix, full_matrices=False)
        return (u * torch.logspace(0, -8, len(s))) @ vh
    return matrix


def exact(matrices: torch.Tensor, steps: int = STEPS) -> torch.Tensor:
    """Return what the iteration makes of the singular values, in fp64."""
    a, b, c = COEFFICIENTS
    u, s, vh = torch.linalg.svd(matrices.double(), full_matrices=False)
    s = s / torch.linalg.vector_norm(s, dim=-1, keepdim=True)
    for _ in range(steps):
        s = a * s + b * s**3 + c * s**5
    return (u * s.unsqueeze(-2)) @ vh


def in_bf16(matrix: torch.Tensor) -> torch.Tensor:
    """Return the direction as an accelerator computes it."""
    tall = matrix.shape[0] > matrix.shape[1]
    wide = matrix.mT if tall else matrix
    unit = iterate(unit_norm(wide.unsqueeze(0)).bfloat16(), STEPS)[0]
    return unit.mT if tall else unit


def error_of(found: torch.Tensor, wanted: torch.Tensor) -> float:
    """Return the relative error in the Frobenius norm."""
    return float((found.double() - wanted).norm() / wanted.norm())
