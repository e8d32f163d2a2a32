"""The experts for a middling number of tokens: each expert that somebody chose is read once.

There is no sorting: a program takes one expert, looks at all choices of the pass and finds the
tokens that are its own; without any it ends at once. The gate and input products with SiLU take
one launch and the output product another.

Paper: II.
"""

import torch
from torch import Tensor

from openzaya.engine.cuda.lang import Value, cdiv, constexpr, jit, mode_of, product, tile, tl
from openzaya.engine.cuda.router import Choice
from openzaya.engine.cuda.weights import ExpertWeights

MAX_TOKENS = 512
"""More choices than this do not fit into a program's registers."""
MAX_TOKEN_TILE = 64
BLOCK_OUT = 32
BLOCK_INNER = 128
STAGES = 4
"""Loads under way per program, in bf16."""


@jit
def _members(mine: Value, token: Value, member: Value) -> Value:
    """Return the tokens that are the `member`-th of those that are `mine`; 0 past the last."""
    rank = tl.cumsum(mine.to(tl.int32), axis=0) - 1
    picked = mine[None, :] & (rank[None, :] == member[:, None])
    return tl.sum(tl.where(picked, token[None, :], 0), axis=1)


@jit
def _gate_up(  # noqa: PLR0913 (a kernel's arguments are its interface)
    x: Value,  # [T, D], normed
    weight: Value,  # [E, 2F, D]
    expert: Value,  # [T]
    hidden: Value,  # [T, F], rows of kept tokens written
    T: Value,
    D: Value,
    F: Value,
    MODE: constexpr,
    BT: constexpr,
    BM: constexpr,
    BF: constexpr,
    BD: constexpr,
) -> None:
    """Compute hidden = silu(x @ gate^T) * (x @ up^T) for BF channels of one expert."""
    token, own = tl.arange(0, BT), tl.program_id(1)
    mine = tl.load(expert + token, mask=token < T, other=-1) == own
    count = tl.sum(mine.to(tl.int32), axis=0)
    f = tl.program_id(0) * BF + tl.arange(0, BF)
    gate_row = weight + (own.to(tl.int64) * (2 * F) + f)[None, :] * D
    for begin in range(0, count, BM):
        member = begin + tl.arange(0, BM)
        has = member < count
        row = _members(mine, token, member).to(tl.int64)
        gate = tl.zeros([BM, BF], tl.float32)
        up = tl.zeros([BM, BF], tl.float32)
        for start in range(0, D, BD):
            d = start + tl.arange(0, BD)
            mask = has[:, None] & (d < D)[None, :]
            a = tl.load(x + row[:, None] * D + d[None, :], mask=mask, other=0.0)
            mask = (f < F)[None, :] & (d < D)[:, None]
            at = gate_row + d[:, None]
            gate = product(a, tl.load(at, mask=mask, other=0.0), gate, MODE)
            at += F.to(tl.int64) * D
            up = product(a, tl.load(at, mask=mask, other=0.0), up, MODE)
        out = gate / (1.0 + tl.exp(-gate)) * up
        at = row[:, None] * F + f[None, :]
        tl.store(hidden + at, out.to(hidden.dtype.element_ty), has[:, None] & (f < F)[None, :])


@jit
def _down(  # noqa: PLR0913 (a kernel's arguments are its interface)
    hidden: Value,  # [T, F]
    weight: Value,  # [E, D, F]
    expert: Value,  # [T]
    out: Value,  # [T, D], rows of kept tokens written
    T: Value,
    D: Value,
    F: Value,
    MODE: constexpr,
    BT: constexpr,
    BM: constexpr,
    BD: constexpr,
    BF: constexpr,
) -> None:
    """Compute out = hidden @ down^T for BD channels of one expert."""
    token, own = tl.arange(0, BT), tl.program_id(1)
    mine = tl.load(expert + token, mask=token < T, other=-1) == own
    count = tl.sum(mine.to(tl.int32), axis=0)
    d = tl.program_id(0) * BD + tl.arange(0, BD)
    weight_row = weight + (own.to(tl.int64) * D + d)[None, :] * F
    for begin in range(0, count, BM):
        member = begin + tl.arange(0, BM)
        has = member < count
        row = _members(mine, token, member).to(tl.int64)
        acc = tl.zeros([BM, BD], tl.float32)
        for start in range(0, F, BF):
            f = start + tl.arange(0, BF)
            mask = has[:, None] & (f < F)[None, :]
            a = tl.load(hidden + row[:, None] * F + f[None, :], mask=mask, other=0.0)
            mask = (d < D)[None, :] & (f < F)[:, None]
            acc = product(a, tl.load(weight_row + f[:, None], mask=mask, other=0.0), acc, MODE)
        at = row[:, None] * D + d[None, :]
        tl.store(out + at, acc.to(out.dtype.element_ty), has[:, None] & (d < D)[None, :])


def few_tokens(h_TD: Tensor, choice: Choice, weights: ExpertWeights) -> Tensor:
    """Return the experts' outputs in fp32, [T, D]; rows of skipped tokens are not written.

    Gates are not applied. At most MAX_TOKENS rows.
    """
    tokens, width = h_TD.shape
    experts, _, inner = weights.down_EDF.shape
    hidden_TF = h_TD.new_empty((tokens, inner))
    out_TD = torch.empty((tokens, width), dtype=torch.float32, device=h_TD.device)
    # An expert's share of the tokens, with room to spare: more take another round.
    rows = min(tile(cdiv(4 * tokens, experts)), MAX_TOKEN_TILE)
    shared = {"MODE": mode_of(h_TD), "BT": tile(tokens), "BM": rows}
    shared |= {"num_warps": 4, "num_stages": STAGES if h_TD.dtype is torch.bfloat16 else 2}
    _gate_up[(cdiv(inner, BLOCK_OUT), experts)](
        h_TD,
        weights.gate_up_EGD,
        choice.expert_T,
        hidden_TF,
        tokens,
        width,
        inner,
        BF=BLOCK_OUT,
        BD=min(BLOCK_INNER, tile(width)),
        **shared,
    )
    _down[(cdiv(width, BLOCK_OUT), experts)](
        hidden_TF,
        weights.down_EDF,
        choice.expert_T,
        out_TD,
        tokens,
        width,
        inner,
        BD=BLOCK_OUT,
        BF=min(BLOCK_INNER, tile(inner)),
        **shared,
    )
    return out_TD
