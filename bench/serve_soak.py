"""Many streams at once with clients that leave: nothing may leak, no answer may change.

    python bench/serve_soak.py --requests 2000 --streams 64

Starts `openzaya serve` on the nano model, asks each of `--questions` questions
alone, then all of them again and again from `--streams` clients of which a third leave at a random
token. Prints rates, leaks and how many whole answers differ from the ones given alone.
"""

import argparse
import asyncio
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

import aiohttp

ROOT = Path(__file__).parents[1]
LEAVES = 1 / 3
"""Share of clients that leave before the end."""


@dataclass
class Tally:
    """What was seen."""

    whole: int = 0
    left: int = 0
    differ: int = 0
    tokens: int = 0
    alone_s: float = 0.0
    failures: list[str] = field(default_factory=list)


@contextmanager
def serving(slots: int, threads: int, context: int = 1024) -> Iterator[tuple[str, int]]:
    """Run a server; yield its URL and process id."""
    env = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    words = ["-m", "openzaya", "serve", "--port", "0", "--max-slots", str(slots)]
    words += ["--set", f"threads={threads}", "--context", str(context), "--set", "max_queue=256"]
    child = subprocess.Popen([sys.executable, *words], env=env, stdout=subprocess.PIPE, text=True)
    try:
        assert child.stdout is not None
        found = re.search(r"http://[\d.:]+", child.stdout.readline())
        if found is None:
            raise SystemExit("the server did not start")
        yield found.group(), child.pid
    finally:
        child.terminate()
        print(f"exit code after SIGTERM: {child.wait(timeout=60)}")


def body(index: int) -> dict[str, object]:
    """Return a request whose answer its seed alone decides."""
    return {
        "model": "nano",
        "messages": [{"role": "user", "content": f"sort {'qdkaxzp'[: 2 + index % 6]}"}],
        "seed": index,
        "temperature": 1.3,
        "max_tokens": 48,
        "stream": True,
        "return_token_ids": True,
        **({"presence_penalty": 0.5} if index % 4 == 0 else {}),
        **({"top_p": 0.9} if index % 3 == 0 else {}),
        **({"logit_bias": {"2": -100, "264": -100}} if index % 5 == 0 else {}),
    }


async def ask(session: aiohttp.ClientSession, url: str, index: int, leave_at: int) -> list[int]:
    """Return the ids of an answer, or none when the client left after `leave_at` tokens."""
    ids: list[int] = []
    async with session.post(f"{url}/v1/chat/completions", json=body(index)) as response:
        if response.status != 200:
            raise RuntimeError(f"HTTP {response.status}: {await response.text()}")
        done = False
        async for line in response.content:
            done = done or line.startswith(b"data: [DONE]")
            if not line.startswith(b"data: {"):
                continue
            chunk = json.loads(line[6:])
            if "error" in chunk:
                raise RuntimeError(chunk["error"]["message"])
            ids += [token for c in chunk["choices"] for token in c.get("token_ids", [])]
            if len(ids) >= leave_at:
                response.close()
                return []
        if not done:
            raise RuntimeError("a stream ended without [DONE]")
    return ids


async def gauges(session: aiohttp.ClientSession, url: str) -> dict[str, float]:
    """Return the numbers of /metrics without labels."""
    async with session.get(f"{url}/metrics") as response:
        text = await response.text()
    return {n: float(v) for n, v in re.findall(r"^(\w+) ([\d.e+-]+)$", text, re.MULTILINE)}


async def soak(url: str, args: argparse.Namespace) -> Tally:
    """Ask alone, then in a crowd."""
    tally = Tally()
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector) as session:
        began = time.perf_counter()
        alone = [await ask(session, url, index, 10**9) for index in range(args.questions)]
        tally.alone_s = time.perf_counter() - began
        num_alone = sum(map(len, alone))
        print(f"alone: {num_alone} tokens at {num_alone / tally.alone_s:.0f} a second")
        rng = Random(args.seed)
        left = args.requests

        async def client() -> None:
            nonlocal left
            while left > 0:
                left -= 1
                index = rng.randrange(args.questions)
                leave_at = rng.randrange(1, 20) if rng.random() < LEAVES else 10**9
                try:
                    ids = await ask(session, url, index, leave_at)
                except (aiohttp.ClientError, RuntimeError) as error:
                    tally.failures.append(str(error))
                    continue
                tally.tokens += len(ids)
                tally.whole += bool(ids)
                tally.left += not ids
                tally.differ += bool(ids) and ids != alone[index]

        await asyncio.gather(*(client() for _ in range(args.streams)))
        await asyncio.sleep(1)
        now = await gauges(session, url)
        print(
            "still in flight:",
            int(now["openzaya_choices_in_flight"]),
            "still running:",
            int(now["openzaya_choices_running"]),
        )
    return tally


def rss_mib(pid: int) -> float:
    """Return the resident memory of a process."""
    text = Path(f"/proc/{pid}/status").read_text()
    return int(re.findall(r"VmRSS:\s+(\d+)", text)[0]) / 1024


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--requests", type=int, default=2000)
    parser.add_argument("--streams", type=int, default=64)
    parser.add_argument("--questions", type=int, default=40)
    parser.add_argument("--slots", type=int, default=32)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    with serving(args.slots, args.threads) as (url, pid):
        before = rss_mib(pid)
        began = time.perf_counter()
        tally = asyncio.run(soak(url, args))
        took = time.perf_counter() - began - tally.alone_s
        print(f"{args.requests} requests from {args.streams} clients in {took:.1f} s")
        print(f"whole {tally.whole}, left early {tally.left}, failed {len(tally.failures)}")
        print(f"answers that differ from the one given alone: {tally.differ} of {tally.whole}")
        print(f"tokens of whole answers a second: {tally.tokens / took:.0f}")
        print(f"resident memory {before:.0f} -> {rss_mib(pid):.0f} MiB")
        for failure in tally.failures[:5]:
            print("failure:", failure[:200])


if __name__ == "__main__":
    main()
