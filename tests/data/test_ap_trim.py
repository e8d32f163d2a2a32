"""The laws of answer-preserving trimming, and every decision where the rule is silent."""

import numpy as np
import pytest
from data.made_documents import (
    CLOSE,
    any_conversations,
    conversation,
    conversations,
    tokens_of,
)
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from openzaya.core.errors import ConfigError
from openzaya.data.ap_trim import ApTrimConfig, Span, ap_trim, fit, trim_report
from openzaya.text.document import DocumentBuilder, text_document

configs = st.builds(
    ApTrimConfig,
    min_keep_tokens=st.integers(0, 6),
    drop_prior=st.sampled_from(("all", "oldest_first")),
    newline_ids=st.just(frozenset(range(0, 200, 5))),
    snap_tokens=st.integers(0, 4),
    mask_cut_boundary=st.booleans(),
    mask_answer_tokens=st.integers(0, 3),
)
laws = settings(deadline=None, max_examples=150)


def index_of(trimmed):
    """Return the indices of what stays."""
    return np.concatenate([np.arange(s.start, s.start + s.length) for s in trimmed.spans])


def thinking(document):
    return [segment for segment in document.segments if segment.kind == "think"]


@laws
@given(document=conversations, context=st.integers(1, 120), config=configs)
def test_it_fits_and_keeps_everything_but_reasoning_byte_for_byte(document, context, config):
    trimmed = ap_trim(document, context, config)
    fixed = len(document) - sum(segment.length for segment in thinking(document))
    if trimmed is None:
        assert len(document) > context
        assert fixed > context or not thinking(document)
        return
    assert trimmed.length <= context
    kept = document.tokens[index_of(trimmed)].tolist()
    assert kept == sorted(kept)
    everything_else = tokens_of(document, "text", "answer", "markup", "tool")
    assert everything_else <= set(kept)  # among it, every close marker
    assert trimmed.length == fixed + trimmed.kept_reasoning_tokens
    cut = len(document) - trimmed.length
    assert trimmed.cut_reasoning_tokens == cut
    for block in thinking(document):
        own = [t for t in kept if block.start <= t < block.end]  # token i lies at position i
        assert own == list(range(block.start, block.start + len(own)))


def tried_one_by_one(document, context, config):
    """Return the index, loss and rule of the first cut in the rule's order that fits, or None."""
    replies = [s.start for s in document.segments if s.role == "assistant"]
    asked = [s.start for s in document.segments if s.role == "user" and s.start <= replies[-1]]
    prior = [s for s in thinking(document) if asked and s.start < asked[-1]]
    last = [t for s in thinking(document) if s not in prior for t in range(s.start, s.end)]
    gone_prior = [range(1, len(prior) + 1), [len(prior)]][config.drop_prior == "all"]
    for gone in [0, *gone_prior]:
        least = min(config.min_keep_tokens, len(last))
        if gone == len(prior):  # nothing else can be given
            least = 0
        for kept in range(len(last), least - 1, -1):
            out = {t for s in prior[:gone] for t in range(s.start, s.end)} | set(last[kept:])
            if len(document) - len(out) <= context:
                rule = "drop_prior" if gone else "cut_last" if out else "whole"
                return masked(document, snapped(document, out, config), config), rule
    return None


def snapped(document, out, config):
    """Take more off a block that lost a part, if a line ends among its last tokens."""
    for block in thinking(document):
        kept = [t for t in range(block.start, block.end) if t not in out]
        near = kept[max(0, len(kept) - config.snap_tokens) :]
        ends = [t for t in near if t in config.newline_ids]
        if 0 < len(kept) < block.length and config.snap_tokens and ends:
            out |= {t for t in kept if t > ends[-1]}
    return out


def masked(document, out, config):
    loss = {t: s.loss for s in document.segments for t in range(s.start, s.end) if t not in out}
    for block in thinking(document):
        lost = out & set(range(block.start, block.end))
        if lost and (config.mask_cut_boundary or len(lost) == block.length):
            loss |= dict.fromkeys(range(block.end, block.end + CLOSE), False)
        if lost and config.mask_cut_boundary:
            behind = [s for s in document.segments if s.start == block.end + CLOSE]
            for answer in behind if behind and behind[0].kind == "answer" else []:
                most = min(answer.end, answer.start + config.mask_answer_tokens)
                loss |= dict.fromkeys(range(answer.start, most), False)
    return loss


@settings(deadline=None, max_examples=300)
@given(document=any_conversations, config=configs)
def test_it_is_the_first_cut_in_the_rule_s_order_that_fits(document, config):
    assume(any(segment.role == "assistant" for segment in document.segments))
    for context in range(1, len(document) + 1):
        trimmed = ap_trim(document, context, config)
        expected = tried_one_by_one(document, context, config)
        if expected is None or not thinking(document):
            assert trimmed is None or trimmed.rule == "whole"
            continue
        found = dict(zip(index_of(trimmed).tolist(), trimmed.loss_mask().tolist(), strict=True))
        assert (found, trimmed.rule) == expected


@laws
@given(document=conversations, context=st.integers(1, 120), config=configs)
def test_the_loss_stays_aligned_and_is_only_ever_taken_away(document, context, config):
    trimmed = ap_trim(document, context, config)
    assume(trimmed is not None)
    before = document.loss_mask()[index_of(trimmed)]
    after = trimmed.loss_mask()
    assert not (after & ~before).any()
    applied = trimmed.apply(document)
    np.testing.assert_array_equal(applied.loss_mask(), after)
    np.testing.assert_array_equal(applied.tokens, document.tokens[index_of(trimmed)])
    lost = set(applied.tokens[before & ~after].tolist())
    boundary = tokens_of(document, "markup", "answer")
    assert lost <= boundary
    if not config.mask_cut_boundary:
        emptied = sum(
            not any(block.start <= t < block.end for t in applied.tokens.tolist())
            for block in thinking(document)
        )
        assert len(lost) == emptied * CLOSE


@laws
@given(document=conversations, context=st.integers(1, 120), config=configs)
def test_trimming_twice_changes_nothing(document, context, config):
    trimmed = ap_trim(document, context, config)
    assume(trimmed is not None)
    once = trimmed.apply(document)
    again = ap_trim(once, context, config)
    assert again.rule == "whole"
    np.testing.assert_array_equal(again.apply(once).loss_mask(), once.loss_mask())
    np.testing.assert_array_equal(again.apply(once).tokens, once.tokens)


@laws
@given(document=conversations, context=st.integers(1, 120), config=configs)
def test_a_larger_context_never_keeps_less_reasoning(document, context, config):
    small, large = ap_trim(document, context, config), ap_trim(document, context + 1, config)
    assume(small is not None)
    assert large is not None
    if not config.snap_tokens:
        assert small.kept_reasoning_tokens <= large.kept_reasoning_tokens
    users = [segment.start for segment in document.segments if segment.role == "user"]
    earlier = {t for t in tokens_of(document, "think") if t < users[-1]}
    kept_small, kept_large = set(index_of(small)), set(index_of(large))
    assert kept_small & earlier <= kept_large
    if kept_small & earlier == kept_large & earlier:
        assert kept_small <= kept_large


@laws
@given(document=conversations, config=configs, spare=st.integers(0, 5))
def test_what_fits_is_untouched(document, config, spare):
    trimmed = ap_trim(document, len(document) + spare, config)
    assert trimmed.rule == "whole"
    assert trimmed.length == len(document)
    np.testing.assert_array_equal(trimmed.loss_mask(), document.loss_mask())


def test_a_single_turn_keeps_the_beginning_and_fills_the_context_exactly():
    document = conversation([(4, [10], 3)])
    trimmed = ap_trim(document, len(document) - 4)
    assert (trimmed.rule, trimmed.length) == ("cut_last", len(document) - 4)
    block = thinking(document)[0]
    assert trimmed.spans == (
        Span(0, block.start, False),
        Span(block.start, 6, True),
        Span(block.end, len(document) - block.end, True),
    )


def test_only_the_third_rule_helps_when_the_last_turn_has_little_to_give():
    document = conversation([(2, [20], 2), (2, [5], 2)])
    trimmed = ap_trim(document, len(document) - 8)
    assert trimmed.rule == "drop_prior"
    first, last = thinking(document)
    kept = set(index_of(trimmed).tolist())
    assert not kept & set(range(first.start, first.end))
    # Started again from the original: the last block is whole, not what rule 2 left of it.
    assert kept >= set(range(last.start, last.end))


def test_read_literally_the_second_rule_may_keep_nothing_of_the_last_turn():
    document = conversation([(2, [20], 2), (2, [5], 2)])
    trimmed = ap_trim(document, len(document) - 5)
    assert (trimmed.rule, trimmed.kept_reasoning_tokens) == ("cut_last", 20)


def test_the_fourth_rule_counts_all_that_is_not_reasoning():
    document = conversation([(30, [50], 2)])
    fixed = len(document) - 50
    assert ap_trim(document, fixed).kept_reasoning_tokens == 0
    assert ap_trim(document, fixed - 1) is None


def test_below_min_keep_the_earlier_turns_give_first():
    document = conversation([(2, [10], 2), (2, [10], 2)])
    context = len(document) - 8
    assert ap_trim(document, context).rule == "cut_last"
    kept = ap_trim(document, context, ApTrimConfig(min_keep_tokens=3))
    assert (kept.rule, kept.kept_reasoning_tokens) == ("drop_prior", 10)
    alone = conversation([(2, [10], 2)])
    helpless = ap_trim(alone, len(alone) - 9, ApTrimConfig(min_keep_tokens=5))
    assert (helpless.rule, helpless.kept_reasoning_tokens) == ("cut_last", 1)


def test_oldest_first_drops_no_more_earlier_blocks_than_needed():
    document = conversation([(1, [10], 1), (1, [10], 1), (1, [4], 1)])
    context = len(document) - 12
    assert ap_trim(document, context).kept_reasoning_tokens == 4
    kept = ap_trim(document, context, ApTrimConfig(drop_prior="oldest_first"))
    assert kept.kept_reasoning_tokens == 12
    sizes = [segment.length for segment in thinking(kept.apply(document))]
    assert sizes == [10, 2]


def test_the_last_of_several_blocks_in_a_turn_gives_first_and_tools_do_not_end_a_turn():
    document = conversation([(1, [6, 6], 1)])
    sizes = [s.length for s in thinking(ap_trim(document, len(document) - 4).apply(document))]
    assert sizes == [6, 2]
    sizes = [s.length for s in thinking(ap_trim(document, len(document) - 8).apply(document))]
    assert sizes == [4]


def test_a_question_without_an_answer_is_not_the_last_turn():
    builder = DocumentBuilder("chat")
    builder.add([1], "text", "user", loss=False)
    builder.add(range(10), "think", "assistant", loss=True)
    builder.add([2], "answer", "assistant", loss=True)
    builder.add([3], "text", "user", loss=False)
    trimmed = ap_trim(builder.build(), 9)
    assert (trimmed.rule, trimmed.kept_reasoning_tokens) == ("cut_last", 6)


def test_an_emptied_block_keeps_its_marker_untrained():
    document = conversation([(1, [5], 1), (1, [5], 1)])
    trimmed = ap_trim(document, len(document) - 6)
    first = thinking(document)[0]
    mask = dict(zip(index_of(trimmed).tolist(), trimmed.loss_mask().tolist(), strict=True))
    assert [mask[first.end + i] for i in range(CLOSE + 1)] == [False] * CLOSE + [True]


def test_the_boundary_behind_a_cut_can_be_masked():
    document = conversation([(1, [9], 4)])
    config = ApTrimConfig(mask_cut_boundary=True, mask_answer_tokens=2)
    trimmed = ap_trim(document, len(document) - 3, config)
    end = thinking(document)[0].end
    mask = dict(zip(index_of(trimmed).tolist(), trimmed.loss_mask().tolist(), strict=True))
    behind = [mask[end + i] for i in range(CLOSE + 5)]
    assert behind == [False] * (CLOSE + 2) + [True] * 3
    assert ap_trim(document, len(document), config).loss_mask().sum() == 9 + CLOSE + 5


def test_a_cut_can_move_back_to_a_line_end():
    document = conversation([(1, [10], 1)])
    start = thinking(document)[0].start
    ends = frozenset({start + 4})
    near = ApTrimConfig(newline_ids=ends, snap_tokens=3)
    far = ApTrimConfig(newline_ids=ends, snap_tokens=2)
    assert ap_trim(document, len(document) - 3, near).kept_reasoning_tokens == 5
    assert ap_trim(document, len(document) - 3, far).kept_reasoning_tokens == 7


def test_text_without_reasoning_is_dropped_or_split_without_loss():
    document = text_document(range(25), "web")
    assert ap_trim(document, 10) is None
    assert fit(document, 10, ApTrimConfig(no_reasoning="drop")) == []
    pieces = fit(document, 10)
    assert pieces == fit(document, 10, ApTrimConfig(no_reasoning="split"))
    talk = conversation([(20, None, 5)])
    assert fit(talk, 10) == []
    assert sum(piece.length for piece in fit(talk, 10, ApTrimConfig(no_reasoning="split"))) == 29
    assert [piece.length for piece in pieces] == [10, 10, 5]
    joined = np.concatenate([document.tokens[index_of(piece)] for piece in pieces])
    np.testing.assert_array_equal(joined, document.tokens)
    too_long = conversation([(30, [5], 2)])
    assert fit(too_long, 10, ApTrimConfig(no_reasoning="split")) == []


def test_the_report_counts_documents_and_tokens_by_source():
    documents = [
        conversation([(1, [9], 1)]),
        conversation([(1, [2], 1)]),
        text_document(range(50), "web"),
    ]
    report = trim_report(documents, 12, ApTrimConfig(no_reasoning="drop"))
    assert (report["chat"]["cut_last"], report["chat"]["whole"]) == (1, 1)
    assert report["chat"]["tokens"] - report["chat"]["kept_tokens"] == 6
    assert report["chat"]["reasoning_cut_tokens"] == 6
    assert report["web"]["dropped"] == 1


def test_settings_that_cannot_be_meant_are_refused():
    for bad in ({"min_keep_tokens": -1}, {"snap_tokens": 4}):
        with pytest.raises(ConfigError):
            ApTrimConfig(**bad)
    with pytest.raises(ConfigError, match="context_tokens is 0"):
        ap_trim(text_document([1], "web"), 0)
