"""Thinking that does not end in the last stage is closed, and a second call has the answer."""

import asyncio
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ttc.fake_sampler import FakeSampler, StreamingSampler

from openzaya.core.errors import ConfigError, UpstreamError
from openzaya.core.records import Served, Watch
from openzaya.ttc import CandidateProgress, MarkovianRSA, MarkovianRSAConfig
from openzaya.ttc.continuing import CLOSING, CLOSING_TOKENS, Sequel

BASE = MarkovianRSAConfig(
    num_candidates=3,
    tails_per_prompt=2,
    rounds=1,
    budget_tokens=40,
    tail_tokens=10,
    answer_reserve_tokens=20,
)


class Answering(StreamingSampler):
    """Answers once it is behind its think block; the script is what it thinks."""

    answer = "it is 7"

    def __init__(self, thinks, **more):
        super().__init__(
            lambda r, c: self.answer if r.seed in self.closed else thinks(r, c), **more
        )
        self.closed: set[int] = set()

    async def sample_continuation(self, request, opening, watch):
        self.openings.append(opening)
        self.closed.add(request.seed)
        return replace(await self.sample_watched(request, watch), started_in_think=False)


def endless(request, call):
    return f"w{call} " * 200


def run(config, sampler, **more):
    return asyncio.run(MarkovianRSA(config).run("q?", sampler, **more))


def test_only_the_last_stage_answers_with_its_reserve_and_all_of_it_counts():
    sampler = Answering(endless)
    result = run(BASE, sampler)
    first, last = result.rounds
    assert all(not c.is_finished and c.num_tokens == 40 for c in first.candidates)
    for c in last.candidates:
        assert (c.answer, c.is_finished, c.finish_reason) == ("it is 7", True, "stop")
        assert c.num_tokens == 20 + 3
        assert c.thinking.split() == c.text.partition(CLOSING)[0].split()
        assert c.answer_text == "it is 7"
    assert [r.max_tokens for r in sampler.requests] == [40] * 3 + [20, 20, 20] + [
        20 - CLOSING_TOKENS
    ] * 3
    assert all(opening.endswith(CLOSING) for opening in sampler.openings)
    assert {o.removesuffix(CLOSING) for o in sampler.openings} == {
        c.thinking for c in last.candidates
    }
    assert result.answer == "it is 7"
    assert result.usage.calls == 9
    assert result.usage.generated == 3 * 40 + 3 * 23
    assert not result.degraded


def test_a_trace_that_ends_by_itself_or_is_in_its_answer_is_left_alone():
    for reply in ("short </think> 5", "a " * 5 + "</think> " + "b " * 100):
        sampler = Answering(lambda _r, _c, reply=reply: reply)
        result = run(BASE, sampler)
        assert sampler.openings == []
        assert result.usage.calls == 6


def test_without_a_reserve_or_a_sampler_that_can_nothing_changes_but_a_note():
    plain = run(replace(BASE, answer_reserve_tokens=None), Answering(endless))
    unable = run(BASE, FakeSampler(endless))
    assert [c.text for c in unable.rounds[1].candidates] == [
        c.text for c in plain.rounds[1].candidates
    ]
    assert plain.answer is None
    assert any("answer_reserve_tokens needs" in note for note in unable.notes)
    unwilling = Answering(endless)
    unwilling.can_continue = False
    assert any("answer_reserve_tokens needs" in note for note in run(BASE, unwilling).notes)
    assert unwilling.openings == []


def test_calls_that_were_made_again_are_counted_in_both_calls():
    class Again(Answering):
        async def sample_watched(self, request, watch):
            told = Served("http://x", "m", attempts=2, queued_s=0.0, first_token_s=None)
            return replace(await super().sample_watched(request, watch), served=told)

    usage = run(BASE, Again(endless)).usage
    assert (usage.calls, usage.failed_calls) == (3 * 2 + 3 * 4, 3 + 3 * 2)


def test_a_second_call_that_fails_takes_nothing_from_the_first():
    class Failing(Answering):
        async def sample_continuation(self, request, opening, watch):
            raise UpstreamError("no")

    result = run(BASE, Failing(endless))
    assert [c.num_tokens for c in result.rounds[1].candidates] == [20] * 3
    assert not result.degraded
    assert result.answer is None


def test_markers_in_the_thinking_cannot_close_the_turn():
    sampler = Answering(lambda _r, _c: "a <|im_start|> b <eos> " * 50)
    config = replace(BASE, rounds=0)
    run(config, sampler)
    assert not any("<|im_" in o or "<eos>" in o for o in sampler.openings)
    assert sampler.openings


def test_what_is_told_while_it_is_written_is_the_text():
    told: dict[int, str] = {}

    def hear(event):
        if isinstance(event, CandidateProgress) and event.stage == 1:
            told[event.slot] = told.get(event.slot, "") + event.text

    result = run(BASE, Answering(endless), on_event=hear, wants_progress=lambda: True)
    for c in result.rounds[1].candidates:
        assert told[c.slot].split() == c.text.split()


def test_a_second_call_that_begins_again_is_told_behind_the_first():
    outer = Watch()
    outer.add("first", 3)
    sequel = Sequel(outer)
    sequel.add("wrong", 1)
    sequel.restart()
    sequel.add(" right", 2)
    assert ("".join(outer.pieces), outer.num_tokens) == ("first right", 5)
    assert ("".join(sequel.pieces), sequel.num_tokens) == (" right", 2)
    outer.cut.set()
    assert sequel.cut.is_set()


@given(
    budget=st.integers(18, 200),
    reserve=st.integers(16, 199),
    cap=st.none() | st.integers(1, 900),
    rounds=st.integers(0, 2),
)
def test_the_reserve_is_part_of_the_budget_and_of_the_cap(budget, reserve, cap, rounds):
    fields = {"budget_tokens": budget, "tail_tokens": 10, "rounds": rounds}
    if reserve >= budget:
        with pytest.raises(ConfigError, match="answer_reserve_tokens"):
            replace(BASE, **fields, answer_reserve_tokens=reserve)
        return
    config = replace(BASE, **fields, answer_reserve_tokens=reserve, max_total_tokens=cap)
    sampler = Answering(endless, batch=1)
    sampler.answer = "word " * 500
    result = run(config, sampler)
    for entry in result.rounds:
        assert all(c.num_tokens <= budget for c in entry.candidates)
    assert result.usage.generated <= result.usage.cap
    assert cap is None or result.usage.generated <= cap + 3


def test_in_reproduction_there_is_no_reserve():
    assert BASE.reproduce().answer_reserve_tokens is None
