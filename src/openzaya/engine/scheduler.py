"""Who runs next, in which cache slot, and who steps back when blocks run out; no tensors here.

Slots [0, B) decode and are kept contiguous, so that a decode step reads states without a gather;
prefills sit in slots behind them. The cache has one slot more than requests may run, so a free one
always exists for making room.
"""

from collections.abc import Iterator
from typing import Protocol

import numpy as np
import numpy.typing as npt

from openzaya.engine.prefill import Chunk, Key, Prefill, rank_of
from openzaya.engine.prefix import Chain, Experts, PrefixCache, Tokens
from openzaya.engine.queue import FairQueue
from openzaya.engine.request import EngineStats, Request
from openzaya.engine.room import Room, piece_length
from openzaya.model.blocks import BLOCK_TOKENS, blocks_of
from openzaya.model.cache import Cache

NO_ROW = -1


class Record(Protocol):
    """The part of the ledger that the scheduler reads."""

    def inputs(self, request: Request) -> Tokens:
        """Return the prompt and what was generated so far."""
        ...

    def experts(self, request: Request, start: int, stop: int) -> Experts | None:
        """Return the experts [n, L] of a span of inputs; None if they were not recorded."""
        ...


class Scheduler:
    """Admission in the queue's order; prefills in admission order; slots of all requests.

    A request keeps its row, and with it everything recorded of it, until it ends. When it is
    preempted it only loses its slot, and what it had computed is computed or found again later.
    """

    def __init__(
        self,
        max_running: int,
        cache: Cache,
        prefix: PrefixCache,
        record: Record,
        stats: EngineStats,
    ) -> None:
        self._max_running = max_running
        self._cache = cache
        self._prefix = prefix
        self.room = Room(cache)
        """Whether the blocks at hand suffice."""
        self.room.report(stats)
        self._record = record
        self._stats = stats
        self._prefills: list[Prefill] = []
        self._joinable: dict[Key, Prefill] = {}
        self._free_rows = list(range(max_running))[::-1]
        self._chains: dict[int, Chain] = {}
        self.queue = FairQueue()
        """Requests that wait."""
        self.decoding: list[Request] = []
        """The request of each decoding slot."""
        self.row_of_slot: npt.NDArray[np.intp] = np.zeros(max_running + 1, dtype=np.intp)
        """The ledger row of each decoding slot."""
        self.changes = 0
        """Counts changes of `decoding`, so that what is derived from it can be kept."""

    @property
    def num_running(self) -> int:
        """Requests that are prefilled or decoded now."""
        return len(self.decoding) + sum(len(prefill.members) for prefill in self._prefills)

    @property
    def has_work(self) -> bool:
        """True while any request waits or runs."""
        return bool(self.queue or self.num_running)

    def submit(self, request: Request) -> None:
        """Queue a request."""
        self.queue.push(request)

    def admit(self) -> list[Request]:
        """Give rows and slots to the requests whose turn it is; return those that are new.

        A request whose prompt is being computed for another one joins that prefill. The first one
        that does not fit keeps all behind it waiting, so that nothing is overtaken forever.
        """
        admitted = []
        while (request := self.queue.head()) is not None:
            is_new = request.row == NO_ROW
            if is_new and not self._free_rows:
                break
            cost_tokens = self._place(request)
            if cost_tokens is None:
                break
            # What a preempted request computes again was charged the first time.
            self.queue.pop(cost_tokens if is_new else 0)
            if is_new:
                request.row = self._free_rows.pop()
                admitted.append(request)
        return admitted

    def next_chunks(self, budget_tokens: int) -> list[Chunk]:
        """Return the prompt pieces of the next step, at most `budget_tokens` together.

        Only a prompt longer than the whole budget is cut: one that does not fit into what is left
        waits a step, which keeps steps of fresh prompts on the model's packed path. Pieces leave
        the blocks that decoding takes in this step. Prefills that block each other step back.
        """
        self._cache.trim(range(self._cache.num_slots))
        chunks = self._cut(budget_tokens)
        while not (chunks or self.decoding) and len(self._prefills) > 1:
            self._put_back(max(self._prefills, key=lambda prefill: prefill.rank))
            chunks = self._cut(budget_tokens)
        return chunks

    def computed(self, chunks: list[Chunk], experts: Experts) -> None:
        """Take note of the experts [T, L] of pieces, packed, and keep the blocks they filled."""
        offset = 0
        for chunk in chunks:
            stop = chunk.start + chunk.length
            chunk.prefill.experts[chunk.start : stop] = experts[offset : offset + chunk.length]
            offset += chunk.length
        self.keep_filled()

    def keep_filled(self) -> None:
        """Let the prefix cache keep the blocks that the last pass filled."""
        filled, self._cache.filled = self._cache.filled, []
        prefills = {prefill.slot: prefill for prefill in self._prefills}
        for block in filled:
            start, stop = block.index * BLOCK_TOKENS, (block.index + 1) * BLOCK_TOKENS
            prefill = prefills.get(block.slot)
            if prefill is not None:
                tokens, experts = prefill.tokens[start:stop], prefill.experts[start:stop]
                prefill.chain = self._prefix.insert(prefill.chain, block, tokens, experts)
            else:
                request = self.decoding[block.slot]
                tokens = self._record.inputs(request)[start:stop]
                known = self._record.experts(request, start, stop)
                chain = self._chains[request.row]
                self._chains[request.row] = self._prefix.insert(chain, block, tokens, known)

    def promote(self, prefill: Prefill) -> list[int]:
        """Move a complete prefill to decoding, forked for every member; return their slots.

        Members for whom no block is left go back into the queue, the least urgent first.
        """
        slots: list[int] = []
        if self._joinable.get(prefill.key) is prefill:
            del self._joinable[prefill.key]
        need = len(prefill.tokens) % BLOCK_TOKENS > 0
        for request in sorted(prefill.members, key=rank_of):
            if slots and self.room.num_available() < need:
                self._queue_again(request)
                continue
            slot = len(self.decoding)
            self._make_room(slot, prefill)
            if slots:
                self._cache.fork(slots[0], slot)
            else:
                self._prefills.remove(prefill)
                if slot != prefill.slot:
                    self._cache.move(prefill.slot, slot)
            self.decoding.append(request)
            self.row_of_slot[slot] = request.row
            self._chains[request.row] = prefill.chain
            self.queue.begin(request)
            slots.append(slot)
        self.changes += 1
        return slots

    def make_decode_room(self) -> None:
        """Put requests back, the youngest of the lowest priority first, until one token more fits.

        The most urgent one is never put back, so some request always comes to its end.
        """
        self._cache.trim(range(len(self.decoding)))
        while self._decode_blocks() > self.room.num_available():
            last = max(range(len(self.decoding)), key=lambda slot: rank_of(self.decoding[slot]))
            prefill = max(self._prefills, key=lambda prefill: prefill.rank, default=None)
            if prefill is not None and prefill.rank > rank_of(self.decoding[last]):
                self._put_back(prefill)
            else:
                self._queue_again(self._vacate(last))

    def release(self, slot: int) -> None:
        """End the request of a decoding slot; the last decoding slot moves into the gap."""
        self._free_rows.append(self._vacate(slot).row)

    def find_slot(self, request_id: int) -> int | None:
        """Return the decoding slot of a request, None if it does not decode."""
        for slot, request in enumerate(self.decoding):
            if request.request_id == request_id:
                return slot
        return None

    def withdraw(self, request_id: int) -> Request | None:
        """Take out a request that waits or is prefilled; None if there is no such request."""
        request = self.queue.withdraw(request_id)
        for prefill in list(self._prefills):
            for member in list(prefill.members):
                if member.request_id == request_id:
                    request = member
                    prefill.members.remove(member)
            if not prefill.members:
                self._discard(prefill)
        if request is not None and request.row != NO_ROW:
            self._free_rows.append(request.row)
        return request

    def new_version(self) -> None:
        """Keep what older weights computed from all requests that are not running yet."""
        self._prefix.new_version()
        for prefill in self._prefills:
            if prefill.done_tokens == 0:
                prefill.chain = self._prefix.start(prefill.key[0])
            elif self._joinable.get(prefill.key) is prefill:
                del self._joinable[prefill.key]

    def _place(self, request: Request) -> int | None:
        """Join or start a request's prefill; return its cost in tokens, None if it must wait."""
        tokens, wants_experts = self._record.inputs(request), request.params.capture_experts
        key = (request.salt, tokens.tobytes())
        prefill = self._joinable.get(key)
        if prefill is not None and (prefill.knows_experts or not wants_experts):
            if not self.room.fits(1, {}, self._claims()):
                return None
            prefill.members.append(request)
            return 0
        match = self._prefix.match(tokens, request.salt, wants_experts)
        need = blocks_of(len(tokens) + 1) - match.chain.num_blocks
        reused = self._prefix.num_idle(match)
        if self.num_running and not self.room.fits(need, reused, self._claims()):
            return None
        experts = np.zeros((len(tokens), self._cache.config.num_hidden_layers), dtype=np.uint8)
        for index, known in enumerate(match.experts):
            if known is not None:
                experts[index * BLOCK_TOKENS : (index + 1) * BLOCK_TOKENS] = known
        # Leave room in front for the members of earlier prefills: no moves later.
        slot = self._free_slot(self.num_running)
        self._prefix.adopt(match, slot)
        self._stats.prefix_hit_tokens += match.num_tokens
        self._joinable[key] = prefill = Prefill(
            slot=slot,
            tokens=tokens,
            key=key,
            members=[request],
            experts=experts,
            knows_experts=all(known is not None for known in match.experts),
            chain=match.chain,
            done_tokens=match.num_tokens,
        )
        self._prefills.append(prefill)
        return len(tokens) - match.num_tokens

    def _claims(self) -> Iterator[int]:
        """Yield the blocks that running requests will take soon: prompts, forks, the next one."""
        for slot, request in enumerate(self.decoding):
            most = blocks_of(len(request.prompt) + request.limit - 1)
            yield min(1, most - blocks_of(self._cache.lengths[slot]))
        for prefill in self._prefills:
            yield blocks_of(len(prefill.tokens) + 1) - blocks_of(prefill.done_tokens)
            yield from [1] * (len(prefill.members) - 1)

    def _decode_blocks(self) -> int:
        """Return the blocks of each kind that one token for every decoding slot takes."""
        return sum(n % BLOCK_TOKENS == 0 for n in self._cache.lengths[: len(self.decoding)])

    def _cut(self, budget_tokens: int) -> list[Chunk]:
        chunks: list[Chunk] = []
        left = budget_tokens
        blocks = self.room.num_available() - self._decode_blocks()
        for prefill in self._prefills:
            missing, done = len(prefill.tokens) - prefill.done_tokens, prefill.done_tokens
            if left == 0 or (chunks and left < missing <= budget_tokens):
                break
            length = piece_length(done, min(missing, left), blocks)
            if length == 0:
                break
            chunks.append(Chunk(prefill=prefill, start=done, length=length))
            prefill.done_tokens += length
            blocks -= blocks_of(done + length) - blocks_of(done)
            left -= length
        return chunks

    def _put_back(self, prefill: Prefill) -> None:
        """Give up a prefill; its members wait again."""
        for request in prefill.members:
            self._queue_again(request)
        self._discard(prefill)

    def _queue_again(self, request: Request) -> None:
        self._stats.preemptions += 1
        self.queue.push(request)

    def _discard(self, prefill: Prefill) -> None:
        self._prefills.remove(prefill)
        if self._joinable.get(prefill.key) is prefill:
            del self._joinable[prefill.key]
        self._cache.reset(prefill.slot)

    def _vacate(self, slot: int) -> Request:
        """Empty a decoding slot, and close the gap with the last one; return its request."""
        request, last = self.decoding[slot], len(self.decoding) - 1
        if slot != last:
            self._cache.move(last, slot)
            self.decoding[slot] = self.decoding[last]
            self.row_of_slot[slot] = self.row_of_slot[last]
        else:
            self._cache.reset(last)
        self.decoding.pop()
        self.queue.end(request)
        self.changes += 1
        return request

    def _free_slot(self, first: int) -> int:
        """Return a slot that nobody holds, searching up from `first` and then from below."""
        taken = {prefill.slot for prefill in self._prefills}
        behind = range(first, self._max_running + 1)
        slot: int = next(s for s in (*behind, *range(len(self.decoding), first)) if s not in taken)
        return slot

    def _make_room(self, slot: int, keep: Prefill) -> None:
        """Move the prefill that sits in `slot`, unless it is `keep`, to a free slot behind."""
        for prefill in self._prefills:
            if prefill.slot == slot and prefill is not keep:
                prefill.slot = self._free_slot(slot + 1)
                self._cache.move(slot, prefill.slot)
