"""The engine's thread: it steps the engine and hands every token to the event loop.

Handlers live in the event loop. `submit` and `abort` never wait for a step: an abort reaches the
engine at once and takes effect with its next step.
"""

import asyncio
import logging
import math
from collections.abc import Sequence
from functools import partial
from threading import Condition, Thread
from time import monotonic

from openzaya.core.errors import EngineError, RequestError
from openzaya.engine.request import EngineStats, TokenEvent
from openzaya.serve.errors import ApiError, bad_request
from openzaya.serve.jobs import Ask, Job, TokenEngine

log = logging.getLogger("openzaya.serve")
MAX_RETRY_S = 60


class Driver:
    """Owns the engine: nobody else may step it."""

    def __init__(
        self, engine: TokenEngine, *, max_slots: int, max_queue: int, max_unread_events: int
    ) -> None:
        self._engine = engine
        self._max_slots = max_slots
        self._capacity = max_slots + max_queue
        self._max_unread = max_unread_events
        self._changed = Condition()
        self._new: list[Job] = []
        self._jobs: set[Job] = set()
        self._fresh: list[tuple[Job, int, TokenEvent]] = []
        self._closing = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread = Thread(target=self._run, name="openzaya-engine", daemon=True)
        self._mean_s = 1.0
        self.draining = False
        """True when no new job is taken."""
        self.failure: str | None = None
        """Why the engine stopped."""
        self.num_in_flight = 0
        """Choices that wait or generate."""

    def start(self) -> None:
        """Start the thread; call it inside the event loop."""
        self._loop = asyncio.get_running_loop()
        self._thread.start()

    async def close(self) -> None:
        """Stop the thread and fail what still runs."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        if self._thread.is_alive():
            await asyncio.to_thread(self._thread.join)
        self._fail_all(ApiError(503, "the server is shutting down; ask again", code="draining"))

    @property
    def num_running(self) -> int:
        """Choices that hold a slot of the engine."""
        return self._engine.num_running

    @property
    def engine_stats(self) -> EngineStats:
        """What the engine has done; its thread goes on counting."""
        return self._engine.stats

    def check_room(self, num_choices: int) -> None:
        """Raise ApiError 429 with Retry-After when the queue is full, 503 while draining."""
        if self.failure is not None:
            raise ApiError(503, "the engine has stopped; restart the server", code="engine_failed")
        if self.draining or self._closing:
            raise ApiError(
                503,
                "the server is shutting down; ask another one",
                code="draining",
                headers={"Retry-After": "5"},
            )
        if num_choices > self._capacity:
            raise bad_request(
                f"{num_choices} choices are more than this server holds; ask for fewer"
            )
        if self.num_in_flight + num_choices > self._capacity:
            raise ApiError(
                429,
                f"{self.num_in_flight} requests are in flight, {self._capacity} is the limit; wait",
                code="queue_full",
                headers={"Retry-After": str(self._retry_s())},
            )

    def submit(
        self,
        asks: Sequence[Ask],
        priority: int,
        tenant: str = "",
        queue_s: float | None = None,
    ) -> Job:
        """Queue all choices of a request; they share one prefill where their prompts are equal.

        The job fails with 503 when none of them got a slot within `queue_s`; None waits for ever.
        Raises what `check_room` raises.
        """
        self.check_room(len(asks))
        job = Job(asks, priority, tenant)
        if queue_s is not None:
            assert self._loop is not None  # set by start
            job.queue_timer = self._loop.call_later(queue_s, self._give_up, job, queue_s)
        self._jobs.add(job)
        self.num_in_flight += len(asks)
        with self._changed:
            self._new.append(job)
            self._changed.notify()
        return job

    def abort(self, job: Job) -> None:
        """End all choices of a job that still generate; a finished job is left alone."""
        for index in list(job.open):
            self.stop(job, index)
        job.unread.clear()

    def stop(self, job: Job, index: int) -> None:
        """End one choice: its text is complete, whatever the model would add."""
        if index not in job.open:
            return
        self._finish(job, index)
        with self._changed:
            job.cancelled = not job.open
            if index < len(job.ids):
                self._engine.abort(job.ids[index])
            self._changed.notify()

    def _give_up(self, job: Job, queue_s: float) -> None:
        """Refuse a job that has waited too long; what runs by now goes on."""
        error = ApiError(
            503,
            f"no place came free in {queue_s:g} s; ask again later",
            code="queue_timeout",
            headers={"Retry-After": str(self._retry_s())},
        )
        self.abort(job)
        self._fail(job, error)

    def _finish(self, job: Job, index: int) -> None:
        """Take note that a choice ended."""
        job.open.discard(index)
        self.num_in_flight -= 1
        if not job.open:
            self._jobs.discard(job)
            job.end_wait()
            if job.placed_at is not None:
                self._mean_s += 0.1 * (monotonic() - job.placed_at - self._mean_s)

    def _retry_s(self) -> int:
        """Guess when a place in the queue is free."""
        waves = self.num_in_flight / self._max_slots
        return max(1, min(MAX_RETRY_S, math.ceil(self._mean_s * waves)))

    def _run(self) -> None:
        """Step the engine while there is work; the body of the thread."""
        try:
            while self._wait_for_work():
                self._engine.step()
                self._post(self._hand_out, *self._take_fresh())
        except Exception as error:  # noqa: BLE001  whatever it is, those who wait must learn of it
            where = error.__traceback__
            # Messages of other errors may hold text of a request.
            told = str(error) if isinstance(error, EngineError) else type(error).__name__
            log.error("the engine stopped: %s at line %s", told, _last_line(where))
            self.failure = type(error).__name__
            failure = ApiError(500, "the engine failed while generating", code="engine_failed")
            self._post(self._fail_all, failure)

    def _wait_for_work(self) -> bool:
        """Sleep until there is something to do, begin new jobs; return False to end the thread."""
        with self._changed:
            self._changed.wait_for(lambda: self._closing or self._new or self._engine.has_work)
            new, self._new = self._new, []
            for job in new:
                self._begin(job)
            return not self._closing

    def _begin(self, job: Job) -> None:
        """Give a job to the engine, all its choices before the next step."""
        if job.cancelled:
            return
        for index, ask in enumerate(job.asks):
            try:
                request_id = self._engine.add(
                    ask.prompt,
                    ask.params,
                    job.priority,
                    tenant=job.tenant,
                    salt=job.tenant,
                    on_start=partial(self._post, job.place),
                    on_token=partial(self._note, job, index),
                )
                job.ids.append(request_id)
            except RequestError as error:
                for request_id in job.ids:
                    self._engine.abort(request_id)
                self._post(self._fail, job, bad_request(str(error)))
                return
            if index not in job.open:  # stopped before it began
                self._engine.abort(job.ids[index])

    def _note(self, job: Job, index: int, event: TokenEvent) -> None:
        self._fresh.append((job, index, event))

    def _take_fresh(self) -> tuple[list[tuple[Job, int, TokenEvent]]]:
        fresh, self._fresh = self._fresh, []
        return (fresh,)

    def _post(self, call: object, *arguments: object) -> None:
        """Call something in the event loop."""
        assert self._loop is not None  # set by start
        assert callable(call)
        try:
            self._loop.call_soon_threadsafe(call, *arguments)
        except RuntimeError:  # the loop is closed: nobody waits any more
            log.debug("the event loop is gone")

    def _hand_out(self, fresh: list[tuple[Job, int, TokenEvent]]) -> None:
        """Give every token to its job; in the event loop."""
        for job, index, event in fresh:
            if index not in job.open:
                continue
            if len(job.unread) >= self._max_unread:
                self.abort(job)
                self._fail(job, ApiError(500, "the client reads too slowly", code="slow_reader"))
                continue
            job.unread.append((index, event))
            if event.finish_reason is not None:
                self._finish(job, index)
            job.wake.set()

    def _fail_all(self, error: ApiError) -> None:
        for job in list(self._jobs):
            self._fail(job, error)

    def _fail(self, job: Job, error: ApiError) -> None:
        """Tell a job that nothing more will come."""
        for index in list(job.open):
            self._finish(job, index)
        job.failure = error
        job.wake.set()


def _last_line(trace: object) -> str:
    """Return file and line where an error was raised; never its message, which may hold text."""
    where = "?"
    while trace is not None:
        code = trace.tb_frame.f_code  # type: ignore[attr-defined]
        where = f"{code.co_filename}:{trace.tb_lineno}"  # type: ignore[attr-defined]
        trace = trace.tb_next  # type: ignore[attr-defined]
    return where
