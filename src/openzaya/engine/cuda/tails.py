"""The tail of CCA at chosen tokens: what the convolutions and the value delay of the next one need.

Paper: II.
"""

from torch import Tensor

from openzaya.engine.cuda.cca import LayerCache, TokenAddresses
from openzaya.engine.cuda.lang import Value, cdiv, constexpr, jit, load_fp32, tl

STATE_CHANNELS = 256


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
