"""Markovian RSA: think in parallel, keep only tails, aggregate, repeat, vote.

The loop itself is `machine.py`; here it meets a sampler, and its outcome becomes a `Result`.

Paper: VI-A.
Source: arXiv:2509.26626 (recursive self-aggregation), arXiv:2510.06557 (Markovian thinking).
"""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from openzaya.core.errors import RequestError, UpstreamError
from openzaya.core.protocols import Sampler, WatchedSampler
from openzaya.core.records import Message
from openzaya.core.seeding import stream, stream_seed
from openzaya.text.tails import AGGREGATION_TEMPLATE_SHA256
from openzaya.ttc.answers import canonical
from openzaya.ttc.behaviour import Runs
from openzaya.ttc.budget import (
    Preview,
    Usage,
    check_context,
    num_bytes,
    preview,
    quotations,
)
from openzaya.ttc.choosing import Chosen, Selection, Verifier
from openzaya.ttc.config import MarkovianRSAConfig
from openzaya.ttc.continuing import continuing
from openzaya.ttc.driver import Driver, Settings, Sleep
from openzaya.ttc.events import OnEvent, Recorded, RunDone, RunStarted, ignore, nobody
from openzaya.ttc.judge import Judge
from openzaya.ttc.machine import Abilities, Machine
from openzaya.ttc.presets import preset
from openzaya.ttc.result import Candidate, Result
from openzaya.ttc.selection import Extract, extract_answer


class MarkovianRSA:
    """One loop for every strategy: T = 0, C = 1, tau = beta are parameter sets of it.

    `extract` reads an answer from the text after the think block. A sampler may have an attribute
    `context_tokens` (int or None), checked before any work, `counts_exactly` (true: what it says
    of a prompt's length is no estimate), `retries_itself` (true: failed calls are not tried again
    here) and `tail_method` (a name, reported in the result); one that is a `WatchedSampler` can be
    cut.
    """

    def __init__(
        self,
        config: MarkovianRSAConfig | str,
        *,
        extract: Extract = extract_answer,
        sleep: Sleep = asyncio.sleep,
        same: Callable[[str], str] = canonical,
        verifier: Verifier | None = None,
        runs: Runs | None = None,
        only_last: bool = False,
    ) -> None:
        """Take settings or the name of a preset.

        `sleep` is what waits between retries, `same` maps answers that count as equal to one text,
        `verifier` and `runs` are for the selections of these names. With `only_last` the answer is
        one of the last stage, cut or not, if that stage began: no other was asked for its form.
        """
        self.config = preset(config) if isinstance(config, str) else config
        self.extract = extract
        self.sleep = sleep
        self.selection = Selection(self.config, same, verifier, runs, only_last)

    async def run(  # noqa: PLR0913 (all but two have defaults, and callers name them)
        self,
        question: str | tuple[Message, ...],
        sampler: Sampler,
        seed: int = 0,
        on_event: OnEvent | None = None,
        task_hint: str | None = None,
        stop: asyncio.Event | None = None,
        priority: int = 0,
        recorded: Recorded | None = None,
        wants_progress: Callable[[], bool] = nobody,
    ) -> Result:
        """Answer `question`, a text or a conversation that ends with the user's turn.

        Setting `stop` ends the run at once with the best so far, marked `interrupted`; cancelling
        the coroutine cancels every outstanding call. Failed candidates are dropped while enough
        survive, else the best so far returns with `degraded`. `priority` is passed to the sampler:
        smaller runs first, so give an older problem a smaller one. `recorded` goes on with a run
        that an earlier process began. `on_event` is told of text as it comes while
        `wants_progress` says so.

        Raises `RequestError` for an empty question, `ContextLengthError` or `ConfigError` when
        the run cannot fit the model's context or lacks what its selection needs, and the sampler's
        own `EngineError` or `UpstreamError` when no candidate survives.
        """
        self.selection.check()
        began = time.monotonic() - (recorded.elapsed_s if recorded else 0.0)
        settings = Settings(
            extract=self.extract,
            sleep=self.sleep,
            listen=on_event or ignore,
            stop=stop or asyncio.Event(),
            clock=lambda: time.monotonic() - began,
            seed=seed,
            priority=priority,
            wants_progress=wants_progress,
        )
        machine = Machine(
            self.config,
            _conversation(question),
            seed,
            hint=task_hint or "",
            same=self.selection.same,
            recorded=recorded,
            abilities=abilities_of(sampler),
        )
        run = _Run(machine, Driver(machine, sampler, settings), self.selection, recorded)
        run.start()
        await run.driver.run()
        return await run.finish()


def abilities_of(sampler: Sampler) -> Abilities:
    """Return what a sampler can do beyond completing a prompt."""
    return Abilities(
        can_cut=isinstance(sampler, WatchedSampler),
        can_continue=continuing(sampler) is not None,
        head=getattr(continuing(sampler), "first_tokens", None),
    )


def _conversation(question: str | tuple[Message, ...]) -> tuple[Message, ...]:
    messages = (Message("user", question),) if isinstance(question, str) else tuple(question)
    if not messages or messages[-1].role != "user" or not messages[-1].content.strip():
        raise RequestError("the question is empty; end the conversation with a user turn that asks")
    try:
        for message in messages:
            message.content.encode()
    except UnicodeEncodeError as error:
        raise RequestError(
            f"the question holds half a character, {error.object[error.start]!r}; give it in UTF-8"
        ) from error
    return messages


@dataclass(slots=True)
class _Run:
    """One run from its preview to its result."""

    machine: Machine
    driver: Driver
    selection: Selection
    recorded: Recorded | None
    cap: int = 0

    @property
    def config(self) -> MarkovianRSAConfig:
        return self.machine.config

    @property
    def question(self) -> tuple[Message, ...]:
        return self.machine.planner.question

    def start(self) -> None:
        """Check that the run fits the model; raises before any work."""
        sampler, settings = self.driver.sampler, self.driver.settings
        bounds, question_tokens = bounds_for(
            self.config, self.question, sampler, self.machine.planner.hint
        )
        check_context(bounds, question_tokens, getattr(sampler, "context_tokens", None))
        self.cap = bounds.decode_cap
        settings.listen(RunStarted(self.config, bounds, question_tokens, settings.clock()))

    async def finish(self) -> Result:
        """Choose the answer and close the accounts; raises when every candidate failed."""
        machine, settings = self.machine, self.driver.settings
        failed = [c for entry in machine.rounds for c in entry.candidates if c.is_failed]
        if failed and not machine.is_stopped and not any(r.survivors for r in machine.rounds):
            raise self.driver.errors[-1] if self.driver.errors else UpstreamError(failed[-1].error)
        rng = stream(settings.seed, "ttc", "select")
        is_early = machine.is_stopped or machine.is_degraded
        judge = None if machine.is_stopped else self._judge()
        chosen = await self.selection.choose(machine.rounds, is_early, judge, rng)
        if failed:
            said = failed[-1].error.partition(": ")[2]
            machine.notes.append(f"{len(failed)} candidates failed: {said}")
        result = Result(
            answer=chosen.candidate.answer if chosen.candidate else None,
            chosen=chosen.candidate,
            why=chosen.why,
            rounds=tuple(machine.rounds),
            usage=self._usage(chosen),
            config=self.config,
            seed=settings.seed,
            template_sha256=AGGREGATION_TEMPLATE_SHA256,
            tail_method=str(getattr(self.driver.sampler, "tail_method", "exact")),
            degraded=machine.is_degraded or bool(failed),
            interrupted=machine.is_stopped,
            notes=tuple(machine.notes),
        )
        settings.listen(done_event(result, settings.clock()))
        return result

    def _judge(self) -> Judge:
        settings = self.driver.settings
        return Judge(
            self.question,
            self.config,
            self.driver.sampler,
            self.selection.same,
            stream_seed(settings.seed, "ttc", "judge"),
            self.machine.allowance.left_for_judge(),
            settings.priority,
        )

    def _prefill_of(self, candidate: Candidate) -> int:
        """Return the prompt tokens of a candidate of an earlier process."""
        if candidate.is_failed or not candidate.attempts:
            return 0
        plan = self.machine.stages[candidate.stage].plans.get(candidate.slot)
        if candidate.num_prompt_tokens or plan is None:
            return candidate.num_prompt_tokens
        return self.driver.sampler.count_prompt_tokens(plan.messages)

    def _usage(self, chosen: Chosen) -> Usage:
        """Return what the run used, earlier processes included."""
        driver, judged = self.driver, chosen.judged
        old = self.recorded.finished if self.recorded else ()
        return Usage(
            generated_by_stage=tuple(
                sum(c.num_tokens for c in entry.candidates) for entry in self.machine.rounds
            ),
            prefill=driver.prefill
            + sum(map(self._prefill_of, old))
            + (judged.num_prompt_tokens if judged else 0),
            calls=driver.calls + sum(c.attempts for c in old) + (judged.calls if judged else 0),
            failed_calls=driver.failed_calls
            + sum(c.attempts if c.is_failed else max(0, c.attempts - 1) for c in old)
            + (judged.failed_calls if judged else 0),
            cap=self.cap,
            selection=judged.num_tokens if judged else 0,
            lost=self.machine.lost_tokens + driver.broken_tokens,
        )


def bounds_for(
    config: MarkovianRSAConfig, question: tuple[Message, ...], sampler: Sampler, hint: str = ""
) -> tuple[Preview, int]:
    """Return the bounds of a run with this sampler's counts, and the length of the question.

    A sampler that only estimates gets the bound of prompts that every tokenizer keeps: their bytes.
    What a call may need stays an estimate then, as the server has the last word.
    """
    question_tokens = sampler.count_prompt_tokens(question)
    # A letter for each tail: line breaks around an empty one would make fewer tokens.
    quoting = quotations(config, question, hint, tail="x")
    overhead = max(map(sampler.count_prompt_tokens, quoting)) - question_tokens
    bounds = preview(config, question_tokens, overhead_tokens=max(0, overhead))
    if getattr(sampler, "counts_exactly", False):
        return bounds, question_tokens
    frame = sampler.count_prompt_tokens(tuple(Message(m.role, "") for m in question))
    overhead = max(overhead, max(map(num_bytes, quoting)) - num_bytes(question))
    most = max(question_tokens, frame + num_bytes(question))
    prefill = preview(config, most, overhead_tokens=overhead)
    return replace(bounds, prefill_cap=prefill.prefill_cap), question_tokens


def done_event(result: Result, at: float) -> RunDone:
    """Return the last event of a run."""
    chosen = result.chosen
    return RunDone(
        answer=result.answer,
        why=result.why,
        num_tokens=result.usage.generated,
        degraded=result.degraded,
        interrupted=result.interrupted,
        winner=(chosen.stage, chosen.slot) if chosen else None,
        usage=result.usage,
        notes=result.notes,
        template_sha256=result.template_sha256,
        tail_method=result.tail_method,
        at=at,
    )
