"""Context parallelism: attention and convolutions over documents that lie on several ranks.

Before attention every rank fetches keys and values of what precedes its continued parts; before
that, the two rows that the convolutions look back on and the one of the value delay. Gradients go
back the same ways. What comes out is what one process computes.

Letters: T tokens of this rank, M rows: its tokens, documents that begin here first, and `LEAD` rows
before every continued part; G rows that arrive.

Paper: IV-A (all-gather of keys and values, point-to-point exchange of boundary tokens).
Deviation: D-045.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn import functional as F

from openzaya.model.addresses import LEAD
from openzaya.model.context import Attend
from openzaya.model.fused.layout import Packed, pack_layout
from openzaya.model.rows import put_rows, take_rows
from openzaya.model.zaya import Zaya
from openzaya.train.distributed.exchange import exchange_rows
from openzaya.train.distributed.pieces import (
    Ints,
    Part,
    Pieces,
    Route,
    halo_tokens,
    key_tokens,
    route,
)

STRIPE = 512
"""Queries of a continued part that attend at a time: bounds the mask to that many rows."""


@dataclass(frozen=True, slots=True)
class Continued:
    """One continued part in the layout of its rank."""

    row: int
    """Row of its first token; its lead rows are the two before."""
    length: int
    """Tokens of the part."""
    before_O: Tensor
    """Where the keys of the tokens before it are among those that arrive, in their order."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RankContext:
    """The other ranks' side of one batch. Implements `model.context.Context`."""

    parts: list[Continued]
    group: dist.ProcessGroup
    num_rows: int
    """M."""
    inside_rows: int
    """Rows of documents that begin here; they come first."""
    rows_T: Tensor
    """Row of every token."""
    halo: tuple[Route, Tensor, Tensor]
    """Exchange of boundary tokens, tokens to send, lead rows to fill."""
    keys: tuple[Route, Tensor]
    """Exchange of keys and values, and the rows to send."""

    def extend(self, x_TE: Tensor) -> Tensor:
        """Return projected rows with those of the tokens before every continued part.

        Where a document has only one of these, the other's row is zero, as at a beginning.
        """
        way, from_N, to_G = self.halo
        got_GE = exchange_rows(x_TE[from_N], way.sends, way.receives, self.group)
        return put_rows(x_TE, self.rows_T, self.num_rows).index_copy(0, to_G, got_GE)

    def attend(
        self, q_MHP: Tensor, k_MKP: Tensor, v_MKP: Tensor, window: int | None, inside: Attend
    ) -> Tensor:
        """Attend inside documents that begin here, then from every continued part to all before."""
        way, from_N = self.keys
        heads, head_dim = k_MKP.shape[1:]
        both = torch.cat((k_MKP[from_N], v_MKP[from_N]), dim=1)
        got_GD = exchange_rows(both.flatten(1), way.sends, way.receives, self.group)
        keys_GKP, values_GKP = torch.split(got_GD.view(-1, 2 * heads, head_dim), heads, dim=1)
        rows = self.inside_rows
        outs: list[Tensor] = []
        if rows:
            outs.append(inside(q_MHP[:rows], k_MKP[:rows], v_MKP[:rows]))
        for part in self.parts:
            own = slice(part.row, part.row + part.length)
            out_NA = attend_after(
                q_MHP[own],
                torch.cat((keys_GKP[part.before_O], k_MKP[own])),
                torch.cat((values_GKP[part.before_O], v_MKP[own])),
                window,
            )
            outs.append(F.pad(out_NA, (0, 0, LEAD, 0)))
        if not self.parts:
            # Nothing arrived, but the others wait for this rank in the backward pass too.
            outs[0] = outs[0] + got_GD.sum()
        return take_rows(torch.cat(outs), self.rows_T)


def attend_after(q_NHP: Tensor, k_SKP: Tensor, v_SKP: Tensor, window: int | None) -> Tensor:
    """Return the causal attention [N, H * P] of the last N of S positions."""
    count, total = q_NHP.shape[0], k_SKP.shape[0]
    before = total - count
    q_1HNP, k_1KSP, v_1KSP = (x.transpose(0, 1).unsqueeze(0) for x in (q_NHP, k_SKP, v_SKP))
    parts: list[Tensor] = []
    for start in range(0, count, STRIPE):
        stop = min(start + STRIPE, count)
        first = 0 if window is None else max(0, before + start - window + 1)
        query_Q1 = torch.arange(before + start, before + stop, device=q_NHP.device).unsqueeze(-1)
        key_S = torch.arange(first, before + stop, device=q_NHP.device)
        mask_QS = key_S <= query_Q1
        if window is not None:
            mask_QS &= key_S > query_Q1 - window
        out_1HQP = F.scaled_dot_product_attention(
            q_1HNP[:, :, start:stop],
            k_1KSP[:, :, first : before + stop],
            v_1KSP[:, :, first : before + stop],
            mask_QS,
            enable_gqa=True,
        )
        parts.append(out_1HQP.squeeze(0).transpose(0, 1).flatten(1))
    return torch.cat(parts)


def layout_of_rank(model: Zaya, pieces: Pieces, group: dist.ProcessGroup) -> Packed:
    """Lay out this rank's tokens of a batch: documents that begin here, then continued parts."""
    rank = dist.get_rank(group)
    parts = pieces.parts(rank)
    order = sorted(range(len(parts)), key=lambda index: parts[index].offset > 0)
    leads = [LEAD * (part.offset > 0) for part in parts]
    lengths = [leads[index] + parts[index].length for index in order]
    begins = dict(zip(order, np.cumsum([0, *lengths[:-1]]).tolist(), strict=True))
    heads = [begins[index] + lead for index, lead in enumerate(leads)]
    spans = [np.arange(part.length) + head for part, head in zip(parts, heads, strict=True)]
    rows: Ints = np.concatenate(spans)
    halo = route(pieces, rank, [halo_tokens(pieces, r) for r in range(pieces.num_ranks)])
    keys = route(pieces, rank, [key_tokens(pieces, r) for r in range(pieces.num_ranks)])

    def on(index: Ints) -> Tensor:
        return torch.from_numpy(np.asarray(index, dtype=np.int64)).to(model.device)

    continued = [
        Continued(
            head, part.length, on(places(keys.arriving_G, part.first - part.offset, part.first))
        )
        for part, head in zip(parts, heads, strict=True)
        if part.offset
    ]
    context = RankContext(
        parts=continued,
        group=group,
        num_rows=sum(lengths),
        inside_rows=sum(part.length for part in parts if not part.offset),
        rows_T=on(rows),
        halo=(halo, on(halo.send_N), on(lead_rows(halo.arriving_G, parts, heads))),
        keys=(keys, on(rows[keys.send_N])),
    )
    return pack_layout(
        model.config,
        model.rope_thetas,
        lengths,
        model.device,
        native=model.has_native(),
        offsets=[parts[index].offset - leads[index] for index in order],
        context=context,
    )


def places(tokens_G: Ints, first: int, stop: int) -> Ints:
    """Return where the tokens from `first` to before `stop` are among others."""
    order_G = np.argsort(tokens_G)
    found: Ints = order_G[np.searchsorted(tokens_G[order_G], np.arange(first, stop))]
    return found


def lead_rows(tokens_G: Ints, parts: Sequence[Part], heads: Sequence[int]) -> Ints:
    """Return the lead rows that stand for tokens just before continued parts."""
    lead_of = {
        part.first - back: head - back
        for part, head in zip(parts, heads, strict=True)
        for back in range(1, min(LEAD, part.offset) + 1)
    }
    return np.array([lead_of[int(token)] for token in tokens_G], dtype=np.int64)
