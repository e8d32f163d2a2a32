"""Context parallelism: attention and convolutions over documents that lie on several ranks.

Before attention every rank fetches keys and values of what precedes its continued parts; before
that, the two rows that the convolutions look back on and the one of the value delay. Gradients go
back the same ways. What comes out is what one process computes.

Letters: T tokens of this rank; M rows, its tokens and `LEAD` before every continued part; G rows
that arrive; S keys of all documents of which the rank has a part, up to its own tokens.

Paper: IV-A (all-gather of keys and values, point-to-point exchange of boundary tokens).
Deviation: D-045.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from openzaya.model.addresses import LEAD
from openzaya.model.context import Attend
from openzaya.model.documents import Documents
from openzaya.model.fused.layout import Packed, pack_layout
from openzaya.model.fused.native.library import reason_against_native
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


@dataclass(frozen=True, kw_only=True, slots=True)
class RankContext:
    """The other ranks' side of one batch. Implements `model.context.Context`."""

    group: dist.ProcessGroup
    num_rows: int
    """M."""
    rows_T: Tensor
    """Row of every token."""
    halo: tuple[Route, Tensor, Tensor]
    """Exchange of boundary tokens, tokens to send, lead rows to fill."""
    keys: tuple[Route, Tensor, Tensor]
    """Exchange of keys and values, rows to send, where all S are among rows and arrivals."""
    parts: tuple[Documents, Documents]
    """Where the documents lie among the T tokens and among the S keys."""

    def extend(self, x_TE: Tensor) -> Tensor:
        """Return projected rows with those of the tokens before every continued part.

        Where a document has only one of these, the other's row is zero, as at a beginning.
        """
        way, from_N, to_G = self.halo
        got_GE = exchange_rows(x_TE[from_N], way.sends, way.receives, self.group)
        return put_rows(x_TE, self.rows_T, self.num_rows).index_copy(0, to_G, got_GE)

    def attend(self, q_MHP: Tensor, k_MKP: Tensor, v_MKP: Tensor, attend: Attend) -> Tensor:
        """Attend from this rank's tokens to all before them, wherever those are."""
        way, from_N, all_S = self.keys
        both_MD = torch.cat((k_MKP, v_MKP), dim=1).flatten(1)
        got_GD = exchange_rows(both_MD[from_N], way.sends, way.receives, self.group)
        both_SD = torch.cat((both_MD, got_GD)).index_select(0, all_S)
        k_SKP, v_SKP = both_SD.view(-1, 2, *k_MKP.shape[1:]).unbind(1)
        q_THP = take_rows(q_MHP.flatten(1), self.rows_T).view(-1, *q_MHP.shape[1:])
        return attend(q_THP, k_SKP, v_SKP, *self.parts)


def layout_of_rank(
    model: Zaya, pieces: Pieces, group: dist.ProcessGroup, dtype: torch.dtype
) -> Packed:
    """Lay out this rank's tokens of a batch, part by part; layers compute in `dtype`.

    The weights do not tell: until FSDP gathers them they are fp32 shards.
    """
    rank = dist.get_rank(group)
    parts = pieces.parts(rank)
    leads = [LEAD * (part.offset > 0) for part in parts]
    lengths = [lead + part.length for lead, part in zip(leads, parts, strict=True)]
    heads = (np.cumsum(lengths) - [part.length for part in parts]).tolist()
    spans = [np.arange(part.length) + head for part, head in zip(parts, heads, strict=True)]
    rows_T: Ints = np.concatenate(spans)
    halo = route(pieces, rank, [halo_tokens(pieces, r) for r in range(pieces.num_ranks)])
    keys = route(pieces, rank, [key_tokens(pieces, r) for r in range(pieces.num_ranks)])

    def on(index: Ints) -> Tensor:
        return torch.from_numpy(np.asarray(index, dtype=np.int64)).to(model.device)

    def documents(lengths: Sequence[int]) -> Documents:
        return Documents.of(lengths, model.device)

    all_S = [
        rows
        for before, own in zip(key_places(keys.arriving_G, parts), spans, strict=True)
        for rows in (before + sum(lengths), own)
    ]
    context = RankContext(
        group=group,
        num_rows=sum(lengths),
        rows_T=on(rows_T),
        halo=(halo, on(halo.send_N), on(lead_rows(halo.arriving_G, parts, heads))),
        keys=(keys, on(rows_T[keys.send_N]), on(np.concatenate(all_S))),
        parts=(
            documents([part.length for part in parts]),
            documents([part.offset + part.length for part in parts]),
        ),
    )
    return pack_layout(
        model.config,
        model.rope_thetas,
        lengths,
        model.device,
        native=not reason_against_native(dtype, model.device),
        offsets=[part.offset - lead for lead, part in zip(leads, parts, strict=True)],
        context=context,
    )


def key_places(tokens_G: Ints, parts: Sequence[Part]) -> list[Ints]:
    """Return where the tokens before each part, of its document, are among those that arrive."""
    order_G = np.argsort(tokens_G)
    sorted_G = tokens_G[order_G]
    befores = [np.arange(part.first - part.offset, part.first) for part in parts]
    return [order_G[np.searchsorted(sorted_G, before)] for before in befores]


def lead_rows(tokens_G: Ints, parts: Sequence[Part], heads: Sequence[int]) -> Ints:
    """Return the lead rows that stand for tokens just before continued parts."""
    lead_of = {
        part.first - back: head - back
        for part, head in zip(parts, heads, strict=True)
        for back in range(1, min(LEAD, part.offset) + 1)
    }
    return np.array([lead_of[int(token)] for token in tokens_G], dtype=np.int64)
