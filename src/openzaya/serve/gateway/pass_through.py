"""Requests without test-time compute: an upstream's answer, as it comes."""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, Protocol

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from openzaya.core.errors import OpenZayaError
from openzaya.core.protocols import WatchedSampler
from openzaya.serve.gateway.backend import Charge, Who
from openzaya.serve.gateway.failures import api_error
from openzaya.serve.stream import unless_gone


class Forwarded(Protocol):
    """An upstream's answer to a request that is passed through."""

    @property
    def status(self) -> int:
        """Its status."""
        ...

    @property
    def content_type(self) -> str:
        """Its type."""
        ...

    @property
    def retry_after(self) -> str:
        """Its Retry-After header; empty without one."""
        ...

    @property
    def chunks(self) -> AsyncIterator[bytes]:
        """Its body as it comes."""
        ...


class Meter(Protocol):
    """Counts what an upstream generates."""

    async def count(self) -> tuple[int, str]:
        """Return the tokens, and by what means they are known."""
        ...


class Pool(Protocol):
    """The upstreams, as `openzaya.backends.pool.Upstreams` gives them."""

    @property
    def models(self) -> Sequence[str]:
        """Names of the models, the default one first."""
        ...

    def sampler(self, *, model: str = "", tenant: str = "", weight: float = 1.0) -> WatchedSampler:
        """Return the sampler of one run."""
        ...

    def meter(self, body: Mapping[str, Any]) -> Meter:
        """Return what counts the answer to a request that is passed through."""
        ...

    def forward(
        self,
        body: Mapping[str, Any],
        *,
        path: str = "/chat/completions",
        tenant: str = "",
        weight: float = 1.0,
        priority: int = 0,
        meter: Any = None,
    ) -> AbstractAsyncContextManager[Forwarded]:
        """Pass a request through."""
        ...

    def status(self) -> dict[str, Any]:
        """Return figures of every upstream."""
        ...


class PassThrough:
    """An upstream's answer, as it comes; a client that leaves ends the upstream's call.

    The upstream is read only as fast as the client takes it: what is not taken stays in buffers of
    a fixed size, and a client that takes nothing for `slow_reader_s` is dropped.

    Deviation: D-062.
    """

    def __init__(
        self,
        pool: Pool,
        body: Mapping[str, Any],
        who: Who,
        *,
        path: str,
        priority: int,
        charge: Charge,
        slow_reader_s: float,
    ) -> None:
        self._pool = pool
        self._body = body
        self._who = who
        self._path = path
        self._priority = priority
        self._charge = charge
        self._slow_reader_s = slow_reader_s

    async def __call__(self, _scope: Scope, receive: Receive, send: Send) -> None:
        """Send the answer."""
        began = False
        meter = self._pool.meter(self._body)

        async def work() -> None:
            nonlocal began
            forward = self._pool.forward(
                self._body,
                path=self._path,
                tenant=self._who.tenant,
                weight=self._who.key.allowance.weight,
                priority=self._priority,
                meter=meter,
            )
            async with forward as answer:
                headers = {"X-Accel-Buffering": "no"}
                if answer.retry_after:
                    headers["Retry-After"] = answer.retry_after
                start = Response(status_code=answer.status, media_type=None, headers=headers)
                raw = [(k, v) for k, v in start.raw_headers if k != b"content-length"]
                raw.append((b"content-type", answer.content_type.encode("latin-1", "replace")))
                await send({"type": "http.response.start", "status": answer.status, "headers": raw})
                began = True
                async for chunk in answer.chunks:
                    async with asyncio.timeout(self._slow_reader_s):
                        await send({"type": "http.response.body", "body": chunk, "more_body": True})
                await send({"type": "http.response.body", "body": b"", "more_body": False})

        try:
            await unless_gone(work(), receive)
        except TimeoutError:
            return  # the client takes nothing: the connection closes
        except OpenZayaError as error:
            if began:
                return  # the connection closes without the end of the body: the client sees a cut
            raise api_error(error) from None
        finally:
            self._charge(*await meter.count())
