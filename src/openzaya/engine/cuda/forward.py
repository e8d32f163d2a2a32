"""The CUDA forward pass behind the same interface as torch's."""

from collections.abc import Mapping, Sequence
from functools import partial

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from openzaya.engine.cuda.attention import Tiles, splits_for
from openzaya.engine.cuda.cca import LayerCache, TokenAddresses
from openzaya.engine.cuda.draw import draw
from openzaya.engine.cuda.experts import MAX_TOKENS
from openzaya.engine.cuda.graphs import Graphs, InputBuffer, StepInputs, bucket_of
from openzaya.engine.cuda.layers import Addresses, row_layers, tile_layers
from openzaya.engine.cuda.linear import row_linear, wide_linear
from openzaya.engine.cuda.plan import prefill_addresses
from openzaya.engine.cuda.residual import add_and_norm
from openzaya.engine.cuda.weights import Weights
from openzaya.engine.sampling import SamplingBatch
from openzaya.model.addresses import Slots
from openzaya.model.blocks import BLOCK_TOKENS, blocks_of
from openzaya.model.cache import Cache
from openzaya.model.zaya import Zaya

Experts = npt.NDArray[np.uint8]
FEW_ROWS = 4
"""Up to here a layer's matrices are read once for every row of a step, by way of the cache."""
SHORT_BLOCKS = 4
"""Contexts of up to so many blocks are short."""
FEW_PROCESSORS = 2
"""Stands for the multiprocessors of a device where there is none."""


class CudaPass:
    """Runs a model by Triton kernels; see `engine/passes.py` for the interface.

    Steps in which every slot gets one token run as CUDA graphs, all others launch by launch. The
    tail of each sequence and all activations but those that enter a matrix product are fp32, which
    includes the paper's set. Under TRITON_INTERPRET=1 the same code runs on a CPU, without graphs.

    Paper: II; IV-D.
    Deviation: D-022.
    """

    def __init__(
        self,
        model: Zaya,
        num_slots: int,
        max_tokens: int,
        num_blocks: Mapping[str, int] | None = None,
    ) -> None:
        """Reserve the cache; graphs are captured when a step of their size first runs."""
        self.device = model.device
        self.cache = Cache(
            model.config,
            num_slots,
            max_tokens,
            model.dtype,
            model.device,
            num_blocks=num_blocks,
            state_dtype=torch.float32,
        )
        self._model = model
        self._max_rows = min(num_slots, MAX_TOKENS)
        self._processors = FEW_PROCESSORS
        if self.device.type == "cuda":
            properties = torch.cuda.get_device_properties(self.device)
            self._processors = properties.multi_processor_count
        self._graphs = Graphs(self.device)
        self._inputs = InputBuffer(self._max_rows, self.device)
        self._tables = Tables(self.cache, self.device)
        vocab, layers = model.config.vocab_size, model.config.num_hidden_layers
        self._logits = torch.empty((self._max_rows, vocab), device=self.device)
        self._experts = torch.empty((self._max_rows, layers), dtype=torch.uint8, device=self.device)
        self._zeros = torch.zeros(self._max_rows, dtype=torch.int32, device=self.device)
        self._ones = torch.ones(self._max_rows, dtype=torch.int32, device=self.device)
        self._places = torch.arange(self._max_rows, dtype=torch.int32, device=self.device)
        self._unit_heat = torch.ones(self._max_rows, device=self.device)
        pinned = self.device.type == "cuda"
        self._uniforms = torch.zeros(self._max_rows, dtype=torch.float32, pin_memory=pinned)
        self._weights = Weights(model, max_tokens)
        self._layers = self._layer_caches()

    @property
    def num_graphs(self) -> int:
        """Decode steps that have been captured."""
        return len(self._graphs)

    def refresh(self) -> None:
        """Bring fused copies up to date in place; if the tensors moved, forget all graphs."""
        with torch.no_grad():
            if not self._weights.refresh():
                self._weights = Weights(self._model, self.cache.max_tokens)
                self._graphs.clear()

    @torch.no_grad()
    def run(
        self,
        ids: npt.NDArray[np.int64],
        lengths: Sequence[int],
        slots: Sequence[int],
        outputs: npt.NDArray[np.int64],
        *,
        want_experts: bool,
    ) -> tuple[Tensor, Experts | None]:
        """Continue the slots; see `Pass.run`. Logits are fp32."""
        chosen = self.cache.select(list(slots), list(lengths))
        self._tables.send(slots)
        is_step = max(lengths) == 1 and len(ids) <= self._max_rows and len(outputs) == len(ids)
        if is_step and np.array_equal(outputs, np.arange(len(ids))):
            logits_NV, experts_TL = self._step(ids, chosen)
        else:
            logits_NV, experts_TL = self._prefill(ids, lengths, chosen, outputs)
        self.cache.advance(chosen, list(lengths))
        return logits_NV, experts_TL.cpu().numpy() if want_experts else None

    @torch.no_grad()
    def draw(
        self, logits_BV: Tensor, uniforms: npt.NDArray[np.float32], batch: SamplingBatch
    ) -> tuple[Tensor, Tensor] | None:
        """Draw a token for every row, [B], with its log-probability, [B], both on the CPU.

        The meaning is that of `sampling.sample`, except that a draw at the very border of two
        tokens may round to the other one. None when some row samples from a part of the vocabulary.
        """
        count = logits_BV.shape[0]
        if batch.truncation is not None or count > self._max_rows:
            return None
        greedy_B = (self._ones if batch.all_greedy else self._zeros)[:count]
        if batch.greedy_B is not None:
            greedy_B = batch.greedy_B.to(torch.int32)
        temperature_B = self._unit_heat[:count]
        if batch.temperature_B1 is not None:
            temperature_B = batch.temperature_B1.flatten()
        # From pinned memory the copy does not wait for the pass; a draw before this one has ended.
        staged_B = self._uniforms[:count]
        staged_B.copy_(torch.from_numpy(uniforms))
        uniform_B = staged_B.to(self.device, non_blocking=True)
        return draw(logits_BV.float().contiguous(), temperature_B, greedy_B, uniform_B)

    def _step(self, ids: npt.NDArray[np.int64], chosen: Slots) -> tuple[Tensor, Tensor]:
        """Run one token for each slot: fill the fixed inputs, replay."""
        count = len(ids)
        rows = bucket_of(count, self._max_rows)
        longest = blocks_of(max(chosen.starts) + 1)
        splits = {kind: self._splits(kind, rows, longest) for kind in self.cache.tables}
        key = (rows, *splits.values())
        step = partial(self._decode, self._inputs.view(rows), splits)
        if self._graphs.lacks(key):
            nothing = np.empty(0, dtype=np.int32)
            self._inputs.fill(rows, nothing, nothing, nothing)
            self._graphs.prepare(key, step)
        self._inputs.fill(
            rows,
            ids.astype(np.int32),
            np.asarray(chosen.ids, dtype=np.int32),
            np.asarray(chosen.starts, dtype=np.int32),
        )
        self._graphs.run(key, step)
        return self._logits[:count], self._experts[:count]

    def _splits(self, kind: str, rows: int, longest: int) -> int:
        """Return one of two values, so that there are few graphs: for short or long contexts."""
        config = self._model.config
        window = config.sliding_window if kind != "hybrid" else None
        most = blocks_of(self.cache.max_tokens)
        if window is not None:
            most = min(most, blocks_of(window) + 1)
        if min(longest, most) <= SHORT_BLOCKS:
            most = SHORT_BLOCKS
        return splits_for(rows, config.num_key_value_heads, most, self._processors)

    def _decode(self, inputs: StepInputs, splits: Mapping[str, int]) -> None:
        """Run one step over fixed memory; this is what a graph captures."""
        rows = len(inputs.ids_B)
        tokens = TokenAddresses(
            slot_T=inputs.slot_B, position_T=inputs.position_B, back_T=self._zeros[:rows]
        )
        tiles = {
            kind: Tiles(
                first_N=self._places[:rows], count_N=self._ones[:rows], size=1, splits=count
            )
            for kind, count in splits.items()
        }
        at = Addresses(tokens=tokens, tiles=tiles, tails=None)
        weights, experts_BL, logits_BV = self._weights, self._experts[:rows], self._logits[:rows]
        stream_BD = self._model.embed(inputs.ids_B)
        if rows <= FEW_ROWS:
            stream_BD = row_layers(stream_BD, weights, self._layers, at, experts_BL)
            h_BD = stream_BD if rows == 1 else add_and_norm(stream_BD, weights.norm)
        else:
            h_BD = tile_layers(stream_BD, weights, self._layers, at, experts_BL)
        if rows == 1:
            row_linear(h_BD, weights.head_VD, norm=weights.norm, out_TN=logits_BV)
        else:
            wide_linear(h_BD, weights.head_VD, logits_BV)

    def _prefill(
        self,
        ids: npt.NDArray[np.int64],
        lengths: Sequence[int],
        chosen: Slots,
        outputs: npt.NDArray[np.int64],
    ) -> tuple[Tensor, Tensor]:
        """Run documents of any length."""
        config, cache = self._model.config, self.cache
        group = config.num_attention_heads // config.num_key_value_heads
        inner = list(zip(cache.inner_conv, cache.inner_delayed, strict=True))
        at = prefill_addresses(lengths, chosen, cache.tables, group, inner)
        stream_TD = self._model.embed(torch.from_numpy(ids).to(self.device))
        shape = (len(ids), config.num_hidden_layers)
        experts_TL = torch.empty(shape, dtype=torch.uint8, device=self.device)
        h_TD = tile_layers(stream_TD, self._weights, self._layers, at, experts_TL)
        wanted_N = torch.from_numpy(outputs).to(self.device)
        return wide_linear(h_TD.index_select(0, wanted_N), self._weights.head_VD), experts_TL

    def _layer_caches(self) -> list[LayerCache]:
        cache = self.cache
        return [
            LayerCache(
                keys=cache.keys[index],
                values=cache.values[index],
                conv=cache.conv[index],
                delayed=cache.delayed[index],
                table=self._tables.on_device[kind],
            )
            for index, kind in enumerate(self._model.config.layer_types)
        ]


class Tables:
    """The block tables of a cache on the device, at fixed addresses."""

    def __init__(self, cache: Cache, device: torch.device) -> None:
        self._cache = cache
        self._sent = {kind: table.copy() for kind, table in cache.tables.items()}
        self.on_device = {
            kind: torch.from_numpy(table).to(device, copy=True)
            for kind, table in cache.tables.items()
        }
        """[slots, max_blocks] int32 by layer type."""

    def send(self, slots: Sequence[int]) -> None:
        """Send the rows of these slots that have changed."""
        rows = np.asarray(slots)
        for kind, table in self._cache.tables.items():
            sent = self._sent[kind]
            changed = rows[(table[rows] != sent[rows]).any(axis=1)]
            if changed.size:
                sent[changed] = table[changed]
                target = self.on_device[kind]
                index_N = torch.from_numpy(changed).to(target.device)
                target.index_copy_(0, index_N, torch.from_numpy(sent[changed]).to(target.device))


assert BLOCK_TOKENS >= 16, "a block is one side of a matrix product's tile"
