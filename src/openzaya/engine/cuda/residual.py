"""The norm kernel of long passes: scaled addition into the stream and RMSNorm in one launch.

Paper: II.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from openzaya.engine.cuda.lang import Value, constexpr, jit, load_fp32, tile, tl
from openzaya.engine.cuda.linear import add_scaled
from openzaya.engine.cuda.router import Choice
from openzaya.engine.cuda.weights import Norm, Scaling


@dataclass(frozen=True, kw_only=True, slots=True)
class Routed:
    """How the experts' rows belong to tokens."""

    choice: Choice
    """What the router chose; the gate is a factor of the row."""
    num_experts: int
    """The class that skips."""
    place_T: Tensor | None
    """int64 row of each token, where it is not that of the token's own number."""
    skipped_TD: Tensor | None
    """What stands in for the row of a skipped token; None: nothing."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Branch:
    """What is added to the stream."""

    rows_ND: Tensor
    """Its rows, in any order."""
    scaling: Scaling
    """How it meets the stream."""
    routed: Routed | None = None
    """How the rows belong to tokens; None: row t is token t."""


@jit
def _add_and_norm(  # noqa: PLR0913 (a kernel's arguments are its interface)
    branch: Value,  # [N, D] when ADDS
    experts: Value,  # [T] when ROUTED
    places: Value,  # [T] when SORTED
    gates: Value,  # [T] fp32 when ROUTED
    skipped: Value,  # [T, D] when IDENTITY
    scaling: Value,  # [4, D] when ADDS
    stream: Value,  # [T, D] fp32, updated when ADDS
    norm: Value,  # [D]
    out: Value,  # [T, D], written
    E: Value,
    D: Value,
    eps: Value,
    ADDS: constexpr,
    ROUTED: constexpr,
    SORTED: constexpr,
    IDENTITY: constexpr,
    BD: constexpr,
) -> None:
    """One token."""
    token = tl.program_id(0).to(tl.int64)
    d = tl.arange(0, BD)
    mask = d < D
    x = load_fp32(stream + token * D + d, mask)
    if ADDS:
        place, kept = token, D
        if ROUTED:
            kept = tl.where(tl.load(experts + token) < E, D, 0)
        if SORTED:
            place = tl.load(places + token)
        added = load_fp32(branch + place * D + d, d < kept)
        if IDENTITY:
            added += load_fp32(skipped + token * D + d, mask & (d >= kept))
        if ROUTED:
            added = added * tl.load(gates + token)
        both = add_scaled(added[None, :], x[None, :], scaling, d, D, mask)
        x = tl.sum(both, axis=0)
        tl.store(stream + token * D + d, x, mask=mask)
    scale = tl.rsqrt(tl.sum(tl.where(mask, x * x, 0.0), axis=0) / D + eps)
    y = x * scale * load_fp32(norm + d, mask)
    tl.store(out + token * D + d, y.to(out.dtype.element_ty), mask=mask)


def add_and_norm(stream_TD: Tensor, norm: Norm, branch: Branch | None = None) -> Tensor:
    """Add a branch into the stream in place, if one is given; return the normed stream."""
    tokens, width = stream_TD.shape
    out_TD = torch.empty((tokens, width), dtype=norm.weight_D.dtype, device=stream_TD.device)
    routed = None if branch is None else branch.routed
    place_T = None if routed is None else routed.place_T
    skipped_TD = None if routed is None else routed.skipped_TD
    _add_and_norm[(tokens,)](
        stream_TD if branch is None else branch.rows_ND,
        stream_TD if routed is None else routed.choice.expert_T,
        stream_TD if place_T is None else place_T,
        stream_TD if routed is None else routed.choice.gate_T,
        stream_TD if skipped_TD is None else skipped_TD,
        stream_TD if branch is None else branch.scaling.vectors_4D,
        stream_TD,
        norm.weight_D,
        out_TD,
        0 if routed is None else routed.num_experts,
        width,
        norm.eps,
        ADDS=branch is not None,
        ROUTED=routed is not None,
        SORTED=place_T is not None,
        IDENTITY=skipped_TD is not None,
        BD=tile(width),
        num_warps=8 if width > 1024 else 4,
    )
    return out_TD
