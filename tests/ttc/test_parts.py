import asyncio
from collections import Counter
from dataclasses import dataclass, replace
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ttc.fake_sampler import FakeSampler, words

from openzaya.core.errors import ConfigError
from openzaya.core.records import Completion
from openzaya.ttc import MarkovianRSAConfig, extract_answer, majority, preset, presets, preview
from openzaya.ttc.compaction import compact, is_looping, snap_to_line
from openzaya.ttc.place import Place
from openzaya.ttc.selection import choose, last_boxed
from openzaya.ttc.subsets import parents_of

# Settings and presets


@pytest.mark.parametrize(
    ("name", "calls", "decode_cap", "at_beta", "tail_prefill"),
    [
        # Paper's settings; figures in millions of tokens as the specification tabulates them.
        ("single", 1, 0.041, 0.041, 0.0),
        ("delethink", 80, 1.18, 0.66, 0.26),
        ("light", 48, 0.92, 0.39, 0.52),
        ("16k", 48, 1.18, 0.79, 0.52),
        ("40k", 48, 1.97, 1.97, 0.52),
        ("40k-8k", 48, 1.97, 1.97, 1.05),
        ("high", 144, 2.75, 2.36, 2.1),
        ("extra-high", 288, 9.7, 9.4, 4.2),
    ],
)
def test_presets_cost_what_the_papers_table_says(name, calls, decode_cap, at_beta, tail_prefill):
    config = preset(name)
    bounds = preview(config, 100)
    assert bounds.calls == calls
    assert bounds.decode_cap / 1e6 == pytest.approx(decode_cap, rel=0.01)
    without_final = preview(replace(config, final_budget_tokens=None), 100)
    assert without_final.decode_cap / 1e6 == pytest.approx(at_beta, rel=0.01)
    assert bounds.tail_prefill_cap / 1e6 == pytest.approx(tail_prefill, rel=0.02)


def test_the_defaults_are_the_headline_setting_and_16k_is_first():
    assert replace(preset("40k"), final_budget_tokens=None) == MarkovianRSAConfig()
    assert next(iter(presets)) == "16k"


def test_a_mistyped_preset_gets_a_suggestion():
    with pytest.raises(ConfigError, match="did you mean 'extra-high'"):
        preset("extra_high")
    with pytest.raises(ConfigError, match="known presets: 16k"):
        preset("zzz")


@pytest.mark.parametrize(
    "bad",
    [
        {"num_candidates": 0},
        {"num_candidates": 257},
        {"num_candidates": True},
        {"tails_per_prompt": 17},
        {"tails_per_prompt": 0},
        {"rounds": -1},
        {"rounds": 65},
        {"tail_tokens": 40_961},
        {"budget_tokens": 0},
        {"final_budget_tokens": 0},
        {"final_candidates": 0},
        {"temperature": float("nan")},
        {"final_temperature": 2.1},
        {"top_p": 0.0},
        {"subset": "best"},
        {"tail_source": "thoughts"},
        {"max_attempts": 0},
        {"retry_base_s": -1.0},
    ],
)
def test_settings_that_do_not_fit_are_refused(bad):
    with pytest.raises(ConfigError, match="choose"):
        MarkovianRSAConfig(**bad)


def test_expected_figures_follow_the_mean_length():
    bounds = preview(preset("16k"), 200, mean_tokens=9_000, overhead_tokens=50)
    assert bounds.expected_decode == 48 * 9_000
    assert bounds.expected_prefill == 48 * 200 + 32 * 50 + 32 * 4 * 4_096
    short = preview(preset("16k"), 200, mean_tokens=1_000, overhead_tokens=50)
    assert short.expected_prefill == 48 * 200 + 32 * 50 + 32 * 4 * 1_000
    assert bounds.prefill_cap == 48 * 200 + 32 * 50 + bounds.tail_prefill_cap
    assert bounds.context_bound == 200 + 50 + 4 * 4_096 + 40_960


def test_sampling_alone_needs_no_room_for_tails():
    assert preview(preset("single"), 200).context_bound == 200 + 40_960
    assert preview(preset("single"), 200).prefill_cap == 200


# Answers


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (r"so \boxed{7}", "7"),
        (r"\boxed{1} or rather \boxed{ 2 }", "2"),
        (r"\boxed{\frac{1}{2}}", r"\frac{1}{2}"),
        (r"\boxed{a \} b}", r"a \} b"),
        (r"\boxed{3} then \boxed{unclosed", "3"),
        (r"\boxed{unclosed {", r"\boxed{unclosed {"),
        ("  a\n b\t c ", "a b c"),
        (r"stray } \boxed{4}", "4"),
        ("\n", None),
        (r"\boxed{}", None),
    ],
)
def test_answers_are_the_last_closed_box_or_the_whole_text(text, answer):
    assert extract_answer(text) == answer


def test_many_unclosed_boxes_cost_linear_time():
    assert last_boxed("\\boxed{" * 200_000) is None


@dataclass(frozen=True)
class Voter:
    answer: str | None
    num_tokens: int
    is_finished: bool = True
    text: str = "text"


def test_the_majority_wins_and_its_shortest_trace_speaks_for_it():
    candidates = [Voter("a", 1), Voter("b", 9), Voter("b", 5), Voter(None, 2, False)]
    choice = choose(candidates, Random(0))
    assert choice.index == 2
    assert choice.why == "majority: 2 of 4 candidates"


def test_a_tie_goes_to_the_class_with_the_shortest_finished_trace():
    candidates = [Voter("a", 4), Voter("b", 9), Voter("b", 3), Voter("a", 8), Voter("c", 1)]
    choice = choose(candidates, Random(0))
    assert choice.index == 2
    assert choice.why.startswith("tie")


def test_an_unfinished_candidate_has_no_vote():
    candidates = [Voter("a", 4), Voter("b", 1, False), Voter("b", 1, False)]
    assert choose(candidates, Random(0)).index == 0


def test_without_answers_a_random_finished_candidate_is_taken():
    candidates = [Voter(None, 1, False), Voter(None, 2), Voter(None, 3), Voter(None, 4, False, "")]
    taken = {choose(candidates, Random(seed)).index for seed in range(40)}
    assert taken == {1, 2}
    assert "random finished" in choose(candidates, Random(0)).why


def test_without_finished_candidates_any_text_is_better_than_none():
    assert choose([Voter(None, 1, False, ""), Voter(None, 1, False)], Random(0)).index == 1
    assert choose([Voter(None, 1, False, " ")], Random(0)) is None


@given(st.lists(st.sampled_from(["a", "b", "c", None]), max_size=12))
def test_majority_is_a_most_frequent_answer(answers):
    winner = majority(answers)
    counts = Counter(a for a in answers if a is not None)
    assert winner is None if not counts else counts[winner] == max(counts.values())


def test_majority_breaks_ties_by_length_only_when_told():
    assert majority(["a", "b"], [5, 3]) == "b"
    assert majority(["b", "a"]) == "b"
    assert majority([None, None]) is None


# Subsets

DRAW = MarkovianRSAConfig(num_candidates=16, tails_per_prompt=4)


@given(
    pool_size=st.integers(1, 16),
    count=st.integers(1, 20),
    c=st.integers(2, 16),
    seed=st.integers(0, 99),
    subset=st.sampled_from(["uniform", "balanced"]),
    order=st.sampled_from(["random", "cache"]),
)
@settings(max_examples=150, deadline=None)
def test_subsets_hold_min_c_pool_distinct_tails_of_the_pool(
    pool_size, count, c, seed, subset, order
):
    config = replace(DRAW, tails_per_prompt=c, subset=subset, order=order)
    pool = list(range(0, 3 * pool_size, 3))
    drawn = parents_of(config, pool, range(count), Random(seed))
    assert len(drawn) == count
    for parents in drawn:
        assert len(parents) == len(set(parents)) == min(c, pool_size)
        assert set(parents) <= set(pool)
    used = Counter(p for parents in drawn for p in parents)
    if subset == "balanced":
        uses = [used[slot] for slot in pool]
        assert max(uses) - min(uses) <= 1


def test_balanced_subsets_use_each_of_16_tails_exactly_4_times():
    drawn = parents_of(replace(DRAW, subset="balanced"), range(16), range(16), Random(5))
    assert set(Counter(p for parents in drawn for p in parents).values()) == {4}


def test_balanced_subsets_do_not_show_the_least_used_tail_first():
    config = replace(DRAW, tails_per_prompt=2, subset="balanced")
    places = set()
    for seed in range(30):
        first, second = parents_of(config, [0, 1, 2], range(2), Random(seed))
        (unused,) = {0, 1, 2} - set(first)
        places.add(second.index(unused))
    assert places == {0, 1}


def test_uniform_draws_are_uniform_over_tails_and_positions():
    drawn = [p for seed in range(500) for p in parents_of(DRAW, range(16), range(16), Random(seed))]
    for position in range(4):
        counts = Counter(parents[position] for parents in drawn)
        assert all(abs(counts[slot] - 500) < 120 for slot in range(16))


def test_cache_order_puts_often_used_tails_first():
    drawn = parents_of(replace(DRAW, order="cache"), range(16), range(16), Random(1))
    used = Counter(p for parents in drawn for p in parents)
    for parents in drawn:
        assert list(parents) == sorted(parents, key=lambda slot: (-used[slot], slot))
    assert any(list(parents) != sorted(parents) for parents in drawn)


def test_a_chain_whose_tail_was_lost_continues_from_another():
    config = replace(DRAW, tails_per_prompt=1)
    assert parents_of(config, [0, 2], range(3), Random(0)) in (
        [(0,), (0,), (2,)],
        [(0,), (2,), (2,)],
    )
    assert parents_of(config, [], range(3), Random(0)) == [()] * 3


# Compaction

PLACE = Place(0, 0, 1, ())


def candidate_of(text: str, finish: str = "stop", sampler=None, **changes):
    config = replace(DRAW, budget_tokens=100, tail_tokens=3, **changes)
    completion = Completion(text, len(words(text)), finish)  # type: ignore[arg-type]
    return asyncio.run(
        compact(completion, PLACE, 1, config, sampler or FakeSampler(), extract_answer)
    )


def test_an_answer_that_was_cut_does_not_vote():
    assert candidate_of("a b </think> half an", "length").answer is None
    assert candidate_of("a b </think> whole").answer == "whole"


def test_under_the_hybrid_an_answer_that_was_cut_counts_as_reasoning():
    cut = candidate_of("a b c </think> half", "length", tail_source="answer_or_thinking")
    assert cut.tail == "b c half"
    whole = candidate_of("a b c </think> half", tail_source="answer_or_thinking")
    assert whole.tail == "half"


def test_an_open_think_block_is_unfinished_even_when_the_model_stopped():
    candidate = candidate_of("a b c d e")
    assert not candidate.is_finished
    assert candidate.tail == "c d e"


def test_a_sampler_that_cuts_on_a_server_is_asked_for_exactly_the_cuts_needed():
    class Remote(FakeSampler):
        asked = 0

        def tail_at_hand(self, text: str, count: int) -> str | None:
            return text if len(words(text)) <= 2 else None

        async def cut_tail(self, text: str, count: int) -> str:
            self.asked += 1
            return " ".join(words(text)[-count:])

        def last_tokens(self, text: str, count: int) -> str:
            raise AssertionError("the estimate must not be used")

    sampler = Remote()
    assert candidate_of("a b c d </think> x", sampler=sampler).tail == "b c d"
    assert sampler.asked == 1
    hybrid = candidate_of(
        "a </think> one two three four", sampler=sampler, tail_source="answer_or_thinking"
    )
    assert hybrid.tail == "two three four"


def test_snapping_drops_a_broken_first_line_only_near_the_start():
    assert snap_to_line("ab\n" + "x" * 40) == "x" * 40
    assert snap_to_line("x" * 40 + "\n" + "y" * 40) == "x" * 40 + "\n" + "y" * 40


@given(st.integers(0, 10_000))
@settings(max_examples=30, deadline=None)
def test_random_words_are_no_loop_and_a_repeated_phrase_is(seed):
    rng = Random(seed)
    fresh = " ".join(f"{rng.choice('abcdefgh')}{rng.randrange(500)}" for _ in range(400))
    assert not is_looping(fresh)
    assert is_looping(fresh + " and so on" * 1_000)
    assert not is_looping("ab " * 20)
