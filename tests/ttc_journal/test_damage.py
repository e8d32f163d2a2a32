"""A damaged row loses what it held and nothing else; resuming generates exactly that again."""

import asyncio
import json

import pytest
from ttc.fake_sampler import FakeSampler
from ttc_journal.journalled import finished, in_rows, opened, run_over

from openzaya.core.errors import RequestError
from openzaya.ttc.journal import JournalDamagedError, UnknownRunError
from openzaya.ttc.journal.export import export_aggregation, export_runs


def rows_of(url, run_id):
    """The rows of `told`: number, places of the candidates that end in it, whether it has text."""
    found = in_rows(
        url, "SELECT seq, body, content FROM told WHERE run = ? ORDER BY seq", (run_id,)
    )
    return [
        (
            seq,
            [tuple(e[4:6]) for e in json.loads(body[8:]) if e[1] == "candidate" and len(e) > 10],
            bool(content),
        )
        for seq, body, content in found
    ]


def damage(url, run_id, seq, column):
    sql = f"UPDATE told SET {column} = {column} || '!' WHERE run = ? AND seq = ?"
    in_rows(url, sql, (run_id, seq))


def flushing(journal):
    """A sampler whose calls end one by one, with a commit in between: the run has many rows."""
    turn = asyncio.Lock()

    class Flushing(FakeSampler):
        async def sample(self, request):
            async with turn:
                await asyncio.sleep(0.001)  # until the end of the call before is told
                await journal.flush()
                return await super().sample(request)

    return Flushing()


async def two_runs(url):
    """The ids of two runs that are done, read by nobody yet, and the result of the first."""
    async with opened(url) as journal:
        broken, result = await finished(journal, flushing(journal))
        whole, _ = await finished(journal, seed=6)
    return broken, whole, result


async def resumed(url, run_id):
    """Go on with a run; return the calls that it took and its result."""
    async with opened(url) as journal:
        await journal.acquire(run_id)
        sampler = FakeSampler()
        result = await run_over(journal, run_id, sampler)
        await journal.finish(run_id, result)
        return sampler.requests, result


@pytest.mark.parametrize("column", ["body", "content"])
def test_each_row_can_be_lost_and_only_what_it_held_is_generated_again(url, column):
    async def main():
        broken, whole, result = await two_runs(url)
        rows = rows_of(url, broken)
        assert len(rows) > 8
        assert sum(len(ends) for _, ends, _ in rows) == 12
        seeds = {(c.stage, c.slot): c.seed for r in result.rounds for c in r.candidates}
        lost_somewhere = set()
        for seq, ends, has_text in rows:
            if column == "content" and not has_text:
                continue
            damage(url, broken, seq, column)
            async with opened(url) as journal:
                detail = await journal.run(broken)
                name = f"row {broken}/{seq}"
                if column == "body":
                    assert len(detail["damage"]) == 1
                    assert detail["damage"][0].startswith(f"{name} is damaged: ")
                    assert f"`openzaya runs resume {broken}`" in detail["damage"][0]
                    left = {(c["stage"], c["slot"]) for c in detail["candidates"]}
                    assert left >= seeds.keys() - set(ends)
                    for found in await journal.candidates(broken):
                        quoted = {(found["stage"] - 1, parent) for parent in found["parents"]}
                        if quoted & set(ends):
                            assert name in found["damage"]
                            assert found["prompt"] == []
                else:
                    assert detail["damage"] == []
                    marked = {
                        (c["stage"], c["slot"])
                        for c in await journal.candidates(broken)
                        if c["damage"].startswith(f"{name}/content is damaged: ")
                    }
                    assert marked >= set(ends)
                    for place in ends:
                        with pytest.raises(JournalDamagedError, match=f"{name}/content is damaged"):
                            await journal.candidate(broken, *place, prompt=False)
                finished_places = {
                    (c.stage, c.slot) for c in (await journal.recorded(broken)).finished
                }
                assert finished_places == seeds.keys() - set(ends)
                assert (await journal.run(whole))["damage"] == []
                assert [r["id"] for r in await journal.runs()] == [whole, broken]
            lost_somewhere |= set(ends)
            if column == "content" and not ends:  # only the frame of prompts: no call is lost
                assert marked
                continue
            calls, again = await resumed(url, broken)
            assert sorted(c.seed for c in calls) == sorted(seeds[place] for place in ends)
            assert again.to_json()["rounds"] == result.to_json()["rounds"]
            assert again.answer == result.answer
            async with opened(url) as journal:
                assert (await journal.run(broken))["damage"] == []
                for place in seeds:
                    await journal.candidate(broken, *place, prompt=False)
        assert lost_somewhere == seeds.keys()

    asyncio.run(main())


def test_a_whole_run_that_is_done_is_still_not_taken_over(url):
    async def main():
        broken, _, _ = await two_runs(url)
        damage(url, broken, rows_of(url, broken)[1][0], "body")
        await resumed(url, broken)
        async with opened(url) as journal:
            with pytest.raises(RequestError, match="is done"):
                await journal.acquire(broken)

    asyncio.run(main())


@pytest.mark.parametrize("column", ["body", "content"])
def test_exports_go_on_and_tell_of_what_is_missing(url, column):
    async def main():
        broken, whole, result = await two_runs(url)
        last = {(2, c.slot) for c in result.rounds[2].candidates}
        seq, ends = next((s, e) for s, e, _ in rows_of(url, broken) if last & set(e))
        damage(url, broken, seq, column)
        told = []
        async with opened(url) as journal:
            exported = [line async for line in export_runs(journal, on_damage=told.append)]
            assert [line["run"]["id"] for line in exported] == [whole, broken]
            assert len(told) >= 1
            assert all(f"row {broken}/{seq}" in text for text in told)
            assert len(set(told)) == len(told)
            texts = {
                (c["stage"], c["slot"]): c["text"] for c in exported[1]["candidates"] if c["text"]
            }
            expected = {(c.stage, c.slot): c.text for r in result.rounds for c in r.candidates}
            assert texts == {p: text for p, text in expected.items() if p not in ends}
            examples = [line async for line in export_aggregation(journal)]
            keys = {line["key"] for line in examples}
            assert all(line["messages"][-1]["content"] for line in examples)
            assert {f"{whole}/{s}/{n}" for s in (1, 2) for n in range(4)} <= keys
            assert not keys & {f"{broken}/{stage}/{slot}" for stage, slot in ends}

    asyncio.run(main())


def test_a_run_whose_beginning_is_damaged_is_listed_by_name_and_cannot_be_resumed(url):
    async def main():
        broken, whole, result = await two_runs(url)
        sql = "UPDATE document SET body = body || '!' WHERE run = ? AND kind = 'spec'"
        in_rows(url, sql, (broken,))
        async with opened(url) as journal:
            good, bad = await journal.runs()
            assert (good["id"], good["error"]) == (whole, "")
            assert (bad["id"], bad["state"], bad["answer"]) == (broken, "done", result.answer)
            for text in (bad["error"], *(await journal.run(broken))["damage"]):
                assert f"row {broken}/spec is damaged: its text has the checksum" in text
                assert f"`openzaya runs prune --id {broken}`" in text
            assert len(await journal.candidates(broken)) == 12
            with pytest.raises(JournalDamagedError, match=f"row {broken}/spec"):
                await journal.acquire(broken)
            assert await journal.prune(ids=(broken,)) == 1

    asyncio.run(main())


def test_a_damaged_outcome_is_found_again_without_a_call(url):
    async def main():
        broken, _, result = await two_runs(url)
        sql = "UPDATE document SET body = body || '!' WHERE run = ? AND kind = 'outcome'"
        in_rows(url, sql, (broken,))
        async with opened(url) as journal:
            bad = (await journal.runs())[1]
            assert bad["answer"] is None
            assert f"row {broken}/outcome is damaged" in bad["error"]
            assert bad["usage"]["generated"] == result.usage.generated
        calls, again = await resumed(url, broken)
        assert (list(calls), again.answer) == ([], result.answer)
        async with opened(url) as journal:
            shown = (await journal.runs())[1]
            assert (shown["answer"], shown["error"]) == (result.answer, "")

    asyncio.run(main())


def test_bytes_that_are_no_text_and_line_feeds_harm_only_their_row(tmp_path):
    url = str(tmp_path / "runs.sqlite")

    async def main():
        broken, _, _ = await two_runs(url)
        rows = rows_of(url, broken)
        for sql, (seq, _, _) in zip(
            (
                "UPDATE told SET body = CAST(x'ff' || body AS TEXT) WHERE run = ? AND seq = ?",
                "UPDATE told SET body = replace(body, ',', char(10)) WHERE run = ? AND seq = ?",
                "UPDATE told SET body = '' WHERE run = ? AND seq = ?",
            ),
            rows[1:],
            strict=False,
        ):
            in_rows(url, sql, (broken, seq))
        async with opened(url) as journal:
            detail = await journal.run(broken)
            for seq, _, _ in rows[1:4]:
                assert sum(f"row {broken}/{seq} is damaged" in d for d in detail["damage"]) == 1
            assert len(detail["damage"]) == 3
            events = [event.seq for event in await journal.events(broken)]
            assert events == sorted(events)
            assert events[-1] == rows[-1][0]

    asyncio.run(main())


def test_a_candidate_that_a_damaged_row_held_is_said_to_be_lost(url):
    async def main():
        broken, _, _ = await two_runs(url)
        for seq, _, _ in rows_of(url, broken):
            damage(url, broken, seq, "body")
        async with opened(url) as journal:
            assert (await journal.run(broken))["candidates"] == []
            with pytest.raises(UnknownRunError, match=f"no candidate 0/1; row {broken}/.* damaged"):
                await journal.candidate(broken, 0, 1)
        calls, _ = await resumed(url, broken)
        assert len(calls) == 12

    asyncio.run(main())
