"""A run that was killed anywhere goes on to the very result that it would have had."""

import asyncio
from dataclasses import replace

import pytest
from ttc.fake_sampler import FakeSampler, StreamingSampler, no_sleep, think_then_answer

from openzaya.core.errors import UpstreamError as Upstream
from openzaya.core.seeding import stream_seed
from openzaya.ttc import (
    CandidateDone,
    CandidateStarted,
    MarkovianRSA,
    MarkovianRSAConfig,
    Recorded,
    StageDone,
)

SMALL = MarkovianRSAConfig(
    num_candidates=4, tails_per_prompt=2, rounds=2, budget_tokens=20, tail_tokens=5
)
LOST = {stream_seed(0, "ttc", "sample", 0, 1), stream_seed(0, "ttc", "sample", 2, 3)}


def script(request, call):
    return Upstream("down") if request.seed in LOST else think_then_answer(request, call)


def backwards(request, _call):
    """Who wrote much in `think_then_answer` writes little, and the other way round."""
    return "w " * (2 + (97 - request.seed % 40) % 40) + "</think> 1"


def run(config, sampler, **options):
    events = []
    rsa = MarkovianRSA(config, sleep=no_sleep)
    result = asyncio.run(rsa.run("why?", sampler, on_event=events.append, **options))
    return result, events


@pytest.mark.parametrize("sampler_class", [FakeSampler, StreamingSampler])
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"subset": "balanced", "order": "cache"},
        {"subset": "diverse", "copy_agreed": True},
        {"consensus": 0.9, "aggregate": False},
        {"tails_per_prompt": 1, "max_total_tokens": 150},
    ],
)
def test_a_run_cut_at_any_event_goes_on_to_the_same_result(sampler_class, changes):
    config = replace(SMALL, **changes)
    if "max_total_tokens" in changes and sampler_class is StreamingSampler:
        pytest.skip("where calls are cut, a cap falls at other places of other schedules")
    whole, events = run(config, sampler_class(script))
    for cut in range(len(events) + 1):
        recorded = Recorded.of(events[:cut])
        sampler = sampler_class(script)
        result, told = run(config, sampler, recorded=recorded)
        assert result == whole
        done_before = {(c.stage, c.slot) for c in recorded.finished}
        again = {e.seed for e in told if isinstance(e, CandidateStarted) and not e.recorded}
        old_seeds = {c.seed for c in recorded.finished}
        assert not old_seeds & {r.seed for r in sampler.requests}
        assert not old_seeds & again
        retold = [e for e in told if isinstance(e, CandidateDone) and e.recorded]
        assert {(e.stage, e.slot) for e in retold} == done_before
        assert [e.at for e in told] == sorted(e.at for e in told)
        assert told[0].at >= recorded.elapsed_s


@pytest.mark.parametrize("schedule", ["async", "quorum"])
def test_started_candidates_keep_their_parents_under_every_schedule(schedule):
    config = replace(SMALL, schedule=schedule)
    _, events = run(config, StreamingSampler())
    for cut in range(len(events)):
        recorded = Recorded.of(events[:cut])
        # Others are fast now, so fresh draws would see other tails.
        result, _ = run(config, StreamingSampler(backwards, batch=1), recorded=recorded)
        now = {(c.stage, c.slot): c for r in result.rounds for c in r.candidates}
        for begun in (e for e in events[:cut] if isinstance(e, CandidateStarted)):
            assert now[begun.stage, begun.slot].parents == begun.parents
        for candidate in recorded.finished:
            assert now[candidate.stage, candidate.slot] == candidate


def test_a_run_whose_every_candidate_had_failed_still_raises():
    dead = FakeSampler(lambda r, c: Upstream("nobody home"))
    events = []
    with pytest.raises(Upstream, match="nobody home"):
        asyncio.run(MarkovianRSA(SMALL, sleep=no_sleep).run("why?", dead, on_event=events.append))
    with pytest.raises(Upstream, match="nobody home"):
        run(SMALL, FakeSampler(), recorded=Recorded.of(events))


def test_stages_that_were_complete_are_told_again():
    _, events = run(SMALL, FakeSampler())
    cut = next(i for i, e in enumerate(events) if isinstance(e, StageDone))
    _, told = run(SMALL, FakeSampler(), recorded=Recorded.of(events[:cut]))
    assert [e.stage for e in told if isinstance(e, StageDone)] == [0, 1, 2]
