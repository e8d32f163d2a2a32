"""What the schedules of Markovian RSA cost in time and tokens, on the real state machine.

    python bench/ttc_schedules.py            about a minute; --quick for a tenth of it

A simulation of discrete events with a clock of its own drives `openzaya.ttc.machine`. An engine has
slots; each running call writes one token per step, and a step gets slower with the number of calls
in it. Waiting calls get slots by their priority, as engines do: 0 for all is first come, first
served, the number of the problem is oldest first. A cut completion ends at the next step.

The figures are in simulated seconds and do not depend on the machine that runs this.
"""

import argparse
import heapq
import itertools
import statistics
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from random import Random

from openzaya.core.records import Message
from openzaya.core.seeding import stream
from openzaya.ttc.config import MarkovianRSAConfig
from openzaya.ttc.machine import Call, Cut, Machine, Order
from openzaya.ttc.place import Place
from openzaya.ttc.presets import preset
from openzaya.ttc.result import Candidate, unwritten

STEP_S = 0.010
STEP_PER_CALL_S = 0.00005
QUESTION = (Message("user", "how long is it?"),)

Law = Callable[[Random], int]


def stragglers(rng: Random) -> int:
    """straggler:2000:0.05:8: 2,000 tokens, and one trace in twenty is eight times as long."""
    return 16_000 if rng.random() < 0.05 else 2_000


def log_normal(rng: Random) -> int:
    """Median 9,000 tokens, sigma 0.6."""
    return max(1, round(9_000 * rng.lognormvariate(0.0, 0.6)))


def written(place: Place, num_tokens: int, is_cut: bool) -> Candidate:
    """Return what a call left; a cut one has a tail and no answer."""
    return replace(
        unwritten(place, "abort" if is_cut else "stop", attempts=1),
        text="t",
        tail="t",
        is_finished=not is_cut,
        num_tokens=num_tokens,
    )


@dataclass(order=True)
class Job:
    """One call in the simulation; the order is that of the queue."""

    rank: tuple[int, int]
    problem: int = field(compare=False)
    call: Call = field(compare=False)
    length: int = field(compare=False)
    began: float = field(default=-1.0, compare=False)
    """Steps that the engine had made when this call got its slot."""
    is_done: bool = field(default=False, compare=False)


@dataclass
class Problem:
    """One run of the machine."""

    machine: Machine
    arrived: float
    ended: float = -1.0
    tokens: int = 0


class Simulation:
    """An engine with slots and the runs that use it."""

    def __init__(self, config: MarkovianRSAConfig, law: Law, slots: int, oldest_first: bool):
        self.config, self.law, self.slots, self.oldest_first = config, law, slots, oldest_first
        self.clock = self.steps = 0.0
        self.tickets = itertools.count()
        self.queue: list[Job] = []
        self.ends: list[tuple[float, int, Job]] = []
        self.running: dict[tuple[int, int, int], Job] = {}
        self.problems: list[Problem] = []

    def run(self, count: int, every_s: float, seed: int) -> list[Problem]:
        """Run `count` problems that arrive every so many seconds, to their end."""
        arrivals = [(i * every_s, i) for i in range(count)]
        for at, number in arrivals:
            self._until(at)
            self.clock = max(self.clock, at)
            machine = Machine(self.config, QUESTION, seed * 10_000 + number)
            self.problems.append(Problem(machine, at))
            self._carry_out(number, machine.start(0.0))
        self._until(float("inf"))
        return self.problems

    def _step_s(self) -> float:
        return STEP_S + STEP_PER_CALL_S * len(self.running)

    def _until(self, at: float) -> None:
        """Let the engine work up to a time."""
        while self.ends:
            end, _, job = self.ends[0]
            if job.is_done:
                heapq.heappop(self.ends)
                continue
            due = self.clock + max(0.0, end - self.steps) * self._step_s()
            if due > at:
                self.steps += (at - self.clock) / self._step_s()
                self.clock = at
                return
            heapq.heappop(self.ends)
            self.clock, self.steps = due, max(self.steps, end)
            self._end(job, is_cut=False)

    def _end(self, job: Job, is_cut: bool) -> None:
        place = job.call.plan.place
        job.is_done = True
        self.running.pop((job.problem, place.stage, place.slot), None)
        grown = int(self.steps - job.began) if job.began >= 0 else 0
        limit = min(job.length, job.call.max_tokens)
        tokens = min(grown, limit) if is_cut else limit
        problem = self.problems[job.problem]
        problem.tokens += tokens
        orders = problem.machine.finished(written(place, tokens, is_cut), self.clock)
        if problem.machine.is_over and problem.ended < 0:
            problem.ended = self.clock
        self._carry_out(job.problem, orders)

    def _carry_out(self, problem: int, orders: list[Order]) -> None:
        cuts = []
        for order in orders:
            if isinstance(order, Call):
                place = order.plan.place
                rank = problem if self.oldest_first else 0
                length = self.law(stream(place.seed, "length"))
                heapq.heappush(self.queue, Job((rank, next(self.tickets)), problem, order, length))
            elif isinstance(order, Cut):
                cuts.append((problem, order.stage, order.slot))
        for cut in cuts:
            self._cut(cut)
        self._fill()

    def _cut(self, key: tuple[int, int, int]) -> None:
        job = self.running.get(key) or next(
            j
            for j in self.queue
            if (j.problem, j.call.plan.place.stage, j.call.plan.place.slot) == key
        )
        if job in self.queue:
            self.queue.remove(job)
            heapq.heapify(self.queue)
        self._end(job, is_cut=True)

    def _fill(self) -> None:
        while self.queue and len(self.running) < self.slots:
            job = heapq.heappop(self.queue)
            place = job.call.plan.place
            job.began = self.steps
            self.running[job.problem, place.stage, place.slot] = job
            end = self.steps + min(job.length, job.call.max_tokens)
            heapq.heappush(self.ends, (end, next(self.tickets), job))


SCHEDULES = ("barrier", "async", "quorum")


def one_problem(law: Law, base: MarkovianRSAConfig, seeds: int) -> None:
    """Print the latency of a single problem on an engine with room for all of it."""
    walls: dict[str, float] = {}
    for schedule in SCHEDULES:
        config = replace(base, schedule=schedule)
        runs = [Simulation(config, law, 512, False).run(1, 0.0, seed)[0] for seed in range(seeds)]
        walls[schedule] = statistics.median(run.ended for run in runs)
        tokens = statistics.mean(run.tokens for run in runs)
        ratio = walls[schedule] / walls["barrier"]
        print(
            f"  {schedule:8} {walls[schedule]:8.0f} s  {ratio:5.2f}x  {tokens / 1e3:6.0f}K tokens"
        )


def saturated(base: MarkovianRSAConfig, slots: int, count: int, every_s: float, seeds: int) -> None:
    """Print mean latencies of many problems on an engine that is too small for them."""
    for schedule in SCHEDULES:
        config = replace(base, schedule=schedule)
        means, makespans = {}, {}
        for oldest_first in (False, True):
            runs = [
                Simulation(config, log_normal, slots, oldest_first).run(count, every_s, seed)
                for seed in range(seeds)
            ]
            means[oldest_first] = statistics.median(
                statistics.mean(p.ended - p.arrived for p in run) for run in runs
            )
            makespans[oldest_first] = statistics.median(max(p.ended for p in run) for run in runs)
        saved = 1 - means[True] / means[False]
        print(
            f"  {schedule:8} mean latency FIFO {means[False]:6.0f} s, oldest first "
            f"{means[True]:6.0f} s ({-saved:+.0%}); makespan {makespans[False]:6.0f} / "
            f"{makespans[True]:6.0f} s"
        )


def main() -> None:
    """Print every table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="fewer seeds")
    seeds = 20 if parser.parse_args().quick else 200
    base = preset("16k")
    print(f"one problem, N = 16, C = 4, T = 2, stragglers 2000:0.05:8, median of {seeds} seeds")
    one_problem(stragglers, base, seeds)
    print("one problem, log-normal lengths (median 9,000, sigma 0.6), beta 16K, F 40K")
    one_problem(log_normal, base, seeds)
    few = max(1, seeds // 40)
    print(f"30 problems at once, 64 slots, log-normal lengths, median of {few} seeds")
    saturated(base, 64, 30, 0.0, few)
    print("30 problems, one every 25 s, 64 slots")
    saturated(base, 64, 30, 25.0, few)


if __name__ == "__main__":
    main()
