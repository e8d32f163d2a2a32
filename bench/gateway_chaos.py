"""What the gateway does when everything around it fails.

    python bench/gateway_chaos.py --quick        two minutes
    python bench/gateway_chaos.py                200 kills, 100 disconnects, 400 slow clients
    python bench/gateway_chaos.py --only kill --kills 50

Starts the mock upstream and `openzaya serve --upstream` as processes of their own. The exit code is
1 when a promise was broken.
"""

import argparse
import asyncio
import json
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from random import Random
from typing import Any
from urllib.parse import urlsplit

import aiohttp
from gateway_rig import (
    Answer,
    Process,
    ask,
    client,
    folder,
    gateway,
    get,
    heading,
    line,
    mock,
    post,
    problem,
    quantile,
    run_body,
    wait_until_idle,
)

FAULTS = ("429=0.04", "500=0.05", "503=0.03", "cut=0.04", "hang=0.02", "hang_mid=0.02")
"""A fifth of all calls."""
SHORT = {"first_token_s": 2, "between_tokens_s": 2}
"""Timers that make a hanging call fail while somebody watches."""
NEVER_SENT = 0.2
"""Seconds within which the calls of a client that left must be gone."""


async def faults(where: Path, size: int) -> bool:
    """A fifth of the upstream's answers fail; then most of them do."""
    heading(f"20 % of the upstream's answers fail: {size} runs of 32 calls")
    words = ["--length", "lognormal:200:0.5", "--ttft", "0.02", "--per-token", "0.0002"]
    with (
        mock(where, *words, chunk_tokens=50, kept_calls=200_000) as up,
        gateway(where, up.url, name="faults", max_runs=1000, **SHORT) as gate,
    ):
        good = await _answered(up, gate, size, FAULTS)
        heading("70 % of the upstream's answers fail: `degraded` and errors must be truthful")
        return good & await _truthful(up, gate, max(8, size // 4))


async def _answered(up: Process, gate: Process, size: int, specs: tuple[str, ...]) -> bool:
    async with client() as session:
        before = await wait_until_idle(session, up.url)
        await post(session, f"{up.url}/faults", {"faults": list(specs)})
        bodies = [
            run_body(problem(i), i, rounds=1, budget_tokens=2000, tail_tokens=100)
            for i in range(size)
        ]
        gate_keeper = asyncio.Semaphore(16)

        async def one(body: dict[str, Any]) -> Answer:
            async with gate_keeper:
                return await ask(session, gate.url, body)

        answers = await asyncio.gather(*map(one, bodies))
        await post(session, f"{up.url}/faults", {"faults": []})
        after = await wait_until_idle(session, up.url)
        told = [await _is_truthful(session, gate, answer) for answer in answers]
    calls = (after["calls"] - before["calls"]) / (size * 32)
    faulted = {
        name: count - before["faults"].get(name, 0) for name, count in after["faults"].items()
    }
    ok = sum(a.status == 200 for a in answers)
    good = line("answered", f"{ok} of {size}", "all", ok=ok == size)
    good &= line("upstream calls", f"{calls:.2f}x", "<= 1.5x", ok=calls <= 1.5)
    line("faults played", str(sum(faulted.values())), json.dumps(faulted))
    good &= line("`degraded` is truthful", f"{sum(told)} of {size}", "all", ok=all(told))
    line("degraded", str(sum(bool(a.ttc.get("degraded")) for a in answers)))
    line("wall of a run, median, p99", _pair([a.wall_s for a in answers]))
    return good


async def _truthful(up: Process, gate: Process, size: int) -> bool:
    """Runs that cannot all be saved: each is answered with the truth or refused with 502."""
    async with client() as session:
        await post(session, f"{up.url}/faults", {"faults": ["500=0.7"]})
        answers = await asyncio.gather(
            *(
                ask(session, gate.url, run_body(problem(i), i, rounds=1, budget_tokens=500))
                for i in range(size)
            )
        )
        await post(session, f"{up.url}/faults", {"faults": []})
        statuses = Counter(a.status for a in answers)
        told = [await _is_truthful(session, gate, a) for a in answers if a.status == 200]
    degraded = sum(bool(a.ttc.get("degraded")) for a in answers)
    good = line("statuses", str(dict(statuses)), "200 or 502", ok=set(statuses) <= {200, 502})
    good &= line("`degraded` is truthful", f"{sum(told)} of {len(told)}", ok=all(told))
    return good & line(
        "degraded or refused",
        f"{degraded + statuses[502]} of {size}",
        ok=degraded + statuses[502] > 0,
    )


async def _is_truthful(session: aiohttp.ClientSession, gate: Process, answer: Answer) -> bool:
    """Compare `degraded` with what the journal says of the candidates."""
    run = answer.ttc.get("run_id")
    if not run:
        return False
    detail = await get(session, f"{gate.url}/v1/ttc/runs/{run}")
    lost = any(c["state"] == "failed" for c in detail["candidates"])
    stages = 1 + detail["config"]["rounds"]
    is_short = len(detail["stages"]) < stages
    return bool(answer.ttc.get("degraded")) == (lost or is_short)


def _pair(values: list[float]) -> str:
    return f"{quantile(values, 0.5):.2f}, {quantile(values, 0.99):.2f} s"


async def leave(where: Path, size: int) -> bool:
    """Clients that leave at a random moment: every upstream call of their run must stop."""
    heading(f"{size} clients leave at a random moment of a run with 16 calls in flight")
    words = ["--length", "fixed:4000", "--ttft", "0.05", "--per-token", "0.001"]
    with (
        mock(where, *words, chunk_tokens=50) as up,
        gateway(where, up.url, name="leave") as gate,
    ):
        slowest, missed, leaked, aborted = 0.0, 0, 0, 0
        rng = Random(6)
        async with client() as session:
            for index in range(size):
                stats, left = await _leave_once(session, up, gate, index, rng)
                delays = [a["at"] - left for a in stats["aborts"] if a["at"] >= left]
                aborted += len(delays)
                leaked += stats["in_flight"]
                slowest = max([slowest, *delays])
                missed += bool(stats["in_flight"]) or any(d > NEVER_SENT for d in delays)
            health = await get(session, f"{gate.url}/health")
    good = line("all gone within 200 ms", f"{size - missed} of {size}", "all", ok=not missed)
    line("calls aborted, the slowest after", f"{aborted}, {1e3 * slowest:.0f} ms")
    good &= line("calls left over", str(leaked), "0", ok=not leaked)
    good &= line("the gateway is alive", str(health.get("status")), ok=bool(health))
    return good


async def _leave_once(
    session: aiohttp.ClientSession, up: Process, gate: Process, index: int, rng: Random
) -> tuple[dict[str, Any], float]:
    """Start a run, leave it, and return the mock's counters soon after and when we left."""
    body = run_body(problem(index), index, budget_tokens=4096, tail_tokens=100)
    body["stream"] = index % 2 == 0
    task = asyncio.create_task(_read(session, f"{gate.url}/v1/chat/completions", body))
    while (await get(session, f"{up.url}/stats"))["in_flight"] < 16:
        await asyncio.sleep(0.005)
    await asyncio.sleep(rng.uniform(0.0, 0.4))
    left = time.monotonic()
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task
    while True:
        stats = await get(session, f"{up.url}/stats")
        if not stats["in_flight"] or time.monotonic() - left > 3:
            return stats, left
        await asyncio.sleep(0.01)


async def _read(session: aiohttp.ClientSession, url: str, body: dict[str, Any]) -> bytes:
    async with session.post(url, json=body) as response:
        return await response.read()


async def kill(where: Path, size: int) -> bool:
    """The gateway dies at random moments; the run goes on where it was."""
    heading(f"kill -9 at {size} random moments of a run of 5 rounds, then resume")
    words = ["--length", "lognormal:150:0.5", "--ttft", "0.02", "--per-token", "0.0008"]
    again = wrong = kills = runs = 0
    shape = {"num_candidates": 8, "rounds": 5, "budget_tokens": 400, "tail_tokens": 80}
    rng = Random(7)
    with mock(where, *words, chunk_tokens=20, kept_calls=1_000_000) as up:
        while kills < size:
            body = run_body(problem(runs), runs, **shape)
            reference, length = await _uninterrupted(where, up, body, runs)
            journal = f"kill-{runs}"
            headers = {"Idempotency-Key": f"run-{runs}"}
            for _ in range(min(size - kills, 5)):
                moment = rng.uniform(0, length)
                await _until_killed(where, up, journal, body, headers, moment)
                done = await finished_seeds(where / f"{journal}.db")
                mark = await _last_call(up)
                kills += 1
                with gateway(where, up.url, name=journal) as gate:
                    async with client() as session:
                        got = await ask(session, gate.url, body, headers)
                        await wait_until_idle(session, up.url)
                        calls = await get(session, f"{up.url}/calls?after={mark}")
                repeated = sum(c["seed"] in done for c in calls)
                again += repeated
                if got.status != 200 or _said(got) != reference:
                    wrong += 1
                    print(f"  kill {kills} at {moment:.2f} s: {got.status} {_said(got)[:80]!r}")
                (where / f"{journal}.db").unlink(missing_ok=True)
                for suffix in ("-wal", "-shm"):
                    (where / f"{journal}.db{suffix}").unlink(missing_ok=True)
            runs += 1
    good = line("final answers byte-identical", f"{kills - wrong} of {kills}", "all", ok=not wrong)
    return good & line("finished candidates generated again", str(again), "0", ok=not again)


def _said(answer: Answer) -> str:
    """Return what the client reads; ids and times differ from run to run."""
    choices = answer.body.get("choices") or []
    return json.dumps([choice.get("message") for choice in choices], sort_keys=True)


async def _uninterrupted(
    where: Path, up: Process, body: dict[str, Any], index: int
) -> tuple[str, float]:
    """Return the answer of the run and how long it takes."""
    with gateway(where, up.url, name=f"reference-{index}") as gate:
        async with client() as session:
            answer = await ask(session, gate.url, body)
    if answer.status != 200:
        raise SystemExit(f"the run itself fails with {answer.status}: {answer.body}")
    return _said(answer), answer.wall_s


async def _until_killed(
    where: Path,
    up: Process,
    journal: str,
    body: dict[str, Any],
    headers: dict[str, str],
    moment: float,
) -> None:
    with gateway(where, up.url, name=journal) as gate:
        async with client() as session:
            task = asyncio.create_task(ask(session, gate.url, body, headers))
            await asyncio.sleep(moment)
            gate.kill()
            with suppress(aiohttp.ClientError, asyncio.CancelledError):
                await task
            await wait_until_idle(session, up.url)


async def _last_call(up: Process) -> int:
    async with client() as session:
        return int((await get(session, f"{up.url}/stats"))["calls"])


async def finished_seeds(path: Path) -> set[int]:
    """Return the seeds, as the upstream sees them, of all candidates that the journal holds."""
    from openzaya.ttc.journal import Journal

    if not path.exists():
        return set()
    async with Journal.open(str(path)) as journal:
        details = [await journal.run(run["id"]) for run in await journal.runs(10)]
    return {
        candidate["seed"] % (1 << 31)
        for detail in details
        for candidate in detail["candidates"]
        if candidate["state"] == "done"
    }


async def slow(where: Path, size: int) -> bool:
    """Half of the slow clients send a byte now and then, the other half hardly read."""
    heading(f"{size} slow clients, half senders and half readers, beside normal requests")
    words = ["--length", "fixed:256", "--ttft", "0.02"]
    normal = 60 if size < 400 else 200
    with (
        mock(where, *words, chunk_tokens=32) as up,
        gateway(where, up.url, name="slow") as gate,
    ):
        before = await _latencies(gate, normal)
        stop = asyncio.Event()
        senders = [asyncio.create_task(_slow_sender(gate, stop)) for _ in range(size // 2)]
        readers = [asyncio.create_task(_slow_reader(gate, i, stop)) for i in range(size // 2)]
        await asyncio.sleep(2)
        beside = await _latencies(gate, normal)
        stop.set()
        await asyncio.gather(*senders, *readers, return_exceptions=True)
        memory = gate.rss_mb()
    p99s = [1e3 * quantile(values, 0.99) for values in (before, beside)]
    medians = [1e3 * quantile(values, 0.5) for values in (before, beside)]
    line("median alone, beside", f"{medians[0]:.1f}, {medians[1]:.1f} ms")
    good = line(
        "p99 alone, beside",
        f"{p99s[0]:.1f}, {p99s[1]:.1f} ms = {p99s[1] / p99s[0]:.2f}x",
        "< 2x",
        ok=p99s[1] < 2 * p99s[0],
    )
    line("peak memory of the gateway", f"{memory:.0f} MB")
    return good


async def _latencies(gate: Process, count: int) -> list[float]:
    body = {"model": "mock", "messages": [{"role": "user", "content": problem(1)}], "ttc": False}
    async with client() as session:
        await ask(session, gate.url, body)
        answers = [await ask(session, gate.url, body) for _ in range(count)]
    assert all(a.status == 200 for a in answers)
    return [a.wall_s for a in answers]


async def _slow_sender(gate: Process, stop: asyncio.Event) -> None:
    """Send a header byte by byte, and begin again when the gateway has had enough."""
    where = urlsplit(gate.url)
    while not stop.is_set():
        with suppress(OSError):
            _, writer = await asyncio.open_connection(where.hostname, where.port)
            for byte in b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nX-Slow: " + b"x" * 500:
                writer.write(bytes([byte]))
                await writer.drain()
                await asyncio.sleep(0.5)
                if stop.is_set():
                    break
            writer.close()


async def _slow_reader(gate: Process, index: int, stop: asyncio.Event) -> None:
    """Ask for a long stream and read a few bytes a second."""
    where = urlsplit(gate.url)
    body = {"model": "mock", "messages": [{"role": "user", "content": problem(index)}]}
    sent = json.dumps({**body, "stream": True, "ttc": False}).encode()
    with suppress(OSError):
        reader, writer = await asyncio.open_connection(where.hostname, where.port, limit=64)
        writer.write(
            b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
            b"Content-Length: %d\r\n\r\n%b" % (len(sent), sent)
        )
        while not stop.is_set() and await reader.read(16):
            await asyncio.sleep(0.5)
        writer.close()


PARTS: dict[str, tuple[Callable[[Path, int], Awaitable[bool]], int, int]] = {
    "faults": (faults, 100, 24),
    "leave": (leave, 100, 12),
    "slow": (slow, 400, 100),
    "kill": (kill, 200, 10),
}
"""What is done, and how often: all of it, and with --quick."""


def main() -> int:
    """Run the parts asked for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="smaller loads, two minutes")
    parser.add_argument("--only", default="", help=f"some of {','.join(PARTS)}")
    parser.add_argument("--kills", type=int, help="how many moments [200]")
    args = parser.parse_args()
    wanted = [name for name in args.only.split(",") if name] or list(PARTS)
    good = True
    with folder() as where:
        for name in wanted:
            part, size, quick_size = PARTS[name]
            size = quick_size if args.quick else size
            if name == "kill" and args.kills:
                size = args.kills
            good &= asyncio.run(part(where, size))  # type: ignore[arg-type]
    print("\nevery promise holds" if good else "\nsome promises were broken")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
