"""The router for many tokens: depth average, norm, MLP, softmax and biased choice.

It begins after the first projection.

One program carries a tile of tokens through all of it. The activations between two matrices take
the way through a scratch buffer, because a product needs them in another layout than it leaves them
in. All arithmetic is fp32.

Paper: II.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from openzaya.engine.cuda.lang import (
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
from openzaya.engine.cuda.weights import RouterWeights

TOKEN_TILE = 32
BLOCK_INNER = 32
WARPS = 8


@jit
def gelu(x: Value) -> Value:
    """Return the exact GELU."""
    return 0.5 * x * (1.0 + tl.erf(x * 0.7071067811865476))


@jit
def _times(  # noqa: PLR0913 (a kernel's arguments are its interface)
    scratch: Value, weight: Value, row: Value, has: Value, column: Value, R: constexpr, N: Value,
    MODE: constexpr, BI: constexpr,
) -> Value:  # fmt: skip
    """Return scratch rows [BT, R] times the transpose of a weight [N, R], at `column`."""
    acc = tl.zeros([row.shape[0], column.shape[0]], tl.float32)
    for start in range(0, R, BI):
        inner = start + tl.arange(0, BI)
        inside = inner < R
        a = load_fp32(
            scratch + row.to(tl.int64)[:, None] * R + inner[None, :],
            has[:, None] & inside[None, :],
        )
        b = tl.load(
            weight + column[None, :] * R + inner[:, None],
            mask=(column < N)[None, :] & inside[:, None],
            other=0.0,
        )
        acc = product(a, b, acc, MODE)
    return acc


@jit
def decide(scores: Value, balance: Value, x: Value, X: Value) -> Value:
    """Return the class of each row [BT, BX] by biased probability, and its plain probability."""
    scores = tl.where((x < X)[None, :], scores, float("-inf"))
    odds = tl.exp(scores - tl.max(scores, axis=1)[:, None])
    probs = odds / tl.sum(odds, axis=1)[:, None]
    biased = probs + load_fp32(balance + x, x < X)[None, :]
    biased = tl.where((x < X)[None, :], biased, float("-inf"))
    chosen = tl.argmax(biased, axis=1)
    return chosen, tl.sum(tl.where(x[None, :] == chosen[:, None], probs, 0.0), axis=1)


@jit
def _choose(  # noqa: PLR0913 (a kernel's arguments are its interface)
    latent: Value,  # [T, R] fp32
    previous: Value,  # [T, R] fp32 when AVERAGES
    average: Value,  # [R] when AVERAGES
    down_bias: Value,  # [R]
    norm: Value,  # [R]
    fc1: Value,  # [R, R]
    fc1_bias: Value,
    fc2: Value,  # [R, R]
    fc2_bias: Value,
    last: Value,  # [X, R]
    balance: Value,  # [X] fp32
    slots: Value,  # [T]; a negative one skips
    state: Value,  # [T, R] fp32, written
    scratch: Value,  # [2, T, R] fp32
    expert: Value,  # [T] int32, written
    gate: Value,  # [T] fp32, written
    record: Value,  # [T, L] uint8, column `layer` written
    num_tokens: Value,
    X: Value,
    layer: Value,
    num_layers: Value,
    eps: Value,
    R: constexpr,
    AVERAGES: constexpr,
    MODE: constexpr,
    BT: constexpr,
    BR: constexpr,
    BX: constexpr,
    BI: constexpr,
) -> None:
    """Choose a class for each token of a tile."""
    row = tl.program_id(0) * BT + tl.arange(0, BT)
    has = row < num_tokens
    r = tl.arange(0, BR)
    mask = has[:, None] & (r < R)[None, :]
    at = row.to(tl.int64)[:, None] * R + r[None, :]
    hidden = load_fp32(latent + at, mask) + load_fp32(down_bias + r, r < R)[None, :]
    if AVERAGES:
        hidden += load_fp32(previous + at, mask) * load_fp32(average + r, r < R)[None, :]
    tl.store(state + at, hidden, mask=mask)
    scale = tl.rsqrt(tl.sum(hidden * hidden, axis=1) / R + eps)
    hidden = hidden * scale[:, None] * load_fp32(norm + r, r < R)[None, :]
    tl.store(scratch + at, hidden, mask=mask)
    tl.debug_barrier()  # every thread reads what others wrote
    hidden = _times(scratch, fc1, row, has, r, R, R, MODE, BI)
    hidden = gelu(hidden + load_fp32(fc1_bias + r, r < R)[None, :])
    second = scratch + num_tokens * R
    tl.store(second + at, hidden, mask=mask)
    tl.debug_barrier()
    hidden = _times(second, fc2, row, has, r, R, R, MODE, BI)
    hidden = gelu(hidden + load_fp32(fc2_bias + r, r < R)[None, :])
    tl.store(scratch + at, hidden, mask=mask)
    tl.debug_barrier()
    x = tl.arange(0, BX)
    chosen, weight = decide(_times(scratch, last, row, has, x, R, X, MODE, BI), balance, x, X)
    chosen = tl.where(tl.load(slots + row, mask=has, other=-1) >= 0, chosen, X - 1)
    tl.store(expert + row, chosen, mask=has)
    tl.store(gate + row, weight, mask=has)
    tl.store(record + row.to(tl.int64) * num_layers + layer, chosen.to(tl.uint8), mask=has)


@dataclass(frozen=True, slots=True)
class Choice:
    """A layer's decision about every token of a pass."""

    expert_T: Tensor
    """int32 class; E skips."""
    gate_T: Tensor
    """fp32 probability of the class."""
    state_TR: Tensor
    """fp32 latent state for the next layer."""


def undecided(latent_TR: Tensor) -> Choice:
    """Return room for a choice."""
    count, device = len(latent_TR), latent_TR.device
    return Choice(
        torch.empty(count, dtype=torch.int32, device=device),
        torch.empty(count, dtype=torch.float32, device=device),
        torch.empty_like(latent_TR),
    )


def choose(
    latent_TR: Tensor,
    previous_TR: Tensor | None,
    weights: RouterWeights,
    slot_T: Tensor,
    record: tuple[Tensor, int],
) -> Choice:
    """Choose an expert for every token, from the latent projection without its bias.

    `record` is the [T, L] table of choices and the layer whose column is written. Padded tokens,
    those of a negative slot, skip.
    """
    count, width = latent_TR.shape
    experts_TL, layer = record
    choice = undecided(latent_TR)
    scratch = torch.empty((2, *latent_TR.shape), dtype=torch.float32, device=latent_TR.device)
    averages = weights.average_R is not None and previous_TR is not None
    classes = weights.out_XR.shape[0]
    _choose[(cdiv(count, TOKEN_TILE),)](
        latent_TR,
        previous_TR if averages else latent_TR,
        weights.average_R if averages else latent_TR,
        weights.down_bias_R,
        weights.norm.weight_D,
        weights.fc1_RR,
        weights.fc1_bias_R,
        weights.fc2_RR,
        weights.fc2_bias_R,
        weights.out_XR,
        weights.balance_X,
        slot_T,
        choice.state_TR,
        scratch,
        choice.expert_T,
        choice.gate_T,
        experts_TL,
        count,
        classes,
        layer,
        experts_TL.shape[1],
        weights.norm.eps,
        R=width,
        AVERAGES=averages,
        MODE=wide_mode(weights.fc1_RR),
        BT=TOKEN_TILE,
        BR=tile(width),
        BX=tile(classes),
        BI=min(BLOCK_INNER, tile(width)),
        num_warps=WARPS,
        num_stages=3,
    )
    return choice
