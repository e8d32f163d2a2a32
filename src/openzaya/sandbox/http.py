"""A sandbox on another machine, reached by HTTP in SandboxFusion's shape.

Every failure on the way (no connection, another status than 200, an answer that is not what it
must be) is INFRA: it says nothing about the program. A server of ours tells the exact verdict; of
any other server the verdict is derived from what its fields say.
"""

import contextlib
import http.client
import json
import os
import socket
import threading
import time
from base64 import b64encode
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any
from urllib.parse import urlsplit

from openzaya.core.errors import ConfigError, RequestError, SandboxError
from openzaya.sandbox import checks, protocol
from openzaya.sandbox.exchange import LOOK_S
from openzaya.sandbox.executor import MIB, Executor, Request, Result, Status
from openzaya.sandbox.http_answer import Unusable, read_answer

URL_VARIABLE, KEY_VARIABLE = "OPENZAYA_SANDBOX_URL", "OPENZAYA_SANDBOX_KEY"
COMPILE_S = 100.0
"""Seconds that a compiler may take beyond a program's own limits."""
PING_S = 10.0
PAUSE_S = 1.0
"""Wait after a refusal that does not say how long to wait."""
ANSWER_ROOM_BYTES = MIB
"""Room in an answer for what is not output or files."""


class HttpExecutor(Executor):
    """Runs programs on a server that speaks `POST /run_code`."""

    name = "http"

    def __init__(self, url: str | None = None, key: str | None = None, *, patience_s: float = 60.0):
        """`url` and `key`: None takes OPENZAYA_SANDBOX_URL and OPENZAYA_SANDBOX_KEY.

        A full server is asked again for at most `patience_s`. Nothing is sent yet. Raises
        ConfigError for an address that is none.
        """
        url = url or os.environ.get(URL_VARIABLE, "")
        self.key = key if key is not None else os.environ.get(KEY_VARIABLE, "")
        self.scheme, self.host, self.port, self.prefix = split(url)
        self.patience_s = patience_s
        self.closed = threading.Event()
        self.is_ours: bool | None = None
        """Whether the server is one of ours; None until it was asked."""

    def run(self, request: Request) -> Result:
        """Run one program to its end; see Executor.run.

        Raises RequestError also for what a foreign server cannot be asked for. A run that nobody
        wants any more is hung up on; a server of ours then ends it.
        """
        checks.check(request)
        if self.closed.is_set():
            raise SandboxError("found a closed executor; make a new one to run more programs")
        began = time.monotonic()
        try:
            if self.is_ours is None:
                self.is_ours = self.ping(request.stop)
            body = ours(request) if self.is_ours else foreign(request)
            answer = self.ask(json.dumps(body).encode(), request)
            return read_answer(answer, request, time.monotonic() - began)
        except (Unusable, OSError, http.client.HTTPException) as error:
            why = str(error) or type(error).__name__
            if self.is_unwanted(request.stop):
                why = "nobody wants the run any more"
            return Result(
                status=Status.INFRA,
                backend=self.name,
                wall_s=time.monotonic() - began,
                reason=f"the sandbox at {self.host}: {why}"[:500],
            )

    def check(self) -> None:
        """Raise SandboxError unless the server answers and takes our key."""
        try:
            self.is_ours = self.ping()
        except (Unusable, OSError, http.client.HTTPException) as error:
            raise SandboxError(
                f"found no sandbox at {self.host}:{self.port}: {error}; start one with "
                f"`openzaya serve --sandbox`, or correct {URL_VARIABLE} or {KEY_VARIABLE}"
            ) from error

    def close(self) -> None:
        """Refuse further runs and hang up on those under way; their results are INFRA."""
        self.closed.set()

    def is_unwanted(self, stop: threading.Event | None) -> bool:
        """Say whether nobody wants a run any more."""
        return self.closed.is_set() or (stop is not None and stop.is_set())

    def ping(self, stop: threading.Event | None = None) -> bool:
        """Say whether the server is one of ours. Raises Unusable and OSError if there is none."""
        status, headers, body = self.exchange("GET", "/v1/ping", None, PING_S, MIB, stop)
        if status != 200:
            raise Unusable(f"status {status} for a ping: {excerpt(body)}")
        return headers.get("x-sandbox") == "openzaya"

    def ask(self, body: bytes, request: Request) -> bytes:
        """Post a body until the server has room; return the answer of status 200."""
        deadline = time.monotonic() + self.patience_s
        timeout_s = request.limits.wall_limit_s + COMPILE_S + self.patience_s
        longest = longest_answer(request)
        while True:
            status, headers, answer = self.exchange(
                "POST", "/run_code", body, timeout_s, longest, request.stop
            )
            if status == 200:
                return answer
            again = time.monotonic() + pause(headers.get("retry-after"))
            if status not in (429, 503) or again > deadline:
                raise Unusable(f"status {status}: {excerpt(answer)}")
            while time.monotonic() < again:
                if self.is_unwanted(request.stop):
                    raise Unusable("not asked again")
                self.closed.wait(LOOK_S)

    def exchange(
        self,
        method: str,
        path: str,
        body: bytes | None,
        timeout_s: float,
        longest: int,
        stop: threading.Event | None,
    ) -> tuple[int, dict[str, str], bytes]:
        """Send one request; return status, headers (names in lower case) and body."""
        kind = http.client.HTTPSConnection if self.scheme == "https" else http.client.HTTPConnection
        headers = {"Content-Type": "application/json"} if body is not None else {}
        if self.key:
            headers["Authorization"] = f"Bearer {self.key}"
        connection = kind(self.host, self.port, timeout=timeout_s)
        with contextlib.closing(connection), self.hanging_up(connection, stop):
            connection.request(method, self.prefix + path, body, headers)
            response = connection.getresponse()
            content = response.read(longest + 1)
            if len(content) > longest:
                raise Unusable(f"its answer is longer than {longest} bytes")
            told = {name.lower(): value for name, value in response.getheaders()}
            return response.status, told, content

    @contextlib.contextmanager
    def hanging_up(
        self, connection: http.client.HTTPConnection, stop: threading.Event | None
    ) -> Iterator[None]:
        """Break a connection off, while the block waits for it, when nobody wants its answer."""
        done = threading.Event()

        def watch() -> None:
            line = None
            while not done.wait(LOOK_S):
                line = connection.sock or line  # it lets go of it before it reads the answer
                if line is not None and self.is_unwanted(stop):
                    with contextlib.suppress(OSError):
                        socket.socket.shutdown(line, socket.SHUT_RDWR)

        watcher = threading.Thread(target=watch, name="openzaya-sandbox-http", daemon=True)
        watcher.start()
        try:
            yield
        finally:
            done.set()
            watcher.join()


def split(url: str) -> tuple[str, str, int, str]:
    """Return scheme, host, port and path of a server's address."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        parts, port = urlsplit(""), None
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query:
        raise ConfigError(
            f"the sandbox's address is {url!r}, expected one such as http://127.0.0.1:8000; "
            f"pass it or set {URL_VARIABLE}"
        )
    usual = 443 if parts.scheme == "https" else 80
    return parts.scheme, parts.hostname, port or usual, parts.path.rstrip("/")


def ours(request: Request) -> dict[str, Any]:
    """Return the body for a server of ours, which understands all of a request."""
    body = base(request) | {"args": list(request.arguments), "limits": asdict(request.limits)}
    del body["run_timeout"], body["memory_limit_MB"]
    return body | {"stdin_base64": b64encode(request.stdin).decode()}


def foreign(request: Request) -> dict[str, Any]:
    """Return the body for any server. Raises RequestError for what its fields cannot carry."""
    if request.arguments:
        raise RequestError(
            "found arguments, which this server's programs do not get; send them by stdin or files"
        )
    try:
        stdin = request.stdin.decode()
    except UnicodeDecodeError:
        raise RequestError(
            "found stdin that is no UTF-8, but this server takes text only; send it as a file"
        ) from None
    return base(request) | {"stdin": stdin}


def base(request: Request) -> dict[str, Any]:
    """Return the fields that all servers take."""
    return {
        "code": request.source,
        "language": request.language,
        "run_timeout": request.limits.wall_limit_s,
        "memory_limit_MB": -(-request.limits.memory_bytes // MIB),
        "files": {name: b64encode(data).decode() for name, data in request.files.items()},
        "fetch_files": list(request.fetch),
    }


def longest_answer(request: Request) -> int:
    """Return the most bytes that an answer may have: output as escaped text and in base64."""
    output = 16 * request.limits.output_bytes
    return ANSWER_ROOM_BYTES + output + 2 * protocol.fetch_room(request)


def pause(retry_after: str | None) -> float:
    """Return the seconds that a server asked us to wait."""
    if retry_after is not None and retry_after.isascii() and retry_after.isdigit():
        return min(float(retry_after), 3600.0)
    return PAUSE_S


def excerpt(body: bytes) -> str:
    """Return the start of an answer for a message."""
    return body[:200].decode(errors="replace")
