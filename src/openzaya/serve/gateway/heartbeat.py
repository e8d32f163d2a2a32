"""A stream that is never silent for long."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any, TypeVar

from openzaya.serve.stream import HEARTBEAT

T = TypeVar("T")


async def with_heartbeat(items: AsyncIterator[T], every_s: float) -> AsyncIterator[T | bytes]:
    """Yield the items as they come, and a comment whenever `every_s` passed without one."""
    pending: asyncio.Task[Any] | None = None
    try:
        while True:
            pending = pending or asyncio.ensure_future(anext(items))
            done, _ = await asyncio.wait((pending,), timeout=every_s)
            if not done:
                yield HEARTBEAT
                continue
            task, pending = pending, None
            try:
                item: T = task.result()
            except StopAsyncIteration:
                return
            yield item
    finally:
        if pending is not None:
            pending.cancel()
            with suppress(asyncio.CancelledError, StopAsyncIteration):
                await pending
