"""A server on a loopback port, in a thread of the test process."""

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Thread

from starlette.types import ASGIApp

from openzaya.serve.config import ServeConfig
from openzaya.serve.wire import Server, listen


@contextmanager
def listening(app: ASGIApp, config: ServeConfig) -> Iterator[int]:
    """Serve while the block runs; yield the port."""
    listener = listen(config)
    server = Server(app, config, lambda: None, lambda: None)
    thread = Thread(target=lambda: asyncio.run(server.serve(sockets=[listener])), daemon=True)
    port = listener.getsockname()[1]
    thread.start()
    while not server.started:
        assert thread.is_alive()
        time.sleep(0.01)
    try:
        yield port
    finally:
        server.should_exit = True
        thread.join(timeout=30)
        assert not thread.is_alive()
