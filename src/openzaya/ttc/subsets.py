"""Which tails each new candidate sees, and in which order.

Paper: VI-A(a): tails are drawn uniformly from the stage before, and only from it.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from random import Random

from openzaya.ttc.answers import classes
from openzaya.ttc.config import MarkovianRSAConfig, Order
from openzaya.ttc.result import Candidate

Drawn = list[tuple[int, ...]]


def pool_of(candidates: Sequence[Candidate]) -> tuple[int, ...]:
    """Return the slots whose tails may be shown: not failed, not empty, and not looping.

    Looping tails are shown when there is nothing else. Empty when no candidate left a tail.
    """
    filled = [c for c in candidates if not c.is_failed and c.tail.strip()]
    sound = [c.slot for c in filled if not c.is_looping]
    return tuple(sound or [c.slot for c in filled])


def minority_of(candidates: Sequence[Candidate], same: Callable[[str], str]) -> frozenset[int]:
    """Return the slots whose answer is not the most frequent one; the first seen leads a tie."""
    voters = [c for c in candidates if c.answer is not None]
    found = classes([c.answer for c in voters], same)
    if not found:
        return frozenset()
    leader = Counter(found).most_common(1)[0][0]
    return frozenset(c.slot for c, answer in zip(voters, found, strict=True) if answer != leader)


def parents_of(
    config: MarkovianRSAConfig,
    pool: Sequence[int],
    slots: Sequence[int],
    rng: Random,
    *,
    used: Counter[int] | None = None,
    minority: frozenset[int] = frozenset(),
) -> Drawn:
    """Return the slots whose tails the candidates of `slots` see, each in prompt order.

    With C = 1 slot i continues from its own tail while it has one. Without replacement inside a
    subset, independent between candidates unless balanced; min(C, pool) tails each. `used` counts
    how often tails were shown in the stage already, and is brought up to date. Under `diverse` a
    subset without any slot of `minority` gets one.
    """
    if not pool:
        return [()] * len(slots)
    if config.tails_per_prompt == 1:
        return [(slot if slot in pool else rng.choice(pool),) for slot in slots]
    used = Counter() if used is None else used
    size = min(config.tails_per_prompt, len(pool))
    if config.subset == "balanced":
        drawn = [_least_used(pool, size, used, rng) for _ in slots]
    else:
        drawn = [tuple(rng.sample(pool, size)) for _ in slots]
        if config.subset == "diverse":
            drawn = _with_minority(drawn, sorted(minority.intersection(pool)), rng)
        for subset in drawn:
            used.update(subset)
    return _ordered(drawn, config.order, used)


def _least_used(pool: Sequence[int], size: int, used: Counter[int], rng: Random) -> tuple[int, ...]:
    # Least used first, ties by chance: uses never differ by more than one.
    least = sorted(pool, key=lambda slot: (used[slot], rng.random()))[:size]
    rng.shuffle(least)
    used.update(least)
    return tuple(least)


def _with_minority(drawn: Drawn, minority: Sequence[int], rng: Random) -> Drawn:
    """Put a random minority tail in the place of a random other one where a subset has none.

    Repeated aggregation without it collapses to few modes. Source: arXiv:2604.07725.
    Deviation: D-054.
    """
    if not minority:
        return drawn
    changed: Drawn = []
    for subset in drawn:
        kept = list(subset)
        if not set(kept).intersection(minority):
            kept[rng.randrange(len(kept))] = rng.choice(minority)
        changed.append(tuple(kept))
    return changed


def _ordered(subsets: Drawn, order: Order, used: Counter[int]) -> Drawn:
    """Put often-used tails first under `cache`, so that prompts share long prefixes."""
    if order == "random":
        return subsets
    return [tuple(sorted(subset, key=lambda s: (-used[s], s))) for subset in subsets]
