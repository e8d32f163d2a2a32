"""Attention over the paged cache, for decoding and for prompts.

A program takes a tile of consecutive tokens of one document and one key head. The queries of the
head's group are rows of the same product, so each key block is read once for all of them; keys lie
as [P, S] and are the product's second side as they are. With few programs the blocks are split
among several, whose partial results are joined by their log-sum-exp.

Paper: II.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from openzaya.engine.cuda.cca import LayerCache, TokenAddresses
from openzaya.engine.cuda.lang import (
    Value,
    cdiv,
    constexpr,
    jit,
    mode_of,
    overlapping,
    product,
    tile,
    tl,
    wait_for_earlier,
)
from openzaya.model.blocks import BLOCK_TOKENS

LOG2_E = 1.4426950408889634
MAX_SPLITS = 64
TILE_WARPS = 8
"""Warps of a program with many query rows."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Tiles:
    """Runs of consecutive tokens of one document each."""

    first_N: Tensor
    """int32 packed index of each tile's first token."""
    count_N: Tensor
    """int32 tokens of each tile."""
    size: int
    """Most tokens of a tile."""
    splits: int
    """Programs among which the blocks of a tile are divided; a power of two."""


@jit
def _blocks(  # noqa: PLR0913 (a kernel's arguments are its interface)
    begin: Value, count: Value, slot: Value, split: Value, window: Value,
    S: constexpr, SPLITS: constexpr, WINDOWED: constexpr,
) -> Value:  # fmt: skip
    """Return the first and the last block + 1 of one share of what a tile sees."""
    first_block = begin * 0
    if WINDOWED:
        first_block = tl.maximum(begin - window + 1, 0) // S
    num_blocks = tl.where(slot >= 0, (begin + count + S - 1) // S - first_block, 0)
    share = (num_blocks + SPLITS - 1) // SPLITS
    low = first_block + split * share
    return low, tl.minimum(low + share, first_block + num_blocks)


@jit
def _is_seen(place: Value, here: Value, window: Value, WINDOWED: constexpr) -> Value:
    """Tell which places [S] each query at `here` [BM] attends to."""
    seen = place[None, :] <= here[:, None]
    if WINDOWED:
        seen = seen & (place[None, :] > here[:, None] - window)
    return seen


@jit
def _take_in(
    scores: Value, seen: Value, value: Value, best: Value, total: Value, acc: Value,
    MODE: constexpr,
) -> Value:  # fmt: skip
    """Return maximum, sum and weighted values of a running softmax after one more block."""
    scores = tl.where(seen, scores, float("-inf"))
    new_best = tl.maximum(best, tl.max(scores, axis=1))
    # A row that has seen nothing yet must not compute infinity minus infinity.
    base = tl.where(new_best == float("-inf"), 0.0, new_best)
    weight = tl.exp2(scores - base[:, None])
    fade = tl.exp2(best - base)
    total = total * fade + tl.sum(weight, axis=1)
    return new_best, total, product(weight.to(value.dtype), value, acc * fade[:, None], MODE)


@jit
def _put(  # noqa: PLR0913 (a kernel's arguments are its interface)
    out: Value, logsums: Value, best: Value, total: Value, acc: Value, at: Value, mask: Value,
    P: constexpr, SPLITS: constexpr,
) -> None:  # fmt: skip
    """Store a tile's result at rows `at`, and its log-sum-exp when it is one of several shares."""
    safe = tl.where(total > 0, total, 1.0)
    result = (acc / safe[:, None]).to(out.dtype.element_ty)
    tl.store(out + at[:, None] * P + tl.arange(0, P)[None, :], result, mask=mask[:, None])
    if SPLITS > 1:
        logsum = tl.where(total > 0, best + tl.log2(safe), float("-inf"))
        tl.store(logsums + at, logsum, mask=mask)


@jit
def _attend(  # noqa: PLR0913 (a kernel's arguments are its interface)
    queries: Value,  # [T, H, P]
    keys: Value,  # [N, K, P, S]
    values: Value,  # [N, K, S, P]
    table: Value,  # [slots, max_blocks]
    slots: Value,  # [T]
    positions: Value,  # [T]
    firsts: Value,  # [tiles]
    counts: Value,  # [tiles]
    out: Value,  # [T, H, P] when SPLITS is 1, else [SPLITS, T, H, P] fp32
    logsums: Value,  # [SPLITS, T, H] fp32, base 2
    num_tokens: Value,
    max_blocks: Value,
    window: Value,  # tokens seen, when WINDOWED
    scale: Value,  # of the scores, times log2(e)
    H: constexpr,
    K: constexpr,
    P: constexpr,
    S: constexpr,
    BM: constexpr,
    SPLITS: constexpr,
    WINDOWED: constexpr,
    SINGLE: constexpr,  # every tile is the one token of its number
    OVERLAPS: constexpr,
    MODE: constexpr,
) -> None:
    """One tile, one key head, one share of its blocks."""
    which, kv, split = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    GROUP: tl.constexpr = H // K
    first, count = which, 1
    if not SINGLE:
        first, count = tl.load(firsts + which), tl.load(counts + which)
    slot, begin = tl.load(slots + first), tl.load(positions + first)
    row = tl.arange(0, BM)
    in_tile = row // GROUP
    is_real = in_tile < tl.where(slot >= 0, count, 0)
    token = first + in_tile
    head = kv * GROUP + row % GROUP
    p, s = tl.arange(0, P), tl.arange(0, S)
    at = (token.to(tl.int64) * H + head)[:, None] * P + p[None, :]
    low, high = _blocks(begin, count, slot, split, window, S, SPLITS, WINDOWED)
    wait_for_earlier(OVERLAPS)
    query = tl.load(queries + at, mask=is_real[:, None], other=0.0)
    here = begin + in_tile
    best = tl.full([BM], float("-inf"), tl.float32)
    total = tl.zeros([BM], tl.float32)
    acc = tl.zeros([BM, P], tl.float32)
    for index in range(low, high):
        block = tl.load(table + slot.to(tl.int64) * max_blocks + index).to(tl.int64)
        page = (block * K + kv) * (P * S)
        key = tl.load(keys + page + p[:, None] * S + s[None, :])
        place = index * S + s
        seen = _is_seen(place, here, window, WINDOWED)
        scores = product(query, key, tl.zeros([BM, S], tl.float32), MODE) * scale
        # What lies behind the last token is stale memory: zero times that could be no number.
        exists = (place < begin + count)[:, None] & (p >= 0)[None, :]
        value = tl.load(values + page + s[:, None] * P + p[None, :], mask=exists, other=0.0)
        best, total, acc = _take_in(scores, seen, value, best, total, acc, MODE)
    at = (split * num_tokens + token).to(tl.int64) * H + head
    _put(out, logsums, best, total, acc, at, in_tile < count, P, SPLITS)


@dataclass(frozen=True, kw_only=True, slots=True)
class Shares:
    """Attention of shares of what each token sees, to be joined."""

    parts_SAP: Tensor
    """fp32 result of each share for every token and query head; A = T * H."""
    logsums_SA: Tensor
    """fp32 log-sum-exp, base 2; minus infinity where a share saw nothing."""


@jit
def joined(parts: Value, logsums: Value) -> Value:
    """Return what shares [S, N] with log-sum-exp [S, N] (base 2) are together, [N]."""
    best = tl.max(logsums, axis=0)
    weight = tl.exp2(logsums - tl.where(best == float("-inf"), 0.0, best)[None, :])
    total = tl.sum(weight, axis=0)
    return tl.sum(parts * weight, axis=0) / tl.where(total > 0, total, 1.0)


@jit
def _join(
    parts: Value,  # [SPLITS, A, P] fp32
    logsums: Value,  # [SPLITS, A] fp32, base 2
    out: Value,  # [A, P]
    num_rows: Value,  # A
    P: constexpr,
    SPLITS: constexpr,
    OVERLAPS: constexpr,
) -> None:
    """Join the shares of one token's query head."""
    row = tl.program_id(0).to(tl.int64)
    split, p = tl.arange(0, SPLITS), tl.arange(0, P)
    wait_for_earlier(OVERLAPS)
    at = (split * num_rows + row)[:, None]
    logsum = tl.load(logsums + at + p[None, :] * 0)
    part = tl.load(parts + at * P + p[None, :])
    tl.store(out + row * P + p, joined(part, logsum).to(out.dtype.element_ty))


def attend(
    queries_THP: Tensor,
    cache: LayerCache,
    tokens: TokenAddresses,
    tiles: Tiles,
    window: int | None,
) -> Tensor:
    """Return the attention output [T, H, P]; the tokens' own keys must be in the cache.

    Rows of padded tokens are zero.
    """
    out_THP = torch.empty_like(queries_THP)
    if tiles.splits == 1:
        _launch(queries_THP, cache, tokens, tiles, window, (out_THP, out_THP))
        return out_THP
    shares = attend_shares(queries_THP, cache, tokens, tiles, window)
    rows, width = shares.parts_SAP.shape[1:]
    _join[(rows,)](
        shares.parts_SAP,
        shares.logsums_SA,
        out_THP,
        rows,
        P=width,
        SPLITS=tiles.splits,
        num_warps=4,
        **overlapping(),
    )
    return out_THP


def attend_shares(
    queries_THP: Tensor,
    cache: LayerCache,
    tokens: TokenAddresses,
    tiles: Tiles,
    window: int | None,
) -> Shares:
    """Return the attention output of every share; see `attend`."""
    count, heads, width = queries_THP.shape
    shape = (tiles.splits, count * heads, width)
    parts_SAP = torch.empty(shape, dtype=torch.float32, device=queries_THP.device)
    logsums_SA = torch.empty(shape[:-1], dtype=torch.float32, device=queries_THP.device)
    _launch(queries_THP, cache, tokens, tiles, window, (parts_SAP, logsums_SA))
    return Shares(parts_SAP=parts_SAP, logsums_SA=logsums_SA)


def _launch(
    queries_THP: Tensor,
    cache: LayerCache,
    tokens: TokenAddresses,
    tiles: Tiles,
    window: int | None,
    out: tuple[Tensor, Tensor],
) -> None:
    count, heads, width = queries_THP.shape
    num_keys = cache.keys.shape[1]
    is_low = queries_THP.dtype is torch.bfloat16
    _attend[(len(tiles.first_N), num_keys, tiles.splits)](
        queries_THP,
        cache.keys,
        cache.values,
        cache.table,
        tokens.slot_T,
        tokens.position_T,
        tiles.first_N,
        tiles.count_N,
        *out,
        count,
        cache.table.shape[1],
        window or 0,
        LOG2_E / width**0.5,
        H=heads,
        K=num_keys,
        P=width,
        S=BLOCK_TOKENS,
        BM=tile(tiles.size * (heads // num_keys)),
        SPLITS=tiles.splits,
        WINDOWED=window is not None,
        SINGLE=tiles.size == 1,
        MODE=mode_of(queries_THP),
        num_warps=TILE_WARPS if tiles.size > 16 else 4,
        num_stages=2 if is_low else 1,
        **overlapping(),
    )


def splits_for(num_tiles: int, num_keys: int, num_blocks: int, num_processors: int) -> int:
    """Return how many programs should share a tile's blocks so that two run per processor."""
    wanted = cdiv(2 * num_processors, num_tiles * num_keys)
    return min(tile(wanted, 1), tile(num_blocks, 1), MAX_SPLITS)
