"""Servers as processes of their own, as a user starts them."""

import os
import re
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

SRC = Path(__file__).parents[1] / "src"
START_S = 120.0


@contextmanager
def server_process(
    words: Sequence[str],
    log: Path,
    url: str = "",
    env: dict[str, str] | None = None,
    ready: str = "/health",
) -> Iterator[str]:
    """Run a command until the block ends; yield the address that it prints.

    With `url` it prints none, and is ready when `ready` answers there.
    """
    with server_child(words, log, url, env, ready) as (_, found):
        yield found


@contextmanager
def server_child(
    words: Sequence[str],
    log: Path,
    url: str = "",
    env: dict[str, str] | None = None,
    ready: str = "/health",
) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """Run a command as `server_process` does; yield the process with its address."""
    own = {
        "PYTHONPATH": str(SRC),
        "PYTHONUNBUFFERED": "1",
        "XDG_STATE_HOME": str(log.parent / "state"),  # not the user's journal
    }
    with log.open("w") as out:
        child = subprocess.Popen(
            words,
            env={**os.environ, **own, **(env or {})},
            stdout=out,
            stderr=subprocess.STDOUT,
        )
    try:
        yield child, _address(child, log, url, ready)
    finally:
        if child.poll() is None:
            child.send_signal(signal.SIGTERM)
        try:
            child.wait(timeout=30)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()


def python(*words: str) -> list[str]:
    """Return the command of a module."""
    return [sys.executable, "-m", *words]


def _address(child: subprocess.Popen[bytes], log: Path, url: str, ready: str) -> str:
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline and child.poll() is None:
        # A gateway's line names its upstreams as well.
        found = re.search(r" on (http://[\d.]+:\d+)", log.read_text())
        if not url and found is not None:
            return found[1]
        if url and _is_well(f"{url}{ready}"):
            return url
        time.sleep(0.05)
    raise AssertionError(f"the server did not start:\n{log.read_text()[-3000:]}")


def _is_well(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2) as response:
            return bool(response.status == 200)
    except OSError:
        return False
