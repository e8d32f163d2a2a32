"""`openzaya solve -f problems.jsonl -o answers.jsonl`: many problems, and a restart after any end.

Answers are appended as they come. A second start keeps the answers to the same questions, made with
the same settings, and goes on with the recorded runs of the problems in between.
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

from openzaya.cli.batch_files import AnswersFile, Problem, is_right, made_with, read_problems
from openzaya.cli.batch_progress import ProblemLine, batch_bar, problem_line
from openzaya.cli.interrupts import EXIT_INTERRUPTED
from openzaya.core.errors import OpenZayaError, RequestError

if TYPE_CHECKING:
    from rich.progress import Progress as Bar

    from openzaya.core.protocols import Sampler
    from openzaya.ttc.config import MarkovianRSAConfig
    from openzaya.ttc.journal import Journal
    from openzaya.ttc.result import Result

EXIT_SOME_FAILED = 1


@dataclass(slots=True)
class Batch:
    """The work and what came of it."""

    args: argparse.Namespace
    config: "MarkovianRSAConfig"
    journal: "Journal | None"
    sampler: "Sampler"
    answers: AnswersFile
    made_with: dict[str, Any]
    stop: asyncio.Event
    begun: float = field(default_factory=time.monotonic)
    lines: list[dict[str, Any]] = field(default_factory=list)
    bar: "Bar | None" = None
    """Where a terminal shows the problems in work."""

    async def solve(self, place: int, problem: Problem) -> None:
        """Solve one problem and write its line; an interrupted one is left for the next start."""
        if self.stop.is_set():
            return
        begun = time.monotonic()
        try:
            if problem.error:
                raise RequestError(problem.error)
            with problem_line(self.bar, problem.id) as shown:
                line = await self._answer(place, problem, shown)
        except OpenZayaError as error:
            line = {"error": f"{type(error).__name__}: {error}"}
        if line is None:
            return
        seconds = round(time.monotonic() - begun, 3)
        line = {"id": problem.id, "question": problem.question, **line, "seconds": seconds}
        if "answer" in line:
            line["made_with"] = self.made_with
            if problem.answer is not None:
                line["right"] = is_right(line["answer"], problem.answer)
        self.lines.append(line)
        self.answers.write(line)

    async def _answer(
        self, place: int, problem: Problem, shown: ProblemLine
    ) -> dict[str, Any] | None:
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
                on_event=shown,
                wants_progress=shown.wants_progress,
            )
            return _line_of(None, result)
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
                self.journal,
                begun.run_id,
                self.sampler,
                stop=self.stop,
                priority=place,
                on_event=shown,
                wants_progress=shown.wants_progress,
            )
            return _line_of(begun.run_id, result)
        run = (await self.journal.run(begun.run_id))["run"]
        tokens = run["usage"]["generated"]
        return _line(run["id"], run["answer"], run["why"], tokens, run["degraded"])

    def summary(self, num_left: int) -> dict[str, Any]:
        """Return the figures of this start; `right` and `wrong` count the answers kept as well."""
        judged = [line["right"] for line in [*self.answers.kept, *self.lines] if "right" in line]
        return {
            "answered": sum("answer" in line for line in self.lines),
            "failed": sum("error" in line for line in self.lines),
            "kept": len(self.answers.kept),
            "left": num_left,
            "right": judged.count(True),
            "wrong": judged.count(False),
            "tokens": sum(line.get("tokens", 0) for line in self.lines),
            "seconds": round(time.monotonic() - self.begun, 3),
        }


def _line_of(run_id: str | None, result: "Result") -> dict[str, Any] | None:
    if result.interrupted:
        return None
    return _line(run_id, result.answer, result.why, result.usage.generated, result.degraded)


def _line(
    run_id: str | None, answer: str | None, why: str, tokens: int, degraded: bool
) -> dict[str, Any]:
    return {"answer": answer, "why": why, "tokens": tokens, "degraded": degraded, "run": run_id}


def run_batch(args: argparse.Namespace, config: "MarkovianRSAConfig") -> int:
    """Solve every problem of a file; return 0, 1 when some failed, or 130 when stopped."""
    if not args.file or args.question:
        raise RequestError("--out is for a batch; name its problems with -f FILE")
    problems = read_problems(args.file)
    with AnswersFile(Path(args.out)) as answers:
        todo = answers.match(problems)
        if answers.others:
            print(
                f"openzaya: {args.out} holds {len(answers.others)} answers to questions that "
                f"{args.file} does not ask; they stay",
                file=sys.stderr,
            )
        return asyncio.run(_run(args, config, todo, answers))


async def _run(
    args: argparse.Namespace,
    config: "MarkovianRSAConfig",
    todo: list[Problem],
    answers: AnswersFile,
) -> int:
    from openzaya.cli.journals import open_journal
    from openzaya.cli.samplers import model_of, open_sampler

    stop, loop = asyncio.Event(), asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGINT, stop.set)
    try:
        async with (
            open_journal(args.journal) as journal,
            open_sampler(args.model, args.upstream_model, config) as sampler,
        ):
            settings = made_with(config, model_of(sampler, args), args.seed)
            answers.begin(settings)
            batch = Batch(args, config, journal, sampler, answers, settings, stop)
            await _work(batch, todo)
    finally:
        loop.remove_signal_handler(signal.SIGINT)
    figures = batch.summary(len(todo) - len(batch.lines))
    print(json.dumps(figures) if args.json else _sentence(figures), file=_stream(args))
    if stop.is_set():
        return EXIT_INTERRUPTED
    return EXIT_SOME_FAILED if figures["failed"] else 0


async def _work(batch: Batch, todo: list[Problem]) -> None:
    """Keep some problems in work at a time, in the order of the file."""
    waiting, num_kept = iter(enumerate(todo)), len(batch.answers.kept)
    with batch_bar(quiet=batch.args.json) as bar:
        batch.bar = bar if bar.console.is_terminal and not bar.console.quiet else None
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
