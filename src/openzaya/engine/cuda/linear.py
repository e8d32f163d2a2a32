"""Dense products: row by row for few tokens, by torch for many.

With few rows a product is bound by reading its weight, and a separate norm or addition by its
launch. So each program takes a few outputs of one row over the whole inner width: all of its
weights are under way at once, even before the kernel that makes the row has ended. RMSNorm commutes
with the product (its scale is one number per row), so norm and residual cost no launch.
"""

import torch
from torch import Tensor

from openzaya.engine.cuda.attention import Shares, joined
from openzaya.engine.cuda.lang import (
    Value,
    cdiv,
    constexpr,
    is_interpreted,
    jit,
    load_fp32,
    overlapping,
    tile,
    tl,
    wait_for_earlier,
)
from openzaya.engine.cuda.weights import Norm, Scaling

PROGRAM_WEIGHTS = 8_192
"""Weights that one program multiplies."""
HEAD_WEIGHTS = 32_768
"""The same where outputs abound (the head)."""
FEW_PROGRAMS = 1 if is_interpreted() else 128
"""With fewer programs than this a device is not full; an interpreter is never empty."""
MANY_PROGRAMS = 8_192


@jit
def add_scaled(
    branch: Value, stream: Value, scaling: Value, at: Value, width: Value, mask: Value
) -> Value:
    """Return (branch + branch bias) * branch scale + (stream + stream bias) * stream scale.

    `scaling` points to four fp32 vectors of `width` in that order; `at` are the channels of the
    columns and `mask` tells which exist.
    """
    shift = load_fp32(scaling + at, mask)[None, :]
    factor = load_fp32(scaling + width + at, mask)[None, :]
    kept_shift = load_fp32(scaling + 2 * width + at, mask)[None, :]
    kept_factor = load_fp32(scaling + 3 * width + at, mask)[None, :]
    return (branch + shift) * factor + (stream + kept_shift) * kept_factor


@jit
def times_row(weight: Value, row: Value) -> Value:
    """Return weights [N, K] of any dtype times a row [K] in fp32, [N]."""
    return tl.sum(weight.to(tl.float32) * row[None, :], axis=1)


@jit
def _row_linear(  # noqa: PLR0913 (a kernel's arguments are its interface)
    x: Value,  # [M, K]; the fp32 stream when NORM; [SPLITS, M, K] fp32 when SPLITS > 1
    logsums: Value,  # [SPLITS, M, K / P] fp32 when SPLITS > 1
    weight: Value,  # [N, K]
    norm: Value,  # [K] when NORM
    scaling: Value,  # [4, N] when RESIDUAL
    out: Value,  # [M, N]; the fp32 stream when RESIDUAL
    M: Value,
    N: Value,
    K: Value,
    eps: Value,
    P: constexpr,
    SPLITS: constexpr,
    NORM: constexpr,
    RESIDUAL: constexpr,
    OVERLAPS: constexpr,
    BN: constexpr,
    BK: constexpr,
) -> None:
    """Compute BN outputs of norm(x) @ weight^T of one row, or add them into the stream."""
    row = tl.program_id(1).to(tl.int64)
    column = tl.program_id(0) * BN + tl.arange(0, BN)
    k = tl.arange(0, BK)
    has, inside = column < N, k < K
    at = weight + column.to(tl.int64)[:, None] * K + k[None, :]
    w = tl.load(at, mask=has[:, None] & inside[None, :], other=0.0)
    factor, scale = 1.0, 1.0
    if NORM:
        factor = load_fp32(norm + k, inside)
    wait_for_earlier(OVERLAPS)
    if SPLITS == 1:
        a = load_fp32(x + row * K + k, inside)
    else:
        split = tl.arange(0, SPLITS)[:, None] * M + row
        mask = (split >= 0) & inside[None, :]
        logsum = tl.load(logsums + split * (K // P) + k[None, :] // P, mask=mask, other=0.0)
        a = joined(load_fp32(x + split * K + k[None, :], mask), logsum)
    if NORM:
        scale = tl.rsqrt(tl.sum(a * a, axis=0) / K + eps)
    y = (times_row(w, a * factor) * scale)[None, :]
    at = out + row * N + column[None, :]
    if RESIDUAL:
        y = add_scaled(y, load_fp32(at, has[None, :]), scaling, column, N, has)
    tl.store(at, y.to(out.dtype.element_ty), mask=has[None, :])


def row_linear(
    x_TK: Tensor, weight_NK: Tensor, *, norm: Norm | None = None, out_TN: Tensor | None = None
) -> Tensor:
    """Return x @ weight^T in fp32, of the normed x if a norm is given."""
    if out_TN is None:
        shape = (x_TK.shape[0], weight_NK.shape[0])
        out_TN = torch.empty(shape, dtype=torch.float32, device=x_TK.device)
    _launch(x_TK, weight_NK, out_TN, norm=norm)
    return out_TN


def row_linear_into_stream(
    x: Tensor | Shares, weight_DK: Tensor, scaling: Scaling, stream_TD: Tensor
) -> None:
    """Add x @ weight^T into the stream in place, both scaled; shares of attention are joined."""
    _launch(x, weight_DK, stream_TD, scaling=scaling)


def outputs_per_program(outputs: int, inner: int, least: int | None = None) -> int:
    """Return how many outputs of a row one program takes; `inner` is a power of two.

    There are `least` programs if there can be [FEW_PROGRAMS].
    """
    least = FEW_PROGRAMS if least is None else least
    is_head = outputs * inner >= HEAD_WEIGHTS * MANY_PROGRAMS
    count = max(1, (HEAD_WEIGHTS if is_head else PROGRAM_WEIGHTS) // inner)
    while count > 1 and cdiv(outputs, count) < least:
        count //= 2
    return count


def _launch(
    x: Tensor | Shares,
    weight_NK: Tensor,
    out_TN: Tensor,
    *,
    norm: Norm | None = None,
    scaling: Scaling | None = None,
) -> None:
    outputs, inner = weight_NK.shape
    rows = len(out_TN)
    shares = x if isinstance(x, Shares) else None
    rows_in = x.parts_SAP if isinstance(x, Shares) else x
    width = tile(inner)
    count = outputs_per_program(outputs, width)
    _row_linear[(cdiv(outputs, count), rows)](
        rows_in,
        rows_in if shares is None else shares.logsums_SA,
        weight_NK,
        rows_in if norm is None else norm.weight_D,
        rows_in if scaling is None else scaling.vectors_4D,
        out_TN,
        rows,
        outputs,
        inner,
        0.0 if norm is None else norm.eps,
        P=inner if shares is None else shares.parts_SAP.shape[2],
        SPLITS=1 if shares is None else len(shares.parts_SAP),
        NORM=norm is not None,
        RESIDUAL=scaling is not None,
        BN=count,
        BK=width,
        num_warps=8 if count * width >= HEAD_WEIGHTS else 4,
        **overlapping(),
    )


def wide_linear(x_TK: Tensor, weight_NK: Tensor, out_TN: Tensor | None = None) -> Tensor:
    """Return x @ weight^T summed and kept in fp32, by torch."""
    if x_TK.is_cuda and x_TK.dtype is torch.bfloat16:
        if out_TN is None:
            return torch.mm(x_TK, weight_NK.mT, out_dtype=torch.float32)
        return torch.mm(x_TK, weight_NK.mT, out_dtype=torch.float32, out=out_TN)
    return torch.mm(x_TK.float(), weight_NK.float().mT, out=out_TN)
