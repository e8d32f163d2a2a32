"""The CCA epilogue of a step with few rows: one program for one head of one row.

The same arithmetic as `cca.py`, which serves passes of many tokens, with the second convolution as
matrices times rows: weights and tail are read, and the older tap is taken, before the projections
are there.

Paper: II.
Source: arXiv:2510.04476.
"""

from torch import Tensor

from openzaya.engine.cuda.cca import (
    LayerCache,
    TokenAddresses,
    finished,
    move_on,
    write,
)
from openzaya.engine.cuda.lang import (
    Value,
    constexpr,
    jit,
    load_fp32,
    overlapping,
    tl,
    wait_for_earlier,
)
from openzaya.engine.cuda.linear import times_row
from openzaya.engine.cuda.weights import CCAWeights
from openzaya.model.blocks import BLOCK_TOKENS


@jit
def _pair(values: Value, channel: Value) -> Value:
    """Return both of the two values [.., 2] of each channel."""
    older = tl.load(values + 2 * channel).to(tl.float32)
    return older, tl.load(values + 2 * channel + 1).to(tl.float32)


@jit
def _mix_row(  # noqa: PLR0913 (a kernel's arguments are its interface)
    rows: Value,  # [T, stride]: queries, keys, current values, delayed values
    depthwise: Value,  # [C, 2]
    shift: Value,  # [C]
    taps: Value,  # [2, C, P]
    bias: Value,  # [C]
    temp: Value,  # [K]
    cos: Value,  # [positions, HALF] fp32; HALF are the rotated pairs
    sin: Value,
    slots: Value,  # [T]
    positions: Value,  # [T]
    keys: Value,  # [N, K, P, S]
    values: Value,  # [N, K, S, P]
    conv: Value,  # [slots, 2, C] fp32
    delayed: Value,  # [slots, W / 2] fp32
    table: Value,  # [slots, max_blocks]
    queries: Value,  # [T, H, P], written
    stride: Value,
    max_blocks: Value,
    eps: Value,
    H: constexpr,
    K: constexpr,
    P: constexpr,
    HALF: constexpr,
    S: constexpr,
    OVERLAPS: constexpr,
) -> None:
    """One head of one row; the row's slot moves on."""
    C: tl.constexpr = (H + K) * P
    head, p = tl.program_id(0), tl.arange(0, P)
    channel = head * P + p
    at = taps + channel[:, None] * P + p[None, :]
    older_tap, newer_tap = tl.load(at), tl.load(at + C * P)
    older, newer = _pair(depthwise, channel)
    moved, mixed = load_fp32(shift + channel, p >= 0), load_fp32(bias + channel, p >= 0)
    # One token, as the tiles of length one that the shared functions take.
    token = tl.program_id(1) + tl.arange(0, 1)
    slot, position = tl.load(slots + token), tl.load(positions + token)
    back, has = token * 0, token >= 0
    which = tl.load(slots + tl.program_id(1)).to(tl.int64)
    tail = conv + tl.maximum(which, 0) * (2 * C) + channel
    is_used = p < tl.where(which >= 0, P, 0)
    last, middle = load_fp32(tail, is_used), load_fp32(tail + C, is_used)
    mixed += times_row(older_tap, last * older + middle * newer + moved)
    wait_for_earlier(OVERLAPS)
    now = load_fp32(rows + tl.program_id(1).to(tl.int64) * stride + channel, p >= 0)
    mixed += times_row(newer_tap, middle * older + now * newer + moved)
    mixed = mixed[None, :]
    row, mask = rows + token.to(tl.int64)[:, None] * stride + p[None, :], has[:, None]
    own = load_fp32(row + head * P, mask)
    mixed = finished(mixed, own, row, temp, cos, sin, position, head, mask, eps, H, K, P, HALF)
    if head < H:
        at_query = (token.to(tl.int64)[:, None] * H + head) * P + p[None, :]
        tl.store(queries + at_query, mixed.to(queries.dtype.element_ty), mask=mask)
    else:
        write(
            mixed, row, head - H, slot, position, back, has, keys, values, delayed, table, stride,
            max_blocks, C, K, P, S, True,
        )  # fmt: skip
    move_on(conv, own, slot, head, C, P)


def mix_rows(
    rows_TN: Tensor,
    weights: CCAWeights,
    rope: tuple[Tensor, Tensor],
    tokens: TokenAddresses,
    cache: LayerCache,
) -> Tensor:
    """Return the rotated queries [T, H, P]; write keys and values, and move the tails on.

    Every document is one token.
    """
    count, stride = rows_TN.shape
    keys, width = cache.keys.shape[1:3]
    heads = weights.depthwise_C2.shape[0] // width
    queries_THP = rows_TN.new_empty((count, heads - keys, width), dtype=weights.qkv_ND.dtype)
    _mix_row[(heads, count)](
        rows_TN,
        weights.depthwise_C2,
        weights.shift_C,
        weights.taps_2CP,
        weights.bias_C,
        weights.temp_K,
        *rope,
        tokens.slot_T,
        tokens.position_T,
        cache.keys,
        cache.values,
        cache.conv,
        cache.delayed,
        cache.table,
        queries_THP,
        stride,
        cache.table.shape[1],
        weights.eps,
        H=heads - keys,
        K=keys,
        P=width,
        HALF=rope[0].shape[1],
        S=BLOCK_TOKENS,
        num_warps=8,
        **overlapping(),
    )
    return queries_THP
