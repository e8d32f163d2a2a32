"""One forward pass in C++ over cache slots."""

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from openzaya.engine.native import layout
from openzaya.engine.native.build import load_library
from openzaya.model.config import ZayaConfig

Ints = npt.NDArray[np.int32]


class PagedCache(Protocol):
    """The parts of the model's cache that the pass reads and writes."""

    keys: list[Tensor]
    """Per layer [N, K, P, S]."""
    values: list[Tensor]
    """Per layer [N, K, S, P]."""
    tables: dict[str, Ints]
    """Per kind of layer [slots, blocks]."""
    conv: Tensor
    """[L, slots, 2, C]."""
    delayed: Tensor
    """[L, slots, W / 2]."""
    lengths: list[int]


@dataclass(frozen=True, kw_only=True, slots=True)
class Result:
    """What a pass returns."""

    logits_NV: Tensor
    """Logits after the tokens asked for."""
    experts: npt.NDArray[np.uint8] | None
    """[T, L]: chosen class of every token, E = skip."""
    snapshot_conv: Tensor
    """[M, L, 2, C]: projected queries and keys of the last two tokens at each snapshot."""
    snapshot_delayed: Tensor
    """[M, L, W / 2]: delayed values of the last token at each snapshot."""


class NativeForward:
    """Runs the C++ pass of one model over one cache; frees its threads with itself."""

    def __init__(
        self, config: ZayaConfig, weights: layout.Weights, cache: PagedCache, threads: int
    ) -> None:
        self._library = load_library()
        self._config = config
        self._weights = weights
        self._cache = cache
        self._handle = self._library.zaya_open(ctypes.byref(weights.model), threads)
        self._layers = (layout.CacheLayer * config.num_hidden_layers)()
        for index, kind in enumerate(config.layer_types):
            self._layers[index] = layout.CacheLayer(
                keys=cache.keys[index].data_ptr(),
                values=cache.values[index].data_ptr(),
                table=cache.tables[kind].ctypes.data,
            )
        self._store = layout.Cache(
            layers=self._layers,
            conv=cache.conv.data_ptr(),
            delayed=cache.delayed.data_ptr(),
            num_slots=cache.conv.shape[1],
            max_blocks=next(iter(cache.tables.values())).shape[1],
            is_bf16=cache.keys[0].dtype is torch.bfloat16,
        )

    def close(self) -> None:
        """End the threads; the pass cannot run any more."""
        if self._handle is not None:
            self._library.zaya_close(self._handle)
            self._handle = None

    def __del__(self) -> None:
        """Free the threads of a pass that nobody closed."""
        if getattr(self, "_handle", None) is not None:
            self.close()

    def run(
        self,
        ids: npt.NDArray[np.int64],
        lengths: Sequence[int],
        slots: Sequence[int],
        outputs: Sequence[int],
        *,
        snapshots: Sequence[int] = (),
        want_experts: bool = False,
    ) -> Result:
        """Continue `slots[i]` by the next `lengths[i]` of the packed ids.

        `outputs` are the packed tokens whose logits are wanted, `snapshots` those after which the
        state is. The caller has reserved the blocks and advances the lengths.
        """
        config, cache = self._config, self._cache
        starts = np.zeros(len(lengths) + 1, dtype=np.int32)
        np.cumsum(lengths, out=starts[1:])
        ids = np.ascontiguousarray(ids, dtype=np.int64)
        slot_ids = np.asarray(slots, dtype=np.int32)
        past = np.asarray([cache.lengths[slot] for slot in slots], dtype=np.int32)
        outs = np.asarray(outputs, dtype=np.int32)
        snaps = np.asarray(snapshots, dtype=np.int32)
        layers, half = config.num_hidden_layers, config.kv_channels // 2
        logits_NV = torch.empty(len(outs), config.vocab_size)
        conv = torch.empty(len(snaps), layers, 2, config.conv_channels)
        delayed = torch.empty(len(snaps), layers, half)
        experts = np.empty((len(ids), layers), dtype=np.uint8) if want_experts else None
        batch = layout.Batch(
            ids=ids.ctypes.data,
            starts=starts.ctypes.data,
            slots=slot_ids.ctypes.data,
            past=past.ctypes.data,
            outputs=outs.ctypes.data,
            snapshots=snaps.ctypes.data,
            logits=logits_NV.data_ptr(),
            experts=None if experts is None else experts.ctypes.data,
            snapshot_conv=conv.data_ptr(),
            snapshot_delayed=delayed.data_ptr(),
            num_tokens=len(ids),
            num_sequences=len(lengths),
            num_outputs=len(outs),
            num_snapshots=len(snaps),
        )
        self._library.zaya_forward(
            self._handle, ctypes.byref(self._store), ctypes.byref(batch)
        )
        return Result(
            logits_NV=logits_NV, experts=experts, snapshot_conv=conv, snapshot_delayed=delayed
        )
