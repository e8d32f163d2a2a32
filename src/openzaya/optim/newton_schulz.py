"""Orthogonalize matrices with the quintic Newton-Schulz iteration, many matrices at a time.

Letters: N matrices of one shape, I rows, O columns, A the shorter side, Z the longer side.
"""

from functools import partial

import torch
from torch import Tensor

from openzaya.optim.cores import one_core_each

STEPS = 5
COEFFICIENTS = (3.4445, -4.7750, 2.0315)
"""a, b, c of X <- aX + b(XX')X + c(XX')(XX')X: steep at zero, at the price of a band around 1."""
CPU_CHUNK_ELEMENTS = 1 << 17
"""Elements worked on together on a CPU, so that all steps stay in the cache (measured: 1.45x)."""
SYMMETRIC_BLOCK = 128
"""Rows of a symmetric product that a CPU computes together, up to the diagonal."""
SYMMETRIC_MIN = 4 * SYMMETRIC_BLOCK
"""Shorter sides from which computing half of a symmetric product pays (measured: 1.15x)."""


def newton_schulz(matrices_NIO: Tensor, num_steps: int = STEPS) -> Tensor:
    """Return nearly U V' of every matrix U S V': singular values land in about [0.7, 1.2].

    `matrices_NIO` is [N, rows, columns]. The result has the input's dtype and does not depend on
    the input's scale. A zero matrix gives zeros (an expert without tokens must not move), never
    NaN. Works in fp32 on CPU, where bf16 GEMM has half the speed, and in bf16 elsewhere.

    Paper: IV-B1(e).
    Source: Muon (Jordan et al., 2024); quintic coefficients as there.
    """
    tall = matrices_NIO.shape[1] > matrices_NIO.shape[2]
    wide_NAZ = matrices_NIO.mT if tall else matrices_NIO
    if wide_NAZ.device.type == "cpu":
        unit_NAZ = _on_cpu(wide_NAZ, num_steps)
    else:
        unit_NAZ = iterate(unit_norm(wide_NAZ).bfloat16(), num_steps)
    direction_NIO = unit_NAZ.mT if tall else unit_NAZ
    return direction_NIO.to(matrices_NIO.dtype)


def iterate(unit_NAZ: Tensor, num_steps: int) -> Tensor:
    """Run the quintic iteration on wide matrices of Frobenius norm at most 1."""
    a, b, c = COEFFICIENTS
    for _ in range(num_steps):
        gram_NAA = torch.bmm(unit_NAZ, unit_NAZ.mT)
        poly_NAA = torch.baddbmm(gram_NAA, gram_NAA, gram_NAA, beta=b, alpha=c)
        unit_NAZ = torch.baddbmm(unit_NAZ, poly_NAA, unit_NAZ, beta=a)
    return unit_NAZ


def _on_cpu(wide_NAZ: Tensor, num_steps: int) -> Tensor:
    """Return the iteration's result in fp32, computed in parts that fit the cache."""
    out_NAZ = torch.empty_like(wide_NAZ, dtype=torch.float32)
    size = max(1, CPU_CHUNK_ELEMENTS // max(1, wide_NAZ.shape[1] * wide_NAZ.shape[2]))
    pairs = zip(torch.split(wide_NAZ, size), torch.split(out_NAZ, size), strict=True)
    one_core_each([partial(_fill, *pair, num_steps) for pair in pairs])
    return out_NAZ


def _fill(wide_NAZ: Tensor, out_NAZ: Tensor, num_steps: int) -> None:
    unit_NAZ = unit_norm(wide_NAZ)
    if wide_NAZ.shape[1] < SYMMETRIC_MIN:
        out_NAZ.copy_(iterate(unit_NAZ, num_steps))
        return
    for unit_AZ, out_AZ in zip(unit_NAZ, out_NAZ, strict=True):
        out_AZ.copy_(iterate_by_halves(unit_AZ, num_steps))


def iterate_by_halves(unit_AZ: Tensor, num_steps: int) -> Tensor:
    """Return `iterate` of one matrix; the input is overwritten.

    Of the symmetric products only the blocks up to the diagonal are computed, then mirrored.
    """
    a, b, c = COEFFICIENTS
    gram_AA = unit_AZ.new_empty(unit_AZ.shape[0], unit_AZ.shape[0])
    poly_AA = torch.empty_like(gram_AA)
    spare_AZ = torch.empty_like(unit_AZ)
    for _ in range(num_steps):
        for start, end in _blocks(gram_AA):
            torch.mm(unit_AZ[start:end], unit_AZ[:end].t(), out=gram_AA[start:end, :end])
            _mirror(gram_AA, start, end)
        for start, end in _blocks(poly_AA):
            block, left, right = gram_AA[start:end, :end], gram_AA[start:end], gram_AA[:, :end]
            torch.addmm(block, left, right, beta=b, alpha=c, out=poly_AA[start:end, :end])
            _mirror(poly_AA, start, end)
        poly_AA.diagonal().add_(a)
        spare_AZ, unit_AZ = unit_AZ, torch.mm(poly_AA, unit_AZ, out=spare_AZ)
    return unit_AZ


def _blocks(square_AA: Tensor) -> list[tuple[int, int]]:
    """Return the first and last row of each block of rows."""
    size = square_AA.shape[0]
    return [(i, min(i + SYMMETRIC_BLOCK, size)) for i in range(0, size, SYMMETRIC_BLOCK)]


def _mirror(square_AA: Tensor, start: int, end: int) -> None:
    """Copy what is left of a diagonal block to above it."""
    square_AA[:start, start:end] = square_AA[start:end, :start].t()


def unit_norm(matrices_NIO: Tensor) -> Tensor:
    """Divide every matrix by its Frobenius norm, in fp32; zeros stay zeros.

    The largest entry goes first: squares of entries below 1e-19 would vanish in fp32, and an RL
    gradient can be that small.
    """
    exact_NIO = matrices_NIO.float()
    tiny = torch.finfo(torch.float32).tiny
    peak_N11 = exact_NIO.abs().amax(dim=(1, 2), keepdim=True)
    scaled_NIO = exact_NIO / peak_N11.clamp_min(tiny)
    norm_N11: Tensor = torch.linalg.vector_norm(scaled_NIO, dim=(1, 2), keepdim=True)
    return scaled_NIO / norm_N11.clamp_min(1.0)
