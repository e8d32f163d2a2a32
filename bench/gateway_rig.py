"""What the gateway's benchmarks share: real processes, their CPU and memory, and a small client."""

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp

ROOT = Path(__file__).parents[1]
TICKS = os.sysconf("SC_CLK_TCK")
START_S = 60.0
"""Longest wait for a process to print its address."""
ASK_S = 600.0


@dataclass
class Process:
    """A server of ours in a process of its own."""

    child: subprocess.Popen[str]
    url: str
    log: Path

    @property
    def pid(self) -> int:
        """Its process id."""
        return self.child.pid

    def cpu_s(self) -> float:
        """CPU time used so far by all threads.

        The scheduler's nanoseconds of the threads that live, or the ticks of the whole process if
        they are more: ticks miss a server that works in short bursts, and threads end.
        """
        living = 0
        for task in Path(f"/proc/{self.pid}/task").iterdir():
            with suppress(FileNotFoundError):  # a thread that just ended
                living += int((task / "schedstat").read_text().split()[0])
        stat = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return max(living / 1e9, (int(stat[11]) + int(stat[12])) / TICKS)

    def rss_mb(self, kind: str = "VmHWM") -> float:
        """Peak resident memory (VmHWM), or the present one (VmRSS)."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        found = re.search(rf"{kind}:\s+(\d+) kB", status)
        return int(found[1]) / 1024 if found else 0.0

    def kill(self) -> None:
        """End it at once, as a power cut would."""
        self.child.kill()
        self.child.wait()


@contextmanager
def process(words: Sequence[str], name: str, folder: Path) -> Iterator[Process]:
    """Start a Python module that prints its address; end it with SIGTERM."""
    log = folder / f"{name}.log"
    with log.open("a") as errors:
        child = subprocess.Popen(
            [sys.executable, "-m", *words],
            env={**os.environ, "PYTHONPATH": str(ROOT / "src"), "PYTHONUNBUFFERED": "1"},
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        )
    try:
        yield Process(child, _address(child, log), log)
    finally:
        if child.poll() is None:
            child.send_signal(signal.SIGTERM)
            try:
                child.wait(timeout=20)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()
        if child.stdout is not None:
            child.stdout.close()


def _address(child: subprocess.Popen[str], log: Path) -> str:
    assert child.stdout is not None
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline:
        line = child.stdout.readline()
        # The gateway's line names its upstreams as well.
        found = re.search(r" on (http://[\d.]+:\d+)", line)
        if found is not None:
            return found[1]
        if not line and child.poll() is not None:
            break
    raise SystemExit(f"a server did not start; the end of {log}:\n{log.read_text()[-2000:]}")


def mock(folder: Path, *words: str, **settings: object) -> Any:
    """Start the mock upstream; `settings` are fields of MockConfig."""
    extra = [w for name, value in settings.items() for w in ("--set", f"{name}={value}")]
    return process(["openzaya.backends.mock", "--port", "0", *words, *extra], "mock", folder)


def gateway(
    folder: Path, *upstreams: str, name: str = "gateway", in_flight: int = 1024, **settings: object
) -> Any:
    """Start `openzaya serve --upstream ...` with its journal in `folder`."""
    settings = {"journal": folder / f"{name}.db", **settings}
    extra = [w for key, value in settings.items() for w in ("--set", f"{key}={value}")]
    urls = [w for url in upstreams for w in ("--upstream", url)]
    words = ["openzaya", "serve", "--port", "0", "--max-slots", str(in_flight)]
    return process([*words, *urls, *extra], name, folder)


@contextmanager
def folder() -> Iterator[Path]:
    """Return a folder for journals and logs that is removed in the end."""
    with tempfile.TemporaryDirectory(prefix="openzaya-bench-") as name:
        yield Path(name)


@dataclass
class Answer:
    """One reply of the gateway."""

    status: int
    body: dict[str, Any]
    wall_s: float
    headers: dict[str, str] = field(default_factory=dict)

    @property
    def text(self) -> str:
        """The text of the first choice; empty for an error."""
        choices = self.body.get("choices") or [{}]
        return str((choices[0].get("message") or {}).get("content") or "")

    @property
    def ttc(self) -> dict[str, Any]:
        """What the gateway says of the run."""
        found = self.body.get("ttc")
        return found if isinstance(found, dict) else {}


@asynccontextmanager
async def client() -> AsyncIterator[aiohttp.ClientSession]:
    """Return a session without limits of its own."""
    async with aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0),
        timeout=aiohttp.ClientTimeout(total=ASK_S, sock_connect=30),
    ) as session:
        yield session


async def ask(
    session: aiohttp.ClientSession,
    url: str,
    body: dict[str, Any],
    headers: dict[str, str] | None = None,
) -> Answer:
    """Ask for one chat completion without streaming."""
    began = time.monotonic()
    async with session.post(f"{url}/v1/chat/completions", json=body, headers=headers) as response:
        raw = await response.read()
        told = dict(response.headers)
        try:
            parsed = json.loads(raw)
        except ValueError:
            parsed = {"error": {"message": raw[:200].decode("utf-8", "replace")}}
        return Answer(response.status, parsed, time.monotonic() - began, told)


async def get(session: aiohttp.ClientSession, url: str) -> Any:
    """Return the JSON of a GET."""
    async with session.get(url) as response:
        return await response.json()


async def post(session: aiohttp.ClientSession, url: str, body: Any = None) -> Any:
    """Return the JSON of a POST."""
    async with session.post(url, json=body) as response:
        return await response.json()


async def wait_until_idle(session: aiohttp.ClientSession, mock_url: str) -> dict[str, Any]:
    """Return the mock's counters once no call is in flight."""
    deadline = time.monotonic() + 60
    while True:
        stats = await get(session, f"{mock_url}/stats")
        if not stats["in_flight"] or time.monotonic() > deadline:
            return dict(stats)
        await asyncio.sleep(0.05)


def problem(index: int, num_chars: int = 60) -> str:
    """Return a question whose right answer the mock knows, padded to a length."""
    text = f"Problem {index}: how many? [key: {index % 1000}] "
    filler = "Consider the following facts before you answer. "
    return (text + filler * (num_chars // len(filler) + 1))[: max(num_chars, len(text))]


def run_body(question: str, seed: int = 0, **ttc: Any) -> dict[str, Any]:
    """Return a request for one run of Markovian RSA: N = 16, C = 4, T = 2 where not said."""
    settings = {"num_candidates": 16, "tails_per_prompt": 4, "rounds": 2, **ttc}
    return {
        "model": "mock",
        "messages": [{"role": "user", "content": question}],
        "seed": seed,
        "ttc": settings,
    }


def quantile(values: Sequence[float], share: float) -> float:
    """Return the value below which `share` of the values lie; nan without values."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else float("nan")


def heading(text: str) -> None:
    """Print a section's name and how busy the machine is."""
    print(f"\n{text}  [load {os.getloadavg()[0]:.1f}, {os.cpu_count()} cores]", flush=True)


def line(name: str, value: str, goal: str = "", *, ok: bool | None = None) -> bool:
    """Print one figure beside its goal; return `ok`, true where nothing is promised."""
    mark = "" if ok is None else ("  holds" if ok else "  MISSED")
    print(f"  {name:<44} {value:>24}   {goal}{mark}", flush=True)
    return ok is not False
