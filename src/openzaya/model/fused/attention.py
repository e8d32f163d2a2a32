"""Causal attention inside each packed document: flash on CUDA, document by document elsewhere.

Paper: II.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from openzaya.model.attention import attend
from openzaya.model.fused.layout import Packed


def attend_packed(
    q_THP: Tensor, k_TKP: Tensor, v_TKP: Tensor, layout: Packed, window: int | None
) -> Tensor:
    """Return [T, H P] of causal attention, over the last `window` tokens where one is given."""
    if q_THP.device.type == "cuda" and q_THP.dtype in (torch.bfloat16, torch.float16):
        return _flash(q_THP, k_TKP, v_TKP, layout, window).flatten(1)
    lengths = list(layout.lengths)
    parts = []
    pieces = (torch.split(x, lengths) for x in (q_THP, k_TKP, v_TKP))
    for q, k, v in zip(*pieces, strict=True):
        q_1HSP, k_1KSP, v_1KSP = (x.transpose(0, 1).unsqueeze(0) for x in (q, k, v))
        parts.append(attend(q_1HSP, k_1KSP, v_1KSP, window)[0].transpose(0, 1))
    return torch.cat(parts).flatten(1)


def _flash(
    q_THP: Tensor, k_TKP: Tensor, v_TKP: Tensor, layout: Packed, window: int | None
) -> Tensor:
    """Documents of one length go as a batch, others through the kernel for packed rows.

    Both run the same kernels; the packed form schedules one block grid for the longest document.
    """
    if layout.is_even and window is None:
        documents = len(layout.lengths)
        q, k, v = (
            x.view(documents, layout.longest, *x.shape[1:]).transpose(1, 2)
            for x in (q_THP, k_TKP, v_TKP)
        )
        out = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
        return out.transpose(1, 2).flatten(0, 1)
    out_THP: Tensor = torch.ops.aten._flash_attention_forward(
        q_THP,
        k_TKP,
        v_TKP,
        layout.ends_B,
        layout.ends_B,
        layout.longest,
        layout.longest,
        0.0,
        True,
        False,
        window_size_left=-1 if window is None else window - 1,
        window_size_right=0,
    )[0]
    return out_THP
