"""Who gets the places of an engine."""

import asyncio

from hypothesis import given
from hypothesis import strategies as st

from openzaya.serve.gateway.turns import Turns


async def settle() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


class Calls:
    """Calls that hold their place until they are let go."""

    def __init__(self, turns: Turns) -> None:
        self.turns = turns
        self.running: list[tuple[int, asyncio.Event]] = []
        self.order: list[int] = []
        self.tasks: list[asyncio.Task[None]] = []

    def start(self, run: int, count: int = 1, priority: int = 0, **who) -> None:
        for _ in range(count):
            self.tasks.append(asyncio.create_task(self._hold(run, priority, **who)))

    async def _hold(self, run: int, priority: int, **who) -> None:
        async with self.turns.place(run, priority, **who):
            done = asyncio.Event()
            self.running.append((run, done))
            self.order.append(run)
            await done.wait()

    def held_by(self, run: int) -> int:
        return sum(found == run for found, _ in self.running)

    async def end_one(self) -> None:
        self.running.pop(0)[1].set()
        await settle()

    async def end(self) -> None:
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)


def test_one_run_alone_takes_every_place_and_no_more():
    async def scene():
        calls = Calls(Turns(4, 0.5))
        calls.start(1, 9)
        await settle()
        assert calls.held_by(1) == 4
        assert calls.turns.num_waiting == 5
        await calls.end()
        assert (calls.turns.num_held, calls.turns.num_waiting) == (0, 0)

    asyncio.run(scene())


def test_a_second_run_gets_its_share_as_places_come_free():
    async def scene():
        calls = Calls(Turns(4, 0.5))
        calls.start(1, 9)
        await settle()
        calls.start(2, 9)
        for _ in range(2):
            await calls.end_one()
        assert (calls.held_by(1), calls.held_by(2)) == (2, 2)
        await calls.end()

    asyncio.run(scene())


def test_the_oldest_run_goes_first_within_its_share_and_priority_beats_age():
    async def scene():
        calls = Calls(Turns(1, 1.0))
        calls.start(9)
        await settle()
        for run in (3, 1, 2):
            calls.start(run)
        calls.start(4, priority=-1)
        await settle()
        for _ in range(4):
            await calls.end_one()
        assert calls.order == [9, 4, 1, 2, 3]
        await calls.end()

    asyncio.run(scene())


@given(
    limit=st.integers(1, 6),
    share=st.floats(0.1, 1.0),
    script=st.lists(st.tuples(st.sampled_from("abc-x"), st.integers(1, 4)), max_size=40),
)
def test_no_place_is_lost_or_given_twice(limit, share, script):
    """Whatever starts, ends or is cancelled: the limit holds, and work never waits for nobody."""

    async def scene():
        calls = Calls(Turns(limit, share))
        for what, run in script:
            if what == "-" and calls.running:
                await calls.end_one()
            elif what == "x" and calls.tasks:
                calls.tasks.pop(run % len(calls.tasks)).cancel()
                calls.start(run)  # in the same breath: the place must not go to who just left
                await settle()
                calls.running = [c for c in calls.running if not c[1].is_set()]
            else:
                calls.start(run)
            await settle()
            assert calls.turns.num_held <= limit
            if calls.turns.num_waiting:
                assert calls.turns.num_held >= 1
        await calls.end()
        assert calls.turns.num_held == calls.turns.num_waiting == 0

    asyncio.run(scene())


def test_older_runs_of_one_key_do_not_keep_another_waiting():
    """Places are shared by weight among keys, as in front of upstreams."""

    async def scene():
        for weight, share in ((1.0, 4), (3.0, 6)):
            calls = Calls(Turns(8, 0.5))
            for run in range(1, 5):
                calls.start(run, 16, tenant="many")
            await settle()
            for run in (5, 6):
                calls.start(run, 16, tenant="few", weight=weight)
            await settle()
            for _ in range(24):
                await calls.end_one()
            assert sum(map(calls.held_by, (5, 6))) == share
            await calls.end()
            assert (calls.turns.num_held, calls.turns.num_waiting) == (0, 0)

    asyncio.run(scene())
