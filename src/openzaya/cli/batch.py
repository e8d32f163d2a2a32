"""`openzaya solve -f problems.jsonl -o answers.jsonl`: many problems, and a restart after any end.

Answers are appended as they come. A second start keeps the lines that hold an answer, and goes on
with the recorded runs of the problems in between.
"""

import argparse
import asyncio
import json
import signal
import sys
import time
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from openzaya.core.errors import OpenZayaError, RequestError
from openzaya.core.files import write_whole

if TYPE_CHECKING:
    from openzaya.core.protocols import Sampler
    from openzaya.ttc.config import MarkovianRSAConfig
    from openzaya.ttc.journal import Journal

EXIT_INTERRUPTED = 130
EXIT_SOME_FAILED = 1
_QUESTIONS = ("question", "problem", "prompt")


@dataclass(frozen=True, slots=True)
class Problem:
    """One line of the input."""

    id: str
    question: str
    answer: str | None
    error: str = ""
    """Why the line is no problem; empty for a sound one."""


@dataclass(slots=True)
class Batch:
    """The work and what came of it."""

    args: argparse.Namespace
    config: "MarkovianRSAConfig"
    journal: "Journal | None"
    sampler: "Sampler"
    out: TextIO
    stop: asyncio.Event
    begun: float = field(default_factory=time.monotonic)
    lines: list[dict[str, Any]] = field(default_factory=list)

    async def solve(self, place: int, problem: Problem) -> None:
        """Solve one problem and write its line; an interrupted one is left for the next start."""
        if self.stop.is_set():
            return
        begun = time.monotonic()
        try:
            if problem.error:
                raise RequestError(problem.error)
            line = await self._answer(place, problem)
        except OpenZayaError as error:
            line = {"error": f"{type(error).__name__}: {error}"}
        if line is None:
            return
        seconds = round(time.monotonic() - begun, 3)
        line = {"id": problem.id, **line, "seconds": seconds}
        if "answer" in line and problem.answer is not None:
            line["right"] = is_right(line["answer"], problem.answer)
        self.lines.append(line)
        self.out.write(json.dumps(line) + "\n")
        self.out.flush()

    async def _answer(self, place: int, problem: Problem) -> dict[str, Any] | None:
        """Return the answer's part of a line; older problems get the model first."""
        from openzaya.cli.samplers import spec_of
        from openzaya.ttc import MarkovianRSA
        from openzaya.ttc.journal.session import run_recorded

        if self.journal is None:
            result = await MarkovianRSA(self.config).run(
                problem.question,
                self.sampler,
                seed=self.args.seed,
                stop=self.stop,
                priority=place,
            )
            if result.interrupted:
                return None
            return _line(None, result.answer, result.why, result.usage.generated, result.degraded)
        spec = spec_of(problem.question, self.config, self.args)
        out = str(Path(self.args.out).absolute())
        name = json.dumps([out, problem.id, spec.fingerprint])
        key = "batch-" + sha256(name.encode()).hexdigest()
        begun = await self.journal.begin(
            spec_of(problem.question, self.config, self.args, key).labelled(problem=problem.id)
        )
        if begun.state != "done":
            if begun.lease is None:
                await self.journal.acquire(begun.run_id)
            result = await run_recorded(
                self.journal, begun.run_id, self.sampler, stop=self.stop, priority=place
            )
            if result.interrupted:
                return None
        run = (await self.journal.run(begun.run_id))["run"]
        tokens = run["usage"]["generated"]
        return _line(run["id"], run["answer"], run["why"], tokens, run["degraded"])

    def summary(self, num_kept: int, num_left: int) -> dict[str, Any]:
        """Return the figures of this start."""
        return {
            "answered": sum("answer" in line for line in self.lines),
            "failed": sum("error" in line for line in self.lines),
            "kept": num_kept,
            "left": num_left,
            "right": sum(line.get("right") is True for line in self.lines),
            "wrong": sum(line.get("right") is False for line in self.lines),
            "tokens": sum(line.get("tokens", 0) for line in self.lines),
            "seconds": round(time.monotonic() - self.begun, 3),
        }


def _line(
    run_id: str | None, answer: str | None, why: str, tokens: int, degraded: bool
) -> dict[str, Any]:
    return {"answer": answer, "why": why, "tokens": tokens, "degraded": degraded, "run": run_id}


def is_right(answer: str | None, expected: str) -> bool:
    """Say whether two answers are the same after the normalization that the vote uses."""
    from openzaya.ttc.answers import canonical

    return answer is not None and canonical(answer) == canonical(expected)


def run_batch(args: argparse.Namespace, config: "MarkovianRSAConfig") -> int:
    """Solve every problem of a file; return 0, 1 when some failed, or 130 when stopped."""
    if not args.file or args.question:
        raise RequestError("--out is for a batch; name its problems with -f FILE")
    problems = read_problems(args.file)
    kept = keep_answers(Path(args.out))
    return asyncio.run(_run(args, config, [p for p in problems if p.id not in kept], len(kept)))


async def _run(
    args: argparse.Namespace, config: "MarkovianRSAConfig", todo: list[Problem], num_kept: int
) -> int:
    from openzaya.cli.journals import open_journal
    from openzaya.cli.samplers import open_sampler

    stop, loop = asyncio.Event(), asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGINT, stop.set)
    try:
        async with (
            open_journal(args.journal) as journal,
            open_sampler(args.model, args.upstream_model, config) as sampler,
        ):
            with Path(args.out).open("a", encoding="utf-8") as out:
                batch = Batch(args, config, journal, sampler, out, stop)
                await _work(batch, todo, num_kept)
    except OSError as error:  # of the answers: sampler and journal have errors of their own
        raise _unwritable(Path(args.out), error) from error
    finally:
        loop.remove_signal_handler(signal.SIGINT)
    figures = batch.summary(num_kept, len(todo) - len(batch.lines))
    print(json.dumps(figures) if args.json else _sentence(figures), file=_stream(args))
    if stop.is_set():
        return EXIT_INTERRUPTED
    return EXIT_SOME_FAILED if figures["failed"] else 0


async def _work(batch: Batch, todo: list[Problem], num_kept: int) -> None:
    """Keep some problems in work at a time, in the order of the file."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

    waiting = iter(enumerate(todo))
    console = Console(stderr=True, quiet=batch.args.json)
    columns = (BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console) as bar:
        task = bar.add_task("problems", total=num_kept + len(todo), completed=num_kept)

        async def work() -> None:
            for place, problem in waiting:
                await batch.solve(place, problem)
                bar.update(task, completed=num_kept + len(batch.lines))

        await asyncio.gather(*(work() for _ in range(batch.args.jobs)))


def _stream(args: argparse.Namespace) -> TextIO:
    return sys.stdout if args.json else sys.stderr


def _sentence(figures: dict[str, Any]) -> str:
    judged = figures["right"] + figures["wrong"]
    shown = f", {figures['right']} of {judged} right" if judged else ""
    left = f", {figures['left']} left for the next start" if figures["left"] else ""
    kept = f" ({figures['kept']} were there before)" if figures["kept"] else ""
    return (
        f"{figures['answered']} answered{kept}{shown}, {figures['failed']} failed{left}; "
        f"{figures['tokens']} tokens, {figures['seconds']:.1f} s"
    )


def read_problems(name: str) -> list[Problem]:
    """Return the problems of a file; a line that holds none is kept with the reason."""
    try:
        text = sys.stdin.read() if name == "-" else Path(name).read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise RequestError(f"{name} cannot be read: {error}; give a file of JSON lines") from error
    problems: list[Problem] = []
    seen: set[str] = set()
    for number, line in enumerate(text.split("\n"), 1):  # JSON may hold other line breaks
        if line.strip():
            problem = _problem(number, line)
            if problem.id in seen:
                raise RequestError(f"line {number} of {name}: the id {problem.id!r} came before")
            seen.add(problem.id)
            problems.append(problem)
    if not problems:
        raise RequestError(f"{name} holds no problems; give one JSON object a line")
    return problems


def _problem(number: int, line: str) -> Problem:
    try:
        data = json.loads(line)
    except (ValueError, RecursionError) as error:
        return Problem(f"line {number}", "", None, f"line {number} is no JSON: {error}")
    if not isinstance(data, dict):
        return Problem(f"line {number}", "", None, f"line {number} is no JSON object")
    name = str(data.get("id", f"line {number}"))
    question = next((data[q] for q in _QUESTIONS if isinstance(data.get(q), str)), "")
    if not question.strip():
        return Problem(name, "", None, f"line {number} has no text in {', '.join(_QUESTIONS)}")
    answer = data.get("answer")
    return Problem(name, question, None if answer is None else str(answer))


def keep_answers(path: Path) -> set[str]:
    """Return the ids that have an answer; failures and a torn last line leave the file.

    Raises RequestError for a file that is no file of answers, and leaves it as it is.
    """
    try:
        path.touch()
        *whole, torn = path.read_text(encoding="utf-8", errors="replace").split("\n")
        lines = [_told(text) for text in [*whole, torn] if text.strip()]
        if torn and lines[-1] is None:
            lines.pop()
        good = [line for line in lines if line is not None and "answer" in line]
        if None not in lines:
            write_whole(path, "".join(json.dumps(line) + "\n" for line in good))
    except OSError as error:
        raise _unwritable(path, error) from error
    if None in lines:
        raise RequestError(
            f"{path} holds lines that are no answers of a batch, and would lose them; name "
            "another file for the answers"
        )
    return {line["id"] for line in good}


def _told(text: str) -> dict[str, Any] | None:
    """Return a line of answers, None for anything else."""
    try:
        line = json.loads(text)
    except (ValueError, RecursionError):
        return None
    is_ours = isinstance(line, dict) and isinstance(line.get("id"), str) and "seconds" in line
    return line if is_ours else None


def _unwritable(path: Path, error: OSError) -> RequestError:
    return RequestError(f"{path} cannot be written: {error}; name another file")
