"""The experts of a step with few rows: a token's expert as a matrix times a row.

No dot product tile, no sorting: each program reads a few rows of the matrices of one token's
expert. The output matrix is under way while the hidden channels are still being computed.

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
from openzaya.engine.cuda.linear import add_scaled, outputs_per_program, times_row
from openzaya.engine.cuda.router import Choice
from openzaya.engine.cuda.weights import ExpertWeights, Norm, Scaling


@jit
def _row_gate_up(  # noqa: PLR0913 (a kernel's arguments are its interface)
    stream: Value,  # [T, D] fp32
    norm: Value,  # [D]
    weight: Value,  # [E, 2F, D]
    expert: Value,  # [T]
    hidden: Value,  # [T, F], rows of kept tokens written
    E: Value,
    D: Value,
    F: Value,
    eps: Value,
    OVERLAPS: constexpr,
    BF: constexpr,
    BD: constexpr,
) -> None:
    """Compute BF channels of silu(norm(x) @ gate^T) * (norm(x) @ up^T) of one token."""
    token = tl.program_id(1)
    row = token.to(tl.int64)
    f, d = tl.program_id(0) * BF + tl.arange(0, BF), tl.arange(0, BD)
    has, inside = f < F, d < D
    factor = load_fp32(norm + d, inside)
    x = load_fp32(stream + row * D + d, inside)
    wait_for_earlier(OVERLAPS)
    own = tl.load(expert + token)
    if own < E:
        at = weight + (own.to(tl.int64) * (2 * F) + f)[:, None] * D + d[None, :]
        mask = has[:, None] & inside[None, :]
        w_gate = tl.load(at, mask=mask, other=0.0)
        w_up = tl.load(at + F.to(tl.int64) * D, mask=mask, other=0.0)
        scale = tl.rsqrt(tl.sum(x * x, axis=0) / D + eps)
        x = x * factor * scale
        gate = times_row(w_gate, x)
        y = gate / (1.0 + tl.exp(-gate)) * times_row(w_up, x)
        tl.store(hidden + row * F + f, y.to(hidden.dtype.element_ty), mask=has)


@jit
def _row_down(  # noqa: PLR0913 (a kernel's arguments are its interface)
    hidden: Value,  # [T, F]
    weight: Value,  # [E, D, F]
    expert: Value,  # [T]
    gates: Value,  # [T] fp32
    stream: Value,  # [T, D] fp32
    norm: Value,  # [D], for IDENTITY
    scaling: Value,  # [4, D]
    out: Value,  # [T, D] fp32, written; not `stream`
    E: Value,
    D: Value,
    F: Value,
    eps: Value,
    IDENTITY: constexpr,
    OVERLAPS: constexpr,
    BD: constexpr,
    BF: constexpr,
    BW: constexpr,
) -> None:
    """Compute BD channels of scaled(gate * hidden @ down^T) + scaled(stream) of one token."""
    token = tl.program_id(1)
    row = token.to(tl.int64)
    d, f = tl.program_id(0) * BD + tl.arange(0, BD), tl.arange(0, BF)
    has = d < D
    # Choice and stream are older than the hidden channels, so they may be read at once.
    own = tl.load(expert + token)
    present = f < tl.where(own < E, F, 0)
    at = weight + (own.to(tl.int64) * D + d)[:, None] * F + f[None, :]
    w = tl.load(at, mask=has[:, None] & present[None, :], other=0.0)
    x = load_fp32(stream + row * D + d, has)
    gate = tl.load(gates + token)
    wait_for_earlier(OVERLAPS)
    branch = times_row(w, load_fp32(hidden + row * F + f, present))
    if IDENTITY:  # noqa: SIM102 (decided when compiled; the next line when run)
        if own == E:
            all_d = tl.arange(0, BW)
            whole = load_fp32(stream + row * D + all_d, all_d < D)
            scale = tl.rsqrt(tl.sum(whole * whole, axis=0) / D + eps)
            branch = x * scale * load_fp32(norm + d, has)
    y = add_scaled((branch * gate)[None, :], x[None, :], scaling, d, D, has)
    tl.store(out + row * D + d[None, :], y, mask=has[None, :])


def one_by_one(
    stream_TD: Tensor,
    norm: Norm,
    choice: Choice,
    weights: ExpertWeights,
    scaling: Scaling,
) -> Tensor:
    """Return the stream after the experts; norm, gate and residual scaling included."""
    tokens, width = stream_TD.shape
    experts, _, inner = weights.down_EDF.shape
    hidden_TF = torch.empty((tokens, inner), dtype=torch.float32, device=stream_TD.device)
    out_TD = torch.empty_like(stream_TD)
    across = tile(width)
    channels = outputs_per_program(inner, across)
    _row_gate_up[(cdiv(inner, channels), tokens)](
        stream_TD,
        norm.weight_D,
        weights.gate_up_EGD,
        choice.expert_T,
        hidden_TF,
        experts,
        width,
        inner,
        norm.eps,
        BF=channels,
        BD=across,
        num_warps=4,
        **overlapping(),
    )
    across = tile(inner)
    channels = outputs_per_program(width, across)
    _row_down[(cdiv(width, channels), tokens)](
        hidden_TF,
        weights.down_EDF,
        choice.expert_T,
        choice.gate_T,
        stream_TD,
        norm.weight_D,
        scaling.vectors_4D,
        out_TD,
        experts,
        width,
        inner,
        norm.eps,
        IDENTITY=weights.identity_skip,
        BD=channels,
        BF=across,
        BW=tile(width),
        num_warps=4,
        **overlapping(),
    )
    return out_TD
