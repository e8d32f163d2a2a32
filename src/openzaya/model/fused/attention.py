"""Causal attention inside each packed document: flash on CUDA, document by document elsewhere.

Letters: T queries, S keys; of a document that begins elsewhere there are more keys than queries.

Paper: II.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from openzaya.model.attention import attend
from openzaya.model.documents import Documents


def attend_packed(
    q_THP: Tensor,
    k_SKP: Tensor,
    v_SKP: Tensor,
    queries: Documents,
    keys: Documents,
    window: int | None,
) -> Tensor:
    """Return [T, H P] of causal attention, over the last `window` tokens where one is given.

    A document's queries are the last of its keys' tokens.
    """
    if q_THP.device.type == "cuda" and q_THP.dtype in (torch.bfloat16, torch.float16):
        return _flash(q_THP, k_SKP, v_SKP, queries, keys, window).flatten(1)
    parts = []
    of_keys = [torch.split(x, list(keys.lengths)) for x in (k_SKP, v_SKP)]
    for q, k, v in zip(torch.split(q_THP, list(queries.lengths)), *of_keys, strict=True):
        q_, k_, v_ = (x.transpose(0, 1).unsqueeze(0) for x in (q, k, v))
        parts.append(attend(q_, k_, v_, window)[0].transpose(0, 1))
    return torch.cat(parts).flatten(1)


def _flash(
    q_THP: Tensor,
    k_SKP: Tensor,
    v_SKP: Tensor,
    queries: Documents,
    keys: Documents,
    window: int | None,
) -> Tensor:
    """Documents of one length go as a batch, others through the kernel for packed rows.

    Both run the same kernels; the packed form schedules one block grid for the longest document.
    Its causal mask ends at the last query and the last key, so that missing queries are the first.
    """
    if queries.is_even and window is None and queries.lengths == keys.lengths:
        q, k, v = (
            x.view(len(queries.lengths), queries.longest, *x.shape[1:]).transpose(1, 2)
            for x in (q_THP, k_SKP, v_SKP)
        )
        out = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
        return out.transpose(1, 2).flatten(0, 1)
    out_THP: Tensor = torch.ops.aten._flash_attention_forward(
        q_THP,
        k_SKP,
        v_SKP,
        queries.ends_B,
        keys.ends_B,
        queries.longest,
        keys.longest,
        0.0,
        True,
        False,
        window_size_left=-1 if window is None else window - 1,
        window_size_right=0,
    )[0]
    return out_THP
