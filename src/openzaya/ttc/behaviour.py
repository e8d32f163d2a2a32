"""Choosing among programs by what they do: tests that are visible first, then a vote on outputs.

Programs run in the project's sandbox. A failure of the sandbox says nothing about a program.

Paper: VI-C (code). Source: arXiv:2203.07814 (clustering by behaviour).
"""

import asyncio
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from openzaya.core.errors import ConfigError
from openzaya.sandbox.executor import Executor, Limits, Request, Result, Status
from openzaya.ttc.selection import Choice, Votable

_FENCED = re.compile(r"```([^\n`]*)\n(.*?)\n```", re.DOTALL)
_LANGUAGES = {"python": "python", "python3": "python", "py": "python", "cpp": "cpp", "c++": "cpp"}


@dataclass(frozen=True, slots=True)
class VisibleTest:
    """One input, and what a right program prints for it where that is known."""

    stdin: str
    stdout: str | None = None
    """None: only compared between programs, for the vote."""


@dataclass(frozen=True, slots=True)
class Behaviour:
    """What one program did."""

    passed: int
    """Tests with a known output that it passed."""
    outputs: tuple[str | None, ...]
    """What it printed for each test; None where it failed."""


class Runs(Protocol):
    """Runs the programs of candidates."""

    async def behaviours(self, answers: Sequence[str]) -> Sequence[Behaviour | None]:
        """Return what the program in each answer text did; None where there is none to run.

        Raises OpenZayaError where programs cannot be run here.
        """
        ...


@dataclass(frozen=True, slots=True)
class SandboxRuns:
    """Runs the last fenced program of an answer on visible tests in a sandbox."""

    executor: Executor
    tests: Sequence[VisibleTest]
    language: str = "python"
    """Of a block that names none."""
    limits: Limits = field(default_factory=Limits)

    def __post_init__(self) -> None:
        """Refuse what could tell no program from another."""
        if not self.tests:
            raise ConfigError(
                "select = behaviour got 0 visible tests; give at least one input, with its output "
                "where it is known, or choose select = majority"
            )

    async def behaviours(self, answers: Sequence[str]) -> Sequence[Behaviour | None]:
        """Run every program on every test, as many at once as there are cores."""
        programs = [program_of(answer, self.language) for answer in answers]
        requests = [
            Request(
                source=program[0],
                language=program[1],
                stdin=test.stdin.encode(),
                limits=self.limits,
            )
            for program in programs
            if program
            for test in self.tests
        ]
        results = iter(await asyncio.to_thread(self.executor.run_all, requests))
        return [
            self._judged([next(results) for _ in self.tests]) if program else None
            for program in programs
        ]

    def _judged(self, results: Sequence[Result]) -> Behaviour | None:
        if any(result.status is Status.INFRA for result in results):
            return None
        outputs = tuple(
            _lines(result.stdout.decode(errors="replace")) if result.status is Status.OK else None
            for result in results
        )
        passed = sum(
            test.stdout is not None and output == _lines(test.stdout)
            for test, output in zip(self.tests, outputs, strict=True)
        )
        return Behaviour(passed, outputs)


def program_of(answer: str, language: str) -> tuple[str, str] | None:
    """Return the last fenced block of an answer and its language; None without one we can run."""
    blocks = _FENCED.findall(answer)
    if not blocks:
        return None
    name, source = blocks[-1]
    known = _LANGUAGES.get(name.strip().lower() or language)
    return (source + "\n", known) if known else None


def choose_by_behaviour(
    candidates: Sequence[Votable], behaviours: Sequence[Behaviour | None]
) -> Choice | None:
    """Choose the program that passes most tests and does what most of those do.

    A tie goes to the class with the shortest trace. None when no program could be run.
    """
    ran = [(i, behaviour) for i, behaviour in enumerate(behaviours) if behaviour is not None]
    if not ran:
        return None
    best = max(behaviour.passed for _, behaviour in ran)
    leading = [(i, behaviour.outputs) for i, behaviour in ran if behaviour.passed == best]
    classes = Counter(outputs for _, outputs in leading)
    index, outputs = min(
        leading, key=lambda entry: (-classes[entry[1]], candidates[entry[0]].num_tokens)
    )
    return Choice(
        index,
        f"behaviour: passes {best} visible tests, as {len(leading)} of {len(candidates)} "
        f"candidates do, {classes[outputs]} of them with the same outputs",
    )


def _lines(text: str) -> str:
    """Return a program's output without spaces at the ends of lines and empty lines at the end."""
    return "\n".join(line.rstrip() for line in text.rstrip().split("\n"))
