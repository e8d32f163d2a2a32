import asyncio
from dataclasses import dataclass

import pytest

from openzaya.backends.breaker import MAX_OPEN_S, Breaker, Limit
from openzaya.backends.http_server import HttpConfig
from openzaya.backends.scheduler import Route, Scheduler
from openzaya.backends.upstream import Upstream


@dataclass
class Clock:
    now: float = 100.0

    def __call__(self) -> float:
        return self.now


def upstream(places: int, weight: float = 1.0) -> Upstream:
    return Upstream(HttpConfig(url="http://x", max_in_flight=places, weight=weight))


def make(*upstreams: Upstream, most: int = 1000, share: float = 1.0) -> tuple[Scheduler, Route]:
    scheduler = Scheduler(most, share)
    route = Route("model", list(upstreams))
    scheduler.routes.append(route)
    return scheduler, route


def served(scheduler: Scheduler, tickets: list) -> list[int]:
    """Let every call that got a place leave, in the order of the places; the order of numbers."""
    order: list[int] = []
    while len(order) < len(tickets):
        ready = [i for i, t in enumerate(tickets) if t.turn.done() and i not in order]
        assert ready, "calls wait although there are places"
        order += ready
        for i in ready:
            scheduler.leave(tickets[i])
    return order


def run(test):
    async def main():
        test()

    asyncio.run(main())


def test_the_oldest_run_goes_first_and_priority_comes_before_age():
    def test():
        scheduler, route = make(upstream(1))
        old, young, urgent = (scheduler.job("a", 1.0) for _ in range(3))
        asked = [(young, 0), (young, 0), (old, 0), (urgent, -1), (old, 0)]
        tickets = [scheduler.ask(job, route, priority, None) for job, priority in asked]
        assert served(scheduler, tickets) == [0, 3, 2, 4, 1]

    run(test)


def test_places_are_shared_by_weight_and_a_flood_of_one_tenant_does_not_starve_another():
    def test():
        scheduler, route = make(upstream(8))
        flood = [scheduler.ask(scheduler.job("big", 3.0), route, 0, None) for _ in range(40)]
        for ticket in flood[:8]:
            assert ticket.turn.done()
        late = [scheduler.ask(scheduler.job("small", 1.0), route, 0, None) for _ in range(40)]
        for ticket in flood[:8]:
            scheduler.leave(ticket)
        held = [sum(t.turn.done() for t in tickets) for tickets in (flood[8:], late)]
        assert held == [6, 2]

    run(test)


def test_one_run_holds_at_most_its_share_and_goes_on_as_its_calls_end():
    def test():
        scheduler, route = make(upstream(8), share=0.5)
        job, other = scheduler.job("a", 1.0), scheduler.job("a", 1.0)
        tickets = [scheduler.ask(job, route, 0, None) for _ in range(10)]
        assert sum(t.turn.done() for t in tickets) == 4
        mine = scheduler.ask(other, route, 0, None)
        assert mine.turn.done()
        assert served(scheduler, tickets) == list(range(10))

    run(test)


def test_the_limit_over_all_servers_holds_and_load_follows_the_weights():
    def test():
        weak, strong = upstream(100), upstream(100, weight=3.0)
        scheduler, route = make(weak, strong, most=40)
        job = scheduler.job("a", 1.0)
        tickets = [scheduler.ask(job, route, 0, None) for _ in range(60)]
        assert scheduler.in_flight == 40
        assert scheduler.num_waiting == 20
        assert (weak.in_flight, strong.in_flight) == (10, 30)
        served(scheduler, tickets)
        assert (weak.in_flight, strong.in_flight, scheduler.in_flight) == (0, 0, 0)

    run(test)


def test_who_waits_goes_before_who_comes_when_a_pause_is_over():
    def test():
        server = upstream(1)
        scheduler, route = make(server)
        server.limit.pause(60.0)
        first = scheduler.ask(scheduler.job("a", 1.0), route, 0, None)
        server.limit.paused_until = 0.0
        late = scheduler.ask(scheduler.job("a", 1.0), route, 0, None)
        assert (first.turn.done(), late.turn.done()) == (True, False)

    run(test)


def test_a_cancelled_call_leaves_the_queue_at_once_and_no_place_is_lost():
    async def main():
        scheduler, route = make(upstream(1))
        job = scheduler.job("a", 1.0)

        async def call(seconds: float) -> None:
            ticket = scheduler.ask(job, route, 0, None)
            try:
                await ticket.turn
                await asyncio.sleep(seconds)
            finally:
                scheduler.leave(ticket)

        tasks = [asyncio.create_task(call(60)) for _ in range(4)]
        await asyncio.sleep(0)
        assert scheduler.num_waiting == 3
        tasks[1].cancel()
        await asyncio.sleep(0)
        assert scheduler.num_waiting == 2
        # The place is granted to the next in the very moment in which that one is cancelled.
        tasks[0].cancel()
        await asyncio.sleep(0)
        tasks[2].cancel()
        await asyncio.sleep(0.01)
        assert (scheduler.in_flight, scheduler.num_waiting) == (1, 0)
        tasks[3].cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert scheduler.in_flight == 0

    asyncio.run(main())


def test_a_call_that_failed_goes_to_another_server_unless_there_is_none():
    def test():
        one, two = upstream(4), upstream(1)
        scheduler, route = make(one, two)
        job = scheduler.job("a", 1.0)
        again = [scheduler.ask(job, route, 0, one) for _ in range(2)]
        assert [t.turn.result() for t in again] == [two, one]

    run(test)


def test_the_circuit_opens_after_five_failures_in_a_row_and_one_probe_decides():
    clock = Clock()
    breaker = Breaker(clock)
    for _ in range(4):
        breaker.fail()
    breaker.succeed()
    for _ in range(4):
        breaker.fail()
    assert breaker.can_call
    breaker.fail()
    assert (breaker.state, breaker.can_call) == ("open", False)
    clock.now += 1.0
    assert (breaker.state, breaker.can_call) == ("half-open", True)
    breaker.begin()
    assert not breaker.can_call
    breaker.fail()
    clock.now += 1.5
    assert not breaker.can_call
    clock.now += 0.5
    breaker.begin()
    breaker.abandon()
    assert breaker.can_call
    breaker.begin()
    breaker.succeed()
    assert (breaker.state, breaker.can_call) == ("up", True)
    for _ in range(5):
        breaker.fail()
    assert breaker.reopens_at == pytest.approx(clock.now + 1.0)


def test_failures_spread_over_more_than_thirty_seconds_open_nothing_and_the_pause_is_bounded():
    clock = Clock()
    breaker = Breaker(clock)
    for _ in range(12):
        breaker.fail()
        clock.now += 8.0
    assert breaker.is_closed
    for _ in range(20):
        breaker.fail()
        clock.now = max(clock.now, breaker.reopens_at)
        breaker.begin()
    assert breaker.reopens_at - clock.now <= MAX_OPEN_S


def test_one_overload_halves_the_limit_once_and_it_is_regained_by_one_for_each_round():
    clock = Clock()
    limit = Limit(64, clock)
    began = clock.now
    clock.now += 1.0
    for _ in range(20):
        limit.shrink(began)
    assert limit.value == 32
    limit.shrink(clock.now)
    assert limit.value == 16
    for _ in range(16):
        limit.grow()
    assert 16.9 < limit.value <= 17
    for _ in range(10):
        clock.now += 1.0
        limit.shrink(clock.now)
    assert limit.value == 1.0
    limit.pause(3.0)
    assert limit.is_paused
    clock.now += 3.0
    assert not limit.is_paused
