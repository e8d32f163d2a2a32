"""The router of a step with few rows, in two launches over all multiprocessors.

The first takes the depth average, the norm and the first matrix of the MLP, the second the other
matrix, and the program that ends last for a row decides. All arithmetic is fp32.

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
    overlapping,
    tile,
    tl,
    wait_for_earlier,
)
from openzaya.engine.cuda.linear import times_row
from openzaya.engine.cuda.router import Choice, decide, gelu, undecided
from openzaya.engine.cuda.weights import MAX_TICKETS, RouterWeights

MAX_ROWS = MAX_TICKETS
"""For more rows reading the weights once a row costs more than the launches saved."""
OUTPUTS = 8
"""Outputs of the MLP's matrices per program."""


@jit
def _first_layer(  # noqa: PLR0913 (a kernel's arguments are its interface)
    latent: Value,  # [T, R] fp32
    previous: Value,  # [T, R] fp32 when AVERAGES
    average: Value,  # [R] when AVERAGES
    down_bias: Value,  # [R]
    norm: Value,  # [R]
    weight: Value,  # [R, R]
    bias: Value,  # [R]
    state: Value,  # [T, R] fp32, written
    out: Value,  # [T, R] fp32, written
    R: Value,
    eps: Value,
    AVERAGES: constexpr,
    OVERLAPS: constexpr,
    BN: constexpr,
    BR: constexpr,
) -> None:
    """Compute BN channels of gelu(norm(latent + bias + average * previous) @ weight^T + bias)."""
    row = tl.program_id(1).to(tl.int64)
    n, r = tl.program_id(0) * BN + tl.arange(0, BN), tl.arange(0, BR)
    has, inside = n < R, r < R
    w = tl.load(weight + n[:, None] * R + r[None, :], has[:, None] & inside[None, :], other=0.0)
    wait_for_earlier(OVERLAPS)
    hidden = load_fp32(latent + row * R + r, inside) + load_fp32(down_bias + r, inside)
    if AVERAGES:
        hidden += load_fp32(previous + row * R + r, inside) * load_fp32(average + r, inside)
    tl.store(state + row * R + r, hidden, mask=r < tl.where(tl.program_id(0) == 0, R, 0))
    scale = tl.rsqrt(tl.sum(hidden * hidden, axis=0) / R + eps)
    y = times_row(w, hidden * scale * load_fp32(norm + r, inside))
    tl.store(out + row * R + n, gelu(y + load_fp32(bias + n, has)), mask=has)


@jit
def _second_layer(  # noqa: PLR0913 (a kernel's arguments are its interface)
    hidden: Value,  # [T, R] fp32
    weight: Value,  # [R, R]
    bias: Value,  # [R]
    last: Value,  # [X, R]
    balance: Value,  # [X] fp32
    slots: Value,  # [T]; a negative one skips
    out: Value,  # [T, R] fp32, written
    tickets: Value,  # [T] int32, zero before and after
    expert: Value,  # [T] int32, written
    gate: Value,  # [T] fp32, written
    record: Value,  # [T, L] uint8, column `layer` written
    R: Value,
    X: Value,
    layer: Value,
    num_layers: Value,
    OVERLAPS: constexpr,
    BN: constexpr,
    BR: constexpr,
    BX: constexpr,
) -> None:
    """Compute BN channels of gelu(hidden @ weight^T + bias); the last program of a row decides."""
    token = tl.program_id(1)
    row = token.to(tl.int64)
    n, r, x = tl.program_id(0) * BN + tl.arange(0, BN), tl.arange(0, BR), tl.arange(0, BX)
    has, inside, known = n < R, r < R, x < X
    w = tl.load(weight + n[:, None] * R + r[None, :], has[:, None] & inside[None, :], other=0.0)
    scoring = tl.load(
        last + x[:, None] * R + r[None, :], known[:, None] & inside[None, :], other=0.0
    )
    slot = tl.load(slots + token)
    wait_for_earlier(OVERLAPS)
    y = times_row(w, load_fp32(hidden + row * R + r, inside)) + load_fp32(bias + n, has)
    tl.store(out + row * R + n, gelu(y), mask=has)
    tl.debug_barrier()  # all of this program's channels are stored before its ticket is
    if tl.atomic_add(tickets + token, 1) == tl.num_programs(0) - 1:
        tl.store(tickets + token, 0)
        # Past the first-level cache, which need not know what other multiprocessors stored.
        whole = tl.load(out + row * R + r, mask=inside, other=0.0, cache_modifier=".cg")
        chosen, weight_of = decide(times_row(scoring, whole)[None, :], balance, x, X)
        chosen = tl.sum(chosen, axis=0)
        chosen = tl.where(slot >= 0, chosen, X - 1).to(tl.int32)
        tl.store(expert + token, chosen)
        tl.store(gate + token, tl.sum(weight_of, axis=0))
        tl.store(record + row * num_layers + layer, chosen.to(tl.uint8))


def choose_rows(
    latent_TR: Tensor,
    previous_TR: Tensor | None,
    weights: RouterWeights,
    slot_T: Tensor,
    record: tuple[Tensor, int],
) -> Choice:
    """Choose an expert for each of at most MAX_ROWS tokens; see `router.choose`."""
    rows, width = latent_TR.shape
    experts_TL, layer = record
    choice = undecided(latent_TR)
    first_TR, second_TR = torch.empty_like(latent_TR), torch.empty_like(latent_TR)
    averages = weights.average_R is not None and previous_TR is not None
    classes = weights.out_XR.shape[0]
    grid = (cdiv(width, OUTPUTS), rows)
    _first_layer[grid](
        latent_TR,
        previous_TR if averages else latent_TR,
        weights.average_R if averages else latent_TR,
        weights.down_bias_R,
        weights.norm.weight_D,
        weights.fc1_RR,
        weights.fc1_bias_R,
        choice.state_TR,
        first_TR,
        width,
        weights.norm.eps,
        AVERAGES=averages,
        BN=OUTPUTS,
        BR=tile(width),
        num_warps=4,
        **overlapping(),
    )
    _second_layer[grid](
        first_TR,
        weights.fc2_RR,
        weights.fc2_bias_R,
        weights.out_XR,
        weights.balance_X,
        slot_T,
        second_TR,
        weights.tickets_M,
        choice.expert_T,
        choice.gate_T,
        experts_TL,
        width,
        classes,
        layer,
        experts_TL.shape[1],
        BN=OUTPUTS,
        BR=tile(width),
        BX=tile(classes),
        num_warps=4,
        **overlapping(),
    )
    return choice
