"""The gateway beside OptiLLM and its_hub: the same mock, the same questions, the same run.

    python bench/gateway_peers.py --venvs /tmp/peers --install     set the peers up, then measure
    python bench/gateway_peers.py --venvs /tmp/peers --quick

Each peer lives in a virtual environment of its own below --venvs. OptiLLM is installed without its
dependencies and then with the few that its server imports: as declared it brings torch, spacy and
a browser driver. A peer that is not there is left out, and said to be.

One request of each server is the nearest thing it has to a run: ours Markovian RSA of 48 calls and
a vote of 48, its_hub self-consistency over 48 samples, OptiLLM self_consistency (5 samples, its
default). CPU for each upstream call is therefore the figure to compare. The others neither stream
their calls, nor count tokens, nor keep a journal.
"""

import argparse
import asyncio
import http.client
import json
import os
import re
import socket
import subprocess
import sys
import time
import venv
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aiohttp
from gateway_rig import (
    Process,
    client,
    folder,
    gateway,
    get,
    heading,
    mock,
    post,
    problem,
    quantile,
    run_body,
    wait_until_idle,
)

OPTILLM = ("optillm==0.4.0", "--no-deps")
OPTILLM_IMPORTS = [
    "aiohttp",
    "azure-identity",
    "cerebras_cloud_sdk",
    "flask",
    "math-verify",
    "networkx",
    "numpy",
    "openai",
    "pyyaml",
    "requests",
    "scikit-learn",
    "sympy",
    "tqdm",
    "z3-solver",
]
ITS_HUB = ("its_hub[iaas]==1.2.0",)
BOXED = r"\\boxed\{([^}]*)\}"


@dataclass
class Server:
    """One of the servers under comparison."""

    name: str
    process: Process
    run: dict[str, Any]
    """What a request for a run adds to model and messages."""
    plain: dict[str, Any]
    """The same for a request that makes one upstream call."""
    calls_of_run: int
    figures: dict[str, str] = field(default_factory=dict)

    def body(self, index: int, *, is_run: bool) -> dict[str, Any]:
        """Return a request."""
        asked = {"model": "mock", "messages": [{"role": "user", "content": problem(index)}]}
        return {**asked, **(self.run if is_run else self.plain)}


def install(venvs: Path) -> None:
    """Make both environments."""
    for name, packages in (("optillm", OPTILLM), ("its_hub", ITS_HUB)):
        if not (venvs / name).exists():
            venv.create(venvs / name, with_pip=True)
        pip = [str(venvs / name / "bin" / "python"), "-m", "pip", "install", "-q"]
        subprocess.run([*pip, *packages], check=True)
        if name == "optillm":
            subprocess.run([*pip, *OPTILLM_IMPORTS], check=True)


@contextmanager
def peer(words: list[str], port: int, log: Path) -> Iterator[Process]:
    """Start a peer and wait until it accepts connections."""
    with log.open("w") as out:
        env = {**os.environ, "OPENAI_API_KEY": "none", "OPTILLM_API_KEY": ""}
        child = subprocess.Popen(words, env=env, stdout=out, stderr=out, text=True, cwd=log.parent)
    try:
        deadline = time.monotonic() + 90
        while True:
            with socket.socket() as probe:
                if not probe.connect_ex(("127.0.0.1", port)):
                    break
            if child.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"it did not start: {log.read_text()[-400:]}")
            time.sleep(0.1)
        yield Process(child, f"http://127.0.0.1:{port}", log)
    finally:
        child.terminate()
        try:
            child.wait(timeout=10)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()


def free_port() -> int:
    """Return a port that nobody listens on just now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def servers(venvs: Path, up: Process, where: Path) -> Iterator[list[Server]]:
    """Start every server in front of the mock; a peer that cannot start is reported."""
    with ExitStack() as stack:
        ours = stack.enter_context(gateway(where, up.url, max_runs=1000))
        ttc = run_body("", budget_tokens=4096, tail_tokens=100)["ttc"]
        found = [Server("openzaya", ours, {"ttc": ttc}, {"ttc": False}, 48)]
        alike = stack.enter_context(gateway(where, up.url, name="alike", max_runs=1000))
        vote = {"strategy": "self_consistency", "num_candidates": 48, "budget_tokens": 4096}
        found.append(Server("openzaya, a vote", alike, {"ttc": vote}, {"ttc": False}, 48))
        try:
            found.append(stack.enter_context(_its_hub(venvs / "its_hub" / "bin", up, where)))
        except (OSError, RuntimeError) as error:
            print(f"its_hub is left out: {error}")
        try:
            found.append(stack.enter_context(_optillm(venvs / "optillm" / "bin", up, where)))
        except (OSError, RuntimeError) as error:
            print(f"OptiLLM is left out: {error}")
        yield found


@contextmanager
def _its_hub(programs: Path, up: Process, where: Path) -> Iterator[Server]:
    port = free_port()
    words = [
        str(programs / "python"),
        str(programs / "its-iaas"),
        "--port",
        str(port),
        "--log-level",
        "ERROR",
    ]
    with peer(words, port, where / "its_hub.log") as process:
        settings = {
            "endpoint": f"{up.url}/v1",
            "api_key": "none",
            "model": "mock",
            "alg": "self-consistency",
            "regex_patterns": [BOXED],
        }

        async def configure() -> None:
            async with client() as session:
                await post(session, f"{process.url}/configure", settings)

        asyncio.run(configure())
        yield Server("its_hub", process, {"budget": 48}, {"budget": 1}, 48)


@contextmanager
def _optillm(programs: Path, up: Process, where: Path) -> Iterator[Server]:
    port = free_port()
    words = [str(programs / "python"), str(programs / "optillm"), "--port", str(port)]
    words += ["--base-url", f"{up.url}/v1", "--log", "error"]
    with peer(words, port, where / "optillm.log") as process:
        run = {"model": "self_consistency-mock"}
        yield Server("OptiLLM", process, run, {"model": "none-mock"}, 5)


async def send(
    session: aiohttp.ClientSession, server: Server, index: int, *, is_run: bool
) -> tuple[int, float, bool]:
    """Return status, seconds, and whether the reply holds an answer."""
    began = time.monotonic()
    url = f"{server.process.url}/v1/chat/completions"
    try:
        async with session.post(url, json=server.body(index, is_run=is_run)) as response:
            raw = await response.read()
            has_answer = response.status == 200 and re.search(rb"boxed\{+\d", raw) is not None
            return response.status, time.monotonic() - began, has_answer
    except aiohttp.ClientError:
        return 0, time.monotonic() - began, False


async def whole_runs(server: Server, up: Process, problems: int) -> None:
    """All problems at once on calls of 100 ms."""
    async with client() as session:
        await asyncio.gather(*(send(session, server, i, is_run=True) for i in range(2)))
        before = await wait_until_idle(session, up.url)
        cpu, began = server.process.cpu_s(), time.monotonic()
        got = await asyncio.gather(
            *(send(session, server, i, is_run=True) for i in range(problems))
        )
        wall, cpu = time.monotonic() - began, server.process.cpu_s() - cpu
        after = await wait_until_idle(session, up.url)
    calls = max(1, after["calls"] - before["calls"])
    rounds = {"openzaya": 3, "OptiLLM": 5}.get(server.name, 1)
    server.figures["runs answered"] = f"{sum(ok for _, _, ok in got)}/{problems}"
    server.figures["upstream calls"] = str(calls)
    server.figures["wall / ideal"] = f"{wall:.2f} / {rounds * 0.1:.1f} s"
    server.figures["CPU a call"] = f"{1e3 * cpu / calls:.2f} ms"
    server.figures["peak memory"] = f"{server.process.rss_mb():.0f} MB"


def pass_through(server: Server, up: Process, rounds: int) -> None:
    """One client; direct and through in turns."""
    direct_body = json.dumps(
        {"model": "mock", "messages": [{"role": "user", "content": problem(1)}]}
    ).encode()
    via_body = json.dumps(server.body(1, is_run=False)).encode()
    direct_to, via_to = (
        http.client.HTTPConnection(str(urlsplit(url).netloc), timeout=60)
        for url in (up.url, server.process.url)
    )

    def timed(connection: http.client.HTTPConnection, body: bytes) -> float:
        began = time.perf_counter()
        headers = {"Content-Type": "application/json", "Authorization": "Bearer none"}
        connection.request("POST", "/v1/chat/completions", body, headers)
        connection.getresponse().read()
        return 1e3 * (time.perf_counter() - began)

    for _ in range(5):
        timed(direct_to, direct_body), timed(via_to, via_body)
    cpu = server.process.cpu_s()
    pairs = [(timed(direct_to, direct_body), timed(via_to, via_body)) for _ in range(rounds)]
    cpu = server.process.cpu_s() - cpu
    direct, via = ([pair[side] for pair in pairs] for side in (0, 1))
    for share in (0.5, 0.99):
        added = quantile(via, share) - quantile(direct, share)
        server.figures[f"pass-through adds, p{100 * share:.0f}"] = f"{added:.2f} ms"
    server.figures["pass-through CPU"] = f"{1e3 * cpu / rounds:.2f} ms"
    direct_to.close()
    via_to.close()


async def failures(server: Server, up: Process, requests: int) -> None:
    """A fifth of the upstream's answers are HTTP 500."""
    async with client() as session:
        before = await wait_until_idle(session, up.url)
        await post(session, f"{up.url}/faults", {"faults": ["500=0.2"]})
        got = await asyncio.gather(
            *(send(session, server, 100 + i, is_run=True) for i in range(requests))
        )
        await post(session, f"{up.url}/faults", {"faults": []})
        after = await wait_until_idle(session, up.url)
    calls = (after["calls"] - before["calls"]) / (requests * server.calls_of_run)
    server.figures["20 % HTTP 500: answered"] = f"{sum(ok for _, _, ok in got)}/{requests}"
    server.figures["20 % HTTP 500: calls"] = f"{calls:.2f}x"
    server.figures["20 % HTTP 500: median"] = f"{quantile([s for _, s, _ in got], 0.5):.2f} s"


async def abandoned(server: Server, up: Process, requests: int) -> None:
    """Clients that leave while their upstream calls run."""
    async with client() as session:
        before = await wait_until_idle(session, up.url)
        tasks = [
            asyncio.create_task(send(session, server, 200 + i, is_run=True))
            for i in range(requests)
        ]
        deadline = time.monotonic() + 20
        while True:
            stats = await get(session, f"{up.url}/stats")
            if stats["calls"] - before["calls"] >= requests or time.monotonic() > deadline:
                break
            await asyncio.sleep(0.02)
        await asyncio.sleep(0.3)  # until the calls of all runs have arrived; they take a second
        in_flight = (await get(session, f"{up.url}/stats"))["in_flight"]
        left = time.monotonic()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        after = await wait_until_idle(session, up.url)
    aborts = [a["at"] - left for a in after["aborts"] if a["at"] >= left]
    shown = f", last after {1e3 * max(aborts):.0f} ms" if aborts else ""
    server.figures["client leaves: calls aborted"] = f"{len(aborts)}/{in_flight}{shown}"


def show(found: list[Server]) -> None:
    """Print one row for each figure."""
    names = list(dict.fromkeys(name for server in found for name in server.figures))
    print(f"\n{'':<32}" + "".join(f"{server.name:>26}" for server in found))
    for name in names:
        row = "".join(f"{server.figures.get(name, '-'):>26}" for server in found)
        print(f"{name:<32}{row}")


def main() -> int:
    """Measure every server that is there."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--venvs", type=Path, required=True, help="where the peers live")
    parser.add_argument("--install", action="store_true", help="install them there first")
    parser.add_argument("--quick", action="store_true", help="smaller loads")
    args = parser.parse_args()
    if args.install:
        install(args.venvs)
    problems, rounds, requests = (12, 60, 8) if args.quick else (60, 400, 40)
    with folder() as where:
        words = ["--length", "fixed:160", "--set", "accuracy=0.7", "--set", "chunk_tokens=160"]
        with (
            mock(where, *words, ttft_s=0.1) as slow,
            servers(args.venvs.resolve(), slow, where) as found,
        ):
            heading(f"{problems} problems at once, 100 ms a call; {requests} with failures")
            for server in found:
                asyncio.run(whole_runs(server, slow, problems))
                asyncio.run(failures(server, slow, requests))
        with (
            mock(where, *words, ttft_s=1.0) as slower,
            servers(args.venvs.resolve(), slower, where) as again,
        ):
            for server, kept in zip(again, found, strict=True):
                asyncio.run(abandoned(server, slower, 5))
                kept.figures |= server.figures
        with (
            mock(where, *words, ttft_s=0.02) as fast,
            servers(args.venvs.resolve(), fast, where) as again,
        ):
            for server, kept in zip(again, found, strict=True):
                pass_through(server, fast, rounds)
                kept.figures |= server.figures
        show(found)
    return 0


if __name__ == "__main__":
    sys.exit(main())
