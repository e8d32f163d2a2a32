"""A server on a loopback port, in a thread of the test process."""

import asyncio
import http.client
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Thread
from typing import Any

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


def ask(
    port: int,
    path: str,
    body: Any = None,
    headers: dict[str, str] | None = None,
    method: str | None = None,
) -> tuple[int, Any, dict[str, str]]:
    """Return status, parsed body and headers; bytes are sent as they are."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        if body is not None and not isinstance(body, bytes):
            body = json.dumps(body).encode()
        given = {} if body is None else {"Content-Type": "application/json"}
        verb = method or ("GET" if body is None else "POST")
        connection.request(verb, path, body=body, headers={**given, **(headers or {})})
        response = connection.getresponse()
        raw = response.read()
        told = {name.lower(): value for name, value in response.getheaders()}
        kind = told.get("content-type", "")
        return response.status, json.loads(raw) if "json" in kind else raw, told
    finally:
        connection.close()
