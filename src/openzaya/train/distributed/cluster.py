"""One rank of many, behind the seam of the training step."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.fsdp import FSDPModule

from openzaya.data.windows import Window
from openzaya.model.zaya import Trunk, Zaya
from openzaya.optim import OptimConfig
from openzaya.train.batch import Batch
from openzaya.train.distributed.context import layout_of_rank
from openzaya.train.distributed.mesh import Ranks
from openzaya.train.distributed.optim import DividedOptimizers
from openzaya.train.distributed.pieces import PIECES, Pieces
from openzaya.train.distributed.saver import DividedSaver
from openzaya.train.distributed.shard import load_parts, parts_of, shard_model
from openzaya.train.distributed.share import CostModel, microbatches
from openzaya.train.parallel import Sums
from openzaya.train.saver import Saving

PADDING = "<padding>"
"""Source of the tokens that even out batches; they have no weight and are not counted."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ShareOfBatch(Batch):
    """What one rank has of a batch."""

    pieces: Pieces | None
    """How the whole batch is divided; None when the rank has it alone."""
    is_real_T: Tensor
    """False for padding."""


class Cluster:
    """A model divided over ranks and the steps they take together. See `train.parallel`."""

    def __init__(self, model: Zaya, ranks: Ranks, param_dtype: torch.dtype | None = None) -> None:
        """Divide `model`, which must be the same on every rank, in place."""
        self.ranks = ranks
        self.cost = CostModel.of(model.config)
        self.param_dtype = param_dtype or torch.float32
        shard_model(model, ranks, param_dtype)
        self.parts = parts_of(model, ranks)
        self._sources: list[str] = []

    @property
    def is_first(self) -> bool:
        """Tell whether this is rank 0."""
        return self.ranks.rank == 0

    def dtype(self, model: Zaya) -> torch.dtype:
        """Return what layers are gathered in, whatever the shards are."""
        del model
        return self.param_dtype

    def optimizers(self, model: Zaya, config: OptimConfig) -> DividedOptimizers:
        """Return the optimizer of this rank's parts."""
        return DividedOptimizers(model, config, self.ranks.shard)

    def saver(self, folder: Path, identity: Mapping[str, Any], saving: Saving) -> DividedSaver:
        """Return the saver that all ranks use together."""
        return DividedSaver(folder, identity, saving, self.ranks, self.parts)

    def load_weights(self, model: Zaya, weights: Mapping[str, Tensor]) -> None:
        """Copy this rank's parts into the model."""
        load_parts(model, weights)

    def num_cores(self, device: torch.device, micro_tokens: int) -> int:
        """Return 1: cores are shared out as ranks."""
        del device, micro_tokens
        return 1

    def batches(
        self, windows: Sequence[Window], micro_tokens: int, device: torch.device
    ) -> list[Batch]:
        """Return this rank's share; every pass has at least one token on every rank."""
        cp = self.ranks.config.cp
        self._sources = sorted({source for window in windows for source in window.sources})
        dealt = microbatches(windows, self.ranks.config.num_groups, micro_tokens * cp, self.cost)
        return [self._share(part, device) for part in dealt[self.ranks.window_group]]

    def _share(self, windows: list[Window], device: torch.device) -> Batch:
        cp = self.ranks.config.cp
        unit = PIECES * cp if cp > 1 else 1
        count = sum(len(window) for window in windows)
        padding = -count % unit if count else unit
        if padding:
            windows = [*windows, padding_window(padding)]
        batch = Batch.from_windows(windows, device)
        is_real_T = torch.arange(count + padding, device=device) < count
        if cp == 1:
            return ShareOfBatch(**fields_of(batch), pieces=None, is_real_T=is_real_T)
        pieces = Pieces(tuple(batch.lengths), cp)
        rank = dist.get_rank(self.ranks.context)
        own_T = torch.from_numpy(pieces.tokens(rank)).to(device)
        parts = pieces.parts(rank)
        weights_T = batch.weights_T[own_T]
        return ShareOfBatch(
            ids_T=batch.ids_T[own_T],
            lengths=[part.length for part in parts],
            targets_T=batch.targets_T[own_T],
            weights_T=weights_T,
            kept_M=weights_T.nonzero().squeeze(1),
            total_weight=float(weights_T.sum()),
            sources=tuple(batch.sources[part.document] for part in parts),
            pieces=pieces,
            is_real_T=is_real_T[own_T],
        )

    def trunk(self, model: Zaya, batch: Batch) -> Trunk:
        """Run the layers over this rank's tokens."""
        assert isinstance(batch, ShareOfBatch), "made by `batches`"
        if batch.pieces is None:
            out = model.trunk(batch.ids_T, lengths=batch.lengths)
        else:
            layout = layout_of_rank(model, batch.pieces, self.ranks.context, self.param_dtype)
            out = model.trunk(batch.ids_T, layout=layout)
        probs = None if out.probs_TLX is None else out.probs_TLX[batch.is_real_T]
        return Trunk(out.hidden_TD, out.experts_TL[batch.is_real_T], probs)

    def total(self, value: float) -> float:
        """Return the sum over all ranks."""
        return self._sum([value])[0]

    def reduce(self, loss: float, sums: Sums, tally_LN: Tensor) -> tuple[float, Sums]:
        """Return loss and sums over all ranks; add up the balancer's tally in place.

        Paper: II-A2 (the balancer sees the global batch).
        """
        flat = [x for source in self._sources for x in sums.get(source, (0.0, 0.0))]
        whole, *flat = self._sum([loss, *flat])
        dist.all_reduce(tally_LN)
        pairs = np.array(flat).reshape(-1, 2).tolist()
        return whole, {k: (x, w) for k, (x, w) in zip(self._sources, pairs, strict=True)}

    def release(self, model: Zaya) -> None:
        """Divide the model again: FSDP keeps its head and embedding for a backward pass."""
        for module in model.modules():
            if isinstance(module, FSDPModule):
                module.reshard()

    def agree(self, *flags: bool) -> tuple[bool, ...]:
        """Return every flag as true when any rank has it."""
        return tuple(count > 0 for count in self._sum([float(flag) for flag in flags]))

    def _sum(self, values: list[float]) -> list[float]:
        device = self.ranks.dense.device_type
        total = torch.tensor(values, dtype=torch.float64, device=device)
        dist.all_reduce(total)
        out: list[float] = total.tolist()
        return out


def padding_window(length: int) -> Window:
    """Return a document that teaches nothing."""
    return Window(
        np.zeros(length, dtype=np.int32), [length], np.zeros(length, dtype=np.bool_), [PADDING]
    )


def fields_of(batch: Batch) -> dict[str, Any]:
    """Return the fields of a batch by name."""
    return {name: getattr(batch, name) for name in Batch.__dataclass_fields__}
