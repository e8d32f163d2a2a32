"""Strategies are points of one space: the limits are exact, and every switch can be turned off."""

import asyncio
from collections import Counter
from dataclasses import fields, replace
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ttc.fake_sampler import FakeSampler, StreamingSampler, no_sleep, think_then_answer, words

from openzaya.core.errors import ConfigError
from openzaya.core.records import Message, SampleRequest
from openzaya.core.seeding import stream, stream_seed
from openzaya.text.tails import aggregation_messages
from openzaya.ttc import MarkovianRSA, MarkovianRSAConfig, Result, config_from, preset, strategies
from openzaya.ttc.consensus import certainty
from openzaya.ttc.subsets import minority_of, parents_of

QUESTION = (Message("user", "what is the answer to this"),)
SMALL = MarkovianRSAConfig(
    num_candidates=6, tails_per_prompt=3, rounds=2, budget_tokens=20, tail_tokens=5
)


def run(config, sampler=None, **options) -> Result:
    rsa = MarkovianRSA(config, sleep=no_sleep)
    return asyncio.run(rsa.run(QUESTION, sampler or FakeSampler(), **options))


def answering(answers):
    """Candidate k of a stage answers answers[k]; stages repeat them."""
    return lambda r, c: f"t{c} t </think> {answers[c % len(answers)]}"


# Limits, against loops that are written without any of the package's parts


def completed(sampler, messages, max_tokens, seed):
    request = SampleRequest(messages, max_tokens=max_tokens, seed=seed)
    text = asyncio.run(sampler.sample(request)).text
    thought, mark, answer = text.partition("</think>")
    return text, thought.strip(), answer.strip() if mark else None


def asked(tails):
    return aggregation_messages(QUESTION, tails) if tails else QUESTION


sizes = {"n": st.integers(1, 6), "beta": st.integers(1, 50), "seed": st.integers(0, 99)}


@given(**sizes)
@settings(max_examples=40, deadline=None)
def test_without_rounds_it_is_best_of_n_sampling_exactly(n, beta, seed):
    sampler = FakeSampler()
    texts = [
        completed(sampler, QUESTION, beta, stream_seed(seed, "ttc", "sample", 0, slot))[0]
        for slot in range(n)
    ]
    config = config_from({"strategy": "parallel", "num_candidates": n, "budget_tokens": beta})
    result = run(config, seed=seed)
    assert [c.text for c in result.rounds[0].candidates] == texts
    assert len(result.rounds) == 1


@given(**sizes, tau=st.integers(1, 50), rounds=st.integers(1, 3))
@settings(max_examples=40, deadline=None)
def test_with_one_tail_it_is_n_delethink_chains_exactly(n, beta, seed, tau, rounds):
    tau = min(tau, beta)
    sampler = FakeSampler()
    chains = []
    for slot in range(n):
        tails: list[str] = []
        texts = []
        for stage in range(rounds + 1):
            seed_here = stream_seed(seed, "ttc", "sample", stage, slot)
            text, thought, _ = completed(sampler, asked(tails), beta, seed_here)
            tails = [" ".join(words(thought)[-tau:])]
            texts.append(text)
        chains.append(texts)
    config = config_from(
        {
            "strategy": "delethink",
            "num_candidates": n,
            "budget_tokens": beta,
            "tail_tokens": tau,
            "rounds": rounds,
        }
    )
    result = run(config, seed=seed)
    assert [[r.candidates[slot].text for r in result.rounds] for slot in range(n)] == chains


@given(**sizes, c=st.integers(2, 6), rounds=st.integers(1, 3))
@settings(max_examples=40, deadline=None)
def test_with_tails_as_long_as_the_budget_it_is_full_chain_rsa_exactly(n, beta, seed, c, rounds):
    n = max(2, n)
    c = min(c, n)
    sampler = FakeSampler()
    stages = []
    chains: list[str] = []
    for stage in range(rounds + 1):
        rng = stream(seed, "ttc", "subset", stage)
        traces = []
        for slot in range(n):
            shown = [chains[i] for i in rng.sample(range(n), c)] if stage else []
            seed_here = stream_seed(seed, "ttc", "sample", stage, slot)
            traces.append(completed(sampler, asked(shown), beta, seed_here))
        stages.append([text for text, _, _ in traces])
        chains = [thought for _, thought, _ in traces]
    config = config_from(
        {
            "strategy": "rsa",
            "num_candidates": n,
            "tails_per_prompt": c,
            "budget_tokens": beta,
            "rounds": rounds,
        }
    )
    assert config.tail_tokens == beta
    result = run(config, seed=seed)
    assert [[c.text for c in r.candidates] for r in result.rounds] == stages


# Strategies by name


def test_every_strategy_runs_and_keeps_what_it_fixes():
    for name in strategies:
        config = config_from({"strategy": name, "num_candidates": 6, "budget_tokens": 40})
        result = run(config, StreamingSampler())
        assert result.answer is not None
        assert len(result.rounds) <= config.num_stages


def test_adaptive_sampling_stops_when_the_vote_is_certain_and_counts_every_batch():
    config = config_from(
        {"strategy": "adaptive_consistency", "num_candidates": 16, "budget_tokens": 20}
    )
    assert config.widths == (4, 4, 8)
    sampler = FakeSampler(answering(["7"]))
    agreed = run(config, sampler)
    assert [len(r.candidates) for r in agreed.rounds] == [4]
    assert len(sampler.requests) == 4
    assert agreed.why == "majority: 4 of 4 candidates"
    sampler = FakeSampler(answering(["7", "7", "7", "8"]))
    split = run(config, sampler)
    assert [len(r.candidates) for r in split.rounds] == [4, 4, 8]
    assert {r.messages for r in sampler.requests} == {QUESTION}
    assert split.why == "majority: 12 of 16 candidates"
    # Three of four are never certain alone; together they are after three batches.
    longer = config_from({"strategy": "adaptive_consistency", "num_candidates": 32})
    pooled = run(longer, FakeSampler(answering(["7", "7", "7", "8"])))
    assert [len(r.candidates) for r in pooled.rounds] == [4, 4, 8]


def test_pacore_shows_all_answers_of_the_round_before_to_every_call():
    config = config_from({"strategy": "pacore", "widths": [4, 3, 1], "budget_tokens": 40})
    sampler = FakeSampler()
    result = run(config, sampler)
    assert [len(r.candidates) for r in result.rounds] == [4, 3, 1]
    assert [sorted(c.parents) for c in result.rounds[1].candidates] == [[0, 1, 2, 3]] * 3
    assert [sorted(c.parents) for c in result.rounds[2].candidates] == [[0, 1, 2]]
    assert {c.tail for r in result.rounds for c in r.candidates} <= {"0", "1", "2"}


def test_continued_chains_open_with_the_head_and_the_tail_of_the_chain():
    config = replace(
        SMALL, num_candidates=2, tails_per_prompt=1, chain="continuation", keep_head_tokens=2
    )

    def script(request, call):
        return f"a{call} " * 12 if call < 4 else f"z{call} </think> 5"

    sampler = StreamingSampler(script)
    result = run(replace(config, rounds=3), sampler)
    assert {r.messages for r in sampler.requests} == {QUESTION}
    assert [r.max_tokens for r in sampler.requests] == [20, 20, 15, 15, 15, 15]
    first = "a0 a0 a0 a0 a0 a0 a0"
    assert first in sampler.openings
    assert "a0 a0 a2 a2 a2 a2 a2" in sampler.openings
    # A chain that has ended is carried on as it is.
    assert [c.attempts for c in result.rounds[3].candidates] == [0, 0]
    assert result.answer == "5"
    short = StreamingSampler(lambda r, c: "a b c d")
    run(replace(config, rounds=1), short)
    assert short.openings == ["a b c d"] * 2  # a head would repeat what the tail holds whole
    fallback = run(config, FakeSampler(script))
    assert any("chain = continuation needs" in note for note in fallback.notes)
    plain = run(replace(config, chain="prompt"), FakeSampler(script))
    assert [c.text for c in plain.rounds[0].candidates] == [
        c.text for c in fallback.rounds[0].candidates
    ]


# Settings from fields


@pytest.mark.parametrize(
    ("given_fields", "said"),
    [
        ({"num_candidate": 3}, "did you mean 'num_candidates'"),
        ({"T": 3}, "did you mean 'rounds'"),
        ({"zzzzzz": 3}, "known fields: preset, strategy"),
        ({"strategy": "markov_rsa"}, "did you mean 'markovian_rsa'"),
        ({"strategy": 3}, "strategy is 3; choose one of"),
        ({"preset": "16K"}, "did you mean '16k'"),
        ({"preset": 16}, "preset is 16; choose one of"),
        ({"num_candidates": "8"}, "num_candidates .* is '8'; choose a whole number"),
        ({"temperature": "hot"}, "temperature is 'hot'; choose a number"),
        ({"temperature": float("nan")}, "temperature is nan; choose"),
        ({"subset": ["uniform"]}, "subset is .*; choose one of"),
        ({"copy_agreed": 1}, "copy_agreed is 1; choose true or false"),
        ({"reproduce": "yes"}, "reproduce is 'yes'; choose true or false"),
        ({"strategy": "parallel", "rounds": 2}, "rounds is 2, but strategy parallel has rounds"),
        ({"strategy": "delethink", "tails_per_prompt": 4}, "leave the field out or choose"),
        ({"widths": [4, 4], "rounds": 4}, "widths names 2 stages, .* choose rounds = 1"),
        ({"widths": []}, "widths is .*; choose a list"),
        ({"widths": [1, "x"]}, "each of widths is 'x'; choose"),
        ({"widths": 3}, "widths is 3; choose a list"),
        ({"strategy": "rsa", "budget_tokens": 60, "chain": "continuation"}, "chain is 'conti"),
        ({"widths": [4, 1], "final_candidates": 1}, "choose one of the two"),
        ({"consensus": 0.2}, "consensus is 0.2; choose a probability"),
        ({"quorum": 0}, "quorum is 0; choose a share"),
        ({"select": "final"}, "last stage has 16 candidates"),
        ({"chain": "continuation"}, "choose C = 1 and tau < beta"),
        ({"max_total_tokens": 0}, "max_total_tokens is 0; choose"),
        ({"tail_tokens": 9_000, "budget_tokens": 8_000}, "choose tau <= beta"),
    ],
)
def test_fields_that_do_not_fit_are_refused_with_found_expected_and_cure(given_fields, said):
    with pytest.raises(ConfigError, match=said):
        config_from(given_fields)


junk = st.none() | st.booleans() | st.integers(-5, 50) | st.floats() | st.text(max_size=3)


@given(
    st.dictionaries(
        st.sampled_from([f.name for f in fields(MarkovianRSAConfig)] + ["preset", "reproduce"]),
        junk | st.lists(junk, max_size=3) | st.dictionaries(st.text(max_size=2), junk, max_size=2),
        max_size=4,
    ),
    st.sampled_from(list(strategies)),
)
@settings(max_examples=300, deadline=None)
def test_any_json_gives_settings_or_a_config_error(given_fields, strategy):
    try:
        config = config_from({"strategy": strategy} | given_fields)
    except ConfigError:
        return
    assert isinstance(config, MarkovianRSAConfig)


def test_without_fields_it_is_the_recommended_preset_and_f_follows_beta():
    assert config_from({}) == preset("16k")
    assert config_from({}, base=preset("nano")) == preset("nano")
    small = config_from({"budget_tokens": 1_000, "num_candidates": 2})
    assert (small.final_budget_tokens, small.tail_tokens, small.tails_per_prompt) == (None, 1000, 2)
    assert config_from({"budget_tokens": 1_000, "final_budget_tokens": 9}).final_budget_tokens == 9


def test_reproduction_turns_every_switch_off_and_nothing_else():
    on = {
        "schedule": "quorum",
        "consensus": 0.9,
        "copy_agreed": True,
        "subset": "diverse",
        "order": "cache",
        "snap": "line",
        "answer_allowance_tokens": 9,
    }
    base = preset("40k")
    switched = replace(base, **on)
    assert all(getattr(switched, name) != getattr(base, name) for name in on)
    assert switched.reproduce() == base
    assert config_from({"preset": "40k", "reproduce": True} | on) == base
    for name in presets_without_switches():
        assert preset(name).reproduce() == preset(name)


def presets_without_switches():
    return ("16k", "40k", "40k-8k", "light", "high", "extra-high", "delethink", "single")


# Switches


def test_certainty_is_the_upper_half_of_the_beta_posterior():
    rng = Random(1)
    for leader, others in [(4, 0), (3, 0), (5, 3), (9, 8)]:
        draws = [rng.betavariate(leader + 1, others + 1) > 0.5 for _ in range(20_000)]
        counts = {"a": leader, "b": others - others // 2, "c": others // 2}
        assert certainty(counts) == pytest.approx(sum(draws) / 20_000, abs=0.012)
    assert certainty({"a": 4}) >= 0.95 > certainty({"a": 3})
    assert certainty({}) == 0.0


@pytest.mark.parametrize("schedule", ["barrier", "async", "quorum"])
def test_a_run_ends_after_the_stage_whose_answers_agree(schedule):
    config = replace(SMALL, consensus=0.95, schedule=schedule)
    agreed = run(config, StreamingSampler(answering(["7"])))
    assert len(agreed.rounds) == 1
    assert agreed.answer == "7"
    assert not agreed.interrupted
    assert not agreed.degraded
    assert any("2 of 3 stages were not needed" in note for note in agreed.notes)
    voters = 5 if schedule == "quorum" else 6  # the sixth is a straggler
    assert agreed.why.startswith(f"majority: {voters} of 6")
    split = run(replace(SMALL, consensus=0.95), FakeSampler(answering(["7", "8"])))
    assert len(split.rounds) == 3


def test_a_subset_whose_answers_agree_is_copied_for_nothing():
    config = replace(SMALL, copy_agreed=True, rounds=1)
    sampler = FakeSampler(answering(["7"]))
    result = run(config, sampler)
    assert len(sampler.requests) == 6
    assert result.usage.generated_by_stage[1] == 0
    assert [c.answer for c in result.rounds[1].candidates] == ["7"] * 6
    lengths = FakeSampler(lambda r, c: "a " * (9 - c) + "</think> 7")
    for candidate in run(config, lengths).rounds[1].candidates:
        assert words(candidate.text).count("a") == 9 - max(candidate.parents)
    split = FakeSampler(lambda r, c: f"a b </think> {'87'[c == 0]}")
    mixed = run(config, split)
    for candidate in mixed.rounds[1].candidates:
        assert (candidate.attempts == 0) == (0 not in candidate.parents)


def test_diverse_subsets_always_hold_a_minority_tail():
    result = run(
        replace(SMALL, subset="diverse", num_candidates=16, rounds=1),
        FakeSampler(lambda r, c: f"a </think> {'no' if c == 5 else 'yes'}"),
    )
    assert minority_of(result.rounds[0].candidates, str) == {5}
    assert all(5 in c.parents for c in result.rounds[1].candidates)
    config = replace(SMALL, subset="diverse", num_candidates=16)
    drawn = [
        subset
        for seed in range(300)
        for subset in parents_of(
            config, range(16), range(16), Random(seed), minority=frozenset({3, 4})
        )
    ]
    assert all({3, 4} & set(subset) and len(set(subset)) == 3 for subset in drawn)
    places = Counter(next(i for i, s in enumerate(d) if s in (3, 4)) for d in drawn)
    assert min(places.values()) > 1_000


def test_equal_answers_in_another_form_vote_together():
    result = run(replace(SMALL, rounds=0), FakeSampler(answering(["0.5", "$1/2$", "3"])))
    assert result.why == "majority: 4 of 6 candidates"


def test_think_then_answer_is_what_the_limits_were_tested_with():
    """The reference loops above would prove nothing about a script that ignores seeds."""
    replies = {think_then_answer(SampleRequest(QUESTION, 9, seed), 0) for seed in range(20)}
    assert len(replies) == 20
