"""Run a program on inputs in the sandbox; what comes back is values, not judgements.

Expected outputs are no argument of anything here, so none can enter a box.
"""

import json
from collections.abc import Sequence
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import cast

from openzaya.core.errors import DataError, RequestError
from openzaya.envs.code.outcomes import Outcome, OutcomeCache, fingerprint
from openzaya.envs.code.problem import TEST_LIMITS, Failure, Program
from openzaya.envs.code.values import Json, canonical, is_encodable, parse_value
from openzaya.sandbox.executor import MIB, Executor, Limits, Request, Result, Status

DRIVER = Path(__file__).with_name("driver.py").read_text()
CALLS_PER_BOX = 16
"""With Isolation.FORK: most calls that share a box."""
DETAIL_CHARS = 400
CALL_FAILURES = {str(failure): failure for failure in Failure}
FAILURES = {
    Status.EXIT: Failure.CRASH,
    Status.SIGNAL: Failure.CRASH,
    Status.TIME_CPU: Failure.TIME,
    Status.TIME_WALL: Failure.TIME,
    Status.MEMORY: Failure.MEMORY,
    Status.OUTPUT: Failure.OUTPUT,
    Status.COMPILE: Failure.COMPILE,
    Status.POLICY: Failure.POLICY,
}


class Isolation(StrEnum):
    """What the runs of one program share."""

    BOX = "box"
    """Nothing: every input gets a fresh box. For everything that a model wrote."""
    FORK = "fork"
    """A box, in a child process each. Python only, and only for programs that we trust not to
    answer one test from another: references, mutants, checkers."""


class Runner:
    """Runs programs through an executor. Safe between threads, as far as the executor is.

    The cache belongs to the runner: its outcomes hold for the executor's rules.
    """

    def __init__(
        self,
        executor: Executor,
        cache: OutcomeCache | None = None,
        infra_retries: int = 2,
    ) -> None:
        self.executor = executor
        self.cache = OutcomeCache() if cache is None else cache
        self.infra_retries = infra_retries
        """How often a run that failed by our fault is tried again."""

    def run(
        self,
        program: Program,
        inputs: Sequence[Json],
        *,
        limits: Limits = TEST_LIMITS,
        prelude: str = "",
        isolation: Isolation = Isolation.BOX,
        fresh: bool = False,
    ) -> list[Outcome]:
        """Run `program` on every input; outcomes in the order of inputs.

        `limits` are those of one input. `prelude` runs before a function's module. `fresh` runs
        again what is in the cache. Raises RequestError for a language that cannot do what is
        asked, SandboxError where no sandbox works.
        """
        check_language(program, isolation)
        keys = [key_of(program, given, limits, prelude, isolation) for given in inputs]
        outcomes = [None if fresh else self.cache.get(key) for key in keys]
        todo = [index for index, found in enumerate(outcomes) if found is None]
        for _ in range(1 + self.infra_retries):
            news = self.run_now(program, [inputs[i] for i in todo], limits, prelude, isolation)
            for index, outcome in zip(todo, news, strict=True):
                outcomes[index] = outcome
                self.cache.put(keys[index], outcome)
            todo = [i for i, new in zip(todo, news, strict=True) if new.infra]
            if not todo:
                break
        return cast("list[Outcome]", outcomes)

    def run_now(
        self,
        program: Program,
        inputs: Sequence[Json],
        limits: Limits,
        prelude: str,
        isolation: Isolation,
    ) -> list[Outcome]:
        """Run without cache and without second tries."""
        if isolation is Isolation.FORK:
            chunks = [inputs[i : i + CALLS_PER_BOX] for i in range(0, len(inputs), CALLS_PER_BOX)]
            requests = [drive(program, chunk, limits, prelude, fork=True) for chunk in chunks]
            results = self.executor.run_all(requests)
            return [
                outcome
                for chunk, result in zip(chunks, results, strict=True)
                for outcome in read_reports(result, len(chunk))
            ]
        if program.entry:
            requests = [drive(program, [given], limits, prelude, fork=False) for given in inputs]
            return [read_report(result) for result in self.executor.run_all(requests)]
        if not is_encodable(program.source):
            return [Outcome(failure=Failure.COMPILE, detail="not UTF-8 text")] * len(inputs)
        requests = [
            Request(
                source=program.source,
                language=program.language,
                stdin=cast(str, given).encode(),
                limits=limits,
            )
            for given in inputs
        ]
        return [read_stdout(result) for result in self.executor.run_all(requests)]


def check_language(program: Program, isolation: Isolation) -> None:
    """Raise RequestError for functions, or forks, in another language than Python."""
    if program.language != "python" and (program.entry or isolation is Isolation.FORK):
        raise RequestError(
            f"the program is in {program.language!r}, but calling a function and sharing a box "
            "need Python; give a program that reads stdin, with Isolation.BOX"
        )


def key_of(
    program: Program, given: Json, limits: Limits, prelude: str, isolation: Isolation
) -> bytes:
    """Return the cache's key: everything that can change an outcome."""
    return fingerprint(
        program.language,
        program.entry,
        program.source,
        prelude,
        canonical(given),
        repr(limits),
        isolation,
    )


def drive(
    program: Program, calls: Sequence[Json], limits: Limits, prelude: str, *, fork: bool
) -> Request:
    """Return the request that runs the driver around a Python program."""
    job = {
        "source": program.source,
        "prelude": prelude,
        "entry": program.entry,
        "calls": list(calls),
        "fork": fork,
        "cpu_s": limits.cpu_s,
        "wall_s": limits.wall_limit_s,
        "output_bytes": limits.output_bytes,
    }
    return Request(
        source=DRIVER,
        stdin=json.dumps(job, allow_nan=False).encode(),
        limits=widened(limits, len(calls)) if fork else limits,
    )


def widened(limits: Limits, num_calls: int) -> Limits:
    """Return the limits of a box that `num_calls` calls share one after the other."""
    return replace(
        limits,
        cpu_s=limits.cpu_s * num_calls + 1,
        wall_s=limits.wall_limit_s * num_calls + 2,
        output_bytes=min(limits.output_bytes * num_calls, 16 * MIB),
    )


def read_stdout(result: Result) -> Outcome:
    """Return the outcome of a program that writes its answer to stdout."""
    failed = read_status(result)
    if failed is not None:
        return failed
    try:
        return Outcome(value=result.stdout.decode(), cpu_s=result.cpu_s)
    except UnicodeDecodeError as error:
        return Outcome(failure=Failure.BAD_VALUE, detail=f"stdout: {error}", cpu_s=result.cpu_s)


def read_status(result: Result) -> Outcome | None:
    """Return the outcome of a run that did not end well, else None."""
    if result.status is Status.INFRA:
        return Outcome(infra=result.reason or "the sandbox failed")
    if result.status is Status.OK:
        return None
    tail = result.stderr[-DETAIL_CHARS:].decode(errors="replace").strip()
    detail = " ".join(part for part in (result.reason, tail) if part)
    return Outcome(failure=FAILURES[result.status], detail=detail, cpu_s=result.cpu_s)


def read_report(result: Result) -> Outcome:
    """Return the outcome of a function call: exactly one report, or it is refused."""
    failed = read_status(result)
    return failed or replace(read_line(result.stdout), cpu_s=result.cpu_s)


def read_reports(result: Result, num_calls: int) -> list[Outcome]:
    """Return the outcomes of calls that shared a box; calls that left no report failed with it."""
    lines = result.stdout.splitlines()[:num_calls]
    outcomes = [read_line(line) for line in lines]
    share = result.cpu_s / num_calls
    lost = read_status(result) or Outcome(failure=Failure.NO_VALUE, detail="the box ended early")
    if lost.infra:
        return [lost] * num_calls
    outcomes += [lost] * (num_calls - len(outcomes))
    return [replace(outcome, cpu_s=share) for outcome in outcomes]


def read_line(data: bytes) -> Outcome:
    """Read one report. The candidate can have written it, so nothing in it is believed."""
    if not data.strip():
        return Outcome(failure=Failure.NO_VALUE, detail="it ended without a value")
    try:
        report = parse_value(data)
    except DataError as error:
        detail = f"not exactly one result: {error}"
        return Outcome(failure=Failure.NO_VALUE, detail=detail[:DETAIL_CHARS])
    if isinstance(report, dict):
        if report.keys() == {"value"}:
            return Outcome(value=report["value"])
        kind = CALL_FAILURES.get(str(report.get("failure")))
        if kind is not None:
            return Outcome(failure=kind, detail=str(report.get("detail"))[:DETAIL_CHARS])
    return Outcome(failure=Failure.NO_VALUE, detail="it wrote something else than a result")
