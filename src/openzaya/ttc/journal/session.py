"""A run from its lease to its end in the journal."""

import asyncio
import logging
from collections.abc import Callable

from openzaya.core.errors import OpenZayaError
from openzaya.core.protocols import Sampler
from openzaya.ttc.events import CandidateProgress, Event, OnEvent, ignore, nobody
from openzaya.ttc.journal.errors import JournalFullError, LeaseLostError
from openzaya.ttc.journal.journal import Journal
from openzaya.ttc.markovian_rsa import MarkovianRSA
from openzaya.ttc.result import Result

log = logging.getLogger(__name__)


async def run_recorded(
    journal: Journal,
    run_id: str,
    sampler: Sampler,
    *,
    on_event: OnEvent = ignore,
    stop: asyncio.Event | None = None,
    priority: int = 0,
    wants_progress: Callable[[], bool] = nobody,
) -> Result:
    """Do a run that is leased here, from where its record stands, and record how it ends.

    `on_event` alone is told of text as it comes, while `wants_progress` says so.

    An error of ours marks the run as failed and is raised again; a cancelled coroutine leaves the
    record as it is, so that the run can be resumed. So does a disk that is full when the answer is
    there: the log says so, and the answer is returned.
    """
    spec = await journal.spec(run_id)
    record = journal.listener(run_id)

    def listen(event: Event) -> None:
        if not isinstance(event, CandidateProgress):
            record(event)
        on_event(event)

    try:
        result = await MarkovianRSA(spec.config).run(
            spec.question,
            sampler,
            seed=spec.seed,
            on_event=listen,
            task_hint=spec.hint or None,
            stop=stop,
            priority=priority,
            wants_progress=wants_progress,
            recorded=await journal.recorded(run_id),
        )
    except LeaseLostError:
        raise
    except OpenZayaError as error:
        await journal.fail(run_id, error)
        raise
    try:
        await journal.finish(run_id, result)
    except JournalFullError as error:
        log.warning("run %s has its answer, but its record does not: %s", run_id, error)
    return result
