"""Who waits, and whose turn it is: priority first, then the tenant served least, then age.

Serving is counted in tokens. A tenant that comes back after a pause starts level with those who
kept working: it neither saves up turns nor loses any.

Source: start-time fair queueing (Goyal, Vin and Cheng, 1996).
"""

import heapq
from dataclasses import dataclass, field

from openzaya.core.errors import ConfigError
from openzaya.engine.request import Request

MAX_IDLE_TENANTS = 1024


@dataclass(eq=False, slots=True)
class Tenant:
    """One party that shares the engine."""

    weight: float = 1.0
    """Its share relative to others."""
    served: float = 0.0
    """Tokens it was served, divided by its weight."""
    num_running: int = 0
    """Its requests that generate now."""
    waiting: list[tuple[int, int, Request]] = field(default_factory=list)
    """Heap of its waiting requests: priority, id, request."""


class FairQueue:
    """Waiting requests of all tenants, and the tokens that each tenant was served."""

    def __init__(self) -> None:
        self._tenants: dict[str, Tenant] = {}
        self._clock = 0.0

    def __len__(self) -> int:
        """Requests that wait."""
        return sum(len(tenant.waiting) for tenant in self._tenants.values())

    def __bool__(self) -> bool:
        """Tell whether any request waits."""
        return any(tenant.waiting for tenant in self._tenants.values())

    def push(self, request: Request) -> None:
        """Queue a request."""
        tenant = self._tenant(request.tenant)
        if not (tenant.waiting or tenant.num_running):
            tenant.served = max(tenant.served, self._clock)
        heapq.heappush(tenant.waiting, (request.priority, request.request_id, request))

    def head(self) -> Request | None:
        """Return the request whose turn it is; None when nobody waits."""
        heads = [
            (tenant.waiting[0][0], tenant.served, tenant.waiting[0][1], tenant.waiting[0][2])
            for tenant in self._tenants.values()
            if tenant.waiting
        ]
        return min(heads)[3] if heads else None

    def pop(self, cost_tokens: int) -> Request:
        """Take out the request whose turn it is, and charge its tenant."""
        request = self.head()
        assert request is not None, "nobody waits"
        tenant = self._tenants[request.tenant]
        heapq.heappop(tenant.waiting)
        self._clock = max(self._clock, tenant.served)
        tenant.served += cost_tokens / tenant.weight
        return request

    def withdraw(self, request_id: int) -> Request | None:
        """Take out a request out of turn; None if it does not wait here."""
        for tenant in self._tenants.values():
            for index, (_, waiting_id, request) in enumerate(tenant.waiting):
                if waiting_id == request_id:
                    del tenant.waiting[index]
                    heapq.heapify(tenant.waiting)
                    return request
        return None

    def set_weight(self, name: str, weight: float) -> None:
        """Give a tenant `weight` times the share of others; it must be above 0."""
        if not weight > 0:
            raise ConfigError(
                f"the weight of tenant {name!r} is {weight}, expected a number above 0; abort its "
                "requests to serve it nothing"
            )
        self._tenant(name).weight = weight

    def begin(self, request: Request) -> None:
        """Count a request that generates from now on."""
        self._tenant(request.tenant).num_running += 1

    def end(self, request: Request) -> None:
        """Count it no more."""
        self._tenant(request.tenant).num_running -= 1

    def charge_step(self) -> None:
        """Charge every tenant one token for each of its requests that generate."""
        for tenant in self._tenants.values():
            tenant.served += tenant.num_running / tenant.weight

    def _tenant(self, name: str) -> Tenant:
        if name not in self._tenants:
            if len(self._tenants) >= MAX_IDLE_TENANTS:
                self._forget_idle()
            self._tenants[name] = Tenant(served=self._clock)
        return self._tenants[name]

    def _forget_idle(self) -> None:
        """Drop tenants that would come back with the clock's count anyway."""
        self._tenants = {
            name: tenant
            for name, tenant in self._tenants.items()
            if tenant.waiting
            or tenant.num_running
            or tenant.served > self._clock
            or tenant.weight != 1.0
        }
