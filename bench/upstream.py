"""What a call to an upstream costs this process, beside aiohttp and httpx doing the same calls.

    PYTHONPATH=src python bench/upstream.py [--quick] [--calls 4000] [--chunk 4] [--rounds 3]
    PYTHONPATH=src python bench/upstream.py --runs 1000      # 48,000 calls of 500 ms, 1,024 at once

The mock upstream is a process of its own. Every client streams the same replies to the end and puts
their text together; CPU time is this process's (getrusage), the median of the rounds. Every client
measures in a process of its own, one after the other.
"""

import argparse
import asyncio
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

PROMPT = ("Let x be the number of ways, so that x + 1 = 2 (mod 7) holds.\n" * 300)[: 16 * 1024]
IN_FLIGHT = 64
CLIENTS = ("openzaya", "openzaya-watched", "aiohttp", "httpx")
Ask = Callable[[int], Awaitable[int]]


def mock(words: list[str]) -> "tuple[subprocess.Popen[str], str]":
    """Start the mock upstream; it prints its address."""
    command = [sys.executable, "-m", "openzaya.backends.mock", "--port", "0", *words]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    line = child.stdout.readline()
    url = line[line.index("http:") :].split()[0]
    return child, url.rstrip(".,;")


def cpu_s() -> float:
    """CPU time of this process so far."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def body_of(seed: int) -> dict[str, Any]:
    """The request that every client sends."""
    return {
        "model": "mock",
        "messages": [{"role": "user", "content": f"{seed} {PROMPT}"}],
        "max_tokens": 4096,
        "temperature": 1.0,
        "top_p": 1.0,
        "seed": seed,
        "stream": True,
        "stream_options": {"include_usage": True},
    }


@asynccontextmanager
async def openzaya_client(url: str, is_watched: bool):
    """Our own sampler."""
    from openzaya.backends.http_server import HttpConfig
    from openzaya.backends.pool import PoolConfig, Upstreams
    from openzaya.core.records import Message, SampleRequest, Watch

    http = HttpConfig(url=url, probe=False, max_in_flight=1024)
    async with Upstreams([http], PoolConfig(job_share=1.0)) as pool:
        sampler = pool.sampler()

        async def ask(seed: int) -> int:
            message = Message("user", f"{seed} {PROMPT}")
            request = SampleRequest(messages=(message,), max_tokens=4096, seed=seed)
            if is_watched:
                return len((await sampler.sample_watched(request, Watch())).text)
            return len((await sampler.sample(request)).text)

        yield ask


def text_of(lines: list[bytes]) -> int:
    """Put the text of a stream together, as any client of an OpenAI-compatible server does."""
    pieces = []
    for line in lines:
        if line.startswith(b"data:") and b"[DONE]" not in line:
            for choice in json.loads(line[5:])["choices"]:
                delta = choice["delta"]
                pieces.append(delta.get("reasoning_content") or delta.get("content") or "")
    return len("".join(pieces))


@asynccontextmanager
async def aiohttp_client(url: str, _is_watched: bool):
    """aiohttp, with one session."""
    import aiohttp

    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector) as session:

        async def ask(seed: int) -> int:
            async with session.post(f"{url}/v1/chat/completions", json=body_of(seed)) as response:
                rest, lines = b"", []
                async for data in response.content.iter_any():
                    *whole, rest = (rest + data).split(b"\n")
                    lines += whole
                return text_of(lines)

        yield ask


@asynccontextmanager
async def httpx_client(url: str, _is_watched: bool):
    """httpx, with one client: what the openai package is built on."""
    try:
        import httpx
    except ModuleNotFoundError:
        import httpx2 as httpx  # its next major version, under a name of its own

    limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
    async with httpx.AsyncClient(limits=limits, timeout=None) as client:

        async def ask(seed: int) -> int:
            address = f"{url}/v1/chat/completions"
            async with client.stream("POST", address, json=body_of(seed)) as response:
                return text_of([line.encode() async for line in response.aiter_lines()])

        yield ask


async def all_calls(ask: Ask, count: int, in_flight: int) -> int:
    """Make all calls, so many at a time; return the characters that came."""
    numbers = iter(range(count))
    total = 0

    async def worker() -> None:
        nonlocal total
        for number in numbers:
            length = await ask(number)
            total += length

    await asyncio.gather(*(worker() for _ in range(min(in_flight, count))))
    return total


async def measure(name: str, url: str, calls: int, rounds: int) -> dict[str, Any]:
    """Return CPU ms a call and peak memory of one client."""
    makers = {"aiohttp": aiohttp_client, "httpx": httpx_client}
    maker = makers.get(name, openzaya_client)
    costs, walls = [], []
    async with maker(url, name == "openzaya-watched") as ask:
        await all_calls(ask, min(200, calls), IN_FLIGHT)
        for _ in range(rounds):
            before, begun = cpu_s(), time.perf_counter()
            characters = await all_calls(ask, calls, IN_FLIGHT)
            costs.append(1000 * (cpu_s() - before) / calls)
            walls.append(time.perf_counter() - begun)
    return {
        "client": name,
        "cpu_ms": statistics.median(costs),
        "calls_per_s": calls / statistics.median(walls),
        "characters": characters // calls,
        "rss_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


async def many_runs(url: str, runs: int) -> dict[str, Any]:
    """Run `runs` problems of three stages with 16 calls each, all at once, keeping only tails."""
    from openzaya.backends.http_server import HttpConfig
    from openzaya.backends.pool import PoolConfig, Upstreams
    from openzaya.core.records import Message, SampleRequest

    http = HttpConfig(url=url, probe=False, max_in_flight=1024)
    async with Upstreams([http], PoolConfig(max_in_flight=1024)) as pool:

        async def run(number: int) -> None:
            sampler = pool.sampler(tenant=f"key {number % 7}")
            tails = [f"{number} " + PROMPT[: 4 * 1024]]
            for stage in range(3):
                prompt = "\n".join(tails[:4])
                request = SampleRequest(
                    messages=(Message("user", prompt),), max_tokens=4096, seed=0, stage=stage
                )
                asked = await asyncio.gather(*(sampler.sample(request) for _ in range(16)))
                tails = [sampler.last_tokens(one.text, 1024) for one in asked]

        before, begun = cpu_s(), time.perf_counter()
        await asyncio.gather(*map(run, range(runs)))
        wall = time.perf_counter() - begun
        calls = 48 * runs
        assert pool.status()["upstreams"][0]["ok"] == calls
    return {
        "runs": runs,
        "calls": calls,
        "wall_s": wall,
        "floor_s": calls * 0.5 / 1024,
        "cpu_ms": 1000 * (cpu_s() - before) / calls,
        "rss_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


async def passing_through(url: str, count: int) -> None:
    """Print what `Upstreams.forward` adds to a streamed request, one client, in this process."""
    from openzaya.backends.http_server import HttpConfig
    from openzaya.backends.pool import Upstreams

    async with (
        aiohttp_client(url, False) as ask,
        Upstreams([HttpConfig(url=url, probe=False)]) as pool,
    ):

        async def forwarded(seed: int) -> int:
            async with pool.forward(body_of(seed)) as answer:
                return text_of(b"".join([chunk async for chunk in answer.chunks]).split(b"\n"))

        walls: dict[str, list[float]] = {"direct (aiohttp)": [], "passed through": []}
        for number in range(count):
            for name, way in zip(walls, (ask, forwarded), strict=True):
                begun = time.perf_counter()
                await way(number)
                walls[name].append(1000 * (time.perf_counter() - begun))
        for name, times in walls.items():
            p50, p99 = statistics.median(times), sorted(times)[int(0.99 * len(times))]
            print(f"{name:18} p50 {p50:7.2f} ms   p99 {p99:7.2f} ms")


def child(words: list[str]) -> dict[str, Any]:
    """Run this script as a process of its own and return what it measured."""
    command = [sys.executable, __file__, *words]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=os.environ)
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="fewer calls and rounds")
    parser.add_argument("--calls", type=int, default=4000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tokens", type=int, default=512, help="tokens of a reply")
    parser.add_argument("--chunk", type=int, default=128, help="tokens in one event of a stream")
    parser.add_argument("--runs", type=int, default=0, help="measure so many runs instead")
    parser.add_argument("--client", help=argparse.SUPPRESS)
    parser.add_argument("--url", help=argparse.SUPPRESS)
    args = parser.parse_args()
    calls, rounds = (600, 1) if args.quick else (args.calls, args.rounds)
    if args.client == "runs":
        print(json.dumps(asyncio.run(many_runs(args.url, args.runs))))
        return
    if args.client:
        print(json.dumps(asyncio.run(measure(args.client, args.url, calls, rounds))))
        return
    ttft = "0.5" if args.runs else "0.02"
    length = ["--length", f"fixed:{args.tokens}", "--set", f"chunk_tokens={args.chunk}"]
    server, url = mock([*length, "--ttft", ttft])
    try:
        print(f"load average {os.getloadavg()[0]:.1f}, {os.cpu_count()} cores")
        if args.runs:
            words = ["--client", "runs", "--url", url, "--runs", str(args.runs)]
            print(json.dumps(child(words), indent=1))
            return
        print("one streamed request at a time, 20 ms upstream:")
        asyncio.run(passing_through(url, 40 if args.quick else 300))
        print(f"16 KB prompts, {IN_FLIGHT} in flight, replies of {args.tokens} tokens")
        print(f"{'client':18}{'CPU ms/call':>12}{'calls/s':>10}{'characters':>12}{'peak MB':>9}")
        for name in CLIENTS:
            words = ["--client", name, "--url", url, "--calls", str(calls)]
            told = child([*words, "--rounds", str(rounds)])
            print(
                f"{name:18}{told['cpu_ms']:12.3f}{told['calls_per_s']:10.0f}"
                f"{told['characters']:12}{told['rss_mb']:9.0f}"
            )
    finally:
        server.terminate()
        server.wait()


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1] / "src"))
    main()
