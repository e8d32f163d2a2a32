"""When rounds begin and end: the machine alone, its driver, and the simulation in bench/."""

import asyncio
import gc
import importlib.util
import itertools
import sys
import weakref
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ttc.fake_sampler import FakeSampler, StreamingSampler, no_sleep, words

from openzaya.core.records import Message
from openzaya.core.seeding import stream_seed
from openzaya.ttc import MarkovianRSA, MarkovianRSAConfig, Result
from openzaya.ttc import driver as driver_module
from openzaya.ttc.machine import Call, Cut, Machine
from openzaya.ttc.result import unwritten

QUESTION = (Message("user", "why?"),)
SMALL = MarkovianRSAConfig(
    num_candidates=8, tails_per_prompt=3, rounds=2, budget_tokens=40, tail_tokens=5
)


def simulation():
    """Load bench/ttc_schedules.py, which is no package."""
    path = Path(__file__).parents[2] / "bench" / "ttc_schedules.py"
    spec = importlib.util.spec_from_file_location("ttc_schedules", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def done(call: Call, tail: str = "t", **changes):
    return replace(unwritten(call.plan.place, "stop", 1), text=tail, tail=tail, **changes)


def calls_in(orders):
    return [order for order in orders if isinstance(order, Call)]


def run(config, sampler, **options) -> Result:
    return asyncio.run(MarkovianRSA(config, sleep=no_sleep).run(QUESTION, sampler, **options))


# Async


@given(
    n=st.integers(2, 9),
    c=st.integers(1, 9),
    final=st.none() | st.integers(1, 9),
    rounds=st.integers(1, 3),
    rng=st.randoms(use_true_random=False),
)
@settings(max_examples=80, deadline=None)
def test_under_async_candidate_i_starts_exactly_when_enough_tails_are_there(
    n, c, final, rounds, rng
):
    c = min(c, n)
    config = replace(
        SMALL,
        num_candidates=n,
        tails_per_prompt=c,
        rounds=rounds,
        schedule="async",
        final_candidates=final,
    )
    machine = Machine(config, QUESTION, 3)
    waiting = calls_in(machine.start())
    ended = [0] * (rounds + 1)
    started = [set() for _ in range(rounds + 1)]
    started[0] = set(range(n))
    while waiting:
        call = waiting.pop(rng.randrange(len(waiting)))
        ended[call.plan.place.stage] += 1
        for new in calls_in(machine.finished(done(call), 1.0)):
            place = new.plan.place
            started[place.stage].add(place.slot)
            assert len(place.parents) == c
            waiting.append(new)
        for stage in range(1, rounds + 1):
            width = config.candidates_at(stage)
            chain = c == 1 and width == n
            for slot in range(width):
                need = min(n, max(c, -(-(slot + 1) * n // width)))
                enough = (
                    slot in machine.stages[stage - 1].done if chain else (ended[stage - 1] >= need)
                )
                assert (slot in started[stage]) == enough
    assert machine.is_over
    assert [len(r.candidates) for r in machine.rounds] == [
        config.candidates_at(s) for s in range(rounds + 1)
    ]


def test_under_async_lost_candidates_do_not_hold_the_next_stage_up():
    config = replace(SMALL, schedule="async", rounds=1)
    machine = Machine(config, QUESTION, 0)
    first = calls_in(machine.start())
    later = []
    for call in first:
        slot = call.plan.place.slot
        candidate = done(call, error="down") if slot % 2 else done(call)
        later += calls_in(machine.finished(candidate, 0.0))
    assert {call.plan.place.slot for call in later} == set(range(8))
    assert {p for call in later for p in call.plan.parents} <= {0, 2, 4, 6}


# Quorum


def test_under_quorum_the_stragglers_are_cut_and_their_partial_tails_are_used():
    held = {stream_seed(0, "ttc", "sample", 0, slot) for slot in (1, 6)}

    def script(request, call):
        return "slow " * 40 if request.seed in held else f"w{call} w w </think> 7"

    sampler = StreamingSampler(script, batch=1)
    result = run(replace(SMALL, schedule="quorum", rounds=1), sampler)
    first = result.rounds[0].candidates
    assert [c.finish_reason for c in first] == [
        "abort" if slot in (1, 6) else "stop" for slot in range(8)
    ]
    assert 0 < first[1].num_tokens < 10
    assert set(words(first[1].tail)) == {"slow"}
    assert {1, 6} & {p for c in result.rounds[1].candidates for p in c.parents}
    assert not result.degraded
    assert result.usage.generated == sampler.streamed


def test_a_quorum_is_the_ceiling_of_its_share_and_cuts_once():
    config = replace(SMALL, schedule="quorum", quorum=0.55, rounds=0)
    machine = Machine(config, QUESTION, 0)
    calls = calls_in(machine.start())
    for call in calls[:4]:
        assert machine.finished(done(call), 0.0)[1:] == []
    cuts = [o for o in machine.finished(done(calls[4]), 0.0) if isinstance(o, Cut)]
    assert [cut.slot for cut in cuts] == [5, 6, 7]
    assert not any(isinstance(o, Cut) for o in machine.finished(done(calls[5]), 0.0))


def test_without_cuts_a_quorum_waits_for_all_and_says_so():
    result = run(replace(SMALL, schedule="quorum"), FakeSampler())
    assert [len(r.candidates) for r in result.rounds] == [8, 8, 8]
    assert any("quorum needs a sampler that can be cut" in note for note in result.notes)


def test_a_sampler_that_does_not_obey_a_cut_loses_the_call_but_not_its_words(monkeypatch):
    monkeypatch.setattr(driver_module, "CUT_GRACE_S", 0.01)
    held = {stream_seed(0, "ttc", "sample", 0, slot) for slot in (2, 3)}

    class Deaf(StreamingSampler):
        async def sample_watched(self, request, watch):
            if request.seed not in held:
                return await super().sample_watched(request, watch)
            watch.add("half a thought ", 3)
            return await asyncio.Future()

    config = replace(SMALL, schedule="quorum", rounds=1)
    result = asyncio.run(asyncio.wait_for(MarkovianRSA(config).run(QUESTION, Deaf()), 20))
    lame = result.rounds[0].candidates[2]
    assert (lame.text, lame.num_tokens, lame.finish_reason) == ("half a thought ", 3, "abort")
    assert lame.tail.strip() == "half a thought"


def test_what_watched_a_call_is_freed_with_it_and_waits_for_no_collection():
    """A thousand problems at once would else hold their texts until Python looks for circles."""
    watched = []

    class Noting(StreamingSampler):
        async def sample_watched(self, request, watch):
            watched.append(weakref.ref(watch.cut))
            return await super().sample_watched(request, watch)

    gc.collect()
    gc.disable()
    try:
        run(replace(SMALL, answer_allowance_tokens=3), Noting())
        assert len(watched) == 24
        assert [ref for ref in watched if ref() is not None] == []
    finally:
        gc.enable()


def test_a_call_that_waits_for_its_retry_when_it_is_cut_does_not_hold_the_round_up(monkeypatch):
    monkeypatch.setattr(driver_module, "CUT_GRACE_S", 0.01)
    held = stream_seed(0, "ttc", "sample", 0, 2)

    def script(request, call):
        from openzaya.core.errors import EngineError

        return EngineError("hiccup") if request.seed == held else "a b </think> 7"

    async def for_ever(_seconds):
        await asyncio.Event().wait()

    config = replace(SMALL, schedule="quorum", rounds=1)
    solver = MarkovianRSA(config, sleep=for_ever)
    result = asyncio.run(asyncio.wait_for(solver.run(QUESTION, StreamingSampler(script)), 20))
    assert result.rounds[0].candidates[2].finish_reason == "abort"
    assert result.answer == "7"


# The driver


def test_progress_is_told_to_those_who_ask_and_adds_up():
    events = []
    result = run(SMALL, StreamingSampler(), on_event=events.append, wants_progress=lambda: True)
    told = [e for e in events if type(e).__name__ == "CandidateProgress"]
    for candidate in (c for r in result.rounds for c in r.candidates):
        mine = [e for e in told if (e.stage, e.slot) == (candidate.stage, candidate.slot)]
        assert words("".join(e.text for e in mine)) == words(candidate.text)
        assert mine[-1].num_tokens == candidate.num_tokens
    quiet = []
    run(SMALL, StreamingSampler(), on_event=quiet.append)
    assert not [e for e in quiet if type(e).__name__ == "CandidateProgress"]


def test_who_comes_late_or_looks_away_is_told_what_was_missed():
    events = []
    asked = itertools.count()
    result = run(
        SMALL,
        StreamingSampler(),
        on_event=events.append,
        wants_progress=lambda: next(asked) % 5 > 2,
    )
    told = [e for e in events if type(e).__name__ == "CandidateProgress"]
    assert told
    for candidate in (c for r in result.rounds for c in r.candidates):
        mine = [e for e in told if (e.stage, e.slot) == (candidate.stage, candidate.slot)]
        so_far = words("".join(e.text for e in mine))
        assert so_far == words(candidate.text)[: mine[-1].num_tokens if mine else 0]


@pytest.mark.parametrize("kind", ["CandidateStarted", "CandidateDone", "StageDone", "RunDone"])
def test_an_error_of_the_listener_ends_the_run_and_every_call(kind):
    def listen(event):
        if type(event).__name__ == kind:
            raise ZeroDivisionError

    sampler = StreamingSampler()
    with pytest.raises(ZeroDivisionError):
        run(SMALL, sampler, on_event=listen)
    assert sampler.in_flight == 0


def test_an_error_of_the_listener_while_the_run_is_stopped_does_not_hang():
    def listen(event):
        if type(event).__name__ == "StageDone":
            raise ZeroDivisionError

    async def main():
        stop = asyncio.Event()
        sampler = StreamingSampler()
        sampler.gate = asyncio.Event()
        solver = MarkovianRSA(SMALL)
        running = asyncio.create_task(solver.run(QUESTION, sampler, on_event=listen, stop=stop))
        while sampler.in_flight < 8:
            await asyncio.sleep(0)
        stop.set()
        with pytest.raises(ZeroDivisionError):
            await asyncio.wait_for(running, 20)

    asyncio.run(main())


def test_tokens_of_cancelled_calls_are_counted_as_lost():
    async def main():
        stop = asyncio.Event()

        def listen(event):
            if type(event).__name__ == "CandidateProgress" and event.num_tokens >= 8:
                stop.set()

        sampler = StreamingSampler(lambda r, c: "w " * 40, batch=4)
        result = await MarkovianRSA(SMALL).run(
            QUESTION, sampler, on_event=listen, stop=stop, wants_progress=lambda: True
        )
        return result, sampler

    result, sampler = asyncio.run(main())
    assert result.interrupted
    assert result.usage.lost == sampler.streamed > 0


# The simulation


def test_async_and_quorum_are_faster_than_the_barrier_by_what_the_issue_asks_for():
    bench = simulation()
    walls = {}
    for schedule in bench.SCHEDULES:
        config = replace(bench.preset("16k"), schedule=schedule)
        runs = [
            bench.Simulation(config, bench.stragglers, 512, False).run(1, 0.0, seed)[0].ended
            for seed in range(11)
        ]
        walls[schedule] = sorted(runs)[5]
    assert walls["async"] <= 0.85 * walls["barrier"]
    assert walls["quorum"] <= 0.7 * walls["barrier"]


def test_oldest_first_cuts_the_mean_latency_at_saturation_by_a_fifth():
    bench = simulation()
    config = replace(bench.preset("16k"), num_candidates=8)
    means = []
    for oldest_first in (False, True):
        problems = bench.Simulation(config, bench.log_normal, 24, oldest_first).run(20, 0.0, 0)
        means.append(sum(p.ended - p.arrived for p in problems) / len(problems))
    assert means[1] <= 0.8 * means[0]
