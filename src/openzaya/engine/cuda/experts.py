"""The experts for few tokens: every expert that somebody chose is read once.

There is no sorting: a program looks at all choices of the pass, finds the n-th expert that occurs
and the tokens that chose it. The gate and input products, SiLU, the output product, the gate and
the scaled addition into the stream take two launches. A skipped token is served by a program of its
own class, so every row of the stream is written exactly once.

Paper: II.
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
from openzaya.engine.cuda.linear import add_scaled
from openzaya.engine.cuda.router import Choice
from openzaya.engine.cuda.weights import ExpertWeights, Norm, Scaling

MAX_TOKENS = 512
"""More choices than this do not fit into a program's registers."""
MAX_TOKEN_TILE = 64
BLOCK_OUT = 16
BLOCK_INNER = 128


@jit
def _nth_expert(chosen: Value, work: Value, E: Value, BX: constexpr) -> Value:
    """Return the `work`-th (from 0) expert that occurs among the choices; -2 if there is none."""
    classes = tl.arange(0, BX)
    hit = (chosen[None, :] == classes[:, None]) & (classes < E)[:, None]
    occurs = tl.max(hit.to(tl.int32), axis=1)
    rank = tl.cumsum(occurs, axis=0)
    found = (occurs == 1) & (rank == work + 1)
    is_found = tl.max(found.to(tl.int32), axis=0)
    return tl.where(is_found == 1, tl.sum(tl.where(found, classes, 0), axis=0), -2)


@jit
def _members(mine: Value, rank: Value, token: Value, member: Value) -> Value:
    """Return the tokens that are the `member`-th of those that are `mine`; 0 past the last."""
    picked = mine[None, :] & (rank[None, :] == member[:, None])
    return tl.sum(tl.where(picked, token[None, :], 0), axis=1)


@jit
def _gate_up(  # noqa: PLR0913 (a kernel's arguments are its interface)
    stream: Value,  # [T, D] fp32
    norm: Value,  # [D]
    weight: Value,  # [E, 2F, D]
    expert: Value,  # [T]
    hidden: Value,  # [T, F], rows of kept tokens written
    T: Value,
    E: Value,
    D: Value,
    F: Value,
    eps: Value,
    MODE: constexpr,
    BT: constexpr,
    BX: constexpr,
    BM: constexpr,
    BF: constexpr,
    BD: constexpr,
) -> None:
    """Compute hidden = silu(norm(x) @ gate^T) * (norm(x) @ up^T) for BF channels of one expert."""
    token = tl.arange(0, BT)
    chosen = tl.load(expert + token, mask=token < T, other=-1)
    own = _nth_expert(chosen, tl.program_id(1), E, BX)
    mine = chosen == own
    rank = tl.cumsum(mine.to(tl.int32), axis=0) - 1
    count = tl.sum(mine.to(tl.int32), axis=0)
    f = tl.program_id(0) * BF + tl.arange(0, BF)
    gate_row = weight + (own.to(tl.int64) * (2 * F) + f)[None, :] * D
    for begin in range(0, count, BM):
        member = begin + tl.arange(0, BM)
        has = member < count
        row = _members(mine, rank, token, member).to(tl.int64)
        gate = tl.zeros([BM, BF], tl.float32)
        up = tl.zeros([BM, BF], tl.float32)
        squares = tl.zeros([BM], tl.float32)
        for start in range(0, D, BD):
            d = start + tl.arange(0, BD)
            x = load_fp32(stream + row[:, None] * D + d[None, :], has[:, None] & (d < D)[None, :])
            squares += tl.sum(x * x, axis=1)
            x = x * load_fp32(norm + d, d < D)[None, :]
            mask = (f < F)[None, :] & (d < D)[:, None]
            at = gate_row + d[:, None]
            w = tl.load(at, mask=mask, other=0.0)
            gate = product(x.to(w.dtype), w, gate, MODE)
            w = tl.load(at + F.to(tl.int64) * D, mask=mask, other=0.0)
            up = product(x.to(w.dtype), w, up, MODE)
        scale = tl.rsqrt(squares / D + eps)[:, None]
        gate = gate * scale
        out = gate / (1.0 + tl.exp(-gate)) * (up * scale)
        at = row[:, None] * F + f[None, :]
        tl.store(hidden + at, out.to(hidden.dtype.element_ty), has[:, None] & (f < F)[None, :])


@jit
def _norm_scale(
    stream: Value, row: Value, has: Value, D: Value, eps: Value, BD: constexpr
) -> Value:
    """Return the norm's scale of rows of the stream."""
    squares = tl.zeros([row.shape[0]], tl.float32)
    for start in range(0, D, BD):
        d = start + tl.arange(0, BD)
        x = load_fp32(stream + row[:, None] * D + d[None, :], has[:, None] & (d < D)[None, :])
        squares += tl.sum(x * x, axis=1)
    return tl.rsqrt(squares / D + eps)


@jit
def _down(  # noqa: PLR0913 (a kernel's arguments are its interface)
    hidden: Value,  # [T, F]
    weight: Value,  # [E, D, F]
    expert: Value,  # [T]
    gates: Value,  # [T] fp32
    stream: Value,  # [T, D] fp32
    norm: Value,  # [D], for IDENTITY
    scaling: Value,  # [4, D]
    out: Value,  # [T, D] fp32, all rows written; not `stream`
    T: Value,
    E: Value,
    D: Value,
    F: Value,
    eps: Value,
    IDENTITY: constexpr,
    MODE: constexpr,
    BT: constexpr,
    BX: constexpr,
    BM: constexpr,
    BD: constexpr,
    BF: constexpr,
) -> None:
    """Compute out = scaled(gate * hidden @ down^T) + scaled(stream) for one expert and BD channels.

    Program 0 serves the skip class.
    """
    token = tl.arange(0, BT)
    chosen = tl.load(expert + token, mask=token < T, other=-1)
    work = tl.program_id(1)
    own = tl.where(work == 0, E, _nth_expert(chosen, work - 1, E, BX))
    mine = chosen == own
    rank = tl.cumsum(mine.to(tl.int32), axis=0) - 1
    count = tl.sum(mine.to(tl.int32), axis=0)
    inner = tl.where(work == 0, 0, F)
    d = tl.program_id(0) * BD + tl.arange(0, BD)
    inside = d < D
    weight_row = weight + (own.to(tl.int64) * D + d)[None, :] * F
    for begin in range(0, count, BM):
        member = begin + tl.arange(0, BM)
        has = member < count
        row = _members(mine, rank, token, member).to(tl.int64)
        branch = tl.zeros([BM, BD], tl.float32)
        for start in range(0, inner, BF):
            f = start + tl.arange(0, BF)
            mask = has[:, None] & (f < F)[None, :]
            a = tl.load(hidden + row[:, None] * F + f[None, :], mask=mask, other=0.0)
            mask = inside[None, :] & (f < F)[:, None]
            w = tl.load(weight_row + f[:, None], mask=mask, other=0.0)
            branch = product(a, w, branch, MODE)
        mask = has[:, None] & inside[None, :]
        at = row[:, None] * D + d[None, :]
        x = load_fp32(stream + at, mask)
        if IDENTITY:  # noqa: SIM102 (decided when compiled; the next line when run)
            if work == 0:
                scale = _norm_scale(stream, row, has, D, eps, BF)
                branch = x * scale[:, None] * load_fp32(norm + d, inside)[None, :]
        branch = branch * load_fp32(gates + row, has)[:, None]
        tl.store(out + at, add_scaled(branch, x, scaling, d, D, inside), mask=mask)


def few_tokens(
    stream_TD: Tensor,
    norm: Norm,
    choice: Choice,
    weights: ExpertWeights,
    scaling: Scaling,
) -> Tensor:
    """Return the stream after the experts; norm, gate and residual scaling included.

    At most MAX_TOKENS rows.
    """
    tokens, width = stream_TD.shape
    experts, _, inner = weights.down_EDF.shape
    hidden_TF = torch.empty((tokens, inner), dtype=norm.weight_D.dtype, device=stream_TD.device)
    out_TD = torch.empty_like(stream_TD)
    # An expert's share of the tokens, with room to spare: more take another round.
    rows = min(tile(cdiv(4 * tokens, experts)), MAX_TOKEN_TILE)
    active = min(tokens, experts)
    shared = {"MODE": mode_of(norm.weight_D), "BT": tile(tokens), "BX": tile(experts + 1)}
    effort = {"num_warps": 4, "num_stages": 4 if norm.weight_D.dtype is torch.bfloat16 else 2}
    _gate_up[(cdiv(inner, BLOCK_OUT), active)](
        stream_TD,
        norm.weight_D,
        weights.gate_up_EGD,
        choice.expert_T,
        hidden_TF,
        tokens,
        experts,
        width,
        inner,
        norm.eps,
        **shared,
        BM=rows,
        BF=BLOCK_OUT,
        BD=min(BLOCK_INNER, tile(width)),
        **effort,
    )
    _down[(cdiv(width, BLOCK_OUT), active + 1)](
        hidden_TF,
        weights.down_EDF,
        choice.expert_T,
        choice.gate_T,
        stream_TD,
        norm.weight_D,
        scaling.vectors_4D,
        out_TD,
        tokens,
        experts,
        width,
        inner,
        norm.eps,
        IDENTITY=weights.identity_skip,
        **shared,
        BM=rows,
        BD=BLOCK_OUT,
        BF=min(BLOCK_INNER, tile(inner)),
        **effort,
    )
    return out_TD
