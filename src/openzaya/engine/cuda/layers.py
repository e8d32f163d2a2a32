"""The layers, launch by launch: one sequence for few tokens, one for many.

Few tokens are bound by reading weights and by launches: nine of them a layer, with norms and
residuals inside the products. Many tokens are bound by the products: torch's own, with the norm as
a kernel between them.

Paper: II.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from openzaya.engine.cuda.attention import Tiles, attend
from openzaya.engine.cuda.cca import LayerCache, TokenAddresses, keep_tails, mix
from openzaya.engine.cuda.experts import few_tokens
from openzaya.engine.cuda.grouped import many_tokens
from openzaya.engine.cuda.linear import linear, linear_into_stream
from openzaya.engine.cuda.residual import Branch, add_and_norm
from openzaya.engine.cuda.router import choose
from openzaya.engine.cuda.weights import LayerWeights, Weights


@dataclass(frozen=True, kw_only=True, slots=True)
class Tails:
    """Which tails a pass leaves behind."""

    last_B: Tensor
    """int32 last token of each document."""
    slots_B: Tensor
    """int32 slot of each document."""
    inner_M: Tensor
    """int32 tokens that end a block inside their document."""
    rows_M: Tensor
    """int32 0 to M - 1."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Addresses:
    """Where one pass reads and writes."""

    tokens: TokenAddresses
    """Of each token."""
    tiles: Mapping[str, Tiles]
    """Of attention, by layer type."""
    tails: Tails | None
    """None when every document is one token."""


def decode_layers(
    stream_TD: Tensor,
    weights: Weights,
    caches: Sequence[LayerCache],
    at: Addresses,
    experts_TL: Tensor,
) -> Tensor:
    """Return the stream after all layers when every document is one token.

    Keys, values and tails go to the cache, choices to `experts_TL`. `stream_TD` is used up.
    """
    state_TR: Tensor | None = None
    for index, (layer, cache) in enumerate(zip(weights.layers, caches, strict=True)):
        rows_TN = linear(stream_TD, layer.cca.qkv_ND, norm=layer.norm_in)
        rope = weights.rope[layer.kind]
        queries_THP = mix(rows_TN, layer.cca, rope, at.tokens, cache, updates=True)
        out_THP = attend(queries_THP, cache, at.tokens, at.tiles[layer.kind], layer.window)
        linear_into_stream(
            out_THP.flatten(1), layer.cca.output_DA, layer.after_attention, stream_TD
        )
        router = layer.router
        latent_TR = linear(
            stream_TD, router.down_RD, bias_N=router.down_bias_R, norm=layer.norm_post
        )
        choice = choose(latent_TR, state_TR, router, at.tokens.slot_T, (experts_TL, index))
        state_TR = choice.state_TR
        stream_TD = few_tokens(
            stream_TD, layer.norm_post, choice, layer.experts, layer.after_experts
        )
    return stream_TD


def prefill_layers(
    stream_TD: Tensor,
    weights: Weights,
    caches: Sequence[LayerCache],
    at: Addresses,
    inner: Sequence[tuple[Tensor, Tensor]],
    experts_TL: Tensor,
) -> Tensor:
    """Return the stream after all layers for documents of any length.

    `inner` receives conv and delayed state at the inner block ends, one pair a layer. `stream_TD`
    is used up.
    """
    state_TR: Tensor | None = None
    pending: Branch | None = None
    for index, (layer, cache) in enumerate(zip(weights.layers, caches, strict=True)):
        h_TD = add_and_norm(stream_TD, layer.norm_in, pending)
        out_TD = _attention(h_TD, layer, weights.rope[layer.kind], cache, at, inner[index])
        branch = Branch(rows_ND=out_TD, scaling=layer.after_attention)
        h_TD = add_and_norm(stream_TD, layer.norm_post, branch)
        router = layer.router
        latent_TR = linear(h_TD, router.down_RD, bias_N=router.down_bias_R)
        choice = choose(latent_TR, state_TR, router, at.tokens.slot_T, (experts_TL, index))
        state_TR = choice.state_TR
        rows_ND, place_T = many_tokens(h_TD, choice, layer.experts)
        pending = Branch(
            rows_ND=rows_ND,
            scaling=layer.after_experts,
            place_T=place_T,
            gate_T=choice.gate_T,
            skipped_TD=h_TD if layer.experts.identity_skip else None,
        )
    add_and_norm(stream_TD, weights.norm, pending)
    return stream_TD


def _attention(
    h_TD: Tensor,
    layer: LayerWeights,
    rope: tuple[Tensor, Tensor],
    cache: LayerCache,
    at: Addresses,
    inner: tuple[Tensor, Tensor],
) -> Tensor:
    """Return the attention output before it meets the stream, [T, D]."""
    assert at.tails is not None
    rows_TN = F.linear(h_TD, layer.cca.qkv_ND)
    queries_THP = mix(rows_TN, layer.cca, rope, at.tokens, cache, updates=False)
    tails = at.tails
    # The inner ends first: they still need the tails from before the pass.
    keep_tails(rows_TN, at.tokens, cache, tails.inner_M, tails.rows_M, inner)
    own = (cache.conv, cache.delayed)
    keep_tails(rows_TN, at.tokens, cache, tails.last_B, tails.slots_B, own)
    out_THP = attend(queries_THP, cache, at.tokens, at.tiles[layer.kind], layer.window)
    return F.linear(out_THP.flatten(1), layer.cca.output_DA)


def head(stream_ND: Tensor, weights: Weights, out_NV: Tensor | None = None) -> Tensor:
    """Return the logits [N, V] of rows of the stream in fp32, final norm included."""
    if not len(stream_ND):
        return torch.empty((0, len(weights.head_VD)), device=stream_ND.device)
    return linear(stream_ND, weights.head_VD, norm=weights.norm, out_TN=out_NV)
