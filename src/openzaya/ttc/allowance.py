"""Keeping within a hard cap of tokens, and within an answer's share of a budget.

The cap is dealt out over the stages in proportion to their budgets, and what a stage leaves goes to
the next. Where completions can be cut, the calls of a stage draw on one pool and are cut when it
is used up, with one more batch for each of them in mind: so the cap is exceeded by at most one
batch. Where they cannot, every call gets its share as its most tokens, and the cap holds exactly.

Deviation: D-052.
"""

from collections.abc import Mapping, Sequence

from openzaya.text.markers import THINK_CLOSE
from openzaya.ttc.config import MarkovianRSAConfig

FIRST_BATCH_TOKENS = 64
"""Room for the first batch of every call, whose size nobody knows; less is dealt out as shares."""

Slot = tuple[int, int]
"""Stage and slot."""


class Allowance:
    """What the calls of a run may still generate under `max_total_tokens`."""

    def __init__(self, config: MarkovianRSAConfig, can_cut: bool) -> None:
        """`can_cut` says whether a completion can be ended while it is generated."""
        self.config = config
        self.can_cut = can_cut
        self.limits = stage_limits(config)
        self.spent = [0] * config.num_stages
        """Generated in each stage so far, broken tries included."""
        self.largest_batch = 1
        self.running: dict[Slot, list[int]] = {}
        """Of each running call: its most tokens, those of this try, those of all tries."""

    def begin(self, slot: Slot) -> int:
        """Return the most tokens a new call may generate, 0 for none, and take note of it."""
        most = self._most(slot[0])
        self.running[slot] = [most, 0, 0]
        return most

    def retry(self, slot: Slot) -> int:
        """Return the most tokens of a further try."""
        call = self.running[slot]
        most = call[0] = max(1, min(call[0], self._most(slot[0])))
        call[1] = 0
        return most

    def wrote(self, slot: Slot, num_tokens: int) -> Sequence[Slot]:
        """Take note of a batch of tokens; return the running calls that must be cut now."""
        call = self.running.get(slot)
        if call is not None:
            call[1] += num_tokens
            call[2] += num_tokens
            self.spent[slot[0]] += num_tokens
            self.largest_batch = max(self.largest_batch, num_tokens)
        return () if self.limits is None else self._exceeding(slot[0])

    def end(self, slot: Slot, num_tokens: int, streamed: int | None = None) -> int:
        """Take note of a candidate's length; return how many tokens of its tries were lost.

        `streamed` is what its last try was noted with: for some servers an estimate of its length.
        """
        call = self.running.pop(slot, None)
        written = call[2] if call else 0
        kept = min(written, num_tokens if streamed is None else streamed)
        self.spent[slot[0]] += max(0, num_tokens - kept)
        return written - kept

    def _exceeding(self, stage: int) -> list[Slot]:
        for last in range(self.config.num_stages - 1, stage - 1, -1):
            if self._room(last) < len(self.running) * self.largest_batch:
                calls = {s: call for s, call in self.running.items() if s[0] <= last}
                if self._room(last) < sum(map(self._next_batch, calls.values())):
                    return sorted(calls)
        return []

    def _next_batch(self, call: list[int]) -> int:
        left = call[0] - call[1]
        return self.largest_batch if left < 0 else min(left, self.largest_batch)

    def _room(self, stage: int) -> int:
        assert self.limits is not None
        return self.limits[stage] - sum(self.spent[: stage + 1])

    def _most(self, stage: int) -> int:
        budget = self.config.budget_at(stage)
        if self.limits is None:
            return budget
        room = self._room(stage)
        if not self.can_cut or room < FIRST_BATCH_TOKENS * self.config.candidates_at(stage):
            room = min(room, self._share(stage))
        return max(0, min(budget, room))

    def _share(self, stage: int) -> int:
        """Return a call's part where nothing can be cut; the same however far its stage is."""
        assert self.limits is not None
        before = sum(self.spent[:stage])
        if self.config.schedule == "async" and stage:
            before = self.limits[stage - 1]  # the stage before may still be spending its part
        return (self.limits[stage] - before) // self.config.candidates_at(stage)

    def left_for_judge(self) -> int:
        """Return how many tokens the cap leaves for a selection call."""
        if self.config.max_total_tokens is None:
            return self.config.judge_tokens
        left = self.config.max_total_tokens - sum(self.spent)
        return max(0, min(self.config.judge_tokens, left))


def stage_limits(config: MarkovianRSAConfig) -> list[int] | None:
    """Return the most tokens of all stages up to each one; None without a cap.

    A selection call, where one may come, has a share like a stage.
    """
    if config.max_total_tokens is None:
        return None
    parts = [config.candidates_at(s) * config.budget_at(s) for s in range(config.num_stages)]
    judge = config.judge_tokens if "judge" in (config.select, config.fallback) else 0
    whole = sum(parts) + judge
    return [
        config.max_total_tokens * sum(parts[: stage + 1]) // whole
        for stage in range(config.num_stages)
    ]


def counts_of(running: Mapping[Slot, list[int]]) -> int:
    """Return the tokens that running calls wrote so far."""
    return sum(call[2] for call in running.values())


class AnswerAllowance:
    """Says when a trace has written as much after its think block as it may.

    Deviation: D-053.
    """

    def __init__(self, allowance_tokens: int) -> None:
        """0 ends a trace where its think block closes."""
        self.left = allowance_tokens
        self.is_open = True
        self.end = ""

    def is_used_up(self, text: str, num_tokens: int) -> bool:
        """Take in new text; a piece that holds the closing marker does not count itself."""
        if self.is_open:
            self.end += text
            self.is_open = THINK_CLOSE not in self.end
            self.end = self.end[-len(THINK_CLOSE) :]
            return not self.is_open and self.left == 0
        self.left -= num_tokens
        return self.left <= 0
