"""A run goes on where its record stands."""

import asyncio
from dataclasses import replace

import pytest
from ttc.fake_sampler import FakeSampler
from ttc_journal.journalled import SMALL, abandoned, expire, finished, opened, run_over, spec

from openzaya.core.errors import EngineError, RequestError
from openzaya.core.records import Served as ServedBy
from openzaya.ttc import MarkovianRSA
from openzaya.ttc.journal import LeaseHeldError, LeaseLostError
from openzaya.ttc.strategies import config_from, strategies


def test_an_uninterrupted_run_is_recorded_whole_and_read_back_the_same(url):
    async def main():
        async with opened(url) as journal:
            run_id, result = await finished(journal)
            recorded = await journal.recorded(run_id)
            candidates = [c for r in result.rounds for c in r.candidates]
            assert sorted(recorded.finished, key=lambda c: (c.stage, c.slot)) == candidates
            assert (await journal.spec(run_id)).config == SMALL
            assert (await journal.spec(run_id)).question == spec().question

    asyncio.run(main())


@pytest.mark.parametrize("strategy", strategies)
def test_a_run_of_every_strategy_is_read_back_with_its_settings(url, strategy):
    async def main():
        config = config_from({"strategy": strategy, "budget_tokens": 60}, SMALL)
        async with opened(url) as journal:
            run_id, _ = await finished(journal, config=config)
            assert (await journal.spec(run_id)).config == config

    asyncio.run(main())


@pytest.mark.parametrize("after", [0, 1, 3, 4, 6, 9, 11])
def test_a_dropped_run_goes_on_and_gives_the_same_answer_without_repeating_a_call(url, after):
    async def main():
        whole = await MarkovianRSA(SMALL).run("what is it?", FakeSampler(), seed=5)
        async with opened(url) as journal:
            run_id, before = await abandoned(journal, after)
        async with opened(url) as journal:
            left = await journal.run(run_id)
            assert left["run"]["state"] == "interrupted"
            assert {c["state"] for c in left["candidates"]} <= {"done", "cut"}
            assert left["run"]["calls"] == after
            await journal.acquire(run_id)
            num_done = len((await journal.recorded(run_id)).finished)
            later = FakeSampler()
            result = await run_over(journal, run_id, later)
            await journal.finish(run_id, result)
            assert num_done == len(before.requests) == after
            assert len(later.requests) == 12 - after
            assert not {r.seed for r in later.requests} & {r.seed for r in before.requests}
            assert result.to_json()["rounds"] == whole.to_json()["rounds"]
            assert result.answer == whole.answer
            detail = await journal.run(run_id)
            assert [c["state"] for c in detail["candidates"]] == ["done"] * 12
            assert detail["run"]["calls"] == 12

    asyncio.run(main())


def test_a_finished_run_cannot_be_taken_over_and_an_interrupted_one_can(url):
    async def main():
        async with opened(url) as journal:
            run_id, _ = await finished(journal)
            with pytest.raises(RequestError, match="is done"):
                await journal.acquire(run_id)
            begun = await journal.begin(spec())
            stop = asyncio.Event()
            stop.set()
            result = await run_over(journal, begun.run_id, stop=stop)
            await journal.finish(begun.run_id, result)
            assert (await journal.run(begun.run_id))["run"]["state"] == "interrupted"
            assert (await journal.acquire(begun.run_id)).epoch == 2

    asyncio.run(main())


def test_a_live_owner_keeps_its_run_and_a_closed_or_expired_one_loses_it(url):
    async def main():
        async with opened(url, lease_s=60) as first, opened(url) as second:
            begun = await first.begin(spec())
            with pytest.raises(LeaseHeldError, match="being worked on"):
                await second.acquire(begun.run_id)
            await first.close()
            assert (await second.run(begun.run_id))["run"]["state"] == "interrupted"
            lease = await second.acquire(begun.run_id)
            assert lease.epoch == 2
        async with opened(url) as hung, opened(url) as other:
            begun = await hung.begin(spec())
            expire(url, begun.run_id)
            assert (await other.acquire(begun.run_id)).epoch == 2

    asyncio.run(main())


def test_a_stale_owners_writes_are_refused_and_its_run_ends(url):
    async def main():
        async with opened(url) as stale, opened(url) as fresh:
            run_id, _ = await abandoned(stale, 6)
            lost = asyncio.Event()
            listener = stale.listener(run_id, on_lost=lost.set)
            expire(url, run_id)
            await fresh.acquire(run_id)
            good = await run_over(fresh, run_id)
            await fresh.flush()
            before = await fresh.events(run_id)
            listener(stale_event())
            await asyncio.wait_for(lost.wait(), 10)
            with pytest.raises(LeaseLostError, match="taken over"):
                listener(stale_event())
            with pytest.raises(LeaseLostError):
                await stale.finish(run_id, good)
            assert await fresh.events(run_id) == before
            assert (await fresh.run(run_id))["run"]["state"] == "running"
            await fresh.finish(run_id, good)

    asyncio.run(main())


def stale_event():
    from openzaya.ttc.events import StageDone

    return StageDone(0, {"wrong": 4}, 99, 1.0)


class Served(FakeSampler):
    """Completes over a network, so to say, at the second try."""

    async def sample(self, request):
        completion = await super().sample(request)
        served = ServedBy("http://one", "big", 2, 0.1, 0.2, num_cached_tokens=3)
        return replace(completion, served=served)


def test_who_served_a_candidate_is_recorded_and_counted_over_a_resume(url):
    async def main():
        async with opened(url) as journal:
            run_id, _ = await abandoned(journal, 6, sampler=Served)
        async with opened(url) as journal:
            await journal.acquire(run_id)
            result = await run_over(journal, run_id, Served())
            assert result.usage.calls == 24
            assert result.usage.failed_calls == 12
            await journal.finish(run_id, result)
            detail = await journal.run(run_id)
            assert detail["run"]["usage"]["cached"] == 36
            assert (detail["run"]["calls"], detail["run"]["failed_calls"]) == (24, 12)
            for view in detail["candidates"]:
                assert (view["upstream"], view["model"]) == ("http://one", "big")
                assert (view["cached_tokens"], view["attempts"]) == (3, 2)
                assert view["began_s"] == pytest.approx(view["queued_s"] + 0.1)
                assert view["first_token_s"] == pytest.approx(view["queued_s"] + 0.2)
            assert "served" not in str(result.to_json())

    asyncio.run(main())


def test_the_failed_candidates_of_a_failed_run_are_tried_again(url):
    async def main():
        async with opened(url) as journal:
            begun = await journal.begin(spec())
            broken = FakeSampler(lambda _request, _call: EngineError("out of luck"))
            with pytest.raises(EngineError) as caught:
                await run_over(journal, begun.run_id, broken)
            await journal.fail(begun.run_id, caught.value)
            views = (await journal.run(begun.run_id))["candidates"]
            assert [v["state"] for v in views] == ["failed"] * 4
            await journal.acquire(begun.run_id)
            recorded = await journal.recorded(begun.run_id)
            assert (len(recorded.started), recorded.finished) == (4, [])
            sampler = FakeSampler()
            result = await run_over(journal, begun.run_id, sampler)
            await journal.finish(begun.run_id, result)
            assert len(sampler.requests) == 12
            prompt = (await journal.candidate(begun.run_id, 0, 0))["prompt"]
            assert prompt[-1]["content"] == "what is it?"

    asyncio.run(main())


def test_cancelling_shuts_the_owner_out_and_a_cancelled_run_can_be_resumed(url):
    async def main():
        async with opened(url, lease_s=0.3) as owner, opened(url) as other:
            begun = await owner.begin(spec())
            lost = asyncio.Event()
            owner.listener(begun.run_id, on_lost=lost.set)
            assert await other.cancel(begun.run_id)
            assert not await other.cancel(begun.run_id)
            assert (await other.run(begun.run_id))["run"]["state"] == "cancelled"
            await asyncio.wait_for(lost.wait(), 10)
            await other.acquire(begun.run_id)
            await other.finish(begun.run_id, await run_over(other, begun.run_id))
            assert (await other.run(begun.run_id))["run"]["state"] == "done"

    asyncio.run(main())
