"""Which tails each new candidate sees, and in which order.

Paper: VI-A(a): tails are drawn uniformly from the stage before, and only from it.
"""

from collections import Counter
from collections.abc import Sequence
from random import Random

from openzaya.ttc.config import MarkovianRSAConfig, Order, Subset
from openzaya.ttc.result import Candidate


def pool_of(candidates: Sequence[Candidate]) -> tuple[int, ...]:
    """Return the slots whose tails may be shown: not failed, not empty, and not looping.

    Looping tails are shown when there is nothing else. Empty when no candidate left a tail.
    """
    filled = [c for c in candidates if not c.is_failed and c.tail.strip()]
    sound = [c.slot for c in filled if not c.is_looping]
    return tuple(sound or [c.slot for c in filled])


def parents_of(
    config: MarkovianRSAConfig, pool: Sequence[int], count: int, rng: Random
) -> list[tuple[int, ...]]:
    """Return the slots whose tails each of `count` new candidates sees, in prompt order.

    With C = 1 slot i continues from its own tail while it has one. Without replacement inside a
    subset, independent between candidates unless balanced; min(C, pool) tails each.
    """
    if not pool:
        return [()] * count
    if config.tails_per_prompt == 1:
        return [(slot if slot in pool else rng.choice(pool),) for slot in range(count)]
    size = min(config.tails_per_prompt, len(pool))
    return _ordered(_draw(config.subset, pool, size, count, rng), config.order)


def _draw(
    subset: Subset, pool: Sequence[int], size: int, count: int, rng: Random
) -> list[tuple[int, ...]]:
    if subset == "uniform":
        return [tuple(rng.sample(pool, size)) for _ in range(count)]
    used: Counter[int] = Counter()
    drawn: list[tuple[int, ...]] = []
    for _ in range(count):
        # Least used first, ties by chance: uses never differ by more than one.
        least = sorted(pool, key=lambda slot: (used[slot], rng.random()))[:size]
        rng.shuffle(least)
        used.update(least)
        drawn.append(tuple(least))
    return drawn


def _ordered(subsets: list[tuple[int, ...]], order: Order) -> list[tuple[int, ...]]:
    """Put often-used tails first under `cache`, so that prompts share long prefixes."""
    if order == "random":
        return subsets
    used = Counter(slot for subset in subsets for slot in subset)
    return [tuple(sorted(subset, key=lambda s: (-used[s], s))) for subset in subsets]
