"""What the journal costs, and what survives a kill.

    python bench/journal.py speed            commits a second, and its share of a run's time
    python bench/journal.py cost             CPU of a candidate while many runs are in flight
    python bench/journal.py chaos            200 times kill -9; --kills N for another number
    python bench/journal.py --quick          all of it, small

cost: what 96 runs told, prompts of 16 KB and answers of 3 KB, is told again to a journal, 32 runs
at a time; what the gateway reads of a run is read as well. Counted is the CPU time of the process,
all threads and the kernel's part, less that of the same telling to nobody.

chaos: runs of three stages over a mock upstream in a process of its own; the process that does a
run is killed at random moments and started again until the run is done. Counted: calls for a
candidate that the journal already held, and final results that differ from an undisturbed run's.
"""

import argparse
import asyncio
import json
import resource
import sqlite3
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random
from statistics import median
from typing import Any
from zlib import crc32

from openzaya.backends.openai_http import HttpConfig, OpenAISampler
from openzaya.core.records import Completion, Message, SampleRequest
from openzaya.ttc import CandidateDone, Event, MarkovianRSA, MarkovianRSAConfig, Result
from openzaya.ttc.events import CandidateStarted, ignore
from openzaya.ttc.journal import Journal, RunSpec
from openzaya.ttc.journal.candidates import view_of
from openzaya.ttc.journal.session import run_recorded

CONFIG = MarkovianRSAConfig(
    num_candidates=4, tails_per_prompt=2, rounds=2, budget_tokens=400, tail_tokens=64
)
AT_ONCE = 32
"""Runs that tell at a time."""
SENT_SEEDS = 1 << 31
"""Servers are sent seeds modulo this."""
MOCK = ("--length", "lognormal:150:0.8", "--ttft", "0.02", "--per-token", "0.001")


class Instant:
    """A sampler that answers at once with text of a usual length."""

    def __init__(self, num_tokens: int) -> None:
        self.text = "so we see that this is right " * (num_tokens // 7) + "</think> \\boxed{7}"
        self.num_tokens = num_tokens

    async def sample(self, request: SampleRequest) -> Completion:
        """Return the text, begun by the seed."""
        await asyncio.sleep(0)
        return Completion(f"{request.seed} {self.text}", self.num_tokens, "stop", 100)

    def count_prompt_tokens(self, messages: tuple[Message, ...]) -> int:
        """A quarter of the characters."""
        return sum(len(m.content) // 4 for m in messages)

    def last_tokens(self, text: str, count: int) -> str:
        """Four characters a token."""
        return text[-4 * count :]


def cpu_s() -> float:
    """Return the CPU seconds of this process."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


async def speed(folder: Path, num_runs: int) -> dict[str, Any]:
    """Time runs with and without a journal, one after another in pairs; medians."""
    config = MarkovianRSAConfig(budget_tokens=4_096, tail_tokens=1_024)
    question = (Message("user", "what is it?"),)
    sampler, figures = Instant(4_000), {"plain": [], "recorded": []}
    async with Journal.open(str(folder / "speed.sqlite")) as journal:
        for seed in range(num_runs):
            begun = cpu_s()
            await MarkovianRSA(config).run(question, sampler, seed=seed)
            figures["plain"].append(cpu_s() - begun)
            begun = cpu_s()
            spec = RunSpec(question=question, config=config, seed=seed)
            run = await journal.begin(spec)
            await run_recorded(journal, run.run_id, sampler)
            figures["recorded"].append(cpu_s() - begun)
        one = RunSpec(question=question, config=config)
        before, begun = journal.writer.num_commits, time.monotonic()
        for _ in range(10 * num_runs):
            await journal.begin(one)
        single = (journal.writer.num_commits - before) / (time.monotonic() - begun)
        begun = time.monotonic()
        await asyncio.gather(*(journal.begin(one) for _ in range(200 * num_runs)))
        together = 200 * num_runs / (time.monotonic() - begun)
    calls = config.num_candidates * config.num_stages
    added = median(figures["recorded"]) - median(figures["plain"])
    return {
        "calls_of_a_run": calls,
        "cpu_ms_added_per_call": round(1000 * added / calls, 3),
        "synced_commits_per_s_one_at_a_time": round(single),
        "synced_writes_per_s_together": round(together),
        "share_of_a_run_of_30_s": round(added / 30, 5),
    }


@dataclass
class Told:
    """What a run said, to say it again."""

    spec: RunSpec
    result: Result
    bursts: list[list[Event]]
    """Events that come at once: the end of a candidate and what follows from it."""


async def told(config: MarkovianRSAConfig, seed: int) -> Told:
    """Do one run that nobody records."""
    facts = "Consider the following facts before you answer. " * 250
    question = (Message("user", f"Problem {seed}: how many? {facts}"),)
    bursts: list[list[Event]] = [[]]

    def hear(event: Event) -> None:
        if isinstance(event, CandidateDone):
            bursts.append([])
        bursts[-1].append(event)

    result = await MarkovianRSA(config).run(question, Instant(640), seed=seed, on_event=hear)
    spec = RunSpec(question=question, config=config, seed=seed, request_hash="given by the server")
    return Told(spec, result, bursts)


def touch(event: Event) -> None:
    """Read prompts and answers, as those do who send and receive them, so that caches hold them."""
    if isinstance(event, CandidateStarted):
        crc32(event.messages[-1].content.encode())
    elif isinstance(event, CandidateDone):
        crc32(event.candidate.text.encode())


async def tell(runs: list[Told], journal: Journal | None, rate: float) -> float:
    """Tell runs, some at once, so many ends of candidates a second; return the CPU seconds."""
    began, started = cpu_s(), time.monotonic()
    gap_s = min(AT_ONCE, len(runs) // 2) / rate

    async def tell_one(number: int, run: Told) -> None:
        due = started + len(run.bursts) * number / rate
        await asyncio.sleep(due - time.monotonic())
        hear: Callable[[Event], None] = ignore
        if journal is not None:
            run_id = (await journal.begin(run.spec)).run_id
            await journal.recorded(run_id)
            hear = journal.listener(run_id)
        for burst in run.bursts:
            for event in burst:
                touch(event)
                hear(event)
            due += gap_s
            await asyncio.sleep(max(0.0, due - time.monotonic()))
        if journal is not None and run.result.chosen is not None:
            await journal.finish(run_id, run.result)
            await journal.run(run_id)
            best = run.result.chosen
            await journal.candidate(run_id, best.stage, best.slot, prompt=False)

    await asyncio.gather(*(tell_one(number, run) for number, run in enumerate(runs)))
    return cpu_s() - began


async def cost(folder: Path, num_runs: int, repeats: int, rate: float) -> dict[str, Any]:
    """Measure the CPU of a candidate with a journal and without, in turns; medians."""
    config = MarkovianRSAConfig(budget_tokens=4_096, tail_tokens=300)
    runs = [await told(config, seed) for seed in range(num_runs)]
    calls = num_runs * config.num_candidates * config.num_stages
    figures: dict[str, list[float]] = {"nobody": [], "journal": []}
    async with Journal.open(str(folder / "cost.sqlite")) as journal:
        for _ in range(repeats):
            figures["nobody"].append(await tell(runs, None, rate))
            before = journal.writer.num_commits
            figures["journal"].append(await tell(runs, journal, rate))
            commits = journal.writer.num_commits - before
    added = [b - a for a, b in zip(figures["nobody"], figures["journal"], strict=True)]
    return {
        "candidates": calls,
        "asked_per_s": rate,
        "candidates_per_commit": round(calls / commits, 1),
        "cpu_ms_per_candidate": round(1000 * median(added) / calls, 4),
        "each": [round(1000 * one / calls, 4) for one in added],
        "bytes_per_candidate": round(journal_bytes(folder / "cost.sqlite") / calls / repeats),
    }


def journal_bytes(path: Path) -> int:
    """Return the size of a closed journal."""
    return sum(found.stat().st_size for found in path.parent.glob(f"{path.name}*"))


async def child(where: str, url: str, key: str) -> None:
    """Do one run, or go on with it; tell when it begins and what the journal has in the end."""
    async with Journal.open(where) as journal:
        question = (Message("user", f"what is it, {key}?"),)
        begun = await journal.begin(RunSpec(question=question, config=CONFIG, seed=3, key=key))
        if begun.lease is None and begun.state != "done":
            await journal.acquire(begun.run_id)
        if begun.state == "done":
            print("begun", flush=True)
        else:
            async with OpenAISampler(HttpConfig(url=url)) as sampler:
                print("begun", flush=True)
                await run_recorded(journal, begun.run_id, sampler)
        detail = await journal.run(begun.run_id)
        recorded = await journal.recorded(begun.run_id)
        candidates = sorted(recorded.finished, key=lambda c: (c.stage, c.slot))
        result = {name: detail["run"][name] for name in ("answer", "why", "state", "degraded")}
        result |= {"winner": detail["winner"], "candidates": [c.to_json() for c in candidates]}
        print(json.dumps(result), flush=True)


def calls_of(url: str, after: int = 0) -> list[dict[str, Any]]:
    """Return what the mock saw after a number of calls."""
    with urllib.request.urlopen(f"{url}/calls?after={after}", timeout=30) as reply:
        found: list[dict[str, Any]] = json.load(reply)
    return found


def seeds_of(where: str, key: str, state: str) -> set[int]:
    """Return the seeds of a run's candidates in some state, straight from the rows."""
    if not Path(where).exists():
        return set()
    with sqlite3.connect(where) as file:
        rows = file.execute(
            "SELECT body FROM told WHERE run = "
            "(SELECT id FROM run WHERE idempotency_key = ?) ORDER BY seq",
            (key,),
        ).fetchall()
    file.close()
    newest = {}
    for (body,) in rows:
        for _, kind, _, _, *value in json.loads(body[8:]):
            if kind == "candidate":
                view = view_of(value)
                newest[view["stage"], view["slot"]] = (view["seed"], view["state"])
    return {seed % SENT_SEEDS for seed, found in newest.values() if found == state}


def chaos(folder: Path, num_kills: int, seed: int) -> dict[str, Any]:
    """Kill and resume until there were so many kills and every run is done."""
    rng, kills, runs, repeated, differing, wasted, seen = Random(seed), 0, 0, 0, 0, 0, 0
    mock = subprocess.Popen(
        [sys.executable, "-m", "openzaya.backends.mock", *MOCK], stdout=subprocess.PIPE, text=True
    )
    try:
        assert mock.stdout is not None
        url = next(word for word in mock.stdout.readline().split() if word.startswith("http"))
        while kills < num_kills:
            runs += 1
            key, wall_s = f"run{runs}", None
            expected, wall_s = once(str(folder / "calm.sqlite"), url, key)
            where, known, last = str(folder / "chaos.sqlite"), set(), 0
            while True:
                last = max((c["call"] for c in calls_of(url)), default=0)
                wait_s = rng.uniform(0, wall_s) if kills < num_kills else None
                got = killed(where, url, key, wait_s)
                new = calls_of(url, last)
                repeated += sum(call["seed"] in known for call in new)
                if got is not None:
                    differing += got != expected
                    break
                kills += 1
                seen += len({c["seed"] for c in new} & seeds_of(where, key, "done"))
                now = seeds_of(where, key, "done")
                wasted += len({c["seed"] for c in new} & seeds_of(where, key, "running"))
                known = now
    finally:
        mock.terminate()
        mock.wait()
    return {
        "kills": kills,
        "runs": runs,
        "finished_candidates_before_a_kill": seen,
        "finished_candidates_asked_for_again": repeated,
        "results_that_differ": differing,
        "calls_lost_per_kill": round(wasted / max(1, kills), 2),
    }


def command(where: str, url: str, key: str) -> list[str]:
    """Return the command line of a child."""
    return [sys.executable, __file__, "child", "--journal", where, "--url", url, "--key", key]


def once(where: str, url: str, key: str) -> tuple[str, float]:
    """Return an undisturbed run's result and how long it took after it had begun."""
    process = subprocess.Popen(command(where, url, key), stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    process.stdout.readline()
    begun = time.monotonic()
    result = process.stdout.read()
    assert process.wait() == 0
    return result, time.monotonic() - begun


def killed(where: str, url: str, key: str, wait_s: float | None) -> str | None:
    """Start a run and kill it after a while; its result when it was done before."""
    process = subprocess.Popen(command(where, url, key), stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    process.stdout.readline()
    try:
        process.wait(wait_s)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        process.stdout.close()
        return None
    result = process.stdout.read()
    process.stdout.close()
    assert process.returncode == 0
    return result


def main() -> None:
    """Run what was asked for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "what",
        nargs="?",
        default="all",
        choices=("speed", "cost", "chaos", "child", "all"),
        metavar="{speed,cost,chaos,all}",  # the last process of chaos is called as `child`
        help="[all]",
    )
    parser.add_argument("--quick", action="store_true", help="small: 16 runs, 10 kills")
    parser.add_argument("--rate", type=float, default=1000, help="of cost: candidates a s [1000]")
    parser.add_argument("--kills", type=int, default=200, help="of chaos: how many [200]")
    parser.add_argument("--seed", type=int, default=0, help="of the moments to kill at")
    for name in ("--journal", "--url", "--key"):
        parser.add_argument(name, default="", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.what == "child":
        asyncio.run(child(args.journal, args.url, args.key))
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if args.what in ("speed", "all"):
            print(json.dumps(asyncio.run(speed(folder, 3 if args.quick else 15))), flush=True)
        if args.what in ("cost", "all"):
            num_runs, repeats = (16, 1) if args.quick else (96, 5)
            found = asyncio.run(cost(folder, num_runs, repeats, args.rate))
            print(json.dumps(found), flush=True)
        if args.what in ("chaos", "all"):
            num_kills = 10 if args.quick else args.kills
            print(json.dumps(chaos(folder, num_kills, args.seed)), flush=True)


if __name__ == "__main__":
    main()
