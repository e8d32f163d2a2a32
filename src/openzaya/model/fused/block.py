"""One decoder layer over packed rows, from the same parameters as `model.block`.

Paper: II.
"""

from functools import partial
from types import ModuleType
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from openzaya.model.attention import Attention
from openzaya.model.experts import MixtureOfExperts
from openzaya.model.fused import regions
from openzaya.model.fused.attention import attend_packed
from openzaya.model.fused.experts import mix_experts, reason_against_grouping
from openzaya.model.fused.layout import Packed
from openzaya.model.fused.native import experts as native_experts
from openzaya.model.fused.native import rows
from openzaya.model.fused.native.attention import attend
from openzaya.model.fused.native.cca import MixWeights, mix
from openzaya.model.norm import RMSNorm
from openzaya.model.residual import ResidualScaling
from openzaya.model.router import Router, Routing


def attention(part: Attention, h_TD: Tensor, layout: Packed) -> Tensor:
    """Return the attention output of packed normed rows."""
    mixed = (native_heads if layout.native else heads)(part, h_TD, layout)
    way = partial(attend if layout.native else attend_packed, window=part.window)
    if layout.context is None:
        out_TA = way(*mixed, layout.documents, layout.documents)
    else:
        out_TA = layout.context.attend(*mixed, way)
    return F.linear(out_TA, part.o_proj.weight)


def heads(part: Attention, h_TD: Tensor, layout: Packed) -> tuple[Tensor, Tensor, Tensor]:
    """Return rotated queries [T, H, P] and keys [T, K, P], and half-delayed values [T, K, P].

    With a context there are more rows than tokens: see `model.context`.
    """
    cca = part.qkv_proj
    u_TC = F.linear(h_TD, torch.cat((cca.q_proj.weight, cca.k_proj.weight)))
    v_TW = F.linear(h_TD, torch.cat((cca.v_proj_current.weight, cca.v_proj_delayed.weight)))
    if layout.context is not None:
        x_TE = layout.context.extend(torch.cat((u_TC, v_TW), dim=1))
        u_TC, v_TW = (
            x.contiguous() for x in torch.split(x_TE, [u_TC.shape[1], v_TW.shape[1]], dim=1)
        )
    first, second = cca.conv_qk_depthwise, cca.conv_qk_grouped
    num_heads, width = part.num_queries + part.num_keys, part.head_dim
    pairs = regions.first_convolution(
        u_TC,
        first.weight.squeeze(1),
        first.bias,
        (layout.has_one_T, layout.has_two_T),
        width,
    )
    # Both taps in one product: [P out, P in, 2] becomes [2 P in, P out].
    taps = second.weight.view(num_heads, width, width, 2).permute(0, 3, 2, 1).flatten(1, 2)
    conv_JTP = torch.bmm(pairs.transpose(0, 1), taps)
    q_THP, k_TKP = regions.mix_heads(
        conv_JTP, u_TC, second.bias, part.qk_norm.temp, layout.rope[part.kind]
    )
    v_TKP = regions.delay(v_TW, layout.has_one_T).view(-1, part.num_keys, width)
    return q_THP, k_TKP, v_TKP


def native_heads(part: Attention, h_TD: Tensor, layout: Packed) -> tuple[Tensor, Tensor, Tensor]:
    """Return the same in fp32 by our C++, behind one product."""
    cca = part.qkv_proj
    projections = (cca.q_proj, cca.k_proj, cca.v_proj_current, cca.v_proj_delayed)
    x_TE = F.linear(h_TD, torch.cat([projection.weight for projection in projections]))
    if layout.context is not None:
        x_TE = layout.context.extend(x_TE)
    weights = MixWeights(
        depthwise_C2=cca.conv_qk_depthwise.weight.squeeze(1),
        shift_C=cca.conv_qk_depthwise.bias,
        grouped_CP2=cca.conv_qk_grouped.weight,
        bias_C=cca.conv_qk_grouped.bias,
        temp_K=part.qk_norm.temp,
    )
    return mix(x_TE, weights, layout.documents.ends_B, layout.rope[part.kind])


def steps_of(layout: Packed) -> ModuleType:
    """Return the module with the steps of single rows: the same functions in C++ or in torch."""
    return rows if layout.native else regions


def route(
    part: Router,
    h_TD: Tensor,
    previous_TR: Tensor | None,
    replay_T: Tensor | None,
    steps: ModuleType,
) -> Routing:
    """Route packed rows; the weight is fp32 whatever the rows are."""
    mlp = part.router_mlp
    state_TR = part.down_proj(h_TD)
    if part.averages and previous_TR is not None:
        state_TR, normed_TR = steps.averaged_state(
            state_TR, previous_TR, part.router_states_scale, mlp.norm.weight, mlp.norm.eps
        )
    else:
        normed_TR = steps.first_state(state_TR, mlp.norm.weight, mlp.norm.eps)
    hidden_TR = regions.gelu(mlp.fc1(normed_TR))
    scores_TX = mlp.out_proj(regions.gelu(mlp.fc2(hidden_TR)))
    expert_T, gate_T, probs_TX = steps.choose(scores_TX, part.balancing_biases, replay_T)
    return Routing(expert_T, gate_T, state_TR, probs_TX)


def mixture(
    part: MixtureOfExperts,
    h_TD: Tensor,
    previous_TR: Tensor | None,
    replay_T: Tensor | None,
    layout: Packed,
) -> tuple[Tensor, Routing]:
    """Return the mixture's output of packed normed rows, and the routing.

    On an accelerator tokens that skip pass the last expert with weight 0: leaving them out would
    have to wait for their number.
    """
    routing = route(part.gate, h_TD, previous_TR, replay_T, steps_of(layout))
    stacks = part.experts.gate_up_proj, part.experts.down_proj
    if part.experts.are_elsewhere or reason_against_grouping(
        h_TD.dtype, h_TD.device, [h_TD.shape[1], stacks[1].shape[2]]
    ):
        return part.mix(h_TD, routing), routing
    if layout.native:
        out_TD = native_experts.mix_experts(
            h_TD, routing.expert_T, routing.gate_T, stacks, identity_skip=part.identity_skip
        )
        return out_TD, routing
    last = part.num_choices - 2
    is_kept_T = routing.expert_T <= last
    out_TD = mix_experts(
        h_TD, routing.expert_T.clamp_max(last), routing.gate_T * is_kept_T, *stacks
    )
    if part.identity_skip:
        out_TD = regions.add_identity(out_TD, h_TD, routing.gate_T * ~is_kept_T)
    return out_TD, routing


def scaling_of(part: ResidualScaling) -> list[Tensor]:
    """Return the vectors of a residual scaling in the order that the regions take them."""
    return [
        part.hidden_states_scale,
        part.hidden_states_bias,
        part.residual_scale,
        part.residual_bias,
    ]


def decoder_layer(
    part: "Block", x_TD: Tensor, previous_TR: Tensor | None, replay_T: Tensor | None, layout: Packed
) -> tuple[Tensor, Routing]:
    """Return the fp32 stream after a layer, and its routing."""
    steps = steps_of(layout)
    norm, eps = part.post_attention_layernorm, part.post_attention_layernorm.eps
    h_TD = steps.norm_rows(x_TD, part.input_layernorm.weight, eps)
    x_TD, h_TD = steps.add_branch_and_norm(
        attention(part.self_attn, h_TD, layout),
        x_TD,
        scaling_of(part.post_attention_residual_scale),
        norm.weight,
        eps,
    )
    mixed_TD, routing = mixture(part.mlp, h_TD, previous_TR, replay_T, layout)
    scaling = scaling_of(part.post_mlp_residual_scale)
    return steps.add_branch(mixed_TD, x_TD, scaling), routing


class Block(Protocol):
    """What `model.block.Block` is made of."""

    input_layernorm: RMSNorm
    self_attn: Attention
    post_attention_residual_scale: ResidualScaling
    post_attention_layernorm: RMSNorm
    mlp: MixtureOfExperts
    post_mlp_residual_scale: ResidualScaling
