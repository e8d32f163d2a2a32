"""Markovian RSA: think in parallel, keep only tails, aggregate, repeat, vote.

Paper: VI-A.
Source: arXiv:2509.26626 (recursive self-aggregation), arXiv:2510.06557 (Markovian thinking).
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from openzaya.core.errors import EngineError, OpenZayaError, RequestError, UpstreamError
from openzaya.core.protocols import Sampler
from openzaya.core.records import Message, SampleRequest
from openzaya.core.seeding import stream, stream_seed
from openzaya.text.tails import AGGREGATION_TEMPLATE_SHA256, aggregation_messages
from openzaya.ttc.best_so_far import best_so_far
from openzaya.ttc.budget import Usage, check_context, preview
from openzaya.ttc.compaction import compact, failed
from openzaya.ttc.config import MarkovianRSAConfig
from openzaya.ttc.events import (
    CandidateDone,
    OnEvent,
    RunDone,
    RunStarted,
    StageDone,
    ignore,
)
from openzaya.ttc.place import Place, Plan
from openzaya.ttc.presets import preset
from openzaya.ttc.result import Candidate, Result, Round
from openzaya.ttc.selection import Extract, extract_answer
from openzaya.ttc.subsets import parents_of, pool_of

MAX_RETRY_WAIT_S = 30.0

Sleep = Callable[[float], Awaitable[None]]


class MarkovianRSA:
    """One loop for every strategy: T = 0, C = 1, tau = beta are parameter sets of it.

    `extract` reads an answer from the text after the think block. A sampler may have an attribute
    `context_tokens` (int or None), checked before any work, `retries_itself` (true: failed
    calls are not tried again here) and `tail_method` (a name, reported in the result).
    """

    def __init__(
        self,
        config: MarkovianRSAConfig | str,
        *,
        extract: Extract = extract_answer,
        sleep: Sleep = asyncio.sleep,
    ) -> None:
        """Take settings or the name of a preset; `sleep` is what waits between retries."""
        self.config = preset(config) if isinstance(config, str) else config
        self.extract = extract
        self.sleep = sleep

    async def run(
        self,
        question: str | tuple[Message, ...],
        sampler: Sampler,
        seed: int = 0,
        on_event: OnEvent | None = None,
        task_hint: str | None = None,
        stop: asyncio.Event | None = None,
        priority: int = 0,
    ) -> Result:
        """Answer `question`, a text or a conversation that ends with the user's turn.

        Setting `stop` ends the run at once with the best so far, marked `interrupted`; cancelling
        the coroutine cancels every outstanding call. Failed candidates are dropped while enough
        survive, else the best so far returns with `degraded`. `priority` is passed to the sampler:
        smaller runs first, so give an older problem a smaller one.

        Raises `RequestError` for an empty question, `ContextLengthError` or `ConfigError` when
        the run cannot fit the model's context, and the sampler's own `EngineError` or
        `UpstreamError` when no candidate survives.
        """
        run = _Run(self, _conversation(question), sampler, seed, on_event or ignore)
        run.hint = task_hint or ""
        run.stop = stop or asyncio.Event()
        run.priority = priority
        run.start()
        for stage in range(self.config.num_stages):
            await run.sample_stage(stage)
            if run.is_over(stage):
                break
        return run.finish()


def _conversation(question: str | tuple[Message, ...]) -> tuple[Message, ...]:
    messages = (Message("user", question),) if isinstance(question, str) else tuple(question)
    if not messages or messages[-1].role != "user" or not messages[-1].content.strip():
        raise RequestError("the question is empty; end the conversation with a user turn that asks")
    return messages


@dataclass(slots=True)
class _Run:
    """The state of one run."""

    owner: MarkovianRSA
    question: tuple[Message, ...]
    sampler: Sampler
    seed: int
    emit: OnEvent
    hint: str = ""
    stop: asyncio.Event = field(default_factory=asyncio.Event)
    priority: int = 0
    rounds: list[Round] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    errors: list[OpenZayaError] = field(default_factory=list)
    generated: list[int] = field(default_factory=list)
    prefill: int = 0
    calls: int = 0
    failed_calls: int = 0
    cap: int = 0
    is_degraded: bool = False

    @property
    def config(self) -> MarkovianRSAConfig:
        return self.owner.config

    def start(self) -> None:
        """Check that the run fits the model; raises before any work."""
        question_tokens = self.sampler.count_prompt_tokens(self.question)
        overhead = max(
            self.sampler.count_prompt_tokens(
                aggregation_messages(self.question, [""] * count, self.hint)
            )
            for count in {1, self.config.tails_per_prompt}
        )
        bounds = preview(
            self.config, question_tokens, overhead_tokens=max(0, overhead - question_tokens)
        )
        check_context(bounds, question_tokens, getattr(self.sampler, "context_tokens", None))
        self.cap = bounds.decode_cap
        self.emit(RunStarted(self.config, bounds, question_tokens))

    async def sample_stage(self, stage: int) -> None:
        """Sample every candidate of a stage and record what came back."""
        plan = self.plan(stage)
        self.generated.append(0)
        # Candidates with the same first tails leave back to back, while that prefix is cached.
        launch = sorted(plan, key=lambda p: p.parents) if self.config.order == "cache" else plan
        done: list[Candidate] = []
        tasks = [asyncio.create_task(self.sample_candidate(p, done)) for p in launch]
        stopped = asyncio.create_task(self.stop.wait())
        try:
            pending: set[asyncio.Task[Any]] = set(tasks)
            while pending and not self.stop.is_set():
                ready, waiting = await asyncio.wait(
                    {*pending, stopped}, return_when=asyncio.FIRST_COMPLETED
                )
                for task in ready - {stopped}:
                    await task  # an error that is not the sampler's ends the run
                pending = waiting - {stopped}
        finally:
            for task in (*tasks, stopped):
                task.cancel()
            await asyncio.gather(*tasks, stopped, return_exceptions=True)
        self.rounds.append(Round(stage, tuple(sorted(done, key=lambda c: c.slot))))
        if len(done) < len(plan):
            self.notes.append(
                f"stage {stage}: {len(plan) - len(done)} calls were cancelled; what they had "
                "generated is not counted"
            )
        self.emit(StageDone(stage, self.rounds[-1].answers, self.generated[stage]))

    def plan(self, stage: int) -> list[Plan]:
        """Return the prompt, parents and seed of every candidate of a stage."""
        count = self.config.candidates_at(stage)
        seeds = [stream_seed(self.seed, "ttc", "sample", stage, slot) for slot in range(count)]
        if stage == 0:
            return [Plan(Place(0, slot, seeds[slot], ()), self.question) for slot in range(count)]
        tails = {c.slot: c.tail for c in self.rounds[-1].candidates}
        pool = pool_of(self.rounds[-1].candidates)
        if len(pool) < self.config.tails_per_prompt:
            self.notes.append(
                f"stage {stage}: {len(pool)} usable tails instead of "
                f"{self.config.tails_per_prompt} in every prompt"
            )
        parents = parents_of(self.config, pool, count, stream(self.seed, "ttc", "subset", stage))
        return [
            Plan(
                Place(stage, slot, seeds[slot], mine),
                aggregation_messages(self.question, [tails[p] for p in mine], self.hint)
                if mine
                else self.question,
            )
            for slot, mine in enumerate(parents)
        ]

    async def sample_candidate(self, plan: Plan, done: list[Candidate]) -> None:
        """Sample one candidate with retries, and append what became of it to `done`."""
        place = plan.place
        attempts = 1 if getattr(self.sampler, "retries_itself", False) else self.config.max_attempts
        waits = stream(self.seed, "ttc", "retry", place.stage, place.slot)
        candidate: Candidate | None = None
        for attempt in range(1, attempts + 1):
            try:
                candidate = await self.sample_once(plan, attempt)
                break
            except (EngineError, UpstreamError, RequestError) as error:
                self.failed_calls += 1
                last = error
                if isinstance(error, RequestError):
                    break  # the same request would be refused again
            if attempt < attempts:
                mean_s = self.config.retry_base_s * 2 ** (attempt - 1)
                await self.owner.sleep(min(MAX_RETRY_WAIT_S, mean_s * waits.uniform(0.5, 1.5)))
        if candidate is None:
            self.errors.append(last)
            candidate = failed(place, attempt, last)
        done.append(candidate)
        self.emit(CandidateDone(candidate, sum(self.generated)))

    async def sample_once(self, plan: Plan, attempt: int) -> Candidate:
        """Make one call, count what it used, and compact it."""
        stage = plan.place.stage
        self.calls += 1
        completion = await self.sampler.sample(
            SampleRequest(
                messages=plan.messages,
                max_tokens=self.config.budget_at(stage),
                seed=plan.place.seed,
                temperature=self.config.temperature_at(stage),
                top_p=self.config.top_p,
                priority=self.priority,
            )
        )
        self.generated[stage] += completion.num_tokens
        self.prefill += completion.num_prompt_tokens or self.sampler.count_prompt_tokens(
            plan.messages
        )
        return await compact(
            completion, plan.place, attempt, self.config, self.sampler, self.owner.extract
        )

    def is_over(self, stage: int) -> bool:
        """Say whether the run ends after this stage, and note why when it ends early."""
        if self.stop.is_set() or stage == self.config.rounds:
            return True
        survivors = len(self.rounds[-1].survivors)
        if survivors >= self.config.min_survivors():
            return False
        self.notes.append(
            f"stage {stage}: only {survivors} candidates survived, {self.config.min_survivors()} "
            "are needed to go on; the best so far was returned"
        )
        self.is_degraded = True
        return True

    def finish(self) -> Result:
        """Choose the answer and close the accounts; raises when every candidate failed."""
        was_stopped = self.stop.is_set()
        is_interrupted = was_stopped and not self.is_complete
        if self.errors and not any(r.survivors for r in self.rounds) and not is_interrupted:
            raise self.errors[-1]
        is_early = is_interrupted or len(self.rounds) < self.config.num_stages
        quorum = self.config.min_survivors() if is_early else 1
        rng = stream(self.seed, "ttc", "select")
        chosen, why = best_so_far(self.rounds, self.config.rounds, quorum, rng)
        lost = sum(c.is_failed for r in self.rounds for c in r.candidates)
        if lost:
            self.notes.append(f"{lost} candidates failed: {self.errors[-1]}")
        result = Result(
            answer=chosen.answer if chosen else None,
            chosen=chosen,
            why=why,
            rounds=tuple(self.rounds),
            usage=Usage(
                generated_by_stage=tuple(self.generated),
                prefill=self.prefill,
                calls=self.calls,
                failed_calls=self.failed_calls,
                cap=self.cap,
            ),
            config=self.config,
            seed=self.seed,
            template_sha256=AGGREGATION_TEMPLATE_SHA256,
            tail_method=str(getattr(self.sampler, "tail_method", "exact")),
            degraded=self.is_degraded or lost > 0,
            interrupted=is_interrupted,
            notes=tuple(self.notes),
        )
        self.emit(
            RunDone(result.answer, why, result.usage.generated, result.degraded, result.interrupted)
        )
        return result

    @property
    def is_complete(self) -> bool:
        """Whether the last stage has all its candidates."""
        last = self.rounds[-1]
        is_last = last.stage == self.config.rounds
        return is_last and len(last.candidates) == self.config.candidates_at(last.stage)
