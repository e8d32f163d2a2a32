"""What a request pays for: what was generated for it, whatever became of the answer."""

from time import monotonic

from starlette.types import ASGIApp, Receive, Scope, Send

from openzaya.serve.gateway.limits import Hold
from openzaya.serve.gateway.metrics import GatewayMetrics


class Bill:
    """Takes what was generated from a key's purse, once, and counts by what means it is known."""

    def __init__(self, hold: Hold, metrics: GatewayMetrics) -> None:
        self._hold = hold
        self._metrics = metrics
        self._is_settled = False

    def __call__(self, num_tokens: int, means: str) -> None:
        """Charge tokens; only the first call counts."""
        if not self._is_settled:
            self._is_settled = True
            self._hold.settle(num_tokens)
            self._metrics.charged.labels(means).inc(num_tokens)

    def waive(self) -> None:
        """Charge nothing, where nothing was charged."""
        self._hold.settle(0)


class Metered:
    """An answer whose time is counted, and whose key is not left with what it reserved."""

    def __init__(self, answer: ASGIApp, bill: Bill, metrics: GatewayMetrics) -> None:
        self._answer = answer
        self._bill = bill
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the answer."""
        began = monotonic()
        try:
            await self._answer(scope, receive, send)
        finally:
            self._bill.waive()
            self._metrics.pass_through.observe(monotonic() - began)
