"""Exact reuse of prompts: full blocks are found again by what they hold and all that came before.

A block's name is a keyed hash of its tokens and its predecessor's name, so equal names mean equal
prefixes. The first name stands for the weights version and the request's salt. With each block its
end state is kept (convolution inputs and delayed value), which cannot be recomputed from the keys;
a sequence therefore resumes at block ends only, and there exactly.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from hashlib import blake2b
from secrets import token_bytes

import numpy as np
import numpy.typing as npt

from openzaya.model.addresses import first_block
from openzaya.model.blocks import BLOCK_TOKENS
from openzaya.model.cache import NO_BLOCK, Cache
from openzaya.model.cache_parts import FilledBlock, State
from openzaya.model.config_keys import FULL, SLIDING

DIGEST_BYTES = 16

Tokens = npt.NDArray[np.int64]
Experts = npt.NDArray[np.uint8]


@dataclass(frozen=True, kw_only=True, slots=True)
class Chain:
    """The name of a prefix of whole blocks."""

    version: int
    """Namespace it belongs to; names of older ones are not accepted any more."""
    digest: bytes
    """Hash of everything up to its end."""
    num_blocks: int
    """Its length."""


@dataclass(eq=False, kw_only=True, slots=True)
class Entry:
    """One kept block: where its keys and values are, and how to go on behind it."""

    digest: bytes
    """Its name."""
    state: State
    """What a sequence that continues here looks back on."""
    experts: Experts | None
    """[S, L] experts of its tokens, None if nobody recorded them."""
    blocks: dict[str, int]
    """Block by layer type; a sliding one may be gone before the full one."""

    @property
    def nbytes(self) -> int:
        """Bytes beside the blocks themselves."""
        return self.state.nbytes + (0 if self.experts is None else self.experts.nbytes)


@dataclass(frozen=True, kw_only=True, slots=True)
class Match:
    """The longest prefix of a prompt that can be resumed."""

    chain: Chain
    """Its name."""
    state: State | None
    """The state at its end; None when nothing was found."""
    blocks: Mapping[str, Sequence[int]]
    """Blocks by layer type, -1 where no later query looks."""
    experts: list[Experts | None]
    """Experts of every block."""

    @property
    def num_tokens(self) -> int:
        """Length of the prefix."""
        return self.chain.num_blocks * BLOCK_TOKENS


class PrefixCache:
    """Finds, adopts and keeps blocks of one cache; the cache's pools decide which go first.

    Blocks are evicted only while no sequence uses them, ends before beginnings. The hash is keyed
    at random, so that nobody can make two prompts collide on purpose.
    """

    def __init__(self, cache: Cache, max_idle: int | None = None) -> None:
        """Take over the eviction of all pools.

        At most `max_idle` blocks of each type are kept that nobody uses, by default all that there
        are; with 0 nothing is kept, found or shared.
        """
        self._cache = cache
        self._key = token_bytes(32)
        self._version = 0
        self._entries: dict[bytes, Entry] = {}
        self._owner: dict[str, dict[int, Entry]] = {kind: {} for kind in cache.pools}
        cache.keeps_ends = max_idle != 0
        self.nbytes = 0
        """Bytes of all kept states and experts."""
        for kind, pool in cache.pools.items():
            pool.on_evict = partial(self._evict, kind)
            if max_idle is not None:
                pool.max_idle = max_idle

    def __len__(self) -> int:
        """Blocks that can be found."""
        return len(self._entries)

    def start(self, salt: str) -> Chain:
        """Return the name of the empty prefix for requests with this salt."""
        root = self._hash(b"", repr((self._version, salt)).encode())
        return Chain(version=self._version, digest=root, num_blocks=0)

    def match(self, tokens: Tokens, salt: str, need_experts: bool = False) -> Match:
        """Return what is kept of a prompt; always at least one token less than the prompt."""
        chain = self.start(salt)
        found: list[tuple[Chain, Entry]] = []
        for start in range(0, len(tokens) - BLOCK_TOKENS, BLOCK_TOKENS):
            chain = self._extend(chain, tokens[start : start + BLOCK_TOKENS])
            entry = self._entries.get(chain.digest)
            if entry is None or (need_experts and entry.experts is None):
                break
            found.append((chain, entry))
        while found and not self._sees_its_window([entry for _, entry in found]):
            found.pop()
        entries = [entry for _, entry in found]
        return Match(
            chain=found[-1][0] if found else self.start(salt),
            state=entries[-1].state if entries else None,
            blocks=self._tables(entries),
            experts=[entry.experts for entry in entries],
        )

    def num_idle(self, match: Match) -> dict[str, int]:
        """Return how many of a match's blocks count as available as long as it is not adopted."""
        return {
            kind: sum(self._cache.pools[kind].is_idle(block) for block in blocks)
            for kind, blocks in match.blocks.items()
        }

    def adopt(self, match: Match, slot: int) -> None:
        """Let a slot continue behind a match."""
        if match.state is not None:
            self._cache.adopt(slot, match.blocks, match.state)

    def insert(
        self, chain: Chain, filled: FilledBlock, tokens: Tokens, experts: Experts | None
    ) -> Chain:
        """Keep the block that follows `chain` in a slot; return the longer chain.

        If the same block is kept already, the slot goes on with that one and gives its own back.
        Nothing is kept for chains of older weights, or with a gap before the block.
        """
        if chain.version != self._version or chain.num_blocks != filled.index:
            return chain
        chain = self._extend(chain, tokens)
        entry = self._entries.get(chain.digest)
        if entry is None:
            entry = Entry(digest=chain.digest, state=filled.state, experts=None, blocks={})
            self._entries[chain.digest] = entry
            self.nbytes += entry.nbytes
        if entry.experts is None and experts is not None:
            entry.experts = experts.copy()
            self.nbytes += experts.nbytes
        for kind, table in self._cache.tables.items():
            own, kept = int(table[filled.slot, filled.index]), entry.blocks.get(kind)
            if kept is None and own != NO_BLOCK:
                entry.blocks[kind] = own
                self._owner[kind][own] = entry
                self._cache.pools[kind].keep(own)
            elif kept is not None and own not in (kept, NO_BLOCK):
                self._cache.replace(kind, filled.slot, filled.index, kept)
        return chain

    def new_version(self) -> None:
        """Forget everything: the weights have changed, so equal tokens mean other keys."""
        self._version += 1
        self.clear()

    def clear(self) -> None:
        """Forget all blocks; those that nobody uses become free."""
        for entry in list(self._entries.values()):
            self._remove(entry)

    def _hash(self, before: bytes, data: bytes) -> bytes:
        return blake2b(before + data, digest_size=DIGEST_BYTES, key=self._key).digest()

    def _extend(self, chain: Chain, tokens: Tokens) -> Chain:
        digest = self._hash(chain.digest, tokens.astype("<i8").tobytes())
        return Chain(version=chain.version, digest=digest, num_blocks=chain.num_blocks + 1)

    def _first_needed(self, kind: str, num_blocks: int) -> int:
        """Return the first of `num_blocks` blocks that the next query sees."""
        window = self._cache.config.sliding_window if kind == SLIDING else None
        return int(first_block(np.array([num_blocks * BLOCK_TOKENS]), window)[0])

    def _sees_its_window(self, entries: Sequence[Entry]) -> bool:
        """Tell whether a query behind these blocks finds all that it looks at."""
        return all(
            kind in entry.blocks
            for kind in self._cache.tables
            for entry in entries[self._first_needed(kind, len(entries)) :]
        )

    def _tables(self, entries: Sequence[Entry]) -> dict[str, list[int]]:
        tables = {}
        for kind in self._cache.tables:
            first = self._first_needed(kind, len(entries))
            blocks = [entry.blocks[kind] for entry in entries[first:]]
            tables[kind] = [NO_BLOCK] * min(first, len(entries)) + blocks
        return tables

    def _evict(self, kind: str, block: int) -> None:
        """Forget a block that its pool wants to reuse, and the whole entry if it needs it."""
        entry = self._owner[kind].pop(block)
        del entry.blocks[kind]
        self._cache.pools[kind].forget(block)
        if kind == FULL or not entry.blocks:
            self._remove(entry)

    def _remove(self, entry: Entry) -> None:
        for kind, block in entry.blocks.items():
            del self._owner[kind][block]
            self._cache.pools[kind].forget(block)
        del self._entries[entry.digest]
        self.nbytes -= entry.nbytes
