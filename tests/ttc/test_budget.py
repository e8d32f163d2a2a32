"""What a run may cost: hard caps, previews, and the length of prompts."""

import asyncio
import math
import statistics
from dataclasses import replace
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ttc.fake_sampler import FakeSampler, StreamingSampler, no_sleep, think_then_answer

from openzaya.core.errors import ConfigError
from openzaya.core.records import Message, SampleRequest, Watch
from openzaya.text.tails import aggregation_messages, selection_messages
from openzaya.ttc import (
    MarkovianRSA,
    MarkovianRSAConfig,
    Result,
    bounds_for,
    config_from,
    preview,
    strategies,
)
from openzaya.ttc.allowance import AnswerAllowance
from openzaya.ttc.lengths import LengthLaw

QUESTION = (Message("user", "what is the answer to this"),)
SMALL = MarkovianRSAConfig(
    num_candidates=5, tails_per_prompt=3, rounds=2, budget_tokens=40, tail_tokens=8
)


def run(config, sampler, **options) -> Result:
    return asyncio.run(MarkovianRSA(config, sleep=no_sleep).run(QUESTION, sampler, **options))


configs = st.builds(
    lambda name, n, c, t, beta, tau, changes: config_from(
        changes
        | ({} if name == "pacore" else {"tails_per_prompt": min(c, n)})
        | ({} if name == "rsa" else {"tail_tokens": min(tau, beta)})
        | ({} if name in FIXED_ROUNDS else {"rounds": t})
        | {"strategy": name, "num_candidates": n, "budget_tokens": beta}
        | ({"tails_per_prompt": 1} if name == "delethink" else {})
    ),
    st.sampled_from(list(strategies)),
    st.integers(1, 6),
    st.integers(1, 6),
    st.integers(0, 3),
    st.integers(1, 60),
    st.integers(1, 60),
    st.fixed_dictionaries(
        {},
        optional={
            "schedule": st.sampled_from(["barrier", "async", "quorum"]),
            "subset": st.sampled_from(["uniform", "balanced", "diverse"]),
            "order": st.sampled_from(["random", "cache"]),
            "snap": st.sampled_from(["exact", "line"]),
            "consensus": st.sampled_from([None, 0.9]),
            "copy_agreed": st.booleans(),
            "fallback": st.sampled_from(["random", "judge"]),
            "select": st.sampled_from(["majority"]),
        },
    ),
)
FIXED_ROUNDS = {"parallel", "self_consistency", "adaptive_consistency", "pacore"}


@given(config=configs, seed=st.integers(0, 9), can_cut=st.booleans())
@settings(max_examples=80, deadline=None)
def test_no_prompt_exceeds_question_plus_c_tails_plus_template(config, seed, can_cut):
    sampler = StreamingSampler() if can_cut else FakeSampler()
    result = run(config, sampler, seed=seed)
    shown = [""] * config.tails_per_prompt
    templates = (
        aggregation_messages(QUESTION, [""]),
        aggregation_messages(QUESTION, shown),
        selection_messages(QUESTION, shown),
    )
    skeleton = max(map(sampler.count_prompt_tokens, templates))
    limit = skeleton + config.tails_per_prompt * config.max_tail_tokens
    assert max(sampler.count_prompt_tokens(r.messages) for r in sampler.requests) <= limit
    seen = [c for r in result.rounds for c in r.candidates]
    assert all(len(c.parents) <= config.tails_at(c.stage) for c in seen)
    assert result.usage.generated <= result.usage.cap


@given(
    cap=st.integers(1, 700),
    batch=st.integers(1, 16),
    schedule=st.sampled_from(["barrier", "async", "quorum"]),
    seed=st.integers(0, 9),
    judge=st.booleans(),
)
@settings(max_examples=150, deadline=None)
def test_the_cap_is_exceeded_by_at_most_one_batch(cap, batch, schedule, seed, judge):
    fallback = "judge" if judge else "random"
    config = replace(
        SMALL, max_total_tokens=cap, schedule=schedule, fallback=fallback, judge_tokens=10
    )
    sampler = StreamingSampler(batch=batch)
    result = run(config, sampler, seed=seed)
    assert sampler.streamed + result.usage.selection <= cap + batch
    assert result.usage.generated + result.usage.lost == sampler.streamed + result.usage.selection


@given(
    config=configs,
    consensus=st.sampled_from([None, 0.5, 0.7]),
    batch=st.integers(1, 9),
    seed=st.integers(0, 99),
)
@settings(max_examples=80, deadline=None)
def test_every_token_is_billed_or_told_to_be_lost(config, consensus, batch, seed):
    """Also those of a stage that was ahead of the one with which the run ended."""
    config = replace(config, consensus=consensus)
    sampler = StreamingSampler(
        lambda r, c: "w " * (1 + (r.seed + seed) % 50) + "</think> 7", batch=batch
    )
    usage = run(config, sampler, seed=seed).usage
    assert usage.generated + usage.lost == sampler.streamed + usage.selection


def test_tokens_of_a_stage_that_was_ahead_when_the_run_ended_are_lost():
    config = replace(SMALL, schedule="async", consensus=0.5)
    sampler = StreamingSampler(lambda r, call: "w " * (36 if call == 4 else 2) + "</think> 7")
    result = run(config, sampler)
    assert len(result.rounds) == 1
    assert len(sampler.requests) > 6  # those of the next stage were done long before
    assert result.usage.generated + result.usage.lost == sampler.streamed


def test_what_is_estimated_too_long_while_it_comes_is_not_lost():
    class Estimating(StreamingSampler):
        async def sample_watched(self, request, watch):
            guessed = Watch(on_text=lambda text, n: watch.add(text, 2 * n), cut=watch.cut)
            return await super().sample_watched(request, guessed)

    usage = run(SMALL, Estimating()).usage
    assert usage.generated > 100
    assert usage.lost == 0


@given(cap=st.integers(1, 3_000), batch=st.integers(1, 64), seed=st.integers(0, 9))
@settings(max_examples=60, deadline=None)
def test_batches_that_are_under_way_when_calls_are_cut_are_reckoned_with(cap, batch, seed):
    config = replace(SMALL, max_total_tokens=cap, budget_tokens=900)
    sampler = StreamingSampler(lambda r, c: "w " * (r.seed % 900), batch=batch, late_batches=1)
    run(config, sampler, seed=seed)
    assert sampler.streamed <= cap + batch


@given(
    cap=st.integers(1, 700), seed=st.integers(0, 9), schedule=st.sampled_from(["barrier", "async"])
)
@settings(max_examples=80, deadline=None)
def test_without_cuts_the_cap_holds_exactly(cap, seed, schedule):
    config = replace(SMALL, max_total_tokens=cap, schedule=schedule)
    result = run(config, FakeSampler(), seed=seed)
    assert result.usage.generated <= cap
    assert len(result.rounds) == 3


def test_a_cap_that_nobody_reaches_changes_nothing():
    plain = run(SMALL, StreamingSampler())
    capped = run(replace(SMALL, max_total_tokens=3 * 5 * 40), StreamingSampler())
    assert replace(capped, config=SMALL) == plain


def test_a_tight_cap_leaves_tokens_for_the_last_stage():
    config = replace(SMALL, max_total_tokens=200)
    result = run(config, StreamingSampler(lambda r, c: "w " * 40, batch=1))
    by_stage = result.usage.generated_by_stage
    assert all(tokens > 40 for tokens in by_stage)
    assert sum(by_stage) > 180


def test_a_cap_too_small_for_every_candidate_is_said():
    result = run(replace(SMALL, max_total_tokens=3), FakeSampler())
    assert result.usage.generated == 0
    assert any("max_total_tokens left nothing" in note for note in result.notes)


# Prompts


class SlicingSampler(FakeSampler):
    """Its tokens are `width` characters each, and its template adds `frame` of them to a turn."""

    def __init__(self, script, width: int, frame: int, counts_exactly: bool):
        super().__init__(script)
        self.width, self.frame, self.counts_exactly = width, frame, counts_exactly

    async def sample(self, request):
        made = await super().sample(replace(request, max_tokens=1 << 20))
        text = made.text[: request.max_tokens * self.width]
        prompt = sum(self.true_count(m.content) + self.frame for m in request.messages)
        return replace(made, text=text, num_tokens=self.true_count(text), num_prompt_tokens=prompt)

    def true_count(self, text: str) -> int:
        return -(-len(text) // self.width)

    def count_prompt_tokens(self, messages):
        if self.counts_exactly:
            return sum(self.true_count(m.content) + self.frame for m in messages)
        return sum(int(len(m.content) / 3.6) + self.frame for m in messages)

    def last_tokens(self, text: str, count: int) -> str:
        return text[-count * self.width :]


@given(
    config=configs,
    width=st.integers(1, 6),
    frame=st.integers(0, 20),
    words=st.integers(1, 200),
    counts_exactly=st.booleans(),
)
@settings(max_examples=80, deadline=None)
def test_no_tokenizer_makes_more_prompt_tokens_than_the_cap(
    config, width, frame, words, counts_exactly
):
    """Neither by what the sampler counts or estimates, nor by a preview without it."""
    told = []
    sampler = SlicingSampler(lambda r, c: "word " * 300, width, frame, counts_exactly)
    question = (Message("user", "what " * words),)
    rsa = MarkovianRSA(config, sleep=no_sleep)
    used = asyncio.run(rsa.run(question, sampler, on_event=told.append)).usage.prefill
    assert used <= told[0].preview.prefill_cap
    asked = sampler.true_count(question[0].content) + frame
    assert used <= preview(config, asked).prefill_cap


def test_a_selection_call_may_show_candidates_of_all_stages_that_vote():
    config = config_from({"strategy": "adaptive_consistency", "num_candidates": 5})
    config = replace(config, tails_per_prompt=3, tail_tokens=7, fallback="judge")
    assert preview(config, 10).tail_prefill_cap == 3 * 7


def test_an_estimate_bounds_prompts_without_refusing_what_may_fit():
    """A model as long as its calls need by the estimate is tried; the server knows better."""
    sampler = SlicingSampler(think_then_answer, 4, 4, counts_exactly=False)
    bounds, _ = bounds_for(SMALL, QUESTION, sampler)
    exact, _ = bounds_for(SMALL, QUESTION, SlicingSampler(think_then_answer, 4, 4, True))
    assert bounds.context_bound == pytest.approx(exact.context_bound, rel=0.1)
    assert bounds.prefill_cap > 2 * exact.prefill_cap


# Previews

LAWS = {
    "fixed": lambda rng: 30,
    "log-normal": lambda rng: max(1, round(30 * rng.lognormvariate(0, 0.7))),
    "stragglers": lambda rng: 160 if rng.random() < 0.1 else 20,
}


def drawn_lengths(law, request: SampleRequest) -> int:
    return max(1, law(Random(request.seed)))


@pytest.mark.parametrize("seed", range(5))
def test_a_law_is_found_behind_traces_of_which_some_were_cut(seed):
    """What was cut says: at least so long. Neither with nor without those is the mean right."""
    rng = Random(seed)
    true = [max(1, round(1_000 * rng.lognormvariate(0, 0.6))) for _ in range(400)]
    limits = [rng.choice([700, 1_200, 10**6]) for _ in true]
    ended = [n for n, limit in zip(true, limits, strict=True) if n <= limit]
    cut = [limit for n, limit in zip(true, limits, strict=True) if n > limit]
    law = LengthLaw.of_traces(ended, cut)
    mean = statistics.mean(true)
    assert law.mean_within(math.inf) == pytest.approx(mean, rel=0.07)
    assert statistics.mean(ended) < 0.9 * mean
    assert statistics.mean([*ended, *cut]) < 0.9 * mean
    assert len(law.values) == len(LengthLaw.log_normal(9.0, 1.0).values)


def test_a_law_of_traces_that_all_ended_or_were_all_cut_is_what_was_seen():
    assert LengthLaw.of_traces([10, 30], []).mean_within(math.inf) == 20
    assert set(LengthLaw.of_traces([], [50, 40]).values) == {50.0}
    assert set(LengthLaw.of_traces([50], [50]).values) == {50.0}
    with pytest.raises(ConfigError, match="no trace"):
        LengthLaw.of_traces([], [])


@pytest.mark.parametrize("schedule", ["barrier", "quorum"])
@pytest.mark.parametrize("name", LAWS)
def test_previews_are_within_15_percent_of_what_is_used(name, schedule):
    law = LAWS[name]
    config = replace(SMALL, num_candidates=8, final_budget_tokens=100, schedule=schedule)

    def script(request, call):
        return "w " * drawn_lengths(law, request)

    results = [run(config, StreamingSampler(script, batch=1), seed=s) for s in range(20)]
    used = statistics.mean(r.usage.generated for r in results)
    prefill = statistics.mean(r.usage.prefill for r in results)
    sample = [law(Random(i)) for i in range(4_000)]
    overhead = FakeSampler().count_prompt_tokens(aggregation_messages(QUESTION, [""] * 3)) - 6
    told = preview(config, 6, lengths=sample, overhead_tokens=overhead)
    assert told.expected_decode == pytest.approx(used, rel=0.15)
    assert told.expected_prefill == pytest.approx(prefill, rel=0.15)
    assert max(r.usage.generated for r in results) <= told.decode_cap


def test_a_mean_and_a_variation_stand_for_a_log_normal_law():
    """The mean of min(X, limit) against its closed form, and against min(mean, limit)."""
    mean, variation, limit = 9_000.0, 0.66, 10_000.0
    sigma2 = math.log(1 + variation**2)
    mu, sigma = math.log(mean) - sigma2 / 2, math.sqrt(sigma2)
    phi = statistics.NormalDist().cdf
    z = (math.log(limit) - mu) / sigma
    exact = mean * phi(z - sigma) + limit * (1 - phi(z))
    law = LengthLaw.log_normal(mean, variation)
    assert law.mean_within(limit) == pytest.approx(exact, rel=0.002)
    assert law.mean_within(limit) < 0.85 * min(mean, limit)
    assert law.mean_within(1e9) == pytest.approx(mean, rel=0.01)
    assert LengthLaw.log_normal(mean).mean_within(limit) == mean


@pytest.mark.parametrize(
    "bad",
    [
        {"lengths": []},
        {"lengths": [-1]},
        {"mean_tokens": math.nan},
        {"mean_tokens": 5, "variation": -1},
    ],
)
def test_a_law_that_is_none_is_refused(bad):
    with pytest.raises(ConfigError):
        preview(SMALL, 5, **bad)


def test_a_preview_says_what_may_make_a_run_cheaper_and_counts_the_selection_call():
    config = replace(SMALL, consensus=0.95, select="judge", judge_tokens=50)
    told = preview(config, 10, overhead_tokens=7)
    plain = preview(SMALL, 10, overhead_tokens=7)
    assert any("ends early" in note for note in told.notes)
    assert (told.calls, told.decode_cap) == (plain.calls + 1, plain.decode_cap + 50)
    assert told.prefill_cap == plain.prefill_cap + 10 + 7 + 3 * 8
    assert told.context_bound == 10 + 7 + 3 * 8 + 50
    assert preview(replace(SMALL, max_total_tokens=99), 10).decode_cap == 99


def test_a_preview_without_a_count_expects_a_quarter_of_its_bound_of_the_words_around_tails():
    bound = preview(SMALL, 10, mean_tokens=20)
    of_words = (bound.prefill_cap - preview(SMALL, 10, overhead_tokens=0).prefill_cap) // 10
    near = preview(SMALL, 10, mean_tokens=20, overhead_tokens=of_words // 4)
    assert bound.expected_prefill == near.expected_prefill


# Answers before the last stage


def test_an_allowance_ends_traces_after_their_think_block():
    def script(request, call):
        return "a b c </think> " + "answer " * 20

    config = replace(SMALL, answer_allowance_tokens=4)
    sampler = StreamingSampler(script, batch=1)
    result = run(config, sampler)
    assert [c.num_tokens for c in result.rounds[0].candidates] == [8] * 5
    assert [c.num_tokens for c in result.rounds[-1].candidates] == [24] * 5
    nothing = run(replace(config, answer_allowance_tokens=0), StreamingSampler(script, batch=1))
    assert [c.num_tokens for c in nothing.rounds[0].candidates] == [4] * 5
    assert {c.tail for c in nothing.rounds[0].candidates} == {"a b c"}
    blind = run(config, FakeSampler(script))
    assert any("answer_allowance_tokens needs" in note for note in blind.notes)


def test_the_closing_marker_is_found_across_pieces():
    allowance = AnswerAllowance(3)
    used = [allowance.is_used_up(text, 1) for text in ["so </th", "ink", "> x", " y", " z", " w"]]
    assert used == [False, False, False, False, False, True]


def test_streaming_changes_no_result():
    for seed in range(5):
        assert run(SMALL, StreamingSampler(think_then_answer), seed=seed) == run(
            SMALL, FakeSampler(think_then_answer), seed=seed
        )
