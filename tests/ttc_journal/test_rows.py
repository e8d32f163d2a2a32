"""What the journal stores is what it was told, and damage is found out and named."""

import asyncio
import json
import re
import sqlite3
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ttc.fake_sampler import FakeSampler
from ttc_journal.journalled import finished, in_rows, opened, spec

from openzaya.core.errors import ConfigError, EngineError
from openzaya.core.records import Message
from openzaya.text.tails import aggregation_messages
from openzaya.ttc.config import MarkovianRSAConfig
from openzaya.ttc.journal import (
    IdempotencyConflictError,
    Journal,
    JournalDamagedError,
    JournalError,
    RunSpec,
    UnknownRunError,
)
from openzaya.ttc.journal.opening import open_database
from openzaya.ttc.journal.prompts import Frame, text_of, texts_of
from openzaya.ttc.journal.sealed import seal, seal_text, unseal, unseal_text
from openzaya.ttc.place import Place
from openzaya.ttc.result import unwritten

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(st.characters()),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=8,
)


@pytest.mark.parametrize(
    "rest", ["me:canary@127.0.0.1:1/x", "me:canary@[::1/x", "me:canary%zz@h/x"]
)
def test_a_password_in_an_address_that_does_not_work_is_not_told(rest):
    pytest.importorskip("psycopg")
    with pytest.raises(JournalError, match="cannot be opened") as caught:
        open_database(f"postgresql://{rest}")
    assert "canary" not in str(caught.value)


@given(JSON)
def test_a_sealed_value_comes_back_surrogates_and_all(value):
    sealed = seal(value, "run", 3)
    sealed.encode()
    assert "\0" not in sealed
    assert unseal(sealed, "run", 3) == value


@given(st.text(st.characters()))
def test_a_sealed_text_comes_back_whatever_it_holds(text):
    sealed = seal_text(text, "run", 3)
    sealed.encode()
    assert "\0" not in sealed
    assert unseal_text(sealed, "run", 3) == text
    with pytest.raises(JournalDamagedError, match="row run/3 is damaged"):
        unseal_text(sealed + " ", "run", 3)


@given(st.text(min_size=1), st.integers(0, 10_000), st.integers(1, 255))
def test_a_changed_moved_or_torn_row_is_refused_by_name(text, at, flip):
    sealed = seal({"text": text}, "run", 1, 2)
    with pytest.raises(JournalDamagedError, match="row run/1/3"):
        unseal(sealed, "run", 1, 3)
    with pytest.raises(JournalDamagedError, match="row run/1/2 is damaged"):
        unseal(sealed[:-1], "run", 1, 2)
    at %= len(sealed)
    changed = sealed[:at] + chr(ord(sealed[at]) ^ flip) + sealed[at + 1 :]
    with pytest.raises(JournalDamagedError, match="row run/1/2 is damaged"):
        unseal(changed, "run", 1, 2)


@given(st.lists(st.text("ab \n"), min_size=1, max_size=4), st.text("ab", min_size=1), st.booleans())
def test_a_prompt_is_kept_without_its_tails_and_comes_back_whole(tails, question, is_joined):
    messages = aggregation_messages((Message("user", question),), tails)
    if not is_joined:
        messages = (Message("user", messages[-1].content[:]),)
    frame = Frame.from_text(Frame.of(messages, tails).to_text())
    assert frame.fits(messages, tails)
    assert frame.prompt(tails)[-1]["content"] == messages[-1].content


def test_the_frame_of_a_prompt_fits_other_tails_and_no_other_question():
    question = (Message("user", "what is it, a tail?"),)
    first, second = (aggregation_messages(question, tails) for tails in (("a", "b"), ("bb", "c")))
    frame = Frame.of(first, ("a", "b"))
    assert frame.fits(second, ("bb", "c"))
    assert not frame.fits(second, ("bb", "d"))
    other = aggregation_messages((Message("user", "what is that?"),), ("a", "b"))
    assert not frame.fits(other, ("a", "b"))


@given(st.text("ab "), st.text("ab "), st.text("ab "), st.text("ab "))
def test_the_texts_of_a_candidate_come_back_wherever_they_are(whole, thinking, answer, tail):
    candidate = replace(
        unwritten(Place(0, 0, 1, ()), "stop"),
        text=whole,
        thinking=thinking,
        answer_text=answer,
        tail=tail,
    )
    text, spans = text_of(candidate)
    parts = {"text": whole, "thinking": thinking, "answer_text": answer, "tail": tail}
    assert texts_of(text, spans) == parts
    if all(part in whole for part in parts.values()):
        assert text == whole


def test_every_prompt_is_shown_as_it_was_asked_and_tails_are_stored_once(url):
    async def main():
        sampler = FakeSampler()
        async with opened(url) as journal:
            run_id, result = await finished(journal, sampler)
            asked = {r.seed: r.messages[-1].content for r in sampler.requests}
            all_found = await journal.candidates(run_id)
            assert len(all_found) == sum(len(entry.candidates) for entry in result.rounds)
            for entry in result.rounds:
                for candidate in entry.candidates:
                    found = await journal.candidate(run_id, candidate.stage, candidate.slot)
                    assert found in all_found
                    assert found["prompt"][-1]["content"] == asked[candidate.seed]
                    brief = await journal.candidate(
                        run_id, candidate.stage, candidate.slot, prompt=False
                    )
                    assert {**brief, "prompt": found["prompt"]} == found
                    for part in ("text", "thinking", "answer_text", "tail"):
                        assert found[part] == getattr(candidate, part)
            tail = result.rounds[0].candidates[0].tail
        assert len(tail) > 20
        stored = in_rows(url, "SELECT body, content FROM told")
        assert sum(tail in (content or "") for _, content in stored) == 1
        assert not any(tail in body for body, _ in stored)
        entries = [entry for body, _ in stored for entry in json.loads(body[8:])]
        begun = [entry for entry in entries if entry[1] == "candidate" and len(entry) == 10]
        assert len(begun) == 12
        assert sum(entry[3] > 0 for entry in begun) == 2  # frames without tails, with two

    asyncio.run(main())


def test_views_of_a_done_run_agree_with_its_result(url):
    async def main():
        async with opened(url) as journal:
            run_id, result = await finished(journal, question="q" * 300)
            detail = await journal.run(run_id)
            shown = detail["run"]
            assert shown == (await journal.runs())[0]
            assert shown["state"] == "done"
            assert shown["question"] == "q" * 200
            assert (shown["answer"], shown["why"]) == (result.answer, result.why)
            assert shown["usage"]["generated"] == result.usage.generated
            assert shown["usage"]["generated_by_stage"] == list(result.usage.generated_by_stage)
            assert (shown["calls"], shown["failed_calls"]) == (12, 0)
            assert shown["preview"]["calls"] == 12
            assert detail["winner"] == {"stage": 2, "slot": result.chosen.slot}
            assert [s["answers"] for s in detail["stages"]] == [
                dict(r.answers) for r in result.rounds
            ]
            assert detail["seed"] == 5
            assert detail["changed"] == {
                "num_candidates": 16,
                "tails_per_prompt": 4,
                "budget_tokens": 40_960,
                "tail_tokens": 4_096,
                "max_attempts": 3,
            }
            parents = [tuple(c["parents"]) for c in detail["candidates"]]
            assert parents == [c.parents for r in result.rounds for c in r.candidates]
            ends = [c["ended_s"] for c in detail["candidates"]]
            assert 0 <= min(ends) <= max(ends) <= shown["elapsed_s"]

    asyncio.run(main())


def test_a_run_that_ended_here_is_shown_as_its_rows_show_it(url):
    async def main():
        async with opened(url) as journal:
            run_id, result = await finished(journal)
            place = (result.chosen.stage, result.chosen.slot)
            here = await journal.run(run_id), await journal.candidate(run_id, *place)
            async with opened(url) as other:
                there = await other.run(run_id), await other.candidate(run_id, *place)
                assert here == there
                assert await other.prune(ids=(run_id,)) == 1
            with pytest.raises(UnknownRunError):
                await journal.run(run_id)
            with pytest.raises(UnknownRunError):
                await journal.candidate(run_id, *place)

    asyncio.run(main())


def test_runs_are_listed_newest_first_in_pages_by_state_and_tenant(url):
    async def main():
        async with opened(url) as journal:
            ids = [(await finished(journal, seed=n, tenant=f"t{n % 2}"))[0] for n in range(4)]
            failed = await journal.begin(spec(seed=9))
            await journal.fail(failed.run_id, EngineError("out of luck"))
            waiting = await journal.begin(spec(seed=10))
            newest = [waiting.run_id, failed.run_id, *reversed(ids)]
            assert [r["id"] for r in await journal.runs()] == newest
            assert [r["id"] for r in await journal.runs(2, newest[1])] == newest[2:4]
            assert [r["id"] for r in await journal.runs(state="failed")] == [failed.run_id]
            assert [r["id"] for r in await journal.runs(state="queued")] == [waiting.run_id]
            assert [r["id"] for r in await journal.runs(tenant="t1")] == [ids[3], ids[1]]
            assert "out of luck" in (await journal.run(failed.run_id))["run"]["error"]

    asyncio.run(main())


def test_an_idempotency_key_names_one_run_and_refuses_another_request(url):
    async def main():
        async with opened(url) as journal, opened(url) as other:
            first = await journal.begin(spec(key="k"))
            again = await other.begin(spec(key="k"))
            assert (again.run_id, again.is_new, again.lease) == (first.run_id, False, None)
            with pytest.raises(IdempotencyConflictError, match="another request"):
                await other.begin(spec(question="something else", key="k"))
            assert (await other.begin(spec(key="k", tenant="b"))).is_new
            assert (await other.begin(spec())).is_new

    asyncio.run(main())


def test_unknown_runs_and_candidates_are_said_to_be_so(url):
    async def main():
        async with opened(url) as journal:
            run_id, _ = await finished(journal)
            with pytest.raises(UnknownRunError, match="no run 'nope'"):
                await journal.run("nope")
            with pytest.raises(UnknownRunError, match="no candidate 7/7"):
                await journal.candidate(run_id, 7, 7)

    asyncio.run(main())


def test_secrets_in_an_address_are_not_stored(url):
    async def main():
        async with opened(url) as journal:
            sampler = {"model": "https://me:canary@example.org/v1?key=canary#canary"}
            begun = await journal.begin(spec(sampler=sampler))
            assert (await journal.spec(begun.run_id)).sampler == {"model": "https://example.org/v1"}
            assert "canary" not in str(in_rows(url, "SELECT body FROM document"))

    asyncio.run(main())


@pytest.mark.parametrize(
    ("table", "column"), [("told", "body"), ("told", "content"), ("document", "body")]
)
def test_a_bit_flipped_in_any_table_is_found_and_named(url, table, column):
    async def main():
        async with opened(url) as journal:
            run_id, _ = await finished(journal)
        async with opened(url) as journal:  # one that does not know the run
            in_rows(url, f"UPDATE {table} SET {column} = replace({column}, 'a', 'b')")
            named = re.compile(f"row {run_id}/.* is damaged")
            if column == "body":
                detail = await journal.run(run_id)
                assert detail["damage"]
                assert all(map(named.match, detail["damage"]))
            if table == "told":
                assert await journal.candidates(run_id) == [] or column == "content"
                assert all(named.match(c["damage"]) for c in await journal.candidates(run_id))
                assert (await journal.recorded(run_id)).finished == []
            else:
                with pytest.raises(JournalDamagedError, match=named):
                    await journal.spec(run_id)

    asyncio.run(main())


def test_another_schema_another_program_and_garbage_are_refused(tmp_path):
    path = tmp_path / "new" / "runs.sqlite"
    asyncio.run(Journal.open(str(path)).close())
    assert path.stat().st_mode & 0o077 == 0
    with sqlite3.connect(path) as file:
        file.execute("PRAGMA user_version = 4")
    with pytest.raises(JournalError, match=r"schema 4, this openzaya knows 3; update"):
        Journal.open(str(path))
    with sqlite3.connect(path) as file:
        file.execute("PRAGMA user_version = 2")
    file.close()
    with pytest.raises(JournalError, match=r"schema 2, this openzaya knows 3; export its runs"):
        Journal.open(str(path))
    other = tmp_path / "other.sqlite"
    with sqlite3.connect(other) as file:
        file.execute("CREATE TABLE mine (a)")
    file.close()
    with pytest.raises(JournalError, match="another program"):
        Journal.open(str(other))
    Path(tmp_path / "text").write_text("no database at all, " * 99)
    with pytest.raises(JournalError, match="not a database"):
        Journal.open(str(tmp_path / "text"))
    with pytest.raises(ConfigError, match="mysql"):
        Journal.open("mysql://localhost/x")


def test_a_torn_file_is_called_damaged(tmp_path):
    path = tmp_path / "runs.sqlite"

    async def main():
        async with opened(str(path)) as journal:
            await finished(journal)
        data = bytearray(path.read_bytes())
        data[4096 * 2 : 4096 * 6] = b"\xff" * 4096 * 4
        path.write_bytes(data)
        async with opened(str(path)) as journal:
            for shown in await journal.runs():
                await journal.run(shown["id"])

    with pytest.raises(JournalError, match="damaged"):
        asyncio.run(main())


def test_a_stored_spec_comes_back_equal_and_one_of_another_version_is_refused():
    config = MarkovianRSAConfig(num_candidates=4, tails_per_prompt=2, rounds=1, widths=(4, 2))
    made = RunSpec(question=(Message("user", "why?"),), config=config)
    stored = json.loads(json.dumps(made.to_json()))
    assert RunSpec.from_json(stored) == made
    stored["config"]["gone"] = 1
    with pytest.raises(ConfigError, match=r"another version of openzaya .*no field 'gone'"):
        RunSpec.from_json(stored)
