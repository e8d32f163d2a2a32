"""The bounded buffer between actors and trainer: whole groups, oldest first.

Paper: IV-C(d).
"""

from collections import deque

from openzaya.rl.config import Group


class GroupBuffer:
    """A first-in, first-out queue of groups that never hands out a stale one."""

    def __init__(self, capacity: int, max_lag: int) -> None:
        """Hold at most `capacity` groups, none more than `max_lag` versions old."""
        self.capacity = capacity
        self.max_lag = max_lag
        self.num_evicted = 0
        self.num_stale = 0
        self._groups: deque[Group] = deque()

    def __len__(self) -> int:
        """Return how many groups wait."""
        return len(self._groups)

    def push(self, group: Group) -> None:
        """Add a group; the oldest leaves when the buffer is full."""
        self._groups.append(group)
        if len(self._groups) > self.capacity:
            self._groups.popleft()
            self.num_evicted += 1

    def take(self, count: int, version: int) -> list[Group]:
        """Remove and return up to `count` of the oldest groups that are fresh enough.

        `version` is the version that the coming update starts from; staleness is counted from the
        oldest token of a group.
        """
        taken: list[Group] = []
        while self._groups and len(taken) < count:
            group = self._groups.popleft()
            if version - group.min_version > self.max_lag:
                self.num_stale += 1
            else:
                taken.append(group)
        return taken
