"""Who calls next, over all runs: weighted fair share by tenant, then the oldest run first.

Deviation: D-058.
"""

import asyncio
import heapq
import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from openzaya.backends.upstream import Upstream


@dataclass(eq=False, slots=True)
class Tenant:
    """Who pays: the calls of one API key."""

    name: str
    weight: float
    in_flight: int = 0


@dataclass(eq=False, slots=True)
class Job:
    """One run: its calls together hold at most a share of the places."""

    tenant: Tenant
    number: int
    """Jobs are numbered in the order in which they came."""
    in_flight: int = 0
    parked: "deque[Ticket]" = field(default_factory=deque)
    """Calls whose turn came while the job held its share."""


@dataclass(eq=False, slots=True)
class Route:
    """The servers of one model, and the calls that wait for a place at any of them."""

    name: str
    upstreams: Sequence[Upstream]
    queues: "dict[Tenant, list[Ticket]]" = field(default_factory=dict)
    waiting: "set[Ticket]" = field(default_factory=set)

    def choose(self, avoided: Upstream | None) -> Upstream | None:
        """Return the least loaded server that takes a call now, another than `avoided` if any."""
        best, lowest = None, math.inf
        for upstream in self.upstreams:
            load = upstream.load()
            if upstream is avoided and load < math.inf:
                load += 1e9
            if load < lowest:
                best, lowest = upstream, load
        return best

    @property
    def limit(self) -> float:
        """Calls that all servers of the model take at once."""
        return sum(upstream.limit.value for upstream in self.upstreams)


@dataclass(eq=False, slots=True)
class Ticket:
    """One call that waits for a place, or holds it."""

    job: Job
    route: Route
    order: tuple[int, int, int]
    """Priority, number of the job, number of the ticket; smaller goes first."""
    avoided: Upstream | None
    turn: asyncio.Future[Upstream]
    """Ends with the server that takes the call."""

    def __lt__(self, other: "Ticket") -> bool:
        """Order tickets in a heap."""
        return self.order < other.order


class Scheduler:
    """One limit over all runs and servers.

    A place goes to the tenant that holds the fewest in relation to its weight, and there to the
    call of the oldest run. A run that holds its share of the places is passed over.
    """

    def __init__(self, max_in_flight: int, job_share: float) -> None:
        """Take the limit and the largest share of the places that one run may hold, in (0, 1]."""
        self.max_in_flight = max_in_flight
        self.in_flight = 0
        self.routes: list[Route] = []
        self._job_share = job_share
        self._tenants: dict[str, Tenant] = {}
        self._num_jobs = 0
        self._num_tickets = 0

    @property
    def num_waiting(self) -> int:
        """Calls that wait for a place."""
        return sum([len(route.waiting) for route in self.routes])

    def job(self, tenant: str, weight: float) -> Job:
        """Return a new run of a tenant; the newest weight counts for all its runs."""
        known = self._tenants.setdefault(tenant, Tenant(tenant, weight))
        known.weight = weight
        self._num_jobs += 1
        return Job(known, self._num_jobs)

    def ask(self, job: Job, route: Route, priority: int, avoided: Upstream | None) -> Ticket:
        """Queue a call; its `turn` may be over at once. Give it back with `leave`."""
        self._num_tickets += 1
        order = (priority, job.number, self._num_tickets)
        turn: asyncio.Future[Upstream] = asyncio.get_running_loop().create_future()
        ticket = Ticket(job, route, order, avoided, turn)
        upstream = route.choose(avoided) if self._is_open_to(job, route) else None
        if upstream is not None:
            self._grant(ticket, upstream)
            return ticket
        route.waiting.add(ticket)
        heapq.heappush(route.queues.setdefault(job.tenant, []), ticket)
        self.admit()
        return ticket

    def leave(self, ticket: Ticket) -> None:
        """Give the place back, or the place in the queue."""
        if ticket in ticket.route.waiting:
            self._withdraw(ticket)
        elif ticket.turn.done() and not ticket.turn.cancelled() and not ticket.turn.exception():
            ticket.turn.result().leave()
            self.in_flight -= 1
            job = ticket.job
            job.in_flight -= 1
            job.tenant.in_flight -= 1
            if job.parked:
                self._unpark(job)
            self.admit()

    def fail_waiting(self, route: Route, error: Exception) -> None:
        """End the waiting of every call of a route with an error."""
        for ticket in list(route.waiting):
            self._withdraw(ticket)
            if not ticket.turn.done():
                ticket.turn.set_exception(error)

    def admit(self) -> None:
        """Give free places to those who wait; call it after anything that frees one."""
        while self.in_flight < self.max_in_flight:
            ticket = self._next()
            if ticket is None:
                return
            upstream = ticket.route.choose(ticket.avoided)
            assert upstream is not None
            heapq.heappop(ticket.route.queues[ticket.job.tenant])
            ticket.route.waiting.discard(ticket)
            if ticket.turn.done():
                continue  # cancelled in the meantime; `leave` has nothing to give back
            self._grant(ticket, upstream)

    def _is_open_to(self, job: Job, route: Route) -> bool:
        """Say whether nobody waits who might go first, and a call of the run may go at all."""
        if self.in_flight >= self.max_in_flight or job.in_flight >= self._most(route):
            return False
        return not self.num_waiting

    def _grant(self, ticket: Ticket, upstream: Upstream) -> None:
        self.in_flight += 1
        ticket.job.in_flight += 1
        ticket.job.tenant.in_flight += 1
        upstream.enter()
        ticket.turn.set_result(upstream)

    def _next(self) -> Ticket | None:
        best: Ticket | None = None
        least = (math.inf, (0, 0, 0))
        for route in self.routes:
            if not route.waiting or route.choose(None) is None:
                continue
            for tenant, queue in route.queues.items():
                head = self._head(queue, route)
                if head is not None:
                    key = (tenant.in_flight / tenant.weight, head.order)
                    if key < least:
                        best, least = head, key
        return best

    def _head(self, queue: list[Ticket], route: Route) -> Ticket | None:
        """Return the first call of a queue that may go; those that may not are taken out."""
        while queue:
            ticket = queue[0]
            if ticket not in route.waiting:
                heapq.heappop(queue)
            elif ticket.job.in_flight >= self._most(route):
                ticket.job.parked.append(heapq.heappop(queue))
            else:
                return ticket
        return None

    def _most(self, route: Route) -> int:
        """Return how many places one run may hold."""
        return max(1, int(self._job_share * min(self.max_in_flight, route.limit)))

    def _unpark(self, job: Job) -> None:
        """Put the next parked call of a run back into its queue."""
        while job.parked:
            ticket = job.parked.popleft()
            if ticket in ticket.route.waiting:
                heapq.heappush(ticket.route.queues[job.tenant], ticket)
                return

    def _withdraw(self, ticket: Ticket) -> None:
        """Take a call out of the queue; what is left of it there is dropped when its turn comes."""
        ticket.route.waiting.discard(ticket)
