"""What a sandboxed run costs, whether many leak, and whether a neighbour's bomb harms honest ones.

    python bench/sandbox.py --backend bwrap --runs 300          cost, rate, ratio to bare Python
    python bench/sandbox.py --backend bwrap --soak 10000        nothing leaks, INFRA at most 0.1%
    python bench/sandbox.py --backend bwrap --beside-bomb 200   no false time-outs
    python bench/sandbox.py --backend bwrap --compile 10        C++ with and without its header made

CPU time is that of all processes of a run as the kernel counted it when they were collected, and of
what a backend keeps alive; the caller's own share is printed beside it. On a busy machine rates are
lower bounds and CPU times upper ones.
"""

import argparse
import contextlib
import os
import resource
import subprocess
import threading
import time
from collections import Counter
from pathlib import Path
from statistics import median

from openzaya.sandbox import Executor, Limits, Request, Status
from openzaya.sandbox.bwrap import BwrapExecutor
from openzaya.sandbox.interpreter import FLAGS, SYSTEM_PYTHON

HELLO = Request(source="print(1)")
HONEST = (
    (HELLO, b"1\n"),
    (Request(source="print(sum(map(int, input().split())))", stdin=b"1 2 3"), b"6\n"),
    (Request(source="import json, re\nprint(json.dumps(re.findall('a', 'aa')))"), b'["a", "a"]\n'),
    (Request(source="print('x' * 100000)"), b"x" * 100000 + b"\n"),
    (Request(source="print(sum(range(10**6)))"), b"499999500000\n"),
)
"""Programs and what they print."""
BOMB = Request(
    source="import os\nwhile True:\n    try: os.fork()\n    except OSError: pass",
    limits=Limits(cpu_s=10),
)
CLOCK_TICKS = os.sysconf("SC_CLK_TCK")


def descendants(pid: int) -> list[int]:
    """Return the process ids of all processes below one."""
    found = []
    for path in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):  # a thread that has just ended
            for child in map(int, path.read_text().split()):
                found += [child, *descendants(child)]
    return found


def spent_s() -> float:
    """Return the CPU seconds of all collected and all living processes below this one."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    ticks = 0
    for pid in descendants(os.getpid()):
        with contextlib.suppress(OSError):
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            ticks += sum(map(int, fields[11:15]))
    return used.ru_utime + used.ru_stime + ticks / CLOCK_TICKS


def own_s() -> float:
    """Return the CPU seconds of this process."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def bare(runs: int) -> float:
    """Return the median CPU seconds of the same program as a bare subprocess."""
    costs = []
    for _ in range(runs):
        before = spent_s()
        command = [SYSTEM_PYTHON, *FLAGS, "-c", HELLO.source]
        subprocess.run(command, env={}, stdout=subprocess.DEVNULL, check=True)
        costs.append(spent_s() - before)
    return median(costs)


def cost(executor: Executor, runs: int, threads: int) -> None:
    """Print what a run costs, alone and with several at once."""
    executor.run(HELLO)
    walls, before_own, before_all = [], own_s(), spent_s()
    for _ in range(runs):
        began = time.monotonic()
        if executor.run(HELLO).status is not Status.OK:
            raise SystemExit("an honest program failed")
        walls.append(time.monotonic() - began)
    own, mean = (own_s() - before_own) / runs, (spent_s() - before_all) / runs
    reference = bare(min(runs, 100))
    print(f"CPU per run: {mean * 1e3:.1f} ms, and {own * 1e3:.1f} ms in the caller")
    print(f"bare Python: {reference * 1e3:.1f} CPU-ms; ratio {mean / reference:.2f}")
    print(f"clock per run: median {median(walls) * 1e3:.1f} ms")
    began = time.monotonic()
    pool = [
        threading.Thread(target=repeat, args=(executor, runs // threads)) for _ in range(threads)
    ]
    for thread in pool:
        thread.start()
    for thread in pool:
        thread.join()
    rate = runs // threads * threads / (time.monotonic() - began)
    print(f"{rate:.0f} runs/s with {threads} threads; load {os.getloadavg()[0]:.1f}")


def repeat(executor: Executor, runs: int) -> None:
    """Run the same program again and again."""
    for _ in range(runs):
        executor.run(HELLO)


def state() -> dict[str, int]:
    """Return what could leak: memory in KiB, descriptors, threads, children, zombies."""
    status = Path("/proc/self/status").read_text()
    alive = descendants(os.getpid())
    zombies = 0
    for pid in alive:
        with contextlib.suppress(OSError):
            zombies += Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    return {
        "rss_kib": int(status.partition("VmRSS:")[2].split()[0]),
        "descriptors": len(os.listdir("/proc/self/fd")),  # noqa: PTH208 only a count
        "threads": threading.active_count(),
        "children": len(alive),
        "zombies": zombies,
    }


def soak(executor: Executor, runs: int) -> None:
    """Run many programs; print what changed, and what did not come out as it must."""
    executor.run_all([request for request, _ in HONEST])
    before, seen, wrong = state(), Counter[str](), 0
    print(f"before: {before}")
    step = max(1, runs // 10)
    began = time.monotonic()
    for first in range(0, runs, step):
        batch = [HONEST[place % len(HONEST)] for place in range(first, min(runs, first + step))]
        results = executor.run_all([request for request, _ in batch])
        seen.update(str(result.status) for result in results)
        wrong += sum(
            result.status is Status.OK and result.stdout != expected
            for result, (_, expected) in zip(results, batch, strict=True)
        )
        del results
        print(f"after {first + len(batch)}: {state()}")
    print(f"{runs / (time.monotonic() - began):.0f} runs/s; {dict(seen)}; {wrong} wrong outputs")
    print(f"INFRA: {seen['infra'] / runs:.2%}")


def beside_bomb(executor: Executor, neighbour: Executor, runs: int) -> None:
    """Run honest programs while another box is a fork bomb; print those that fail."""
    stop = threading.Event()
    bombs: Counter[str] = Counter()

    def explode() -> None:
        while not stop.is_set():
            bombs[str(neighbour.run(BOMB).status)] += 1

    bomber = threading.Thread(target=explode)
    bomber.start()
    batch = [HONEST[place % len(HONEST)] for place in range(runs)]
    results = executor.run_all([request for request, _ in batch])
    stop.set()
    neighbour.close()
    bomber.join()
    seen = Counter(str(result.status) for result in results)
    right = sum(
        result.stdout == expected for result, (_, expected) in zip(results, batch, strict=True)
    )
    print(f"{runs} honest programs beside {sum(bombs.values())} fork bombs: {dict(seen)}")
    print(f"{right} of {runs} right; bombs ended {dict(bombs)}")


def compiling(executor: Executor, runs: int) -> None:
    """Print the CPU time of compiling a contest program, with and without the made header."""
    assert isinstance(executor, BwrapExecutor)
    folder = executor.header_folder
    while folder(contest(0)) is None:
        time.sleep(0.1)
    costs: dict[bool, list[float]] = {True: [], False: []}
    for number in range(2 * runs):
        made = number % 2 == 0
        executor.header_folder = folder if made else lambda _: None  # type: ignore[method-assign]
        before = spent_s()
        if executor.run(contest(number)).status is not Status.OK:
            raise SystemExit("a program did not compile")
        costs[made].append(spent_s() - before)
    with_it, without = median(costs[True]), median(costs[False])
    print(f"CPU to compile and run: {with_it:.2f} s with the made header, {without:.2f} s without;")
    print(f"ratio {without / with_it:.1f}")


def contest(number: int) -> Request:
    """Return a small contest program, unlike those of other numbers."""
    body = "std::map<std::string, int> m; std::string s; while (std::cin >> s) ++m[s];"
    source = f"#include <bits/stdc++.h>\nint main() {{ {body} std::cout << {number}; }}"
    return Request(source=source, language="cpp", stdin=b"a b a")


def main() -> None:
    """Measure what was asked for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--backend", default="bwrap")
    parser.add_argument("--runs", type=int, default=300)
    parser.add_argument("--threads", type=int, default=3)
    parser.add_argument(
        "--caller-mib", type=int, default=0, help="memory of a caller like a trainer"
    )
    parser.add_argument("--soak", type=int, metavar="RUNS")
    parser.add_argument("--beside-bomb", type=int, metavar="RUNS")
    parser.add_argument("--compile", type=int, metavar="PROGRAMS")
    args = parser.parse_args()
    held = bytearray(args.caller_mib << 20)
    held[:: resource.getpagesize()] = b"1" * len(held[:: resource.getpagesize()])
    with Executor.default(args.backend) as executor:
        print(f"backend {args.backend}")
        if args.soak:
            soak(executor, args.soak)
        elif args.beside_bomb:
            with Executor.default(args.backend) as neighbour:
                beside_bomb(executor, neighbour, args.beside_bomb)
        elif args.compile:
            compiling(executor, args.compile)
        else:
            cost(executor, args.runs, args.threads)


if __name__ == "__main__":
    main()
