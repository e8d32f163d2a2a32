"""Runs over a journal, for its tests."""

import asyncio
from contextlib import asynccontextmanager

from ttc.fake_sampler import FakeSampler, no_sleep

from openzaya.core.records import Message
from openzaya.ttc import MarkovianRSA, MarkovianRSAConfig
from openzaya.ttc.journal import Journal, JournalConfig, RunSpec
from openzaya.ttc.journal.opening import open_database

SMALL = MarkovianRSAConfig(
    num_candidates=4,
    tails_per_prompt=2,
    rounds=2,
    budget_tokens=60,
    tail_tokens=8,
    max_attempts=1,
)


def spec(question="what is it?", **changes):
    values = {"config": SMALL, "seed": 5, "model": "tiny", "preset": "small", **changes}
    return RunSpec(question=(Message("user", question),), **values)


@asynccontextmanager
async def opened(url, **settings):
    async with Journal.open(url, JournalConfig(**settings)) as journal:
        yield journal


async def run_over(journal, run_id, sampler=None, **named):
    """Run a leased run from where its record stands; leaves the ending to the caller."""
    given = await journal.spec(run_id)
    return await MarkovianRSA(given.config, sleep=no_sleep).run(
        given.question,
        sampler or FakeSampler(),
        seed=given.seed,
        on_event=journal.listener(run_id),
        recorded=await journal.recorded(run_id),
        **named,
    )


async def finished(journal, sampler=None, **changes):
    """Return the id and result of a run that is done."""
    begun = await journal.begin(spec(**changes))
    result = await run_over(journal, begun.run_id, sampler)
    await journal.finish(begun.run_id, result)
    return begun.run_id, result


def stopper(after, sampler=FakeSampler):
    """A sampler that gives up its process, so to say, after some calls: nothing comes any more."""

    class Stopper(sampler):
        def __init__(self):
            super().__init__()
            self.is_reached = asyncio.Event()

        async def sample(self, request):
            if len(self.requests) >= after:
                self.is_reached.set()
                await asyncio.Event().wait()
            return await super().sample(request)

    return Stopper()


async def abandoned(journal, after, sampler=FakeSampler, **changes):
    """Begin a run and drop it mid-way, as a dying process would; returns its id and sampler."""
    begun = await journal.begin(spec(**changes))
    sampler = stopper(after, sampler)
    task = asyncio.create_task(run_over(journal, begun.run_id, sampler))
    await sampler.is_reached.wait()
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await journal.flush()
    return begun.run_id, sampler


def in_rows(url, sql, values=()):
    """Do something to the rows behind the journal's back."""
    database = open_database(url)
    try:
        with database.transaction(durable=False):
            return database.execute(sql, values)
    finally:
        database.close()


def expire(url, run_id):
    """Let a lease run out, as if its owner hung."""
    in_rows(url, "UPDATE run SET expires_s = 0 WHERE id = ?", (run_id,))
