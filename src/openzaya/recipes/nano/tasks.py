"""Which tasks the nano model learns, how hard, and which problems are held out."""

from dataclasses import dataclass
from functools import cache
from random import Random

from openzaya.core.seeding import stream
from openzaya.envs import catalog
from openzaya.envs.base import Environment, Problem

LEVELS: dict[str, dict[str, tuple[int, int]]] = {
    "add": {"easy": (0, 2), "hard": (4, 8)},
    "chain": {"easy": (0, 3), "hard": (5, 10)},
    "cipher": {"easy": (0, 2), "hard": (4, 7)},
    "code": {"easy": (0, 3), "hard": (5, 9)},
    "countdown": {"easy": (0, 0), "hard": (1, 2)},
    "modeq": {"easy": (0, 0), "hard": (1, 2)},
    "parts": {"easy": (0, 1), "hard": (4, 7)},
    "sort": {"easy": (0, 2), "hard": (4, 8)},
    "subset": {"easy": (0, 1), "hard": (2, 4)},
}
"""Lowest and highest difficulty of every task's two levels."""

HELD_OUT_SEED = 20_260_505
"""Seed of the held-out problems; no run can choose another."""
HELD_OUT_PER_LEVEL = 40
"""Held-out problems for each task and level."""


@dataclass(frozen=True, slots=True)
class Item:
    """One problem with the task and level it comes from."""

    env: Environment
    level: str
    problem: Problem


def draw(rng: Random, task: str, level: str) -> Item:
    """Draw one problem of a task's level."""
    env = catalog.get(task)
    low, high = LEVELS[task][level]
    return Item(env, level, env.make(rng, rng.randint(low, high)))


@cache
def held_out() -> tuple[Item, ...]:
    """Return the fixed held-out problems: distinct prompts, ordered by task and level."""
    items: list[Item] = []
    for task in LEVELS:
        for level in LEVELS[task]:
            rng = stream(HELD_OUT_SEED, "held-out", task, level)
            chosen: dict[str, Item] = {}
            while len(chosen) < HELD_OUT_PER_LEVEL:
                item = draw(rng, task, level)
                chosen.setdefault(item.problem.prompt, item)
            items.extend(chosen.values())
    return tuple(items)


@cache
def held_out_prompts() -> frozenset[str]:
    """Return the held-out prompts, which no training source may contain."""
    return frozenset(item.problem.prompt for item in held_out())


def draw_training(rng: Random, hard_share: float, tasks: tuple[str, ...] = tuple(LEVELS)) -> Item:
    """Draw a training problem: any task, hard with chance `hard_share`, never a held-out one."""
    while True:
        task = rng.choice(tasks)
        item = draw(rng, task, "hard" if rng.random() < hard_share else "easy")
        if item.problem.prompt not in held_out_prompts():
            return item
