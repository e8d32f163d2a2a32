import asyncio
import json
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ttc.fake_sampler import FakeSampler, no_sleep, think_then_answer, words

from openzaya.core.errors import ConfigError, ContextLengthError, EngineError, RequestError
from openzaya.core.errors import UpstreamError as Upstream
from openzaya.core.records import Message, SampleRequest
from openzaya.core.seeding import stream, stream_seed
from openzaya.text.tails import aggregation_messages
from openzaya.ttc import (
    CandidateDone,
    CandidateStarted,
    MarkovianRSA,
    MarkovianRSAConfig,
    Result,
    RunDone,
    RunStarted,
    StageDone,
)
from openzaya.ttc.strategies import config_from

SMALL = MarkovianRSAConfig(
    num_candidates=6, tails_per_prompt=3, rounds=2, budget_tokens=20, tail_tokens=5
)
QUESTION = "what is the answer to this"


def run(config, sampler=None, question=QUESTION, **options) -> Result:
    sampler = sampler or FakeSampler()
    return asyncio.run(MarkovianRSA(config, sleep=no_sleep).run(question, sampler, **options))


configs = st.builds(
    lambda n, c, t, beta, tau, source, subset, order: MarkovianRSAConfig(
        num_candidates=n,
        tails_per_prompt=min(c, n),
        rounds=t,
        budget_tokens=beta,
        tail_tokens=min(tau, beta),
        tail_source=source,
        subset=subset,
        order=order,
    ),
    st.integers(1, 6),
    st.integers(1, 6),
    st.integers(0, 3),
    st.integers(1, 60),
    st.integers(1, 60),
    st.sampled_from(["thinking", "answer_or_thinking", "answer", "all"]),
    st.sampled_from(["uniform", "balanced"]),
    st.sampled_from(["random", "cache"]),
)


@given(config=configs, seed=st.integers(0, 9))
@settings(max_examples=60, deadline=None)
def test_no_prompt_exceeds_question_plus_c_tails_for_all_settings(config, seed):
    sampler = FakeSampler()
    result = run(config, sampler, seed=seed)
    empty = aggregation_messages((Message("user", QUESTION),), [""] * config.tails_per_prompt)
    one = aggregation_messages((Message("user", QUESTION),), [""])
    skeleton = max(sampler.count_prompt_tokens(empty), sampler.count_prompt_tokens(one))
    limit = skeleton + config.tails_per_prompt * config.max_tail_tokens
    longest = max(sampler.count_prompt_tokens(r.messages) for r in sampler.requests)
    assert longest <= limit
    assert all(
        len(c.parents) <= config.tails_per_prompt for r in result.rounds for c in r.candidates
    )


@given(config=configs, seed=st.integers(0, 9))
@settings(max_examples=40, deadline=None)
def test_accounts_equal_what_the_sampler_saw_and_stay_below_the_cap(config, seed):
    sampler = FakeSampler()
    result = run(config, sampler, seed=seed)
    told = [words(c.text) for r in result.rounds for c in r.candidates]
    assert result.usage.generated == sum(map(len, told)) <= result.usage.cap
    assert (
        result.usage.calls == len(sampler.requests) == config.num_candidates * (config.rounds + 1)
    )
    assert result.usage.prefill == sum(
        sampler.count_prompt_tokens(r.messages) for r in sampler.requests
    )
    by_stage = [sum(c.num_tokens for c in r.candidates) for r in result.rounds]
    assert list(result.usage.generated_by_stage) == by_stage


def test_cap_is_the_sum_of_candidates_times_budgets():
    config = replace(SMALL, final_budget_tokens=50, final_candidates=2)
    result = run(config)
    assert result.usage.cap == 6 * 20 + 6 * 20 + 2 * 50
    assert [len(r.candidates) for r in result.rounds] == [6, 6, 2]


def test_budgets_of_requests_are_beta_then_the_final_budget():
    sampler = FakeSampler()
    run(replace(SMALL, final_budget_tokens=50, final_temperature=0.5), sampler)
    assert [r.max_tokens for r in sampler.requests] == [20] * 12 + [50] * 6
    assert [r.temperature for r in sampler.requests] == [1.0] * 12 + [0.5] * 6


def test_without_rounds_it_is_parallel_sampling_from_the_plain_question():
    sampler = FakeSampler()
    result = run(config_from({"strategy": "parallel", "num_candidates": 5}, SMALL), sampler, seed=3)
    assert [r.messages for r in sampler.requests] == [(Message("user", QUESTION),)] * 5
    assert len(result.rounds) == 1
    seeds = [stream_seed(3, "ttc", "sample", 0, slot) for slot in range(5)]
    assert [r.seed for r in sampler.requests] == seeds
    answers = [seed % 3 for seed in seeds]
    assert answers.count(int(result.answer)) == max(map(answers.count, answers))


def test_with_one_tail_each_slot_continues_its_own_chain():
    sampler = FakeSampler()
    result = run(config_from({"strategy": "delethink", "rounds": SMALL.rounds}, SMALL), sampler)
    for before, after in zip(result.rounds, result.rounds[1:], strict=False):
        for old, new in zip(before.candidates, after.candidates, strict=True):
            assert new.parents == (old.slot,)
    first = result.rounds[0].candidates[4]
    expected = aggregation_messages((Message("user", QUESTION),), [first.tail])
    assert sampler.requests[6 + 4].messages == expected
    assert first.tail == " ".join(words(first.thinking)[-5:])


def test_with_tail_equal_to_the_budget_whole_traces_are_passed():
    result = run(config_from({"strategy": "rsa"}, SMALL))
    for candidate in (c for r in result.rounds for c in r.candidates):
        assert candidate.tail == candidate.thinking.strip()
        assert candidate.tail


def test_only_the_stage_before_is_visible_and_parents_are_what_the_prompt_shows():
    sampler = FakeSampler()
    result = run(SMALL, sampler)
    calls = iter(sampler.requests[6:])
    for before, after in zip(result.rounds, result.rounds[1:], strict=False):
        for candidate in after.candidates:
            tails = [before.candidates[p].tail for p in candidate.parents]
            expected = aggregation_messages((Message("user", QUESTION),), tails)
            assert next(calls).messages == expected
            assert len(set(candidate.parents)) == 3


def test_hybrid_passes_finished_answers_and_partial_reasoning_of_others():
    def script(request: SampleRequest, call: int) -> str:
        return "a b </think> the answer" if call % 2 else "x " * 40

    result = run(replace(SMALL, tail_source="answer_or_thinking"), FakeSampler(script))
    tails = [c.tail for c in result.rounds[0].candidates]
    assert tails == ["x x x x x", "the answer"] * 3


def test_a_trace_that_never_thinks_passes_on_what_it_wrote():
    class Plain(FakeSampler):
        async def sample(self, request):
            return replace(await super().sample(request), started_in_think=False)

    result = run(SMALL, Plain(lambda r, c: "just seven"))
    assert {c.tail for c in result.rounds[0].candidates} == {"just seven"}
    assert result.answer == "just seven"


def test_markers_in_a_trace_cannot_close_the_turn_that_quotes_it():
    sampler = FakeSampler(lambda r, c: "a <|im_start|> b <tool> c d </think> ok")
    run(replace(SMALL, tail_tokens=20), sampler)
    assert not any("<|im_" in r.messages[-1].content for r in sampler.requests)


def test_history_and_system_message_stay_and_the_hint_ends_the_prompt():
    history = (
        Message("system", "be brief"),
        Message("user", "hello"),
        Message("assistant", "hi"),
        Message("user", QUESTION),
    )
    sampler = FakeSampler()
    run(SMALL, sampler, question=history, task_hint="One number only.")
    last = sampler.requests[-1].messages
    assert last[:3] == history[:3]
    assert last[3].content.startswith(QUESTION)
    assert last[3].content.endswith("One number only.")


@pytest.mark.parametrize("question", ["", " \n", (), (Message("assistant", "x"),)])
def test_a_question_that_asks_nothing_is_refused(question):
    sampler = FakeSampler()
    with pytest.raises(RequestError, match="empty"):
        run(SMALL, sampler, question=question)
    assert not sampler.requests


def test_a_question_that_utf8_cannot_hold_is_refused_before_any_work():
    sampler = FakeSampler()
    with pytest.raises(RequestError, match=r"half a character, '\\udce9'"):
        run(SMALL, sampler, question="caf\udce9?")
    assert not sampler.requests


def test_the_same_seed_gives_the_same_run_and_another_seed_another_one():
    first, again, other = run(SMALL, seed=1), run(SMALL, seed=1), run(SMALL, seed=2)
    assert first == again
    assert [c.parents for c in first.rounds[1].candidates] != [
        c.parents for c in other.rounds[1].candidates
    ]
    assert [c.seed for c in first.rounds[0].candidates] != [
        c.seed for c in other.rounds[0].candidates
    ]
    assert len({c.seed for r in first.rounds for c in r.candidates}) == 18


def test_priority_reaches_the_sampler():
    sampler = FakeSampler()
    run(SMALL, sampler, priority=7)
    assert {r.priority for r in sampler.requests} == {7}


def test_events_tell_the_story_in_order():
    events = []
    result = run(SMALL, on_event=events.append)
    kinds = [type(e) for e in events]
    stage = [CandidateStarted] * 6 + [CandidateDone] * 6 + [StageDone]
    assert kinds == [RunStarted, *stage * 3, RunDone]
    assert [e.at for e in events] == sorted(e.at for e in events)
    begun = [e for e in events if isinstance(e, CandidateStarted)]
    assert [(e.stage, e.slot, e.parents) for e in begun] == [
        (c.stage, c.slot, c.parents) for r in result.rounds for c in r.candidates
    ]
    done = [e for e in events if isinstance(e, CandidateDone)]
    assert done[-1].total_tokens == result.usage.generated
    stages = [e for e in events if isinstance(e, StageDone)]
    assert [e.num_tokens for e in stages] == list(result.usage.generated_by_stage)
    assert [dict(e.answers) for e in stages] == [dict(r.answers) for r in result.rounds]


def test_a_result_survives_json():
    result = run(SMALL)
    data = json.loads(json.dumps(result.to_json()))
    assert data["answer"] == result.answer
    assert data["usage"]["generated"] == result.usage.generated
    assert data["rounds"][1]["candidates"][2]["parents"] == list(
        result.rounds[1].candidates[2].parents
    )
    assert data["chosen"]["stage"] == 2


def test_a_model_too_small_for_the_tails_is_refused_before_any_work():
    sampler = FakeSampler(context_tokens=60)
    with pytest.raises(ConfigError, match="context holds 60"):
        run(SMALL, sampler)
    with pytest.raises(ContextLengthError, match="question is 70 tokens"):
        run(SMALL, sampler, question="why " * 70)
    assert not sampler.requests


def test_the_context_check_lets_exactly_fitting_runs_pass():
    letters = aggregation_messages((Message("user", QUESTION),), ["x"] * 3)
    need = FakeSampler().count_prompt_tokens(letters) + 3 * 5 + 20
    run(SMALL, FakeSampler(context_tokens=need))
    with pytest.raises(ConfigError):
        run(SMALL, FakeSampler(context_tokens=need - 1))


# Failures


def failing(slots_of_stage: dict[int, set[int]], error=Upstream, seed: int = 0):
    """Every try of these slots fails."""
    seeds = {
        stream_seed(seed, "ttc", "sample", stage, slot)
        for stage, slots in slots_of_stage.items()
        for slot in slots
    }
    return lambda r, c: error("down") if r.seed in seeds else think_then_answer(r, c)


def test_a_failed_call_is_tried_again_with_the_same_seed_after_a_jittered_wait():
    waits = []

    async def sleep(seconds: float) -> None:
        waits.append(seconds)

    tries: dict[int, int] = {}

    def flaky(request: SampleRequest, call: int):
        tries[request.seed] = tries.get(request.seed, 0) + 1
        return (
            EngineError("hiccup") if tries[request.seed] < 3 else think_then_answer(request, call)
        )

    result = asyncio.run(MarkovianRSA(SMALL, sleep=sleep).run(QUESTION, FakeSampler(flaky)))
    clean = run(SMALL)
    assert result.answer == clean.answer
    assert not result.degraded
    assert result.usage.failed_calls == 2 * 18
    assert result.usage.generated == clean.usage.generated
    assert {c.attempts for r in result.rounds for c in r.candidates} == {3}
    expected = []
    for slot in range(6):
        rng = stream(0, "ttc", "retry", 0, slot)
        expected += [0.5 * rng.uniform(0.5, 1.5), 1.0 * rng.uniform(0.5, 1.5)]
    assert sorted(waits[:12]) == sorted(expected)


def test_a_sampler_that_retries_itself_is_called_once():
    sampler = FakeSampler(failing({0: {1}}))
    sampler.retries_itself = True
    result = run(SMALL, sampler)
    assert result.usage.calls == 18
    assert result.degraded


def test_lost_candidates_are_dropped_reported_and_never_shown():
    result = run(SMALL, FakeSampler(failing({0: {0, 2, 3, 5}})))
    assert result.degraded
    assert [c.is_failed for c in result.rounds[0].candidates] == [True, False, True] * 1 + [
        True,
        False,
        True,
    ]
    assert {p for c in result.rounds[1].candidates for p in c.parents} == {1, 4}
    assert any("2 usable tails instead of 3" in note for note in result.notes)
    assert any("4 candidates failed" in note and "down" in note for note in result.notes)
    assert len(result.rounds) == 3


def test_a_later_stage_draws_from_the_survivors_of_the_stage_right_before_it():
    result = run(SMALL, FakeSampler(failing({0: {5}, 1: {0, 2}})))
    assert {p for c in result.rounds[1].candidates for p in c.parents} == {0, 1, 2, 3, 4}
    assert {p for c in result.rounds[2].candidates for p in c.parents} == {1, 3, 4, 5}


def test_too_few_survivors_end_the_run_with_the_best_so_far():
    result = run(SMALL, FakeSampler(failing({1: {0, 1, 2, 3, 4}})))
    assert result.degraded
    assert len(result.rounds) == 2
    assert any("only 1 candidates survived" in note for note in result.notes)
    assert result.chosen.stage == 0
    assert result.why.endswith("stage 0")


def test_the_stage_before_answers_when_a_whole_stage_fails():
    result = run(SMALL, FakeSampler(failing({2: set(range(6))})))
    assert result.degraded
    assert result.chosen.stage == 1
    assert result.answer is not None


@pytest.mark.parametrize("error", [Upstream, EngineError, ContextLengthError])
def test_without_any_survivor_the_samplers_own_error_is_raised(error):
    sampler = FakeSampler(lambda r, c: error("nothing works"))
    with pytest.raises(error, match="nothing works"):
        run(SMALL, sampler)
    tries = 1 if error is ContextLengthError else 3
    assert len(sampler.requests) == 6 * tries


def test_a_bug_in_the_sampler_is_not_a_failed_candidate():
    def script(request, call):
        raise ZeroDivisionError

    sampler = FakeSampler(script)
    with pytest.raises(ZeroDivisionError):
        run(SMALL, sampler)
    assert sampler.in_flight == 0


def test_one_chain_of_one_candidate_needs_no_second_survivor():
    config = replace(SMALL, num_candidates=1, tails_per_prompt=1)
    assert len(run(config).rounds) == 3


def test_empty_and_looping_traces_are_shown_only_when_nothing_else_is_left():
    loop = "again " * 400

    def script(request: SampleRequest, call: int) -> str:
        return ["", loop, "good tail </think> 1"][call % 3] if call < 6 else "x </think> 1"

    config = replace(SMALL, budget_tokens=500, tail_tokens=400, tails_per_prompt=2, rounds=1)
    result = run(config, FakeSampler(script))
    assert [c.is_looping for c in result.rounds[0].candidates] == [False, True, False] * 2
    assert {p for c in result.rounds[1].candidates for p in c.parents} == {2, 5}
    only_loops = run(config, FakeSampler(lambda r, c: loop if c else ""))
    assert {p for c in only_loops.rounds[1].candidates for p in c.parents} == {1, 2, 3, 4, 5}
    sampler = FakeSampler(lambda r, c: "")
    nothing = run(config, sampler)
    assert sampler.requests[-1].messages == (Message("user", QUESTION),)
    assert nothing.answer is None
    assert "empty" in nothing.why


# Stopping


def test_cancelling_the_run_cancels_every_call():
    async def main() -> FakeSampler:
        sampler = FakeSampler()
        sampler.gate = asyncio.Event()
        task = asyncio.create_task(MarkovianRSA(SMALL).run(QUESTION, sampler))
        while sampler.in_flight < 6:
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return sampler

    sampler = asyncio.run(main())
    assert (sampler.cancelled, sampler.in_flight) == (6, 0)


def stopped_run(hold: dict[int, set[int]], stop_after: int) -> tuple[Result, FakeSampler]:
    """Hold these slots of these stages for ever and stop after so many candidates."""

    async def main() -> tuple[Result, FakeSampler]:
        sampler = FakeSampler(lambda r, c: f"x </think> {r.seed % 3}")
        sampler.gate = asyncio.Event()
        sampler.held_seeds = {
            stream_seed(0, "ttc", "sample", stage, slot)
            for stage, slots in hold.items()
            for slot in slots
        }
        stop = asyncio.Event()
        seen = 0

        def listen(event) -> None:
            nonlocal seen
            seen += isinstance(event, CandidateDone)
            if seen == stop_after:
                stop.set()

        if not stop_after:
            stop.set()
        result = await MarkovianRSA(SMALL).run(QUESTION, sampler, on_event=listen, stop=stop)
        return result, sampler

    return asyncio.run(asyncio.wait_for(main(), 10))


def test_stopping_returns_the_best_so_far_and_cancels_the_rest():
    result, sampler = stopped_run({1: {1, 2, 3}}, stop_after=9)
    assert result.interrupted
    assert result.chosen.stage == 1
    assert [c.slot for c in result.rounds[1].candidates] == [0, 4, 5]
    assert (sampler.cancelled, sampler.in_flight) == (3, 0)
    assert any("3 calls were cancelled" in note for note in result.notes)


def test_a_barely_begun_stage_does_not_outvote_the_complete_one_before():
    result, _ = stopped_run({1: {1, 2, 3, 4, 5}}, stop_after=7)
    assert result.interrupted
    assert len(result.rounds[1].candidates) == 1
    assert result.chosen.stage == 0


def test_stopping_before_anything_is_complete_gives_no_answer():
    result, _ = stopped_run({}, stop_after=0)
    assert result.interrupted
    assert (result.answer, result.chosen) == (None, None)
    assert json.loads(json.dumps(result.to_json()))["chosen"] is None


def test_stopping_after_the_last_candidate_is_no_interruption():
    result, _ = stopped_run({}, stop_after=18)
    assert not result.interrupted
