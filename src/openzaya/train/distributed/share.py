"""Which rank trains which windows of a step: equal work, and the same step for any number of ranks.

A step's windows are a pure function of the step. They are dealt out by cost, every window to one
group of ranks; the order of the data does not know how many groups there are.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from openzaya.data.windows import Window
from openzaya.model.config import ZayaConfig
from openzaya.train.batch import split_windows


@dataclass(frozen=True, slots=True)
class CostModel:
    """FLOP of training on one document: linear in its tokens, and quadratic for attention."""

    per_token: float
    """Every weight that a token meets, forward and backward."""
    per_pair: float
    """Every (token, earlier token) pair of all layers."""

    @classmethod
    def of(cls, config: ZayaConfig) -> "CostModel":
        """Return the costs of a model; sliding layers count as full ones."""
        pair = 3 * 4 * config.num_hidden_layers * config.num_attention_heads * config.head_dim
        return cls(6.0 * config.num_active_parameters(), float(pair))

    def window(self, window: Window) -> float:
        """Return the cost of a window of whole documents."""
        return sum(n * (self.per_token + self.per_pair * n / 2) for n in window.lengths)


def deal(windows: Sequence[Window], num_groups: int, cost: CostModel) -> list[list[Window]]:
    """Return each group's windows in the step's order; a group may get none.

    The dearest window goes first, each to the group with the least so far: no group has more than
    the mean plus one window.

    Paper: IV-B (packs balanced over ranks).
    """
    costs = [cost.window(window) for window in windows]
    loads = [0.0] * num_groups
    chosen: list[list[int]] = [[] for _ in range(num_groups)]
    for index in sorted(range(len(windows)), key=lambda i: (-costs[i], i)):
        group = min(range(num_groups), key=lambda g: (loads[g], g))
        chosen[group].append(index)
        loads[group] += costs[index]
    return [[windows[i] for i in sorted(part)] for part in chosen]


def microbatches(
    windows: Sequence[Window], num_groups: int, micro_tokens: int, cost: CostModel
) -> list[list[list[Window]]]:
    """Return every group's microbatches, equally many for all; those added are empty.

    Ranks wait for each other in each pass, so passes of like cost are put side by side.
    """
    parts = [split_windows(part, micro_tokens) for part in deal(windows, num_groups, cost)]
    for part in parts:
        part.sort(key=lambda batch: -sum(map(cost.window, batch)))
    passes = max(len(part) for part in parts)
    return [part + [[] for _ in range(passes - len(part))] for part in parts]
