"""Dense products of few rows: the weight is read once, norm and residual are fused around it.

With few rows a product is bound by reading its weight, and a separate norm or addition by its
launch. RMSNorm commutes with the product (its scale is one number per row), so the sum of squares
is taken along the way and the row scaled at the end.
"""

import torch
from torch import Tensor

from openzaya.engine.cuda.lang import (
    Value,
    cdiv,
    constexpr,
    jit,
    load_fp32,
    mode_of,
    product,
    tile,
    tl,
)
from openzaya.engine.cuda.weights import Norm, Scaling

MAX_ROW_TILE = 64
BLOCK_K = 128
WIDE_WEIGHT_ROWS = 32_768
"""From this many outputs on (the head) a program takes more of them."""


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
def _linear(  # noqa: PLR0913 (a kernel's arguments are its interface)
    x: Value,  # [M, K]; the fp32 stream when NORM
    weight: Value,  # [N, K]
    bias: Value,  # [N] when BIAS
    norm: Value,  # [K] when NORM
    scaling: Value,  # [4, N] when RESIDUAL
    stream: Value,  # [M, N] fp32 when RESIDUAL
    out: Value,  # [M, N]; may be `stream` itself
    M: Value,
    N: Value,
    K: Value,
    eps: Value,
    NORM: constexpr,
    BIAS: constexpr,
    RESIDUAL: constexpr,
    MODE: constexpr,
    BM: constexpr,
    BN: constexpr,
    BK: constexpr,
) -> None:
    """Compute out = norm(x) @ weight^T + bias, or that added into the stream, for one tile."""
    row = tl.program_id(1) * BM + tl.arange(0, BM)
    column = tl.program_id(0) * BN + tl.arange(0, BN)
    has_row, has_column = row < M, column < N
    acc = tl.zeros([BM, BN], tl.float32)
    squares = tl.zeros([BM], tl.float32)
    x_row = x + row.to(tl.int64)[:, None] * K
    weight_row = weight + column.to(tl.int64)[None, :] * K
    for start in range(0, K, BK):
        inner = start + tl.arange(0, BK)
        inside = inner < K
        a = tl.load(x_row + inner[None, :], has_row[:, None] & inside[None, :], other=0.0)
        b = tl.load(weight_row + inner[:, None], has_column[None, :] & inside[:, None], other=0.0)
        if NORM:
            squares += tl.sum(a * a, axis=1)
            a = (a * load_fp32(norm + inner, inside)[None, :]).to(b.dtype)
        acc = product(a, b, acc, MODE)
    if NORM:
        acc = acc * tl.rsqrt(squares / K + eps)[:, None]
    if BIAS:
        acc += load_fp32(bias + column, has_column)[None, :]
    at = row.to(tl.int64)[:, None] * N + column[None, :]
    mask = has_row[:, None] & has_column[None, :]
    if RESIDUAL:
        acc = add_scaled(acc, load_fp32(stream + at, mask), scaling, column, N, has_column)
    tl.store(out + at, acc.to(out.dtype.element_ty), mask=mask)


def linear(
    x_TK: Tensor,
    weight_NK: Tensor,
    *,
    bias_N: Tensor | None = None,
    norm: Norm | None = None,
    out_TN: Tensor | None = None,
) -> Tensor:
    """Return x @ weight^T + bias in fp32, of the normed x if a norm is given."""
    shape = (x_TK.shape[0], weight_NK.shape[0])
    if out_TN is None:
        out_TN = torch.empty(shape, dtype=torch.float32, device=x_TK.device)
    _launch(x_TK, weight_NK, out_TN, bias_N=bias_N, norm=norm)
    return out_TN


def linear_into_stream(
    x_TK: Tensor, weight_DK: Tensor, scaling: Scaling, stream_TD: Tensor
) -> None:
    """Add x @ weight^T into the stream in place, both scaled."""
    _launch(x_TK, weight_DK, stream_TD, scaling=scaling)


def _launch(
    x_TK: Tensor,
    weight_NK: Tensor,
    out_TN: Tensor,
    *,
    bias_N: Tensor | None = None,
    norm: Norm | None = None,
    scaling: Scaling | None = None,
) -> None:
    rows, inner = x_TK.shape
    outputs = weight_NK.shape[0]
    row_tile = min(tile(rows), MAX_ROW_TILE)
    column_tile = 64 if outputs >= WIDE_WEIGHT_ROWS else 16
    _linear[(cdiv(outputs, column_tile), cdiv(rows, row_tile))](
        x_TK,
        weight_NK,
        x_TK if bias_N is None else bias_N,
        x_TK if norm is None else norm.weight_D,
        x_TK if scaling is None else scaling.vectors_4D,
        out_TN,
        out_TN,
        rows,
        outputs,
        inner,
        0.0 if norm is None else norm.eps,
        NORM=norm is not None,
        BIAS=bias_N is not None,
        RESIDUAL=scaling is not None,
        MODE=mode_of(weight_NK),
        BM=row_tile,
        BN=column_tile,
        BK=min(BLOCK_K, tile(inner)),
        num_warps=4,
        num_stages=4 if weight_NK.dtype is torch.bfloat16 else 2,
    )
