"""Wrong programs that look right: mutants that pass a template's samples and fail elsewhere.

A mutant is kept only if it compiles, agrees with the trusted solutions on the samples, and on some
generated input gives a wrong output or crashes; such inputs are stored with it. A mutant that is
merely late somewhere is not kept for that. The same template gives the same bank every time.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from threading import Lock
from typing import cast

from openzaya.core.errors import SandboxError
from openzaya.core.seeding import stream
from openzaya.envs.code.grammar import Given
from openzaya.envs.code.matrix import Matrix, MatrixLimits
from openzaya.envs.code.mutate import Mutant, mutants
from openzaya.envs.code.outcomes import Outcome
from openzaya.envs.code.problem import Failure
from openzaya.envs.code.template import Template, get
from openzaya.envs.code.values import canonical
from openzaya.sandbox.executor import MIB, Executor

NUM_SAMPLES = 3
NUM_INPUTS = 48
"""Generated inputs, of all sizes, on which a mutant may be caught."""
BATCH = 48
"""Mutants that are tried at once; more follow until enough are kept."""
ENOUGH = 40
LIMITS = MatrixLimits(cpu_s=0.1, memory_bytes=256 * MIB)
"""Short, because many mutants never end; our solutions take a hundredth of it."""


@dataclass(frozen=True, slots=True)
class Kept:
    """A mutant that passes the samples and is wrong."""

    source: str
    operator: str
    killers: tuple[int, ...]
    """Which of the bank's inputs it fails, by a wrong output or a crash; never empty."""

    def kill_rate(self) -> float:
        """Return the share of generated inputs on which it fails: the smaller, the harder."""
        return len(self.killers) / NUM_INPUTS


@dataclass(frozen=True, slots=True)
class Bank:
    """What is known of one template's mutants."""

    samples: tuple[Given, ...]
    inputs: tuple[Given, ...]
    kept: tuple[Kept, ...]
    """Ordered from the most often to the least often wrong."""
    num_tried: int


class Banks:
    """Makes banks when they are asked for, and keeps them. Safe between threads."""

    def __init__(self, executor: Executor) -> None:
        self.matrix = Matrix(executor, LIMITS)
        self._banks: dict[str, Bank] = {}
        self._lock = Lock()

    def get(self, name: str) -> Bank:
        """Return the bank of a template. Raises SandboxError when the sandbox failed."""
        with self._lock:
            if name not in self._banks:
                self._banks[name] = build(get(name), self.matrix)
            return self._banks[name]


def build(template: Template, matrix: Matrix, enough: int = ENOUGH) -> Bank:
    """Try mutants of all solutions, in random order, until `enough` are kept or none are left."""
    rng = stream(0, "mutants", template.name)
    samples = distinct(template, rng, NUM_SAMPLES, sizes=(1, 2))
    inputs = distinct(template, rng, NUM_INPUTS, sizes=(1, 2, 3, 4, 5, 6, 8, 12, 16, 24))
    todo = [mutant for source in template.solutions for mutant in mutants(source, rng, 4 * BATCH)]
    rng.shuffle(todo)
    kept: list[Kept] = []
    num_tried = 0
    while todo and len(kept) < enough:
        batch, todo = todo[:BATCH], todo[BATCH:]
        num_tried += len(batch)
        kept += sift(template, matrix, batch, samples, inputs)
    kept.sort(key=lambda each: (-len(each.killers), each.source))
    return Bank(tuple(samples), tuple(inputs), tuple(kept), num_tried)


def distinct(template: Template, rng: Random, count: int, sizes: Sequence[int]) -> list[Given]:
    """Draw different inputs, cycling through the sizes; fewer where there are no more."""
    found: dict[str, Given] = {}
    for turn in range(20 * count):
        given = template.draw(rng, sizes[turn % len(sizes)])
        found.setdefault(canonical(given), given)
        if len(found) == count:
            break
    return list(found.values())


def sift(
    template: Template,
    matrix: Matrix,
    batch: Sequence[Mutant],
    samples: Sequence[Given],
    inputs: Sequence[Given],
) -> list[Kept]:
    """Run mutants and keep those that pass the samples and fail on some input."""
    given = [*samples, *inputs]
    expected = [template.answer(each) for each in given]
    rows = matrix.run([m.source for m in batch], [template.argument(each) for each in given])
    kept = []
    for mutant, row in zip(batch, rows, strict=True):
        failed = [
            index
            for index, outcome in enumerate(row)
            if is_wrong(template, given[index], outcome, expected[index])
        ]
        passes = all(outcome.ok for outcome in row[: len(samples)])
        if passes and failed and failed[0] >= len(samples):
            killers = tuple(index - len(samples) for index in failed)
            kept.append(Kept(mutant.source, mutant.operator, killers))
    return kept


def is_wrong(template: Template, given: Given, outcome: Outcome, expected: object) -> bool:
    """Say whether a program failed on an input otherwise than by being late."""
    if outcome.infra:
        raise SandboxError(f"mutants of {template.name} could not be run: {outcome.infra}")
    if outcome.failure is not None:
        return outcome.failure is not Failure.TIME
    return not template.is_right(given, cast(object, outcome.value), expected)
