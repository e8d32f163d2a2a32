"""The bounded buffer between actors and trainer: whole groups, oldest first.

Paper: IV-C(d).
"""

from collections import deque
from typing import Any

import numpy as np
import torch
from torch import Tensor

from openzaya.rl.config import Group, Prompt, Rollout
from openzaya.rl.tails import check_json, messages_from_json, messages_to_json

EXPERTS = "experts"


class GroupBuffer:
    """A first-in, first-out queue of groups that never hands out a stale one.

    Ages are in updates, counted from the oldest token of a group. Groups leave whole: losing a
    single rollout would change the statistics of the others.
    """

    def __init__(self, capacity: int, max_lag: int) -> None:
        """Hold at most `capacity` groups, none more than `max_lag` updates old."""
        self.capacity = capacity
        self.max_lag = max_lag
        self.num_evicted = 0
        """Groups that had to leave because the buffer was full, so far."""
        self.num_stale = 0
        """Groups that became too old, so far."""
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

    def drop_stale(self, updates: int) -> None:
        """Forget groups that are more than `max_lag` updates older than `updates`."""
        fresh = [g for g in self._groups if updates - g.min_version <= self.max_lag]
        self.num_stale += len(self._groups) - len(fresh)
        self._groups = deque(fresh)

    def take(self, count: int, updates: int) -> list[Group]:
        """Remove and return up to `count` of the oldest groups that are fresh enough.

        `updates` is how many updates the weights have seen that the coming one starts from.
        """
        self.drop_stale(updates)
        return [self._groups.popleft() for _ in range(min(count, len(self._groups)))]

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Return tensors and JSON values for a checkpoint."""
        groups = [_to_json(group) for group in self._groups]
        routes = [r.experts for group in self._groups for r in group.rollouts]
        tensors = {EXPERTS: torch.from_numpy(np.concatenate(routes))} if routes else {}
        counts = {"evicted": self.num_evicted, "stale": self.num_stale}
        return tensors, {"groups": groups, **counts}

    def load(self, tensors: dict[str, Tensor], state: dict[str, Any]) -> None:
        """Take a state back."""
        self.num_evicted, self.num_stale = state["evicted"], state["stale"]
        self._groups = deque()
        start = 0
        for value in state["groups"]:
            rollouts = []
            for record in value["rollouts"]:
                stop = start + len(value["prompt_ids"]) + len(record["token_ids"]) - 1
                # Copied: a view would keep the whole tensor alive with its last group.
                experts = tensors[EXPERTS][start:stop].numpy().copy()
                rollouts.append(Rollout(experts=experts, **record))
                start = stop
            prompt = {
                **value["prompt"],
                "messages": messages_from_json(value["prompt"]["messages"]),
            }
            self._groups.append(Group(Prompt(**prompt), value["prompt_ids"], tuple(rollouts)))


def _to_json(group: Group) -> dict[str, Any]:
    prompt = group.prompt
    check_json(prompt.payload, prompt.key)
    return {
        "prompt": {
            "messages": messages_to_json(prompt.messages),
            "payload": prompt.payload,
            "source": prompt.source,
            "key": prompt.key,
            "keeps_tails": prompt.keeps_tails,
        },
        "prompt_ids": group.prompt_ids,
        "rollouts": [
            {
                "token_ids": r.token_ids,
                "logprobs": r.logprobs,
                "versions": r.versions,
                "text": r.text,
                "reward": r.reward,
                "is_flagged": r.is_flagged,
                "is_cut": r.is_cut,
            }
            for r in group.rollouts
        ],
    }
