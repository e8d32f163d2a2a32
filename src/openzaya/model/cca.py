"""Compressed convolutional attention: projections into the compressed space.

Paper: II.
Source: arXiv:2510.04476.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from openzaya.model.addresses import LEAD, CacheRows
from openzaya.model.cache import Cache
from openzaya.model.config import ZayaConfig
from openzaya.model.plan import Plan
from openzaya.model.precision import is_low, raise_to_fp32, rules_of
from openzaya.model.rows import put_rows
from openzaya.model.taps import ConvWeights, delay_values, fold, mix_folded, mix_stepwise

FOLD_MIN_ROWS = 64
"""Below this many rows, and without gradient, the convolutions run as stored."""


class TwoTaps(nn.Module):
    """Weights of a causal convolution over two tokens; `CCAProjection` applies them."""

    weight: Tensor
    bias: Tensor

    def __init__(self, channels: int, inputs: int) -> None:
        """Make the weights of `channels` outputs with `inputs` input channels each."""
        super().__init__()
        self.weight = nn.Parameter(torch.empty(channels, inputs, 2))
        self.bias = nn.Parameter(torch.zeros(channels))


class CCAProjection(nn.Module):
    """Project normed rows to queries and keys, mixed over three tokens, and half-delayed values.

    A query is its convolution plus the mean of itself and its key; a key is its convolution plus
    the mean of itself and its queries. Half of the value channels come from the token before.

    Paper: II.
    Source: arXiv:2510.04476.
    """

    def __init__(self, config: ZayaConfig, layer: int) -> None:
        """Make the projections of one layer."""
        super().__init__()
        self.layer = layer
        self.rules = rules_of(config.precision)
        self.num_queries = config.num_attention_heads
        self.head_dim = config.head_dim
        width, channels = config.hidden_size, config.conv_channels
        half = config.kv_channels // 2
        heads = config.num_attention_heads + config.num_key_value_heads
        self.q_proj = nn.Linear(width, config.num_attention_heads * config.head_dim, bias=False)
        self.k_proj = nn.Linear(width, config.kv_channels, bias=False)
        self.v_proj_current = nn.Linear(width, half, bias=False)
        self.v_proj_delayed = nn.Linear(width, half, bias=False)
        self.conv_qk_depthwise = TwoTaps(channels, 1)
        self.conv_qk_grouped = TwoTaps(channels, channels // heads)

    def forward(self, h_TD: Tensor, plan: Plan, cache: Cache | None) -> tuple[Tensor, Tensor]:
        """Return queries with keys [J, N, P] and values [N, W] of the plan's N result rows.

        W = K * P are the value channels; M = N + 2 are the padded rows.
        """
        if plan.single and cache is not None and plan.cache is not None:
            return self._continue_one_token(h_TD, plan.cache, cache)
        padded_MD = put_rows(h_TD, plan.rows_T, plan.num_rows + LEAD)
        u_MC, v_MW = self._project(padded_MD)
        if cache is not None and plan.cache is not None:
            self._exchange_state(u_MC, v_MW, plan.cache, cache)
        return self._mix(u_MC), delay_values(v_MW)

    def _project(self, h_ND: Tensor) -> tuple[Tensor, Tensor]:
        """Return projected queries with keys, and current with delayed values."""
        qk = (self.q_proj.weight, self.k_proj.weight)
        values = (self.v_proj_current.weight, self.v_proj_delayed.weight)
        if torch.is_grad_enabled():
            # One product each instead of four: the gradient of h is summed inside the product.
            u = F.linear(h_ND, torch.cat(qk))
            v = F.linear(h_ND, torch.cat(values))
        else:
            u = torch.cat([F.linear(h_ND, weight) for weight in qk], dim=-1)
            v = torch.cat([F.linear(h_ND, weight) for weight in values], dim=-1)
        if self.rules.fp32_cca:
            return raise_to_fp32(u), raise_to_fp32(v)
        return u, v

    def _conv_weights(self) -> ConvWeights:
        first, second = self.conv_qk_depthwise, self.conv_qk_grouped
        cast = raise_to_fp32 if self.rules.fp32_cca else _as_is
        return ConvWeights(
            depthwise_C2=cast(first.weight.squeeze(1)),
            shift_C=cast(first.bias),
            grouped_CP2=cast(second.weight),
            bias_C=cast(second.bias),
        )

    def _mix(self, u_MC: Tensor) -> Tensor:
        weights = self._conv_weights()
        # transformers rounds after each convolution; folding would skip that rounding.
        small = not torch.is_grad_enabled() and u_MC.shape[0] < FOLD_MIN_ROWS
        if small or is_low(u_MC.dtype):
            window_NC3 = torch.stack((u_MC[:-2], u_MC[1:-1], u_MC[2:]), dim=-1)
            return mix_stepwise(window_NC3, weights, self.num_queries)
        folded = fold(weights.depthwise_C2, weights.shift_C, weights.grouped_CP2, weights.bias_C)
        return mix_folded(u_MC, folded, self.num_queries)

    def _exchange_state(self, u_MC: Tensor, v_MW: Tensor, rows: CacheRows, cache: Cache) -> None:
        """Fill the lead rows from the cache, then store the last rows of each document there."""
        conv, delayed = cache.conv[self.layer], cache.delayed[self.layer]
        half = delayed.shape[-1]
        if not rows.fresh:
            u_MC[rows.lead_N] = conv[rows.slots].flatten(0, 1).to(u_MC.dtype)
            v_MW[rows.lead_N[1::2], half:] = delayed[rows.slots].to(v_MW.dtype)
        conv[rows.slots] = u_MC[rows.last_N].view(-1, LEAD, u_MC.shape[1]).to(conv.dtype)
        delayed[rows.slots] = v_MW[rows.last_N[1::2], half:].to(delayed.dtype)
        if rows.ends_E is not None:
            inner = cache.inner_conv[self.layer]
            inner.copy_(u_MC[rows.ends_E].view_as(inner))
            cache.inner_delayed[self.layer].copy_(v_MW[rows.ends_E[1::2], half:])

    def _continue_one_token(
        self, h_TD: Tensor, rows: CacheRows, cache: Cache
    ) -> tuple[Tensor, Tensor]:
        u_TC, v_TW = self._project(h_TD)
        conv, delayed = cache.conv[self.layer], cache.delayed[self.layer]
        half = delayed.shape[-1]
        before_TC2 = conv[rows.slots].mT.to(u_TC.dtype)
        window_TC3 = torch.cat((before_TC2, u_TC.unsqueeze(-1)), dim=-1)
        conv[rows.slots] = window_TC3[..., 1:].mT.to(conv.dtype)
        late_TW = torch.cat((v_TW[:, :half], delayed[rows.slots].to(v_TW.dtype)), dim=-1)
        delayed[rows.slots] = v_TW[:, half:].to(delayed.dtype)
        return mix_stepwise(window_TC3, self._conv_weights(), self.num_queries), late_TW


def _as_is(x: Tensor) -> Tensor:
    return x
