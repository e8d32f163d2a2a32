"""Context parallelism: attention and convolutions over documents that lie on several ranks.

Before attention every rank fetches keys and values of what precedes its continued parts; before
that, the two rows that the convolutions look back on and the one of the value delay. Gradients go
back the same ways. What comes out is what one process computes.

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
from openzaya.model.config import ZayaConfig
from openzaya.model.context import Attend
from openzaya.model.plan import Block, Plan, group_by_length
from openzaya.model.rope import rope_tables
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
    """One continued part in the plan of its rank."""

    row: int
    """Its first result row; its lead rows are the padded rows `row` and `row` + 1."""
    length: int
    """Tokens of the part."""
    before_O: Tensor
    """Where the keys of the tokens before it are among those that arrive, in their order."""


class RankContext:
    """The other ranks' side of one batch. Implements `model.context.Context`."""

    def __init__(self, parts: list[Continued], group: dist.ProcessGroup) -> None:
        self.parts = parts
        self.group = group
        self.inside_rows = 0
        """Result rows of documents that begin here; they come first."""
        self.halo: tuple[Route, Tensor, Tensor]
        """Exchange of boundary rows, padded rows to send, padded lead rows to fill."""
        self.keys: tuple[Route, Tensor]
        """Exchange of keys and values, and the result rows to send."""

    def fill_leads(self, u_MC: Tensor, v_MW: Tensor) -> tuple[Tensor, Tensor]:
        """Fetch queries with keys, and delayed values, of the tokens before continued parts."""
        way, from_N, to_G = self.halo
        half = v_MW.shape[1] // 2
        send_ND = torch.cat((u_MC[from_N], v_MW[from_N, half:]), dim=1)
        got_GD = exchange_rows(send_ND, way.sends, way.receives, self.group)
        u_GC, late_GV = torch.split(got_GD, [u_MC.shape[1], half], dim=1)
        v_GW = F.pad(late_GV, (half, 0))
        return u_MC.index_copy(0, to_G, u_GC), v_MW.index_copy(0, to_G, v_GW)

    def attend(
        self, q_HNP: Tensor, k_KNP: Tensor, v_NKP: Tensor, window: int | None, inside: Attend
    ) -> Tensor:
        """Attend inside documents that begin here, then from every continued part to all before."""
        way, from_N = self.keys
        heads, head_dim = k_KNP.shape[0], k_KNP.shape[2]
        both = torch.cat((k_KNP.transpose(0, 1)[from_N], v_NKP[from_N]), dim=1)
        got_GD = exchange_rows(both.flatten(1), way.sends, way.receives, self.group)
        keys_GKP, values_GKP = torch.split(got_GD.view(-1, 2 * heads, head_dim), heads, dim=1)
        rows = self.inside_rows
        outs: list[Tensor] = []
        if rows:
            outs.append(inside(q_HNP[:, :rows], k_KNP[:, :rows], v_NKP[:rows]))
        for part in self.parts:
            own = slice(part.row, part.row + part.length)
            out_NA = attend_after(
                q_HNP[:, own],
                torch.cat((keys_GKP[part.before_O], k_KNP[:, own].transpose(0, 1))),
                torch.cat((values_GKP[part.before_O], v_NKP[own])),
                window,
            )
            outs.append(F.pad(out_NA, (0, 0, 0, LEAD)))
        if not self.parts:
            # Nothing arrived, but the others wait for this rank in the backward pass too.
            outs[0] = outs[0] + got_GD.sum()
        return torch.cat(outs)


def attend_after(q_HNP: Tensor, k_SKP: Tensor, v_SKP: Tensor, window: int | None) -> Tensor:
    """Return the causal attention [N, H * P] of the last N of S positions."""
    count, total = q_HNP.shape[1], k_SKP.shape[0]
    before = total - count
    k_1KSP, v_1KSP = (x.transpose(0, 1).unsqueeze(0) for x in (k_SKP, v_SKP))
    parts: list[Tensor] = []
    for start in range(0, count, STRIPE):
        stop = min(start + STRIPE, count)
        first = 0 if window is None else max(0, before + start - window + 1)
        query_Q1 = torch.arange(before + start, before + stop, device=q_HNP.device).unsqueeze(-1)
        key_S = torch.arange(first, before + stop, device=q_HNP.device)
        mask_QS = key_S <= query_Q1
        if window is not None:
            mask_QS &= key_S > query_Q1 - window
        out_1HQP = F.scaled_dot_product_attention(
            q_HNP[:, start:stop].unsqueeze(0),
            k_1KSP[:, :, first : before + stop],
            v_1KSP[:, :, first : before + stop],
            mask_QS,
            enable_gqa=True,
        )
        parts.append(out_1HQP.squeeze(0).transpose(0, 1).flatten(1))
    return torch.cat(parts)


def plan_rank(
    config: ZayaConfig,
    thetas: dict[str, float],
    pieces: Pieces,
    group: dist.ProcessGroup,
    device: torch.device,
) -> Plan:
    """Lay out this rank's tokens of a batch: documents that begin here, then continued parts."""
    rank = dist.get_rank(group)
    parts = pieces.parts(rank)
    layout = Rows(parts)
    own_T = pieces.tokens(rank)
    halo = route(pieces, rank, [halo_tokens(pieces, r) for r in range(pieces.num_ranks)])
    keys = route(pieces, rank, [key_tokens(pieces, r) for r in range(pieces.num_ranks)])
    order_G = np.argsort(keys.arriving_G)

    def on(index: Ints) -> Tensor:
        return torch.from_numpy(np.asarray(index, dtype=np.int64)).to(device)

    context = RankContext(
        [
            Continued(
                row=layout.heads[number],
                length=part.length,
                before_O=on(
                    order_G[
                        np.searchsorted(
                            keys.arriving_G[order_G],
                            np.arange(part.first - part.offset, part.first),
                        )
                    ]
                ),
            )
            for number, part in enumerate(parts)
            if part.offset
        ],
        group,
    )
    context.inside_rows = layout.inside_rows
    context.halo = (halo, on(layout.rows[halo.send_N]), on(layout.leads(halo.arriving_G)))
    context.keys = (keys, on(layout.rows[keys.send_N] - LEAD))
    positions_N = on(layout.positions())
    return Plan(
        num_tokens=len(own_T),
        num_rows=layout.num_rows,
        single=False,
        rows_T=on(layout.rows),
        results_T=on(layout.rows - LEAD),
        blocks=tuple(layout.blocks),
        rope={k: rope_tables(positions_N, theta, config.rotary_dim) for k, theta in thetas.items()},
        cache=None,
        context=context,
    )


class Rows:
    """Padded rows of a rank's parts; see `model.plan` for what they are."""

    def __init__(self, parts: Sequence[Part]) -> None:
        self.parts = parts
        self.blocks: list[Block] = []
        self.heads: dict[int, int] = {}
        """First lead row of every part."""
        self._strides: list[tuple[int, int]] = []
        whole = [i for i, part in enumerate(parts) if not part.offset]
        row = 0
        for group in group_by_length([parts[i].length for i in whole]):
            width = parts[whole[group[0]]].length
            self.blocks.append(Block(num_documents=len(group), width=width, cached={}))
            for index in group:
                row = self._place(whole[index], row, width)
        self.inside_rows = row
        for index, part in enumerate(parts):
            if part.offset:
                row = self._place(index, row, part.length)
        self.num_rows = row
        spans = [np.arange(part.length) + self.heads[i] + LEAD for i, part in enumerate(parts)]
        self.rows: Ints = np.concatenate(spans)
        """Padded row of every token, in the order of the rank's tokens."""

    def _place(self, index: int, row: int, width: int) -> int:
        self.heads[index] = row
        self._strides.append((index, width + LEAD))
        return row + width + LEAD

    def positions(self) -> Ints:
        """Return the position in its document of every result row."""
        return np.concatenate(
            [self.parts[index].offset + np.arange(stride) for index, stride in self._strides]
        )

    def leads(self, tokens_G: Ints) -> Ints:
        """Return the lead rows that stand for tokens just before continued parts."""
        lead_of = {
            part.first - back: self.heads[i] + LEAD - back
            for i, part in enumerate(self.parts)
            if part.offset
            for back in range(1, min(LEAD, part.offset) + 1)
        }
        return np.array([lead_of[int(token)] for token in tokens_G], dtype=np.int64)
