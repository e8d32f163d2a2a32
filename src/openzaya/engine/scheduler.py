"""Who runs next and in which cache slot; no tensors, no model.

Slots [0, B) decode and are kept contiguous, so that a decode step reads the cache without a
gather; prefills sit in slots behind them. The cache has one slot more than requests may run, so a
free one always exists for making room.
"""

import heapq
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from openzaya.engine.request import Request


class SlotCache(Protocol):
    """The part of the model's cache that moving requests between slots needs."""

    def fork(self, src: int, dst: int) -> None:
        """Make `dst` equal to `src`."""
        ...

    def move(self, src: int, dst: int) -> None:
        """Make `dst` what `src` was, and `src` empty."""
        ...

    def reset(self, slot: int) -> None:
        """Empty `slot`."""
        ...


@dataclass(eq=False, kw_only=True, slots=True)
class Prefill:
    """One prompt being computed for all requests that share it."""

    slot: int
    """Where its state is built."""
    prompt: npt.NDArray[np.int64]
    """Prompt ids."""
    key: bytes
    """Equal for equal prompts."""
    members: list[Request]
    """Requests that wait for it."""
    done_tokens: int = 0
    """Prompt tokens computed so far."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Chunk:
    """A piece of a prompt that one step computes."""

    prefill: Prefill
    """Whose prompt."""
    start: int
    """First prompt token of the piece."""
    length: int
    """Tokens of the piece."""

    @property
    def ends_prompt(self) -> bool:
        """True when the prompt is complete after this piece."""
        return self.start + self.length == len(self.prefill.prompt)


class Scheduler:
    """Admission by priority, then arrival; prefills in admission order; slots of all requests."""

    def __init__(self, max_running: int, cache: SlotCache) -> None:
        self._max_running = max_running
        self._cache = cache
        self._waiting: list[tuple[int, int, Request]] = []
        self._prefills: list[Prefill] = []
        self._joinable: dict[bytes, Prefill] = {}
        self._free_rows = list(range(max_running))[::-1]
        self.decoding: list[Request] = []
        """The request of each decoding slot."""
        self.row_of_slot: npt.NDArray[np.intp] = np.zeros(max_running + 1, dtype=np.intp)
        """The ledger row of each decoding slot."""
        self.changes = 0
        """Counts changes of `decoding`, so that what is derived from it can be kept."""

    @property
    def num_running(self) -> int:
        """Requests that are prefilled or decoded now."""
        return self._max_running - len(self._free_rows)

    @property
    def has_work(self) -> bool:
        """True while any request waits or runs."""
        return bool(self._waiting or self.num_running)

    def submit(self, request: Request) -> None:
        """Queue a request."""
        heapq.heappush(self._waiting, (request.priority, request.request_id, request))

    def admit(self) -> list[Request]:
        """Give rows and slots to the requests whose turn it is; return them.

        A request whose prompt is about to be computed for another one joins that prefill.
        """
        admitted = []
        while self._waiting and self._free_rows:
            request = heapq.heappop(self._waiting)[2]
            key = request.key()
            prefill = self._joinable.get(key)
            if prefill is None:
                # Leave room in front for the members of earlier prefills: no moves later.
                slot = self._free_slot(self.num_running)
                prefill = Prefill(slot=slot, prompt=request.prompt, key=key, members=[])
                self._prefills.append(prefill)
                self._joinable[key] = prefill
            prefill.members.append(request)
            request.row = self._free_rows.pop()
            admitted.append(request)
        return admitted

    def next_chunks(self, budget_tokens: int) -> list[Chunk]:
        """Return the prompt pieces of the next step, at most `budget_tokens` together.

        Only a prompt longer than the whole budget is cut: one that does not fit into what is left
        waits a step, which keeps steps of fresh prompts on the model's packed path.
        """
        chunks: list[Chunk] = []
        left = budget_tokens
        for prefill in self._prefills:
            missing = len(prefill.prompt) - prefill.done_tokens
            if left == 0 or (chunks and left < missing <= budget_tokens):
                break
            length = min(missing, left)
            chunks.append(Chunk(prefill=prefill, start=prefill.done_tokens, length=length))
            prefill.done_tokens += length
            self._joinable.pop(prefill.key, None)
            left -= length
        return chunks

    def promote(self, prefill: Prefill) -> list[int]:
        """Move a complete prefill to decoding, its state copied per member; return their slots."""
        slots: list[int] = []
        for request in prefill.members:
            slot = len(self.decoding)
            self._make_room(slot, prefill)
            if not slots:
                self._prefills.remove(prefill)
                if slot != prefill.slot:
                    self._cache.move(prefill.slot, slot)
            else:
                self._cache.fork(slots[0], slot)
            self.decoding.append(request)
            self.row_of_slot[slot] = request.row
            slots.append(slot)
        self.changes += 1
        return slots

    def release(self, slot: int) -> None:
        """End the request of a decoding slot; the last decoding slot moves into the gap."""
        last = len(self.decoding) - 1
        self._free_rows.append(self.decoding[slot].row)
        if slot != last:
            self._cache.move(last, slot)
            self.decoding[slot] = self.decoding[last]
            self.row_of_slot[slot] = self.row_of_slot[last]
        else:
            self._cache.reset(last)
        self.decoding.pop()
        self.changes += 1

    def find_slot(self, request_id: int) -> int | None:
        """Return the decoding slot of a request, None if it does not decode."""
        for slot, request in enumerate(self.decoding):
            if request.request_id == request_id:
                return slot
        return None

    def withdraw(self, request_id: int) -> Request | None:
        """Take out a request that waits or is prefilled; None if there is no such request."""
        for index, (_, waiting_id, request) in enumerate(self._waiting):
            if waiting_id == request_id:
                del self._waiting[index]
                heapq.heapify(self._waiting)
                return request
        for prefill in self._prefills:
            for request in prefill.members:
                if request.request_id == request_id:
                    self._leave(prefill, request)
                    return request
        return None

    def _leave(self, prefill: Prefill, request: Request) -> None:
        """Take a request out of its prefill, and end the prefill when nobody waits for it."""
        prefill.members.remove(request)
        self._free_rows.append(request.row)
        if not prefill.members:
            self._prefills.remove(prefill)
            self._joinable.pop(prefill.key, None)
            self._cache.reset(prefill.slot)

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
