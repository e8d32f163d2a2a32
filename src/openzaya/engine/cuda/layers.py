"""The layers, launch by launch: one sequence for few rows, one for many.

Few rows are bound by reading weights and by launches: nine of them a layer, which overlap, with
norms and residuals inside the products. Many are bound by the products: torch's own, with the norm
as a kernel between them.

Paper: II.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional as F

from openzaya.engine.cuda.attention import Shares, Tiles, attend, attend_shares
from openzaya.engine.cuda.cca import LayerCache, TokenAddresses, mix
from openzaya.engine.cuda.cca_rows import mix_rows
from openzaya.engine.cuda.expert_rows import one_by_one
from openzaya.engine.cuda.experts import MAX_TOKENS, few_tokens
from openzaya.engine.cuda.grouped import many_tokens
from openzaya.engine.cuda.linear import row_linear, row_linear_into_stream, wide_linear
from openzaya.engine.cuda.residual import Branch, Routed, add_and_norm
from openzaya.engine.cuda.router import Choice, choose
from openzaya.engine.cuda.router_rows import MAX_ROWS, choose_rows
from openzaya.engine.cuda.tails import keep_tails
from openzaya.engine.cuda.weights import LayerWeights, Weights

MAX_SHARES = 8
"""More shares of attention are joined once, not by every program of the output projection."""


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
    inner: Sequence[tuple[Tensor, Tensor]]
    """Where conv and delayed state at the inner ends go, M rows each, by layer."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Addresses:
    """Where one pass reads and writes."""

    tokens: TokenAddresses
    """Of each token."""
    tiles: Mapping[str, Tiles]
    """Of attention, by layer type."""
    tails: Tails | None
    """None when every document is one token."""


def row_layers(
    stream_TD: Tensor,
    weights: Weights,
    caches: Sequence[LayerCache],
    at: Addresses,
    experts_TL: Tensor,
) -> Tensor:
    """Return the stream after all layers for a few documents of one token.

    Keys, values and tails go to the cache, choices to `experts_TL`. `stream_TD` is used up.
    """
    state_TR: Tensor | None = None
    for index, (layer, cache) in enumerate(zip(weights.layers, caches, strict=True)):
        rows_TN = row_linear(stream_TD, layer.cca.qkv_ND, norm=layer.norm_in)
        queries_THP = mix_rows(rows_TN, layer.cca, weights.rope[layer.kind], at.tokens, cache)
        tiles, seen = at.tiles[layer.kind], layer.window
        out: Tensor | Shares
        if 1 < tiles.splits <= MAX_SHARES:
            out = attend_shares(queries_THP, cache, at.tokens, tiles, seen)
        else:
            out = attend(queries_THP, cache, at.tokens, tiles, seen).flatten(1)
        row_linear_into_stream(out, layer.cca.output_DA, layer.after_attention, stream_TD)
        latent_TR = row_linear(stream_TD, layer.router.down_RD, norm=layer.norm_post)
        record = (experts_TL, index)
        choice = choose_rows(latent_TR, state_TR, layer.router, at.tokens.slot_T, record)
        state_TR = choice.state_TR
        stream_TD = one_by_one(
            stream_TD, layer.norm_post, choice, layer.experts, layer.after_experts
        )
    return stream_TD


def tile_layers(
    stream_TD: Tensor,
    weights: Weights,
    caches: Sequence[LayerCache],
    at: Addresses,
    experts_TL: Tensor,
) -> Tensor:
    """Return the normed stream after all layers, in the dtype of the weights.

    For documents of any length, or, without `at.tails`, for many of one token. `stream_TD` is used
    up.
    """
    state_TR: Tensor | None = None
    pending: Branch | None = None
    for index, (layer, cache) in enumerate(zip(weights.layers, caches, strict=True)):
        h_TD = add_and_norm(stream_TD, layer.norm_in, pending)
        out_TD = _attention(h_TD, layer, weights.rope[layer.kind], (index, cache), at)
        branch = Branch(rows_ND=out_TD, scaling=layer.after_attention)
        h_TD = add_and_norm(stream_TD, layer.norm_post, branch)
        latent_TR = wide_linear(h_TD, layer.router.down_RD)
        decide = choose_rows if len(h_TD) <= MAX_ROWS else choose
        record = (experts_TL, index)
        choice = decide(latent_TR, state_TR, layer.router, at.tokens.slot_T, record)
        state_TR = choice.state_TR
        pending = _experts(h_TD, choice, layer)
    return add_and_norm(stream_TD, weights.norm, pending)


def _attention(
    h_TD: Tensor,
    layer: LayerWeights,
    rope: tuple[Tensor, Tensor],
    numbered: tuple[int, LayerCache],
    at: Addresses,
) -> Tensor:
    """Return the attention output before it meets the stream, [T, D]."""
    index, cache = numbered
    rows_TN = F.linear(h_TD, layer.cca.qkv_ND)
    tails, own = at.tails, (cache.conv, cache.delayed)
    queries_THP = mix(rows_TN, layer.cca, rope, at.tokens, cache, updates=tails is None)
    if tails is not None:
        # The inner ends first: they still need the tails from before the pass.
        keep_tails(rows_TN, at.tokens, cache, tails.inner_M, tails.rows_M, tails.inner[index])
        keep_tails(rows_TN, at.tokens, cache, tails.last_B, tails.slots_B, own)
    out_THP = attend(queries_THP, cache, at.tokens, at.tiles[layer.kind], layer.window)
    return F.linear(out_THP.flatten(1), layer.cca.output_DA)


def _experts(h_TD: Tensor, choice: Choice, layer: LayerWeights) -> Branch:
    """Return what the experts add to the stream."""
    place_T: Tensor | None = None
    if len(h_TD) <= MAX_TOKENS:
        rows_ND = few_tokens(h_TD, choice, layer.experts)
    else:
        rows_ND, place_T = many_tokens(h_TD, choice, layer.experts)
    routed = Routed(
        choice=choice,
        num_experts=layer.experts.down_EDF.shape[0],
        place_T=place_T,
        skipped_TD=h_TD if layer.experts.identity_skip else None,
    )
    return Branch(rows_ND=rows_ND, scaling=layer.after_experts, routed=routed)
