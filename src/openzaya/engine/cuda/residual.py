"""The norm kernel of long passes: scaled addition into the stream and RMSNorm in one launch.

Paper: II.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from openzaya.engine.cuda.lang import Value, constexpr, jit, load_fp32, tile, tl
from openzaya.engine.cuda.linear import add_scaled
from openzaya.engine.cuda.weights import Norm, Scaling


@dataclass(frozen=True, kw_only=True, slots=True)
class Branch:
    """What is added to the stream."""

    rows_ND: Tensor
    """Its rows, in any order."""
    scaling: Scaling
    """How it meets the stream."""
    place_T: Tensor | None = None
    """int64 row of each token; negative for a skipped token. None: row t is token t."""
    gate_T: Tensor | None = None
    """fp32 factor of each token, with `place_T`."""
    skipped_TD: Tensor | None = None
    """What stands in for the row of a skipped token, with `place_T`; None: nothing."""


@jit
def _add_and_norm(  # noqa: PLR0913 (a kernel's arguments are its interface)
    branch: Value,  # [N, D] when ADDS
    places: Value,  # [T] when ROUTED
    gates: Value,  # [T] fp32 when ROUTED
    skipped: Value,  # [T, D] when IDENTITY
    scaling: Value,  # [4, D] when ADDS
    stream: Value,  # [T, D] fp32, updated when ADDS
    norm: Value,  # [D]
    out: Value,  # [T, D], written
    D: Value,
    eps: Value,
    ADDS: constexpr,
    ROUTED: constexpr,
    IDENTITY: constexpr,
    BD: constexpr,
) -> None:
    """One token."""
    token = tl.program_id(0).to(tl.int64)
    d = tl.arange(0, BD)
    mask = d < D
    x = load_fp32(stream + token * D + d, mask)
    if ADDS:
        place = token
        if ROUTED:
            place = tl.load(places + token)
        kept = tl.where(place >= 0, D, 0)
        added = load_fp32(branch + tl.maximum(place, 0) * D + d, d < kept)
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
    routed = branch is not None and branch.place_T is not None
    _add_and_norm[(tokens,)](
        stream_TD if branch is None else branch.rows_ND,
        branch.place_T if branch is not None and routed else stream_TD,
        branch.gate_T if branch is not None and routed else stream_TD,
        stream_TD if branch is None or branch.skipped_TD is None else branch.skipped_TD,
        stream_TD if branch is None else branch.scaling.vectors_4D,
        stream_TD,
        norm.weight_D,
        out_TD,
        width,
        norm.eps,
        ADDS=branch is not None,
        ROUTED=routed,
        IDENTITY=branch is not None and branch.skipped_TD is not None,
        BD=tile(width),
        num_warps=8 if width > 1024 else 4,
    )
    return out_TD
