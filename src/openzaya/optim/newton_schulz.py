"""Orthogonalize matrices with the quintic Newton-Schulz iteration, many matrices at a time.

Letters: N matrices of one shape, I rows, O columns, A the shorter side, Z the longer side.
"""

from functools import partial
from typing import Literal

import torch
from torch import Tensor

from openzaya.optim.cores import one_core_each
from openzaya.optim.native.library import direction, library_name, reason_against_half

Arithmetic = Literal["auto", "float32"]

STEPS = 5
COEFFICIENTS = (3.4445, -4.7750, 2.0315)
"""a, b, c of X <- aX + b(XX')X + c(XX')(XX')X: steep at zero, at the price of a band around 1."""
CPU_CHUNK_ELEMENTS = 1 << 17
"""Elements worked on together on a CPU, so that all steps stay in the cache (measured: 1.45x)."""
SYMMETRIC_BLOCK = 128
"""Rows of a symmetric product that a CPU computes together, up to the diagonal."""
SYMMETRIC_MIN = 4 * SYMMETRIC_BLOCK
"""Shorter sides from which computing half of a symmetric product pays (measured: 1.15x)."""
GRAM_RATIO = 1.5
"""Long side by short side from which a CPU iterates on X X' instead of X (measured: 1.2x)."""
GRAM_STEPS = 3
"""Iterations on one X X'. It squares the singular values: after five of them the small ones of an
uneven matrix are wrong by a hundredth, after three they are as exact as those of `iterate`."""


def newton_schulz(
    matrices_NIO: Tensor, num_steps: int = STEPS, arithmetic: Arithmetic = "auto"
) -> Tensor:
    """Return nearly U V' of every matrix U S V': singular values land in about [0.7, 1.2].

    `matrices_NIO` is [N, rows, columns]. The result has the input's dtype and does not depend on
    the input's scale. A zero matrix gives zeros (an expert without tokens must not move), never
    NaN. With "auto" accelerators work in bf16; a CPU in fp16 with sums in fp32 where it can, else
    in fp32, as its bf16 GEMM has half the speed.

    Paper: IV-B1(e).
    Source: Muon (Jordan et al., 2024); quintic coefficients as there.
    Deviation: D-064.
    """
    if matrices_NIO.device.type == "cpu":
        in_half = takes_half(matrices_NIO.device, arithmetic)
        return _on_cpu(matrices_NIO, num_steps, in_half=in_half).to(matrices_NIO.dtype)
    tall = matrices_NIO.shape[1] > matrices_NIO.shape[2]
    unit_NAZ = unit_norm(matrices_NIO.mT if tall else matrices_NIO)
    unit_NAZ = iterate(unit_NAZ if arithmetic == "float32" else unit_NAZ.bfloat16(), num_steps)
    direction_NIO = unit_NAZ.mT if tall else unit_NAZ
    return direction_NIO.to(matrices_NIO.dtype)


def takes_half(device: torch.device, arithmetic: Arithmetic) -> bool:
    """Tell whether our C++ in half precision computes; where it must, it compiles first."""
    return device.type == "cpu" and arithmetic == "auto" and not reason_against_half()


def kernels_of(device: torch.device, arithmetic: Arithmetic) -> str:
    """Return a name for what computes Muon's directions, which the last bits depend on."""
    return library_name() if takes_half(device, arithmetic) else "torch"


def iterate(unit_NAZ: Tensor, num_steps: int) -> Tensor:
    """Run the quintic iteration on wide matrices of Frobenius norm at most 1."""
    a, b, c = COEFFICIENTS
    for _ in range(num_steps):
        gram_NAA = torch.bmm(unit_NAZ, unit_NAZ.mT)
        poly_NAA = torch.baddbmm(gram_NAA, gram_NAA, gram_NAA, beta=b, alpha=c)
        unit_NAZ = torch.baddbmm(unit_NAZ, poly_NAA, unit_NAZ, beta=a)
    return unit_NAZ


def _on_cpu(matrices_NIO: Tensor, num_steps: int, *, in_half: bool) -> Tensor:
    """Return the iteration's result in fp32, computed in parts that fit the cache."""
    out_NIO = torch.empty(matrices_NIO.shape, dtype=torch.float32)
    if in_half:
        matrices_NIO = matrices_NIO.float().contiguous()
    size = max(1, CPU_CHUNK_ELEMENTS // max(1, matrices_NIO.shape[1] * matrices_NIO.shape[2]))
    pairs = zip(torch.split(matrices_NIO, size), torch.split(out_NIO, size), strict=True)
    fill = direction if in_half else _fill
    one_core_each([partial(fill, *pair, num_steps) for pair in pairs])
    return out_NIO


def _fill(matrices_NIO: Tensor, out_NIO: Tensor, num_steps: int) -> None:
    """Write the iteration's result, with as few operations as the shape allows."""
    unit_NIO = unit_norm(matrices_NIO)
    short, long = sorted(unit_NIO.shape[1:])
    tall = unit_NIO.shape[1] == long
    # On X X' a step costs four products of the short side; on X itself two, and one with X.
    most = GRAM_STEPS if long >= GRAM_RATIO * short else 1
    for start in range(0, num_steps, most):
        left, right = (unit_NIO.mT, unit_NIO) if tall else (unit_NIO, unit_NIO.mT)
        poly_NAA = polynomial(symmetric_product(left, right), min(most, num_steps - start))
        unit_NIO = unit_NIO @ poly_NAA if tall else poly_NAA @ unit_NIO
    out_NIO.copy_(unit_NIO)


def polynomial(gram_NAA: Tensor, num_steps: int) -> Tensor:
    """Return the symmetric matrices by which so many iterations multiply X, given X X'.

    With Y = X X' and P = a + bY + cYY, X becomes PX and Y becomes PPY. All of these are polynomials
    of the first Y, so that products of two are symmetric.
    """
    a, b, c = COEFFICIENTS
    whole_NAA: Tensor | None = None
    for left in reversed(range(num_steps)):
        poly_NAA = symmetric_product(gram_NAA, gram_NAA, gram_NAA, (b, c))
        poly_NAA.diagonal(dim1=1, dim2=2).add_(a)
        if left:
            gram_NAA = symmetric_product(symmetric_product(gram_NAA, poly_NAA), poly_NAA)
        whole_NAA = poly_NAA if whole_NAA is None else symmetric_product(whole_NAA, poly_NAA)
    assert whole_NAA is not None, "there is at least one step"
    return whole_NAA


def symmetric_product(
    left_NAK: Tensor,
    right_NKA: Tensor,
    base_NAA: Tensor | None = None,
    factors: tuple[float, float] = (0.0, 1.0),
) -> Tensor:
    """Return factors[0] * base + factors[1] * left @ right, known to be symmetric.

    Of large matrices only the blocks up to the diagonal are computed, then mirrored.
    """
    beta, alpha = factors
    size = left_NAK.shape[1]
    out_NAA = left_NAK.new_empty(left_NAK.shape[0], size, size)
    base_NAA = out_NAA if base_NAA is None else base_NAA
    if size < SYMMETRIC_MIN:
        return torch.baddbmm(base_NAA, left_NAK, right_NKA, beta=beta, alpha=alpha, out=out_NAA)
    for out, base, left, right in zip(out_NAA, base_NAA, left_NAK, right_NKA, strict=True):
        for start in range(0, size, SYMMETRIC_BLOCK):
            end = min(start + SYMMETRIC_BLOCK, size)
            block, rows, columns = base[start:end, :end], left[start:end], right[:, :end]
            torch.addmm(block, rows, columns, beta=beta, alpha=alpha, out=out[start:end, :end])
            out[:start, start:end] = out[start:end, :start].t()
    return out_NAA


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
