"""Counting what a passed-through answer generated, so that its key gets back the rest."""

import re
from time import monotonic

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from openzaya.serve.gateway.limits import Hold
from openzaya.serve.gateway.metrics import GatewayMetrics

_TOLD = re.compile(rb'"completion_tokens"\s*:\s*(\d{1,12})')
OVERLAP_BYTES = 64


class Metered:
    """An answer whose tokens are counted as it leaves: by its usage, else one an event."""

    def __init__(self, answer: ASGIApp, hold: Hold, metrics: GatewayMetrics) -> None:
        self._answer = answer
        self._hold = hold
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the answer; settle when it ends, however it does."""
        began = monotonic()
        told = 0
        num_events = 0
        tail = b""

        async def counted(message: Message) -> None:
            nonlocal told, num_events, tail
            body: bytes = message.get("body", b"")
            if body:
                num_events += (b"\n" + body).count(b"\ndata: ")  # text may hold "data: " as well
                found = _TOLD.findall(tail + body)
                told = int(found[-1]) if found else told
                tail = body[-OVERLAP_BYTES:]
            await send(message)

        try:
            await self._answer(scope, receive, counted)
        finally:
            self._hold.settle(told or num_events)
            self._metrics.pass_through.observe(monotonic() - began)
