"""What a model remembers of each sequence: keys, values, and the tail that CCA looks back on.

Keys and values live in blocks of BLOCK_TOKENS positions that sequences share as far as they agree;
the tail (two rows of convolution input, one delayed value) belongs to a slot.

Paper: II.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from openzaya.core.errors import RequestError
from openzaya.model.addresses import LEAD, CacheRows, Slots, inner_ends, num_new_blocks
from openzaya.model.blocks import BLOCK_TOKENS, BlockPool, OutOfBlocksError, blocks_of
from openzaya.model.cache_parts import FilledBlock, State, make_stores, state_dtype_of
from openzaya.model.config import ZayaConfig
from openzaya.model.config_keys import FULL, SLIDING

NO_BLOCK = -1


class Cache:
    """A fixed number of slots, each a sequence of up to `max_tokens` tokens in shared blocks.

    Layers of one type share a pool: `keys[layer]` is [N, K, P, S] (channel by position, so that one
    query against a block is a sum of rows), `values[layer]` is [N, K, S, P], and `tables[kind]`
    names the blocks of each slot, [num_slots, max_blocks], -1 where there is none. Sliding layers
    give back the blocks that no later query can see. `conv` is [L, num_slots, 2, C], older row
    first, `delayed` is [L, num_slots, W]; with the paper's precision both are kept in fp32.

    Only full blocks are ever shared, so no pass writes where another sequence reads.

    Paper: II; IV-D.
    """

    def __init__(
        self,
        config: ZayaConfig,
        num_slots: int,
        max_tokens: int,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
        *,
        num_blocks: Mapping[str, int] | None = None,
        state_dtype: torch.dtype | None = None,
    ) -> None:
        """Reserve all memory at once; the operating system hands it out page by page on CPU.

        `num_blocks` is the size of the pool of each layer type, by default enough for all slots at
        full length. Raises RequestError for sizes below 1.
        """
        if num_slots < 1 or max_tokens < 1:
            raise RequestError(
                f"a cache of {num_slots} slots with {max_tokens} tokens holds nothing; both must "
                "be at least 1"
            )
        self.config = config
        self.num_slots = num_slots
        self.max_tokens = max_tokens
        self.lengths: list[int] = [0] * num_slots
        self.keeps_ends = False
        """Collect `filled`; off, because it costs memory, until somebody empties that list."""
        self.filled: list[FilledBlock] = []
        """Blocks that passes filled, oldest first."""
        self._trimmed = [0] * num_slots
        """First block that sliding layers still hold, per slot."""
        max_blocks = blocks_of(max_tokens)
        kinds = [kind for kind in (FULL, SLIDING) if kind in config.layer_types]
        self.tables: dict[str, npt.NDArray[np.int32]] = {
            kind: np.full((num_slots, max_blocks), NO_BLOCK, dtype=np.int32) for kind in kinds
        }
        counts = dict.fromkeys(kinds, num_slots * max_blocks) if num_blocks is None else num_blocks
        self.pools = {kind: BlockPool(counts[kind]) for kind in kinds}
        self._stores = {
            kind: make_stores(config, kind, counts[kind], dtype, device) for kind in kinds
        }
        layers = {kind: list(zip(*store, strict=True)) for kind, store in self._stores.items()}
        pairs = [layers[kind].pop(0) for kind in config.layer_types]
        self.keys: list[Tensor] = [keys for keys, _ in pairs]
        self.values: list[Tensor] = [values for _, values in pairs]
        self._half = config.kv_channels // 2
        wide = state_dtype or state_dtype_of(config, dtype)
        self.conv, self.delayed = (
            torch.zeros((len(pairs), num_slots, *size), dtype=wide, device=device)
            for size in ((LEAD, config.conv_channels), (self._half,))
        )
        self.inner_conv, self.inner_delayed = self.conv[:, :0], self.delayed[:, :0]
        """State at the inner block ends of the current pass: [L, M, 2, C] and [L, M, W]."""

    @property
    def nbytes(self) -> int:
        """Bytes reserved for all blocks and slots."""
        stores = [x for pair in self._stores.values() for x in pair]
        return sum(x.nbytes for x in (*stores, self.conv, self.delayed))

    def reset(self, slot: int) -> None:
        """Forget the sequence of one slot."""
        for kind, table in self.tables.items():
            row = table[slot]
            # The last block first: of what is kept for reuse, ends are given up before beginnings.
            for block in row[row >= 0][::-1].tolist():
                self.pools[kind].drop(block)
            row[:] = NO_BLOCK
        self.lengths[slot] = self._trimmed[slot] = 0
        self.conv[:, slot] = 0
        self.delayed[:, slot] = 0

    def move(self, src: int, dst: int) -> None:
        """Continue the sequence of slot `src` in slot `dst`, and leave `src` empty."""
        self.reset(dst)
        for table in self.tables.values():
            table[dst] = table[src]
            table[src] = NO_BLOCK
        self.lengths[dst], self._trimmed[dst] = self.lengths[src], self._trimmed[src]
        self.conv[:, dst] = self.conv[:, src]
        self.delayed[:, dst] = self.delayed[:, src]
        self.reset(src)

    def fork(self, src: int, dst: int) -> None:
        """Make slot `dst` continue where slot `src` is: full blocks shared, the last one copied.

        Raises OutOfBlocksError, with `dst` empty, when there is no block for the copy.
        """
        self.reset(dst)
        length = self.lengths[src]
        if length % BLOCK_TOKENS:
            self._check_room(1)
        for kind, table in self.tables.items():
            pool = self.pools[kind]
            table[dst] = table[src]
            if length % BLOCK_TOKENS:
                last = length // BLOCK_TOKENS
                copied = pool.take()
                for store in self._stores[kind]:
                    store[:, copied] = store[:, int(table[src, last])]
                table[dst, last] = NO_BLOCK
            shared = table[dst][table[dst] >= 0]
            for block in shared.tolist():
                pool.share(block)
            if length % BLOCK_TOKENS:
                table[dst, last] = copied
        self.lengths[dst], self._trimmed[dst] = length, self._trimmed[src]
        self.conv[:, dst] = self.conv[:, src]
        self.delayed[:, dst] = self.delayed[:, src]

    def adopt(self, slot: int, blocks: Mapping[str, Sequence[int]], state: State) -> None:
        """Start a slot with existing full blocks, -1 for those no query will see, and their state.

        The blocks of every kind must belong to the same tokens.
        """
        self.reset(slot)
        for kind, ids in blocks.items():
            for block in ids:
                if block >= 0:
                    self.pools[kind].share(block)
            self.tables[kind][slot, : len(ids)] = ids
            self.lengths[slot] = len(ids) * BLOCK_TOKENS
        self.conv[:, slot] = state.conv_LRC
        self.delayed[:, slot] = state.delayed_LW

    def replace(self, kind: str, slot: int, index: int, block: int) -> None:
        """Let a slot use another block with the same contents as its own."""
        own = int(self.tables[kind][slot, index])
        self.pools[kind].share(block)
        self.pools[kind].drop(own)
        self.tables[kind][slot, index] = block

    def missing_blocks(self, slots: Sequence[int], lengths: Sequence[int]) -> int:
        """Return the blocks of each kind that new tokens of these lengths would take."""
        return num_new_blocks([self.lengths[slot] for slot in slots], lengths)

    @property
    def num_available(self) -> dict[str, int]:
        """Blocks that can be taken now, by kind."""
        return {kind: pool.num_available for kind, pool in self.pools.items()}

    def select(self, slots: list[int] | None, lengths: list[int]) -> Slots:
        """Return the slots that documents of these lengths continue, blocks included.

        `slots` None means slot i for document i. Raises RequestError for a slot that does not
        exist, occurs twice, or has no room for the new tokens; OutOfBlocksError when the pools are
        exhausted. Both change nothing.
        """
        ids = list(range(len(lengths))) if slots is None else list(slots)
        if len(ids) != len(lengths) or len(set(ids)) != len(ids):
            raise RequestError(
                f"slots {ids[:8]} for {len(lengths)} documents; name a different slot for each"
            )
        for slot, length in zip(ids, lengths, strict=True):
            if not 0 <= slot < self.num_slots:
                raise RequestError(
                    f"slot {slot} does not exist; the cache has slots 0 to {self.num_slots - 1}"
                )
            if self.lengths[slot] + length > self.max_tokens:
                raise RequestError(
                    f"slot {slot} holds {self.lengths[slot]} tokens and cannot take {length} "
                    f"more; it has room for {self.max_tokens}: use a longer cache or prompt less"
                )
        self.trim(ids)
        self._reserve(ids, lengths)
        starts = [self.lengths[slot] for slot in ids]
        ends = inner_ends(starts, lengths if self.keeps_ends else [0] * len(ids))
        self.inner_conv = self.conv.new_empty((len(self.keys), len(ends), *self.conv.shape[2:]))
        self.inner_delayed = self.delayed.new_empty((len(self.keys), len(ends), self._half))
        tables = {kind: table[ids] for kind, table in self.tables.items()}
        return Slots(ids=ids, starts=starts, tables=tables, inner_ends=ends)

    def advance(self, slots: Slots, lengths: list[int]) -> None:
        """Count the new tokens of each slot, and collect the blocks they filled."""
        inner = 0
        for slot, start, length in zip(slots.ids, slots.starts, lengths, strict=True):
            self.lengths[slot] = stop = start + length
            if not self.keeps_ends:
                continue
            for index in range(start // BLOCK_TOKENS, stop // BLOCK_TOKENS):
                if (index + 1) * BLOCK_TOKENS < stop:
                    tail = self.inner_conv[:, inner], self.inner_delayed[:, inner]
                    inner += 1
                else:
                    tail = self.conv[:, slot], self.delayed[:, slot]
                state = State(conv_LRC=tail[0].clone(), delayed_LW=tail[1].clone())
                self.filled.append(FilledBlock(slot=slot, index=index, state=state))

    def write(self, layer: int, rows: CacheRows, keys_TKP: Tensor, values_TKP: Tensor) -> None:
        """Store the rotated keys and the values of a pass."""
        at = (rows.blocks[self.config.layer_types[layer]], rows.offset_T)
        keys, values = self.keys[layer], self.values[layer]
        keys.permute(0, 3, 1, 2)[at] = keys_TKP.to(keys.dtype)
        values.transpose(1, 2)[at] = values_TKP.to(values.dtype)

    def read(self, layer: int, pages_BKM: Tensor, length: int) -> tuple[Tensor, Tensor]:
        """Return copies of the keys and values of rows of pages, [B, K, length, P] each.

        A page is one head of a block: page block * K + k.
        """
        rows = pages_BKM.shape[:2]
        # Two plain moves: indexing a transposed view is several times slower on CPU.
        keys_NPS, values_NSP = (
            store[layer].flatten(0, 1).index_select(0, pages_BKM.flatten())
            for store in (self.keys, self.values)
        )
        keys_NSP = torch.empty_like(values_NSP).copy_(keys_NPS.mT)
        keys, values = (x_NSP.view(*rows, -1, x_NSP.shape[-1]) for x_NSP in (keys_NSP, values_NSP))
        return keys[:, :, :length], values[:, :, :length]

    def trim(self, slots: Sequence[int]) -> None:
        """Give back the blocks of sliding layers that no later query of these slots can see."""
        window = self.config.sliding_window
        if SLIDING not in self.tables or window is None:
            return
        for slot in slots:
            first = max(0, self.lengths[slot] - window + 1) // BLOCK_TOKENS
            if first > self._trimmed[slot]:
                span = self.tables[SLIDING][slot, self._trimmed[slot] : first]
                for block in span[span >= 0].tolist():
                    self.pools[SLIDING].drop(block)
                span[:] = NO_BLOCK
                self._trimmed[slot] = first

    def _check_room(self, count: int) -> None:
        """Refuse to take more blocks of each kind than there are."""
        for kind, pool in self.pools.items():
            if count > pool.num_available:
                raise OutOfBlocksError(
                    f"{count} more blocks of {BLOCK_TOKENS} tokens are needed for {kind!r} layers, "
                    f"but of {pool.num_blocks} only {pool.num_available} are not in use; end or "
                    "preempt a sequence, or make a larger cache"
                )

    def _reserve(self, ids: Sequence[int], lengths: Sequence[int]) -> None:
        """Take the blocks for new tokens."""
        count = self.missing_blocks(ids, lengths)
        if not count:
            return
        self._check_room(count)
        for kind, table in self.tables.items():
            taken = [self.pools[kind].take() for _ in range(count)]
            for store in self._stores[kind]:
                # What an earlier sequence left must not reach masked positions either.
                store[:, taken] = 0
            given = 0
            for slot, length in zip(ids, lengths, strict=True):
                first = blocks_of(self.lengths[slot])
                stop = blocks_of(self.lengths[slot] + length)
                table[slot, first:stop] = taken[given : given + stop - first]
                given += stop - first
