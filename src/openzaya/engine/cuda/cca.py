"""The CCA epilogue: from projected rows to rotated queries, cached keys and values, and the tail.

For each token and head: two convolutions over three tokens, the QK-mean, L2 norm with temperature,
rotation, and for key heads the write of key and half-delayed value into the paged cache.

The second convolution is two products over the head's channels: its older tap meets the first
convolution at the token before, its newer tap that at the token itself. No weights are folded. All
arithmetic is fp32.

What comes before a token is read from this pass's rows if its document has that many there (`back`
tells), and from the slot's tail otherwise.

Paper: II.
Source: arXiv:2510.04476.
"""

from dataclasses import dataclass

from torch import Tensor

from openzaya.engine.cuda.lang import (
    MIN_TILE,
    Value,
    cdiv,
    constexpr,
    jit,
    load_fp32,
    product,
    tile,
    tl,
    wide_mode,
)
from openzaya.engine.cuda.weights import CCAWeights
from openzaya.model.blocks import BLOCK_TOKENS

MAX_TOKEN_TILE = 64
BLOCK_J = 64
LEAD = tl.constexpr(2)
"""Tokens that come before one in its convolutions."""
WARPS = 8
STAGES = 1


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenAddresses:
    """Where the tokens of a pass belong."""

    slot_T: Tensor
    """int32 slot; negative for a padded row, which writes nothing."""
    position_T: Tensor
    """int32 position in the sequence."""
    back_T: Tensor
    """int32 tokens of the same document before it in this pass, at most 2."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LayerCache:
    """One layer's part of the cache."""

    keys: Tensor
    """[N, K, P, S]."""
    values: Tensor
    """[N, K, S, P]."""
    conv: Tensor
    """[slots, 2, C], older first, fp32."""
    delayed: Tensor
    """[slots, W / 2], fp32."""
    table: Tensor
    """[slots, max_blocks] int32 block ids."""


@jit
def _shifted(  # noqa: PLR0913 (a kernel's arguments are its interface)
    tile_rows: Value, conv: Value, place: Value, slot: Value, back: Value, nearest: Value,
    channel: Value, mask: Value, stride: Value, C: Value, DISTANCE: constexpr,
) -> Value:  # fmt: skip
    """Return the projected `channel` of the token DISTANCE before each token of a tile.

    The tail is only looked up in tiles that need it; `nearest` is the least `back` of the tile.
    `tile_rows` points to the tile's first row, `place` counts from it.
    """
    at = (place[:, None] - DISTANCE) * stride + channel
    found = load_fp32(tile_rows + at, mask & (back >= DISTANCE)[:, None])
    if DISTANCE > 0:  # noqa: SIM102 (decided when compiled; the next line when run)
        if nearest < DISTANCE:
            there = mask & ((back < DISTANCE) & (slot >= 0))[:, None]
            row = tl.maximum(slot, 0).to(tl.int64) * 2 + tl.maximum(2 - DISTANCE + back, 0)
            found += load_fp32(conv + row[:, None] * C + channel, there)
    return found


@jit
def _convolve(  # noqa: PLR0913 (a kernel's arguments are its interface)
    tile_rows: Value, conv: Value, depthwise: Value, shift: Value, taps: Value, bias: Value,
    place: Value, slot: Value, back: Value, has: Value, head: Value, stride: Value,
    C: constexpr, P: constexpr, MODE: constexpr, BJ: constexpr,
) -> Value:  # fmt: skip
    """Return both convolutions [BT, P] of one head."""
    p = tl.arange(0, P)
    mixed = tl.zeros([place.shape[0], P], tl.float32)
    nearest = tl.min(tl.where(has, back, LEAD), axis=0)
    for start in range(0, P, BJ):
        inner = start + tl.arange(0, BJ)
        channel = (head * P + inner)[None, :]
        mask = has[:, None] & (channel >= 0)
        last = _shifted(
            tile_rows, conv, place, slot, back, nearest, channel, mask, stride, C, 2
        )  # fmt: skip
        middle = _shifted(
            tile_rows, conv, place, slot, back, nearest, channel, mask, stride, C, 1
        )  # fmt: skip
        now = _shifted(
            tile_rows, conv, place, slot, back, nearest, channel, mask, stride, C, 0
        )  # fmt: skip
        older = tl.load(depthwise + 2 * channel).to(tl.float32)
        newer = tl.load(depthwise + 2 * channel + 1).to(tl.float32)
        moved = tl.load(shift + channel).to(tl.float32)
        tap = taps + (head * P + p)[None, :] * P + inner[:, None]
        mixed = product(last * older + middle * newer + moved, tl.load(tap), mixed, MODE)
        mixed = product(middle * older + now * newer + moved, tl.load(tap + C * P), mixed, MODE)
    return mixed + tl.load(bias + head * P + p).to(tl.float32)[None, :]


@jit
def _half_mean(
    own: Value, row: Value, head: Value, mask: Value, H: constexpr, K: constexpr, P: constexpr
) -> Value:  # fmt: skip
    """Return the mean of a query and its key, or of a key and the mean of its queries."""
    GROUP: tl.constexpr = H // K
    other = tl.zeros_like(own)
    if head < H:
        other += load_fp32(row + (H + head // GROUP) * P, mask)
    else:
        for member in range(GROUP):
            other += load_fp32(row + ((head - H) * GROUP + member) * P, mask)
        other = other / GROUP
    return 0.5 * (own + other)


@jit
def _rotate(x: Value, cos: Value, sin: Value, position: Value, HALF: constexpr) -> Value:
    """Rotate channel r of [BT, P] with channel r + HALF; those from 2 * HALF on pass."""
    if HALF == 0:
        return x
    p = tl.arange(0, x.shape[1])
    rotates = p < 2 * HALF
    partner = tl.where(p < HALF, p + HALF, tl.where(rotates, p - HALF, p))
    other = tl.gather(x, partner[None, :] + tl.zeros([x.shape[0], x.shape[1]], tl.int32), 1)
    turn = position[:, None] * HALF + tl.where(rotates, p % HALF, 0)[None, :]
    c = tl.where(rotates[None, :], tl.load(cos + turn), 1.0)
    s = tl.where(rotates[None, :], tl.load(sin + turn), 0.0)
    return x * c + other * s * tl.where(p < HALF, -1.0, 1.0)[None, :]


@jit
def finished(  # noqa: PLR0913 (a kernel's arguments are its interface)
    mixed: Value, own: Value, row: Value, temp: Value, cos: Value, sin: Value, position: Value,
    head: Value, mask: Value, eps: Value,
    H: constexpr, K: constexpr, P: constexpr, HALF: constexpr,
) -> Value:  # fmt: skip
    """Return convolved channels [BT, P] after QK-mean, L2 norm with temperature, and rotation."""
    mixed += _half_mean(own, row, head, mask, H, K, P)
    length = tl.maximum(tl.sqrt(tl.sum(mixed * mixed, axis=1)), eps)
    heat = tl.where(head < H, 1.0, tl.load(temp + tl.maximum(head - H, 0)).to(tl.float32))
    mixed = mixed * (heat * tl.sqrt(P * 1.0) / length)[:, None]
    return _rotate(mixed, cos, sin, position, HALF)


@jit
def write(  # noqa: PLR0913 (a kernel's arguments are its interface)
    key: Value, row: Value, kv: Value, slot: Value, position: Value, back: Value, has: Value,
    keys: Value, values: Value, delayed: Value, table: Value, stride: Value, max_blocks: Value,
    C: constexpr, K: constexpr, P: constexpr, S: constexpr, UPDATES: constexpr,
) -> None:  # fmt: skip
    """Store the keys [BT, P] of one key head, and its values out of `row`; see `_mix`."""
    p = tl.arange(0, P)
    real = has & (slot >= 0)
    place = tl.maximum(slot, 0).to(tl.int64)
    block = tl.load(table + place * max_blocks + position // S, mask=real, other=0).to(tl.int64)
    page = ((block * K + kv) * P * S)[:, None]
    offset = (position % S)[:, None]
    stored = real[:, None] & (p >= 0)[None, :]
    at = page + p[None, :] * S + offset
    tl.store(keys + at, key.to(keys.dtype.element_ty), mask=stored)
    # The later half of the value channels comes from the token before.
    LATE: tl.constexpr = K * P // 2
    w = kv * P + p
    is_late = (w >= LATE)[None, :]
    now_row = row + C + kv * P
    now = load_fp32(now_row, stored & (is_late == 0))
    now += load_fp32(now_row - stride, stored & is_late & (back >= 1)[:, None])
    tail = delayed + place[:, None] * LATE + tl.maximum(w - LATE, 0)[None, :]
    now += load_fp32(tail, stored & is_late & (back < 1)[:, None])
    at = page + offset * P + p[None, :]
    tl.store(values + at, now.to(values.dtype.element_ty), mask=stored)
    if UPDATES:
        last = load_fp32(now_row, stored & is_late)
        tl.debug_barrier()  # the tail has been read by all threads
        tl.store(tail, last, mask=stored & is_late)


@jit
def move_on(
    conv: Value, own: Value, slot: Value, head: Value, C: constexpr, P: constexpr
) -> None:  # fmt: skip
    """Make the newer row of each slot's tail the older one, and `own` [BT, P] the newer one."""
    p = tl.arange(0, P)
    at = conv + tl.maximum(slot, 0).to(tl.int64)[:, None] * (2 * C) + head * P + p[None, :]
    moves = (slot >= 0)[:, None] & (p >= 0)[None, :]
    newer = load_fp32(at + C, moves)
    tl.debug_barrier()  # the tail has been read by all threads
    tl.store(at, newer, mask=moves)
    tl.store(at + C, own, mask=moves)


@jit
def _mix(  # noqa: PLR0913 (a kernel's arguments are its interface)
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
    backs: Value,  # [T]
    keys: Value,  # [N, K, P, S]
    values: Value,  # [N, K, S, P]
    conv: Value,  # [slots, 2, C] fp32
    delayed: Value,  # [slots, W / 2] fp32
    table: Value,  # [slots, max_blocks]
    queries: Value,  # [T, H, P], written
    num_tokens: Value,
    stride: Value,
    max_blocks: Value,
    eps: Value,
    H: constexpr,
    K: constexpr,
    P: constexpr,
    HALF: constexpr,
    S: constexpr,
    UPDATES: constexpr,  # every document is one token: move its tail on here
    MODE: constexpr,
    BT: constexpr,
    BJ: constexpr,
) -> None:
    """One head of a tile of tokens."""
    head, p, place = tl.program_id(1), tl.arange(0, P), tl.arange(0, BT)
    first = tl.program_id(0) * BT
    tile_rows = rows + first.to(tl.int64) * stride
    token = first + place
    has = token < num_tokens
    slot = tl.load(slots + token, mask=has, other=-1)
    position = tl.load(positions + token, mask=has, other=0)
    back = tl.load(backs + token, mask=has, other=0)
    mixed = _convolve(
        tile_rows, conv, depthwise, shift, taps, bias, place, slot, back, has, head, stride,
        (H + K) * P, P, MODE, BJ,
    )  # fmt: skip
    row, mask = tile_rows + place[:, None] * stride + p[None, :], has[:, None]
    own = load_fp32(row + head * P, mask)
    mixed = finished(mixed, own, row, temp, cos, sin, position, head, mask, eps, H, K, P, HALF)
    if head < H:
        at = (token.to(tl.int64)[:, None] * H + head) * P + p[None, :]
        tl.store(queries + at, mixed.to(queries.dtype.element_ty), mask=mask)
    else:
        write(
            mixed, row, head - H, slot, position, back, has, keys, values, delayed, table, stride,
            max_blocks, (H + K) * P, K, P, S, UPDATES,
        )  # fmt: skip
    if UPDATES:
        move_on(conv, own, slot, head, (H + K) * P, P)


def mix(
    rows_TN: Tensor,
    weights: CCAWeights,
    rope: tuple[Tensor, Tensor],
    tokens: TokenAddresses,
    cache: LayerCache,
    *,
    updates: bool,
) -> Tensor:
    """Return the rotated queries [T, H, P] and write keys and values into the cache.

    With `updates`, for passes in which every document is one token, the tails move on too.
    """
    count, stride = rows_TN.shape
    keys = cache.keys.shape[1]
    width = cache.keys.shape[2]
    heads = weights.depthwise_C2.shape[0] // width
    queries_THP = rows_TN.new_empty((count, heads - keys, width), dtype=weights.qkv_ND.dtype)
    # Small tiles where there are few tokens: more programs share the reading of the weights.
    token_tile = min(tile(count), MIN_TILE if updates else MAX_TOKEN_TILE)
    _mix[(cdiv(count, token_tile), heads)](
        rows_TN,
        weights.depthwise_C2,
        weights.shift_C,
        weights.taps_2CP,
        weights.bias_C,
        weights.temp_K,
        *rope,
        tokens.slot_T,
        tokens.position_T,
        tokens.back_T,
        cache.keys,
        cache.values,
        cache.conv,
        cache.delayed,
        cache.table,
        queries_THP,
        count,
        stride,
        cache.table.shape[1],
        weights.eps,
        H=heads - keys,
        K=keys,
        P=width,
        HALF=rope[0].shape[1],
        S=BLOCK_TOKENS,
        UPDATES=updates,
        MODE=wide_mode(weights.taps_2CP),
        BT=token_tile,
        BJ=min(BLOCK_J, width),
        num_warps=WARPS,
        num_stages=STAGES,
    )
    return queries_THP
