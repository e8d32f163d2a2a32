"""What all routes of the gateway share."""

import time
from dataclasses import dataclass, field
from typing import Any

from starlette.requests import Request

from openzaya.serve.gateway.backend import Backend, Who
from openzaya.serve.gateway.config import GatewayConfig
from openzaya.serve.gateway.lengths import Lengths
from openzaya.serve.gateway.limits import Purses
from openzaya.serve.gateway.metrics import GatewayMetrics
from openzaya.serve.gateway.runs import Runs
from openzaya.serve.json_body import read_json
from openzaya.serve.keys import Key, Keys
from openzaya.ttc.journal import Journal

CHECKPOINT_S = 2.0
"""Part of the time to drain that is left for writing what is unfinished."""
NOBODY = Key(b"", frozenset())


@dataclass(kw_only=True, slots=True)
class Gateway:
    """Test-time compute behind one server."""

    config: GatewayConfig
    """How it listens and what it bears."""
    keys: Keys
    """Who may ask."""
    backend: Backend
    """What generates."""
    journal: Journal
    """Where runs are kept."""
    metrics: GatewayMetrics = field(default_factory=GatewayMetrics)
    """What is counted."""
    purses: Purses = field(default_factory=Purses)
    """What keys may still use."""
    lengths: Lengths = field(default_factory=Lengths)
    """How long traces are."""
    runs: Runs = field(init=False)
    """What is under way."""

    def __post_init__(self) -> None:
        """Make the runs."""
        self.runs = Runs(self)
        self.metrics.watch_upstreams(self.backend.status)
        self.metrics.watch_journal(lambda: self.journal.pending_bytes)

    @property
    def draining(self) -> bool:
        """Whether the server is about to end."""
        return self.runs.draining

    @draining.setter
    def draining(self, value: bool) -> None:
        if value:
            self.backend.drain()
            self.runs.drain_later(max(0.0, self.config.drain_s - CHECKPOINT_S))

    def who(self, request: Request) -> Who:
        """Return who asks; the guard has let them in."""
        header = request.headers.get("authorization", "")
        return Who(self.keys.find(header) or NOBODY, self.keys.tenant(header))

    async def read(self, request: Request) -> dict[str, Any]:
        """Return the body of a request. Raises ApiError for what is no strict JSON object."""
        config = self.config
        return await read_json(request, config.max_body_bytes, config.body_s, lambda body: body)

    @staticmethod
    def now() -> float:
        """Return the Unix time."""
        return time.time()
