"""Run every program of a list on every input of a list, many pairs to a sandbox start.

A start costs more than most of our small programs take, so a box holds a batch of programs, each
in a child process with a CPU limit for each input. Only for programs that do not attack the judge
(references, mutants, submissions from data sets); what a model wrote goes to `Runner` with a box
for every input. Inputs may come from a model: they are data.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from openzaya.core.errors import DataError
from openzaya.envs.code.outcomes import Outcome, OutcomeCache, fingerprint
from openzaya.envs.code.problem import Failure
from openzaya.envs.code.values import Json, canonical, parse_value
from openzaya.sandbox.executor import MIB, Executor, Limits, Request, Result, Status

DRIVER = Path(__file__).with_name("matrix_driver.py").read_text()
PROGRAMS_PER_BOX = 24
KINDS = {str(failure): failure for failure in Failure}


@dataclass(frozen=True, kw_only=True, slots=True)
class MatrixLimits:
    """What one program may use."""

    cpu_s: float = 0.5
    """CPU seconds for one input."""
    wall_s: float = 20.0
    """Seconds on the clock for all inputs of one program, against programs that sleep."""
    memory_bytes: int = 512 * MIB


class Matrix:
    """Runs batches of programs on batches of inputs. Safe between threads as the executor is."""

    def __init__(self, executor: Executor, limits: MatrixLimits | None = None) -> None:
        self.executor = executor
        self.limits = limits or MatrixLimits()
        self.cache = OutcomeCache()

    def run(
        self, programs: Sequence[str], arguments: Sequence[dict[str, Json] | str]
    ) -> list[list[Outcome]]:
        """Return a row for each program with an outcome for each argument.

        An argument is a dict for a program that defines `solve`, a text for one that reads stdin.
        A failure of ours fills the rows of its box with INFRA outcomes. Raises SandboxError where
        no sandbox works.
        """
        chunks = [
            programs[i : i + PROGRAMS_PER_BOX] for i in range(0, len(programs), PROGRAMS_PER_BOX)
        ]
        results = self.executor.run_all([self.request(chunk, arguments) for chunk in chunks])
        return [
            row
            for chunk, result in zip(chunks, results, strict=True)
            for row in read_rows(result, len(chunk), len(arguments))
        ]

    def run_column(self, programs: Sequence[str], argument: dict[str, Json] | str) -> list[Outcome]:
        """Run some programs on one input in one box, unless the cache knows all outcomes."""
        given = canonical(argument)
        keys = [fingerprint("matrix", text, given, repr(self.limits)) for text in programs]
        found = [self.cache.get(key) for key in keys]
        known = [outcome for outcome in found if outcome is not None]
        if len(known) == len(programs):
            return known
        outcomes = [row[0] for row in self.run(programs, [argument])]
        for key, outcome in zip(keys, outcomes, strict=True):
            self.cache.put(key, outcome)
        return outcomes

    def run_one(self, program: str, argument: dict[str, Json] | str) -> Outcome:
        """Run one program on one input."""
        return self.run_column([program], argument)[0]

    def request(
        self, programs: Sequence[str], arguments: Sequence[dict[str, Json] | str]
    ) -> Request:
        """Return the request for one box."""
        job = {
            "programs": list(programs),
            "arguments": list(arguments),
            "cpu_s": self.limits.cpu_s,
            "wall_s": self.limits.wall_s,
        }
        count = len(programs)
        return Request(
            source=DRIVER,
            stdin=json.dumps(job, allow_nan=False).encode(),
            limits=Limits(
                cpu_s=(self.limits.cpu_s * len(arguments) + 3) * count + 5,
                wall_s=self.limits.wall_s * count + 10,
                memory_bytes=self.limits.memory_bytes,
                output_bytes=16 * MIB,
            ),
        )


def read_rows(result: Result, num_programs: int, num_arguments: int) -> list[list[Outcome]]:
    """Return the rows of one box.

    The driver is ours and its limits are above the sum of its children's, so a box that does not
    end well is our failure.
    """
    if result.status is not Status.OK:
        reason = f"a box of {num_programs} programs ended with {result.status}: {result.reason}"
        return [[Outcome(infra=reason)] * num_arguments for _ in range(num_programs)]
    try:
        rows = parse_value(result.stdout)
    except DataError as error:
        return [[Outcome(infra=str(error))] * num_arguments for _ in range(num_programs)]
    assert isinstance(rows, list)
    return [[read_report(cell) for cell in row] for row in rows if isinstance(row, list)]


def read_report(cell: Json) -> Outcome:
    """Return the outcome of one pair; a pair that was never reached counts as a time-out."""
    if not isinstance(cell, dict):
        return Outcome(failure=Failure.TIME, detail="not reached")
    if "value" in cell:
        return Outcome(value=cell["value"])
    return Outcome(failure=KINDS[str(cell["failure"])], detail=str(cell.get("detail", "")))
