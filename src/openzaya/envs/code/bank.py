"""Wrong programs that look right: mutants that pass a template's samples and fail elsewhere.

A mutant is kept only if it compiles, agrees with the trusted solutions on the samples, and on some
generated input gives a wrong output or crashes; such inputs are stored with it. A mutant that is
late on any of the inputs is not kept. The same template gives the same bank every time.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
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
NUM_CANDIDATES = 10
"""Small inputs that the samples are chosen from."""
NUM_SMALLEST = 6
"""Inputs of size 1 that show which mutants a thoughtless answer exposes."""
NUM_INPUTS = 48
"""Generated inputs, of all sizes, on which a mutant may be caught."""
BATCH = 48
"""Mutants that are tried at once; more follow until enough are kept."""
ENOUGH = 40
FEW = 24
"""With fewer, mutants are mutated once more, as long as not MOST_TRIED were tried."""
MOST_TRIED = 480
LIMITS = MatrixLimits(cpu_s=0.1, memory_bytes=256 * MIB)
"""Short, because many mutants never end; our solutions take a hundredth of it."""


@dataclass(frozen=True, slots=True)
class Kept:
    """A mutant that passes the samples and is wrong."""

    source: str
    operator: str
    killers: tuple[int, ...]
    """Which of the bank's inputs it fails, by a wrong output or a crash; never empty."""
    fails_small: bool = False
    """It also fails one of the smallest inputs: an answer without thinking may hit it."""

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
    """Try mutants of all solutions, in random order, until `enough` are kept or none are left.

    The samples are those of some small inputs that catch the fewest mutants of the first batch:
    a sample is there to show the form, not to test.
    """
    rng = stream(0, "mutants", template.name)
    small = distinct(template, rng, NUM_CANDIDATES, sizes=(1, 1, 2, 2, 3))
    small += distinct(template, Random(0), NUM_SMALLEST, sizes=(1,))
    inputs = distinct(template, rng, NUM_INPUTS, sizes=(1, 2, 3, 4, 5, 6, 8, 12, 16, 24))
    trial = Trial(template, [*small, *inputs])
    todo = [mutant for source in template.solutions for mutant in mutants(source, rng, 4 * BATCH)]
    rng.shuffle(todo)
    samples: list[int] = []
    kept: list[Kept] = []
    num_tried = 0
    while todo and len(kept) < enough:
        batch, todo = todo[:BATCH], todo[BATCH:]
        num_tried += len(batch)
        rows = trial.run(matrix, batch)
        samples = samples or weakest(rows, NUM_CANDIDATES)
        kept += sift(batch, rows, samples, len(small))
        if not todo and len(kept) < FEW and num_tried < MOST_TRIED:
            todo = twice(kept, rng)
    kept.sort(key=lambda each: (-len(each.killers), each.source))
    return Bank(tuple(small[i] for i in samples), tuple(inputs), tuple(kept), num_tried)


def twice(kept: Sequence[Kept], rng: Random) -> list[Mutant]:
    """Return programs with a second mistake, for templates with few single ones."""
    known = {each.source for each in kept}
    found = {
        second.source: Mutant(second.source, f"{first.operator}, {second.operator}")
        for first in kept
        for second in mutants(first.source, rng, 6)
        if second.source not in known
    }
    return list(found.values())


class State(StrEnum):
    """What a mutant did on one input."""

    RIGHT = "right"
    WRONG = "wrong"
    """A wrong output, or a failure otherwise than by time."""
    LATE = "late"


class Trial:
    """Inputs with their trusted outputs."""

    def __init__(self, template: Template, inputs: Sequence[Given]) -> None:
        self.template = template
        self.inputs = inputs
        self.expected = [template.answer(given) for given in inputs]

    def run(self, matrix: Matrix, batch: Sequence[Mutant]) -> list[list[State]]:
        """Run mutants on all inputs. Raises SandboxError when the sandbox failed."""
        arguments = [self.template.argument(given) for given in self.inputs]
        rows = matrix.run([mutant.source for mutant in batch], arguments)
        return [[self.state(i, outcome) for i, outcome in enumerate(row)] for row in rows]

    def state(self, index: int, outcome: Outcome) -> State:
        """Compare an outcome with the trusted output."""
        if outcome.infra:
            name = self.template.name
            raise SandboxError(f"mutants of {name} could not be run: {outcome.infra}")
        if outcome.failure is not None:
            return State.LATE if outcome.failure is Failure.TIME else State.WRONG
        given, value = self.inputs[index], cast(object, outcome.value)
        right = self.template.is_right(given, value, self.expected[index])
        return State.RIGHT if right else State.WRONG


def weakest(rows: Sequence[Sequence[State]], num_small: int) -> list[int]:
    """Return which of the first inputs let the most mutants through, in ascending order."""
    passed = [sum(row[i] is State.RIGHT for row in rows) for i in range(num_small)]
    return sorted(sorted(range(num_small), key=lambda i: -passed[i])[:NUM_SAMPLES])


def sift(
    batch: Sequence[Mutant],
    rows: Sequence[Sequence[State]],
    samples: Sequence[int],
    num_small: int,
) -> list[Kept]:
    """Keep the mutants that pass the samples and are wrong on some input behind the small ones.

    A mutant that is late anywhere is not kept: what it does on later inputs is not known.
    """
    kept = []
    for mutant, row in zip(batch, rows, strict=True):
        killers = tuple(i for i, state in enumerate(row[num_small:]) if state is State.WRONG)
        passes = all(row[i] is State.RIGHT for i in samples)
        if killers and passes and State.LATE not in row:
            fails_small = State.WRONG in row[:num_small]
            kept.append(Kept(mutant.source, mutant.operator, killers, fails_small))
    return kept


def distinct(template: Template, rng: Random, count: int, sizes: Sequence[int]) -> list[Given]:
    """Draw different inputs, cycling through the sizes; fewer where there are no more."""
    found: dict[str, Given] = {}
    for turn in range(20 * count):
        given = template.draw(rng, sizes[turn % len(sizes)])
        found.setdefault(canonical(given), given)
        if len(found) == count:
            break
    return list(found.values())
