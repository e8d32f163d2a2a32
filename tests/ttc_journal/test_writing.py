"""The writer: what piles up goes out together, a full disk is waited for, news reach followers."""

import asyncio
import gc
import json
import sqlite3
import time

import pytest
from ttc.fake_sampler import FakeSampler
from ttc_journal.journalled import finished, in_rows, opened, run_over, spec

from openzaya.core.errors import EngineError, RequestError
from openzaya.ttc.events import CandidateProgress, CandidateStarted, StageDone
from openzaya.ttc.journal import (
    IdempotencyConflictError,
    Journal,
    JournalError,
    JournalFullError,
    JournalReadOnlyError,
    UnknownRunError,
    writer,
)
from openzaya.ttc.journal.export import export_aggregation, export_runs
from openzaya.ttc.journal.recorder import Recorder
from openzaya.ttc.journal.session import run_recorded
from openzaya.ttc.journal.writer import Write, end_of


async def fill_up(journal):
    """Make the file as good as full, from the thread that owns the connection."""

    def fill(database):
        database.insert("told", [("nobody", 1, "x" * 4_000, None)])  # no room on the last page
        database.execute("PRAGMA max_page_count = 1")

    write = Write(fill, waits=True)
    journal.writer.put(write)
    await asyncio.wrap_future(write.future)


def test_a_full_disk_refuses_new_runs_keeps_running_ones_and_recovers(tmp_path):
    async def main():
        async with opened(str(tmp_path / "runs.sqlite")) as journal:
            running = await journal.begin(spec())
            await journal.flush()
            await fill_up(journal)
            result = await run_over(journal, running.run_id)
            ending = asyncio.create_task(journal.finish(running.run_id, result))
            while journal.writer.trouble is None:
                await asyncio.sleep(0.01)
            with pytest.raises(JournalFullError, match=r"full.*free space.*nothing.*is lost"):
                await journal.begin(spec(seed=6))
            assert (await journal.runs())[0]["id"] == running.run_id
            assert not ending.done()
            make_room(journal)
            await asyncio.wait_for(ending, 20)
            assert (await journal.run(running.run_id))["run"]["answer"] == result.answer
            assert (await journal.begin(spec(seed=6))).is_new
            assert journal.pending_bytes == 0

    asyncio.run(main())


def test_an_answer_outlives_a_disk_that_is_full_at_the_end(tmp_path, caplog):
    async def main():
        async with opened(str(tmp_path / "runs.sqlite"), full_wait_s=0.1) as journal:
            run_id = (await journal.begin(spec())).run_id
            await journal.flush()
            await fill_up(journal)
            result = await run_recorded(journal, run_id, FakeSampler())
            assert result.answer is not None
        return run_id

    run_id = asyncio.run(main())
    assert f"run {run_id} has its answer, but its record does not" in caplog.text


def test_nobody_is_told_of_a_write_that_fails_when_nobody_waits_any_more():
    async def main():
        told = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context))
        write = Write(lambda _database: None)
        waiting = asyncio.create_task(end_of(write))
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.sleep(0)
        write.end(JournalFullError("full"))
        await asyncio.sleep(0.01)
        del write, waiting
        gc.collect()
        return told

    assert not asyncio.run(main())


def test_a_journal_that_may_only_be_read_is_read_and_says_so_when_it_is_written(
    tmp_path, monkeypatch
):
    url = str(tmp_path / "runs.sqlite")

    async def main():
        async with opened(url) as journal:
            run_id, _ = await finished(journal)
        async with opened(url) as journal:
            only_read = Write(lambda db: db.execute("PRAGMA query_only = 1"))
            journal.writer.put(only_read)
            await asyncio.wrap_future(only_read.future)
            with pytest.raises(JournalReadOnlyError, match="can be read here, but not written"):
                await journal.begin(spec())
            assert (await journal.runs())[0]["id"] == run_id

    asyncio.run(main())
    monkeypatch.setattr("openzaya.ttc.journal.database.access", lambda *_: False)
    with pytest.raises(JournalReadOnlyError, match=r"runs\.sqlite can be read here"):
        Journal.open(url, writes=True)


def test_a_run_that_was_about_to_begin_is_refused_when_the_disk_is_found_full(tmp_path):
    async def main():
        async with opened(str(tmp_path / "runs.sqlite")) as journal:
            await journal.begin(spec())
            await fill_up(journal)
            with pytest.raises(JournalFullError, match="free space"):
                await begin_many(journal)
            make_room(journal)
            assert (await journal.begin(spec(seed=999))).is_new

    asyncio.run(main())


def test_a_journal_that_another_program_holds_is_not_called_full(tmp_path):
    async def main():
        path = tmp_path / "runs.sqlite"
        async with opened(str(path)) as journal:
            journal.writer.database.execute("PRAGMA busy_timeout = 1")
            other = sqlite3.connect(path, isolation_level=None)
            other.execute("BEGIN EXCLUSIVE")
            with pytest.raises(JournalFullError, match=r"locked.*end what else holds it"):
                await journal.begin(spec())
            other.close()
            assert (await journal.begin(spec())).is_new

    asyncio.run(main())


async def begin_many(journal):
    for seed in range(200):
        await asyncio.wait_for(journal.begin(spec(question="why " * 400, seed=seed)), 20)


def make_room(journal):
    """Give the space back; the writer's thread is between two tries, and SQLite is serialized."""
    journal.writer.database.execute("PRAGMA max_page_count = 1000000")


def test_the_end_of_a_run_is_reported_as_full_after_a_while_and_written_later(tmp_path):
    async def main():
        async with opened(str(tmp_path / "runs.sqlite"), full_wait_s=0.2) as journal:
            begun = await journal.begin(spec())
            await fill_up(journal)
            result = await run_over(journal, begun.run_id)
            with pytest.raises(JournalFullError):
                await journal.finish(begun.run_id, result)
            make_room(journal)
            await asyncio.wait_for(journal.flush(), 20)
            assert (await journal.run(begun.run_id))["run"]["state"] == "done"

    asyncio.run(main())


def test_a_run_that_outgrows_the_memory_set_aside_fails_clearly(tmp_path):
    async def main():
        async with opened(str(tmp_path / "runs.sqlite"), max_pending_bytes=4_000) as journal:
            begun = await journal.begin(spec())
            await fill_up(journal)
            with pytest.raises(JournalFullError, match=r"full|wait for the journal"):
                await run_over(journal, begun.run_id)
            make_room(journal)
            await asyncio.wait_for(journal.flush(), 20)

    asyncio.run(main())


def test_many_candidates_share_a_commit_and_the_event_loop_never_waits(url):
    async def main():
        async with opened(url) as journal:
            begun = await journal.begin(spec())
            before = journal.writer.num_commits
            result = await run_over(journal, begun.run_id)
            await journal.finish(begun.run_id, result)
            assert journal.writer.num_writes >= 12 * 2
            assert journal.writer.num_commits - before <= 12

    asyncio.run(main())


def test_who_waits_takes_along_what_nobody_waits_for(url, monkeypatch):
    monkeypatch.setattr(writer, "PACE_S", 3600)

    async def main():
        async with opened(url, lease_s=3600) as journal:
            begun = await journal.begin(spec())
            result = await asyncio.wait_for(run_over(journal, begun.run_id), 10)
            before = journal.writer.num_commits
            assert before <= 2
            await asyncio.wait_for(journal.finish(begun.run_id, result), 10)
            assert journal.writer.num_commits == before + 1
            assert len(await journal.events(begun.run_id)) == 1 + 24 + 3 + 1

    asyncio.run(main())


def test_what_is_refused_to_one_disturbs_nobody_who_shares_the_commit(url, monkeypatch):
    async def main():
        async with opened(url, lease_s=3600) as journal:
            done, _ = await finished(journal)
            begun = await journal.begin(spec())
            listen = journal.listener(begun.run_id)
            monkeypatch.setattr(writer, "PACE_S", 3600)
            before = journal.writer.num_commits
            for slot in (0, 1):
                listen(CandidateStarted(0, slot, 7, (), spec().question, 0.5))
            with pytest.raises(RequestError, match="is done"):
                await asyncio.wait_for(journal.acquire(done), 10)
            assert journal.writer.num_commits == before + 1
            assert [e.kind for e in await journal.events(begun.run_id)] == ["candidate"] * 2

    asyncio.run(main())


@pytest.mark.parametrize(
    "odd",
    [StageDone(0, {"7": object()}, 0, 1.0), CandidateStarted(0, 0, 7, (), (), 0.5)],
    ids=["not JSON", "no prompt"],
)
def test_what_cannot_be_written_ends_its_run_and_no_other(url, odd):
    async def main():
        async with opened(url) as journal:
            begun, other = await journal.begin(spec()), await journal.begin(spec())
            lost = asyncio.Event()
            listen = journal.listener(begun.run_id, on_lost=lost.set)
            listen(odd)
            await asyncio.wait_for(lost.wait(), 10)
            with pytest.raises(JournalError, match="bug of openzaya"):
                listen(odd)
            with pytest.raises(JournalError, match="bug of openzaya"):
                await journal.fail(begun.run_id, EngineError("no more"))
            assert (await journal.run(begun.run_id))["run"]["state"] == "queued"
            await journal.finish(other.run_id, await run_over(journal, other.run_id))
            assert journal.pending_bytes == 0

    asyncio.run(main())


def test_a_run_that_is_over_leaves_nothing_to_the_garbage_collector(url):
    async def main():
        async with opened(url) as journal:
            begun = await journal.begin(spec())
            await journal.finish(begun.run_id, await run_over(journal, begun.run_id))
            await journal.flush()
            for _ in range(200):  # the writer's thread may still hold its last batch
                if not any(type(o) is Recorder for o in gc.get_objects()):
                    return
                await asyncio.sleep(0.01)
            raise AssertionError("a Recorder is left")

    gc.collect()
    gc.disable()
    try:
        asyncio.run(main())
    finally:
        gc.enable()


def test_what_still_ran_when_its_stage_or_run_ended_is_told_to_be_cut(url):
    async def main():
        async with opened(url) as journal:
            begun = await journal.begin(spec())
            listen = journal.listener(begun.run_id)
            for slot in (0, 1):
                listen(CandidateStarted(slot, slot, 7, (), spec().question, 0.5))
            listen(StageDone(0, {}, 0, 2.0))
            await journal.flush()
            views = (await journal.run(begun.run_id))["candidates"]
            assert [(v["state"], v["ended_s"]) for v in views] == [("cut", 2.0), ("running", None)]
            await journal.fail(begun.run_id, EngineError("no more"))
            events = await journal.events(begun.run_id)
            states = [e.data["state"] for e in events if e.kind == "candidate"]
            assert states == ["running", "running", "cut", "cut"]
            assert (await journal.recorded(begun.run_id)).finished == []

    asyncio.run(main())


def test_a_follower_sees_everything_in_order_and_ends_with_the_run(url):
    async def main():
        async with opened(url) as journal, opened(url, poll_s=0.02) as elsewhere:
            begun = await journal.begin(spec())

            async def collect(source, after=0):
                return [event async for event in source.follow(begun.run_id, after)]

            here, there = (asyncio.create_task(collect(j)) for j in (journal, elsewhere))
            await asyncio.sleep(0.01)
            result = await run_over(journal, begun.run_id)
            await journal.finish(begun.run_id, result)
            seen = await asyncio.wait_for(here, 10)
            assert [(e.seq, e.kind, e.data) for e in await asyncio.wait_for(there, 10)] == [
                (e.seq, e.kind, e.data) for e in seen
            ]
            assert [e.seq for e in seen] == sorted({e.seq for e in seen})
            kinds = [e.kind for e in seen]
            assert (kinds[0], kinds[-1]) == ("run", "done")
            assert (kinds.count("candidate"), kinds.count("stage")) == (24, 3)
            assert seen[-1].data == (await journal.runs())[0]
            assert await collect(journal, seen[9].seq) == seen[10:]
            assert json.dumps([e.data for e in seen])

    asyncio.run(main())


def test_a_follower_is_let_go_when_nobody_works_on_the_run_any_more(url):
    async def main():
        async with opened(url, poll_s=0.02) as elsewhere:
            async with opened(url) as journal:
                begun = await journal.begin(spec())
            async with asyncio.timeout(10):
                assert [event async for event in elsewhere.follow(begun.run_id)] == []
            (run,) = await elsewhere.runs()
            assert run["state"] == "interrupted"

    asyncio.run(main())


def test_progress_is_kept_while_a_candidate_runs_and_gone_when_it_is_done(url):
    async def main():
        async with opened(url, progress_tokens=4) as journal:
            begun = await journal.begin(spec())
            listen = journal.listener(begun.run_id)
            listen(CandidateStarted(0, 0, 7, (), spec().question, 0.5))
            for number in range(1, 11):
                listen(CandidateProgress(0, 0, f"w{number} ", number, number / 10))
            await journal.flush()
            news = [e for e in await journal.events(begun.run_id) if e.kind == "progress"]
            told = [{"stage": 0, "slot": 0, "num_tokens": count} for count in (1, 5, 9)]
            assert [e.data for e in news] == told
            found = await journal.candidate(begun.run_id, 0, 0)
            assert (found["state"], found["text"]) == ("running", "w1 w2 w3 w4 w5 w6 w7 w8 w9 ")
            await journal.finish(begun.run_id, await run_over(journal, begun.run_id))
            kinds = {e.kind for e in await journal.events(begun.run_id)}
            assert "progress" not in kinds
            assert in_rows(url, "SELECT COUNT(*) FROM delta") == [(0,)]

    asyncio.run(main())


def test_old_runs_surplus_runs_and_runs_beyond_the_size_are_forgotten(url):
    async def main():
        async with opened(url) as journal:
            ids = [(await finished(journal, seed=n))[0] for n in range(6)]
            live = (await journal.begin(spec())).run_id
            in_rows(url, "UPDATE run SET created_s = ? WHERE id = ?", (time.time() - 9_999, ids[3]))
            assert await journal.prune(older_than_s=5_000) == 1
            assert await journal.prune(keep=4) == 2
            assert [r["id"] for r in await journal.runs()] == [live, ids[5], ids[4], ids[2]]
            assert await journal.prune(ids=(ids[4], live)) == 1
            assert await journal.prune(max_bytes=0) == 2
            assert [r["id"] for r in await journal.runs()] == [live]
            assert in_rows(url, "SELECT COUNT(*) FROM told") == [(0,)]

    asyncio.run(main())


@pytest.mark.parametrize("export", [export_runs, export_aggregation])
def test_an_export_goes_on_when_a_run_is_forgotten_meanwhile(url, export):
    def id_of(line):
        return line["run"]["id"] if "run" in line else line["key"].partition("/")[0]

    async def main():
        async with opened(url) as journal:
            old, gone, new = [(await finished(journal, seed=n))[0] for n in range(3)]
            lines = export(journal)
            assert id_of(await anext(lines)) == new
            await journal.prune(ids=(gone,))
            assert {id_of(line) async for line in lines} - {new} == {old}
            with pytest.raises(UnknownRunError):
                await anext(export(journal, ids=(gone,)))

    asyncio.run(main())


def test_a_key_is_found_again_and_refused_for_another_request(url):
    async def main():
        async with opened(url) as journal, opened(url) as other:
            given = spec(key="k", tenant="a")
            run_id = (await journal.begin(given)).run_id
            found = await other.find("a", "k", given.fingerprint)
            assert (found.run_id, found.is_new, found.state) == (run_id, False, "queued")
            assert await other.find("b", "k", given.fingerprint) is None
            assert await other.find("a", "l", given.fingerprint) is None
            with pytest.raises(IdempotencyConflictError):
                await other.find("a", "k", "another")

    asyncio.run(main())


def test_a_reader_whose_server_was_away_reads_again(url):
    if not url.startswith("postgres"):
        pytest.skip("a file has no server")

    async def main():
        async with opened(url) as journal:
            run_id, _ = await finished(journal)
            others = "pid <> pg_backend_pid() AND datname = current_database()"
            in_rows(url, f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE {others}")
            assert (await journal.run(run_id))["run"]["state"] == "done"
            assert (await finished(journal, seed=7))[0] in [r["id"] for r in await journal.runs()]

    asyncio.run(main())


def test_a_closed_journal_says_so(url):
    async def main():
        async with opened(url) as journal:
            pass
        with pytest.raises(JournalError, match="closed"):
            await journal.begin(spec())
        with pytest.raises(JournalError, match="closed"):
            await journal.runs()

    asyncio.run(main())
