"""The CCA epilogue: from projected rows to rotated queries, cached keys and values, and the tail.

For each token and head: two convolutions over three tokens, the QK-mean, L2 norm with temperature,
rotation, and for key heads the write of key and half-delayed value into the paged cache.

The second convolution is stored [C, P, 2] with the tap innermost, so it is one product over 2P
numbers, in which number j is the first convolution's channel j // 2 at the token before (j even)
or at the token itself (j odd). No weights are folded or copied. All arithmetic is fp32.

What comes before a token is read from this pass's rows if its document has that many there (`back`
tells), and from the slot's tail otherwise.

Paper: II.
Source: arXiv:2510.04476.
"""

from dataclasses import dataclass

import torch
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
STATE_CHANNELS = 256


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
def _before(  # noqa: PLR0913 (a kernel's arguments are its interface)
    rows: Value, conv: Value, token: Value, slot: Value, back: Value, distance: Value,
    channel: Value, mask: Value, stride: Value, C: Value,
) -> Value:  # fmt: skip
    """Return the projected `channel` of the token `distance` before each token (broadcast)."""
    here = mask & (back >= distance)
    inside = load_fp32(rows + (token - distance).to(tl.int64) * stride + channel, here)
    # Row 1 of the tail is the last token before the pass, row 0 the one before that.
    tail_row = 2 - distance + back
    there = mask & (back < distance) & (slot >= 0)
    at = (tl.maximum(slot, 0).to(tl.int64) * 2 + tl.maximum(tail_row, 0)) * C + channel
    return inside + load_fp32(conv + at, there)


@jit
def _mix(  # noqa: PLR0913 (a kernel's arguments are its interface)
    rows: Value,  # [T, stride]: queries, keys, current values, delayed values
    depthwise: Value,  # [C, 2]
    shift: Value,  # [C]
    grouped: Value,  # [C, 2P]
    bias: Value,  # [C]
    temp: Value,  # [K]
    cos: Value,  # [positions, ROTARY / 2] fp32
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
    HALF: constexpr,  # rotated pairs
    S: constexpr,
    UPDATES: constexpr,  # every document is one token: move its tail on here
    MODE: constexpr,
    BT: constexpr,
    BJ: constexpr,
) -> None:
    """One head of a tile of tokens."""
    head = tl.program_id(1)
    token = tl.program_id(0) * BT + tl.arange(0, BT)
    has = token < num_tokens
    slot = tl.load(slots + token, mask=has, other=-1)
    position = tl.load(positions + token, mask=has, other=0)
    back = tl.load(backs + token, mask=has, other=0)
    C: tl.constexpr = (H + K) * P
    GROUP: tl.constexpr = H // K
    p = tl.arange(0, P)

    # The two convolutions.
    mixed = tl.zeros([BT, P], tl.float32)
    for start in range(0, 2 * P, BJ):
        j = start + tl.arange(0, BJ)
        channel = head * P + j // 2
        newer_distance = (1 - j % 2)[None, :]
        mask = has[:, None] & (j >= 0)[None, :]
        older = _before(
            rows, conv, token[:, None], slot[:, None], back[:, None], newer_distance + 1,
            channel[None, :], mask, stride, C,
        )  # fmt: skip
        newer = _before(
            rows, conv, token[:, None], slot[:, None], back[:, None], newer_distance,
            channel[None, :], mask, stride, C,
        )  # fmt: skip
        first = older * tl.load(depthwise + 2 * channel).to(tl.float32)[None, :]
        first += newer * tl.load(depthwise + 2 * channel + 1).to(tl.float32)[None, :]
        first += tl.load(shift + channel).to(tl.float32)[None, :]
        weight = tl.load(grouped + (head * P + p)[None, :] * (2 * P) + j[:, None])
        mixed = product(first, weight, mixed, MODE)
    mixed += tl.load(bias + head * P + p).to(tl.float32)[None, :]

    # The QK-mean.
    own_row = rows + token.to(tl.int64)[:, None] * stride + p[None, :]
    wide = has[:, None] & (p >= 0)[None, :]
    own = load_fp32(own_row + head * P, wide)
    if head < H:
        other = load_fp32(own_row + (H + head // GROUP) * P, wide)
    else:
        other = tl.zeros([BT, P], tl.float32)
        for member in range(GROUP):
            other += load_fp32(own_row + ((head - H) * GROUP + member) * P, wide)
        other = other / GROUP
    mixed += 0.5 * (own + other)

    # Norm, temperature, rotation.
    length = tl.maximum(tl.sqrt(tl.sum(mixed * mixed, axis=1)), eps)
    heat = tl.load(temp + tl.maximum(head - H, 0)).to(tl.float32)
    scale = tl.where(head < H, 1.0, heat) * tl.sqrt(P * 1.0)
    mixed = mixed * (scale / length)[:, None]
    if HALF > 0:
        rotates = p < 2 * HALF
        angle = tl.where(rotates, p % HALF, 0)
        partner = tl.where(p < HALF, p + HALF, tl.where(rotates, p - HALF, p))
        other = tl.gather(mixed, partner[None, :] + tl.zeros([BT, P], tl.int32), 1)
        turn = position[:, None] * HALF + angle[None, :]
        c = tl.where(rotates[None, :], tl.load(cos + turn), 1.0)
        s = tl.where(rotates[None, :], tl.load(sin + turn), 0.0)
        mixed = mixed * c + other * s * tl.where(p < HALF, -1.0, 1.0)[None, :]

    if head < H:
        at = (token.to(tl.int64)[:, None] * H + head) * P + p[None, :]
        tl.store(queries + at, mixed.to(queries.dtype.element_ty), mask=wide)
    else:
        kv = head - H
        real = has & (slot >= 0)
        block_at = tl.maximum(slot, 0).to(tl.int64) * max_blocks + position // S
        block = tl.load(table + block_at, mask=real, other=0).to(tl.int64)
        page = ((block * K + kv) * P * S)[:, None]
        offset = (position % S)[:, None]
        stored = real[:, None] & (p >= 0)[None, :]
        at = page + p[None, :] * S + offset
        tl.store(keys + at, mixed.to(keys.dtype.element_ty), mask=stored)
        # The later half of the value channels comes from the token before.
        w = kv * P + p
        late_channel: tl.constexpr = K * P // 2
        is_late = (w >= late_channel)[None, :]
        now = load_fp32(own_row + C + kv * P, wide & (is_late == 0))
        here = wide & is_late & (back >= 1)[:, None]
        now += load_fp32(own_row + C + kv * P - stride, here)
        there = stored & is_late & (back < 1)[:, None]
        tail_at = tl.maximum(slot, 0).to(tl.int64)[:, None] * late_channel
        tail_at = tail_at + tl.maximum(w - late_channel, 0)[None, :]
        now += load_fp32(delayed + tail_at, there)
        at = page + offset * P + p[None, :]
        tl.store(values + at, now.to(values.dtype.element_ty), mask=stored)
        if UPDATES:
            tl.debug_barrier()  # the tail has been read by all threads
            last = load_fp32(own_row + C + kv * P, wide & is_late)
            tl.store(delayed + tail_at, last, mask=stored & is_late)
    if UPDATES:
        at = tl.maximum(slot, 0).to(tl.int64)[:, None] * (2 * C) + head * P + p[None, :]
        moves = wide & (slot >= 0)[:, None]
        newer = load_fp32(conv + at + C, moves)
        tl.debug_barrier()
        tl.store(conv + at, newer, mask=moves)
        tl.store(conv + at + C, own, mask=moves)


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
        weights.grouped_CI,
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
        MODE=wide_mode(),
        BT=token_tile,
        BJ=min(BLOCK_J, 2 * width),
        num_warps=8,
        num_stages=2,
    )
    return queries_THP


@jit
def _keep(  # noqa: PLR0913 (a kernel's arguments are its interface)
    rows: Value,  # [T, stride]
    conv: Value,  # [slots, 2, C] fp32: where the tail before the pass is
    ends: Value,  # [N] tokens whose tail is wanted
    targets: Value,  # [N] rows of kept_conv and kept_delayed
    slots: Value,  # [T]
    backs: Value,  # [T]
    kept_conv: Value,  # [targets, 2, C] fp32, may be `conv`
    kept_delayed: Value,  # [targets, half] fp32
    stride: Value,
    half: Value,
    C: Value,
    B: constexpr,
) -> None:
    """The tail at one token, for B channels; no other program touches these channels."""
    which = tl.program_id(0)
    channel = tl.program_id(1) * B + tl.arange(0, B)
    mask = channel < C
    same = tl.zeros([B], tl.int32)
    token = tl.load(ends + which + same)
    target = tl.load(targets + which + same).to(tl.int64)
    slot, back = tl.load(slots + token), tl.load(backs + token)
    older = _before(rows, conv, token, slot, back, 1, channel, mask, stride, C)
    newer = _before(rows, conv, token, slot, back, 0, channel, mask, stride, C)
    late = load_fp32(rows + token.to(tl.int64) * stride + C + half + channel, channel < half)
    tl.debug_barrier()  # the tail has been read by all threads
    at = target * 2 * C + channel
    tl.store(kept_conv + at, older, mask=mask)
    tl.store(kept_conv + at + C, newer, mask=mask)
    tl.store(kept_delayed + target * half + channel, late, mask=channel < half)


def keep_tails(
    rows_TN: Tensor,
    tokens: TokenAddresses,
    cache: LayerCache,
    ends_M: Tensor,
    targets_M: Tensor,
    kept: tuple[Tensor, Tensor],
) -> None:
    """Write the tail at tokens `ends_M` to rows `targets_M` of `kept`: conv and delayed state.

    Where `kept` is the cache's own state, every document may be named once only.
    """
    if not len(ends_M):
        return
    channels = cache.conv.shape[2]
    _keep[(len(ends_M), cdiv(channels, STATE_CHANNELS))](
        rows_TN,
        cache.conv,
        ends_M,
        targets_M,
        tokens.slot_T,
        tokens.back_T,
        *kept,
        rows_TN.shape[1],
        cache.delayed.shape[1],
        channels,
        B=STATE_CHANNELS,
        num_warps=4,
    )


def fresh_like(cache: LayerCache, count: int) -> tuple[Tensor, Tensor]:
    """Return room for `count` tails."""
    return (
        torch.empty_like(cache.conv[:1].expand(count, -1, -1)),
        torch.empty_like(cache.delayed[:1].expand(count, -1)),
    )
