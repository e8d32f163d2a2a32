"""Causal attention in the compressed space, over packed documents or cache slots.

Paper: II.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from openzaya.model.addresses import LEAD
from openzaya.model.cache import Cache
from openzaya.model.cca import CCAProjection
from openzaya.model.config import ZayaConfig
from openzaya.model.config_keys import SLIDING
from openzaya.model.plan import Block, Plan
from openzaya.model.precision import is_low, rules_of
from openzaya.model.rope import rotate
from openzaya.model.rows import take_rows
from openzaya.model.taps import norm_rotate

STRIPE = 512
"""Queries with more keys than their own attend so many at a time, which bounds the mask."""


class QKNorm(nn.Module):
    """Scale queries and keys to length sqrt(P) and keys by a learned temperature, then rotate.

    The temperature itself multiplies, not its exponential, and starts at 1.

    Paper: II.
    Deviation: D-004.
    """

    temp: Tensor

    def __init__(self, config: ZayaConfig) -> None:
        """Make the norm of one layer."""
        super().__init__()
        self.num_queries = config.num_attention_heads
        self.length = math.sqrt(config.head_dim)
        self.temp = nn.Parameter(torch.ones(config.num_key_value_heads))

    def forward(self, x_JNP: Tensor, rope: tuple[Tensor, Tensor]) -> Tensor:
        """Return normed and rotated heads, queries first; J = H + K."""
        eps = torch.finfo(x_JNP.dtype).eps
        cos_NR, sin_NR = (table.to(x_JNP.dtype) for table in rope)
        if is_low(x_JNP.dtype):
            norm_JN1 = x_JNP.norm(p=2, dim=-1, keepdim=True).clamp_min(eps)
            x_JNP = x_JNP * (self.length / norm_JN1)
            keys_KNP = x_JNP[self.num_queries :] * self.temp.view(-1, 1, 1)
            x_JNP = torch.cat((x_JNP[: self.num_queries], keys_KNP))
            return rotate(x_JNP, cos_NR, sin_NR)
        ones_H = self.temp.new_ones(self.num_queries)
        scale_J = torch.cat((ones_H, self.temp)).to(x_JNP.dtype) * self.length
        return norm_rotate(x_JNP, scale_J, (cos_NR, sin_NR), eps)


class Attention(nn.Module):
    """CCA projections, norm, rotation, grouped-query attention and the output projection.

    Paper: II.
    """

    def __init__(self, config: ZayaConfig, layer: int) -> None:
        """Make the attention of one layer."""
        super().__init__()
        self.layer = layer
        self.kind = config.layer_types[layer]
        self.window = config.sliding_window if self.kind == SLIDING else None
        self.num_queries = config.num_attention_heads
        self.num_keys = config.num_key_value_heads
        self.head_dim = config.head_dim
        self.rules = rules_of(config.precision)
        self.qkv_proj = CCAProjection(config, layer)
        self.qk_norm = QKNorm(config)
        self.o_proj = nn.Linear(
            config.num_attention_heads * config.head_dim, config.hidden_size, bias=False
        )

    def forward(self, h_TD: Tensor, plan: Plan, cache: Cache | None) -> Tensor:
        """Return the attention output of packed normed rows, in the weight dtype.

        A = H * P are the channels of all query heads, W = K * P those of all value heads.
        """
        mixed_JNP, v_NW = self.qkv_proj(h_TD, plan, cache)
        qk_JNP = self.qk_norm(mixed_JNP, plan.rope[self.kind]).to(h_TD.dtype)
        q_HNP, k_KNP = torch.split(qk_JNP, [self.num_queries, self.num_keys])
        v_NKP = v_NW.to(h_TD.dtype).view(-1, self.num_keys, self.head_dim)
        if cache is not None and plan.cache is not None:
            k_NKP = k_KNP.transpose(0, 1)
            if plan.single:
                cache.write(self.layer, plan.cache, k_NKP, v_NKP)
                return self._project(self._attend_one_token(q_HNP, plan.blocks[0], cache))
            k_TKP, v_TKP = k_NKP[plan.results_T], v_NKP[plan.results_T]
            cache.write(self.layer, plan.cache, k_TKP, v_TKP)
            if not plan.cache.fresh:
                out_NA = self._attend_to_cache(q_HNP, plan, cache)
                return self._project(out_NA.index_select(0, plan.results_T))
        out_NA = self._attend_inside(q_HNP, k_KNP, v_NKP, plan)
        return self._project(take_rows(out_NA, plan.results_T))

    def _project(self, out_TC: Tensor) -> Tensor:
        return F.linear(out_TC, self.o_proj.weight)

    def _attend_inside(self, q_HNP: Tensor, k_KNP: Tensor, v_NKP: Tensor, plan: Plan) -> Tensor:
        """Attend within each document of each block; lead rows land behind it, as padding."""
        sizes = [block.num_documents * (block.width + LEAD) for block in plan.blocks]
        parts: list[Tensor] = []
        # A piece that is all rows is not cut out: the backward pass would copy it.
        pieces = (
            ([x] if len(sizes) == 1 else torch.split(x, sizes, dim=dim))
            for x, dim in ((q_HNP, 1), (k_KNP, 1), (v_NKP, 0))
        )
        for block, q, k, v in zip(plan.blocks, *pieces, strict=True):
            shape = (block.num_documents, block.width + LEAD)
            out = attend(
                q.view(-1, *shape, self.head_dim).transpose(0, 1),
                k.view(-1, *shape, self.head_dim).transpose(0, 1),
                v.view(*shape, -1, self.head_dim).transpose(1, 2),
                self.window,
            )
            parts.append(out.transpose(1, 2).flatten(2).flatten(0, 1))
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def _cached(self, block: Block, cache: Cache) -> tuple[Tensor, Tensor, Tensor | None]:
        """Return keys and values [B, K, length, P] of a block's slots, and its mask."""
        seen = block.cached[self.kind]
        return *cache.read(self.layer, seen.pages_BKM, seen.length), seen.mask

    def _attend_one_token(self, q_HTP: Tensor, block: Block, cache: Cache) -> Tensor:
        """Attend from one token per slot; the queries of a key head act as its query rows."""
        keys, values, mask = self._cached(block, cache)
        q = q_HTP.view(self.num_keys, -1, *q_HTP.shape[1:]).permute(2, 0, 1, 3)
        out = F.scaled_dot_product_attention(q, keys.to(q.dtype), values.to(q.dtype), mask)
        return out.flatten(1)

    def _attend_to_cache(self, q_HNP: Tensor, plan: Plan, cache: Cache) -> Tensor:
        """Attend from several tokens per slot to everything the slot holds so far."""
        rows = q_HNP.shape[1]
        out_NA = q_HNP.new_zeros(rows, self.num_queries * self.head_dim)
        sizes = [block.num_documents * (block.width + LEAD) for block in plan.blocks]
        pieces = (torch.split(q_HNP, sizes, dim=1), torch.split(out_NA, sizes))
        for block, q, target in zip(plan.blocks, *pieces, strict=True):
            shape = (block.num_documents, block.width + LEAD)
            keys, values, mask = self._cached(block, cache)
            q_BHSP = q.view(-1, *shape, self.head_dim)[:, :, : block.width].transpose(0, 1)
            out = F.scaled_dot_product_attention(
                q_BHSP, keys.to(q.dtype), values.to(q.dtype), mask, enable_gqa=True
            )
            target.view(*shape, -1)[:, : block.width] = out.transpose(1, 2).flatten(2)
        return out_NA


def attend(q_BHTP: Tensor, k_BKSP: Tensor, v_BKSP: Tensor, window: int | None) -> Tensor:
    """Return the causal attention of the last T of S tokens, each one's over the last `window`.

    The channel axis must have stride 1: otherwise torch leaves its fused CPU kernel silently.
    """
    count, total = q_BHTP.shape[2], k_BKSP.shape[2]
    before, reach = total - count, total if window is None else window
    if not before and reach >= total:
        return F.scaled_dot_product_attention(
            q_BHTP, k_BKSP, v_BKSP, is_causal=True, enable_gqa=True
        )
    parts: list[Tensor] = []
    # Queries in stripes of one window see at most two windows of keys: linear in the length.
    stripe = STRIPE if before else reach
    for start in range(before, total, stripe):
        stop = min(start + stripe, total)
        first = max(0, start - reach + 1)
        query_Q1 = torch.arange(start, stop, device=q_BHTP.device).unsqueeze(-1)
        key_N = torch.arange(first, stop, device=q_BHTP.device)
        mask_QN = (key_N <= query_Q1) & (key_N > query_Q1 - reach)
        parts.append(
            F.scaled_dot_product_attention(
                q_BHTP[:, :, start - before : stop - before],
                k_BKSP[:, :, first:stop],
                v_BKSP[:, :, first:stop],
                mask_QN,
                enable_gqa=True,
            )
        )
    return torch.cat(parts, dim=2)
