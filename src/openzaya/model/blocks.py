"""Which blocks of a pool are free, how often each is shared, and which may be thrown away.

A block is BLOCK_TOKENS positions of keys and values in all layers of one kind. No tensors here.
"""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from openzaya.core.errors import EngineError

BLOCK_TOKENS = 64
"""S: positions of a block."""


class OutOfBlocksError(EngineError):
    """A pass needs more blocks than are free; nothing was changed, so make room and try again."""


def blocks_of(num_tokens: int) -> int:
    """Return the blocks that this many tokens occupy."""
    return -(-num_tokens // BLOCK_TOKENS)


class BlockPool:
    """Reference counts of the blocks of one kind.

    A block is *used* while sequences refer to it. When the last one drops it, it becomes free, or
    *idle* if somebody asked to keep its contents: idle blocks are given out again, the one that
    was idle longest first, when no free one is left.
    """

    def __init__(self, num_blocks: int) -> None:
        """Start with all blocks free."""
        self.refs: npt.NDArray[np.int32] = np.zeros(num_blocks, dtype=np.int32)
        """Sequences that refer to each block."""
        self.on_evict: Callable[[int], None] | None = None
        """Called with an idle block to give up; it must `forget` the block."""
        self.max_idle = num_blocks
        """Idle blocks beyond these are evicted although others are free: it bounds the memory that
        is touched."""
        self.evictions = 0
        """Idle blocks that were given up."""
        # The lowest ids first: memory that was never touched stays untouched.
        self._free = list(range(num_blocks))[::-1]
        self._kept: set[int] = set()
        self._idle: dict[int, None] = {}

    @property
    def num_blocks(self) -> int:
        """All blocks."""
        return len(self.refs)

    @property
    def num_available(self) -> int:
        """Blocks that can be taken now: the free and the idle ones."""
        return len(self._free) + len(self._idle)

    @property
    def num_idle(self) -> int:
        """Blocks that nobody refers to but whose contents are kept."""
        return len(self._idle)

    @property
    def num_used(self) -> int:
        """Blocks that sequences refer to."""
        return self.num_blocks - self.num_available

    def is_idle(self, block: int) -> bool:
        """Tell whether a block is kept without being used."""
        return block in self._idle

    def take(self) -> int:
        """Return a block for one owner, evicting the oldest idle one if none is free."""
        if not self._free and self._idle:
            self._evict()
        if not self._free:
            raise OutOfBlocksError(
                f"all {self.num_blocks} blocks of {BLOCK_TOKENS} tokens are in use; end or preempt "
                "a sequence, or make a larger cache"
            )
        block = self._free.pop()
        self.refs[block] = 1
        return block

    def share(self, block: int) -> None:
        """Count one more owner of a used or idle block."""
        self.refs[block] += 1
        self._idle.pop(block, None)

    def drop(self, block: int) -> None:
        """Count one owner less."""
        self.refs[block] -= 1
        if self.refs[block] == 0:
            if block not in self._kept:
                self._free.append(block)
                return
            self._idle[block] = None
            if len(self._idle) > self.max_idle:
                self._evict()

    def keep(self, block: int) -> None:
        """Ask for a used block's contents to outlive its owners."""
        self._kept.add(block)

    def forget(self, block: int) -> None:
        """Take `keep` back; an idle block becomes free."""
        self._kept.discard(block)
        if block in self._idle:
            del self._idle[block]
            self._free.append(block)

    def _evict(self) -> None:
        """Let the owner of the contents forget the block that was idle longest."""
        assert self.on_evict is not None, "kept blocks need somebody to forget them"
        self.evictions += 1
        self.on_evict(next(iter(self._idle)))
