"""Windows hold what trimming kept; the mixture keeps its shares and needs no state."""

from dataclasses import replace
from unittest.mock import patch

import numpy as np
import pytest
from data.made_documents import conversation, conversations
from hypothesis import given, settings
from hypothesis import strategies as st

from openzaya.core.errors import DataError
from openzaya.core.seeding import numpy_stream
from openzaya.data.ap_trim import ApTrimConfig, _clip, ap_trim, fit
from openzaya.data.documents import Corpus, load_corpus, save_corpus
from openzaya.data.mixture import Mixture
from openzaya.data.windows import Window, build_windows
from openzaya.text.document import text_document


def pieces(window):
    ends = np.cumsum(window.lengths)
    return [
        (window.tokens[end - n : end].tolist(), window.loss_mask[end - n : end].tolist(), source)
        for end, n, source in zip(ends, window.lengths, window.sources, strict=True)
    ]


def ids_of(document, segment):
    return document.tokens[segment.start : segment.end].tolist()


@settings(deadline=None, max_examples=40)
@given(documents=st.lists(conversations, max_size=8), context=st.integers(8, 60))
def test_windows_hold_exactly_the_trimmed_documents(documents, context):
    windows = build_windows(documents, context, window_tokens=2 * context)
    expected = []
    for document in documents:
        trimmed = ap_trim(document, context)
        if trimmed is not None:
            kept = trimmed.apply(document)
            expected.append((kept.tokens.tolist(), kept.loss_mask().tolist(), kept.source))
    assert sorted(piece for window in windows for piece in pieces(window)) == sorted(expected)
    assert all(len(window) == sum(window.lengths) <= 2 * context for window in windows)


@settings(deadline=None, max_examples=40)
@given(
    documents=st.lists(
        conversations | st.integers(1, 50).map(lambda n: text_document(range(n), "web")),
        max_size=12,
    ),
    context=st.integers(3, 40),
    rule=st.sampled_from(("split_text", "split", "drop")),
)
def test_no_token_is_lost_doubled_or_moved_that_trimming_kept(documents, context, rule):
    """Token i of document d is i + 1000 d, so that each says where it came from."""
    documents = [replace(d, tokens=d.tokens + 1_000 * i) for i, d in enumerate(documents)]
    config = ApTrimConfig(no_reasoning=rule)
    windows = build_windows(documents, context, config)
    found = [tokens for window in windows for tokens, *_ in pieces(window)]
    assert all(tokens == sorted(tokens) and len(tokens) <= context for tokens in found)
    expected = [
        token
        for document in documents
        for piece in fit(document, context, config)
        for token in piece.tokens_of(document).tolist()
    ]
    assert sorted(token for tokens in found for token in tokens) == expected
    assert len(expected) == len(set(expected))
    kept = set(expected)
    for document in documents:
        lost = [s for s in document.segments if not kept.issuperset(ids_of(document, s))]
        whole = kept.isdisjoint(document.tokens.tolist())
        assert whole or {segment.kind for segment in lost} <= {"think"}


def test_windows_are_shuffled_by_the_seed_and_know_each_document_s_source():
    documents = [text_document([i] * (i % 7 + 4), "ab"[i % 2]) for i in range(60)]
    first, again = build_windows(documents, 12), build_windows(documents, 12)
    other = build_windows(documents, 12, seed=1)
    assert [w.tokens.tolist() for w in first] == [w.tokens.tolist() for w in again]
    assert [w.tokens.tolist() for w in first] != [w.tokens.tolist() for w in other]
    assert sorted(w.tokens.tolist() for w in first) == sorted(w.tokens.tolist() for w in other)
    for window in first:
        starts = np.cumsum([0, *window.lengths[:-1]])
        assert window.sources == ["ab"[i % 2] for i in window.tokens[starts]]
    with pytest.raises(DataError, match="at least context_tokens"):
        build_windows(documents, 12, window_tokens=11)


def test_windows_of_a_corpus_are_gathered_when_asked_for_and_hold_no_tokens(tmp_path):
    documents = [conversation([(2, [10], 2)]), text_document(range(7), "web")] * 20
    save_corpus(tmp_path, documents)
    corpus = load_corpus(tmp_path)
    with patch.object(Corpus, "document", side_effect=AssertionError("read")):
        windows = build_windows(corpus, 21)
        sizes = [(len(w), w.lengths, w.sources) for w in windows]
    held = build_windows(documents, 21)
    assert sizes == [(len(w), w.lengths, w.sources) for w in held]
    assert list(map(pieces, windows)) == list(map(pieces, held))
    trimmed = [build_windows(source, 14) for source in (corpus, documents)]
    assert list(map(pieces, trimmed[0])) == list(map(pieces, trimmed[1]))


def made(name, sizes):
    """One window of each size, its tokens numbered by its place."""
    return [
        Window(np.full(n, i, np.int32), [n], np.ones(n, np.bool_), [name])
        for i, n in enumerate(sizes)
    ]


def made_mixture():
    sources = {
        "web": made("web", [30, 10, 25, 40, 35]),
        "cot": made("cot", [64, 60, 64, 50, 64, 20, 64]),
        "rare": made("rare", [16, 16, 12]),
        "off": made("off", [9]),
    }
    return Mixture(sources, {"rare": 1, "web": 3, "cot": 6, "off": 0})


def test_a_step_is_a_function_of_seed_and_step_alone():
    once = made_mixture()
    steps = [once.windows_for_step(3, step, 200) for step in range(30)]
    for step in (29, 0, 17):
        again = made_mixture().windows_for_step(3, step, 200)
        names = [(w.sources[0], int(w.tokens[0])) for w in again]
        assert names == [(w.sources[0], int(w.tokens[0])) for w in steps[step]]
    reseeded = [once.windows_for_step(4, step, 200) for step in range(30)]
    assert [[int(w.tokens[0]) for w in s] for s in steps] != [
        [int(w.tokens[0]) for w in s] for s in reseeded
    ]
    assert all(steps)


def test_token_shares_hold_at_any_time_up_to_a_window():
    mixture = made_mixture()
    assert mixture.weights == {"cot": 0.6, "rare": 0.1, "web": 0.3}
    got = dict.fromkeys(mixture.weights, 0)
    for step in range(300):
        for window in mixture.windows_for_step(0, step, 200):
            got[window.sources[0]] += len(window)
        for name, weight in mixture.weights.items():
            assert abs(got[name] - weight * 200 * (step + 1)) <= 33  # half a window
    total = sum(got.values())
    for name, weight in mixture.weights.items():
        assert got[name] / total == pytest.approx(weight, abs=0.005)


mixtures = st.lists(
    st.tuples(st.lists(st.integers(1, 40), min_size=1, max_size=6), st.floats(0.01, 9)),
    min_size=1,
    max_size=4,
)


def laid_end_to_end(sizes, name, seed, until):
    """Go through the windows of a source's stream, epoch after epoch, and where they begin."""
    start = epoch = 0
    while start < until:
        for number in numpy_stream(seed, "mixture", name, epoch).permutation(len(sizes)).tolist():
            yield number, start
            start += sizes[number]
        epoch += 1


@settings(deadline=None, max_examples=80)
@given(made_of=mixtures, seed=st.integers(0, 3), more=st.integers(0, 60), at=st.randoms())
def test_any_step_from_anywhere_is_that_of_the_streams_laid_end_to_end(made_of, seed, more, at):
    sizes = {f"s{i}": own for i, (own, _) in enumerate(made_of)}
    sources = {name: made(name, own) for name, own in sizes.items()}
    given_weights = {f"s{i}": weight for i, (_, weight) in enumerate(made_of)}
    weights = Mixture(sources, given_weights).weights
    tokens = min(int(max(sizes[name]) / weight) + 1 for name, weight in weights.items()) + more
    count = 12
    expected = [[] for _ in range(count)]
    for name, weight in weights.items():
        ends = [int(weight * tokens * (step + 1)) for step in range(count)]
        for number, start in laid_end_to_end(sizes[name], name, seed, ends[-1] + 40):
            middle = start + sizes[name][number] / 2
            step = next((i for i, end in enumerate(ends) if middle < end), count)
            if step < count:
                expected[step].append((name, number))
    asked = list(range(count))
    at.shuffle(asked)  # a resume begins anywhere
    for step in asked[: count // 2]:
        windows = Mixture(sources, given_weights).windows_for_step(seed, step, tokens)
        found = [(window.sources[0], int(window.tokens[0])) for window in windows]
        assert sorted(found) == sorted(expected[step])
        assert found


@settings(deadline=None, max_examples=60)
@given(made_of=mixtures, seed=st.integers(0, 3), first=st.integers(0, 10**6))
def test_shares_are_exact_up_to_half_a_window_however_many_steps_went_before(made_of, seed, first):
    sources = {f"s{i}": made(f"s{i}", own) for i, (own, _) in enumerate(made_of)}
    mixture = Mixture(sources, {f"s{i}": weight for i, (_, weight) in enumerate(made_of)})
    tokens = 1 + min(int(40 / weight) for weight in mixture.weights.values())
    got = dict.fromkeys(mixture.weights, 0)
    for step in range(first, first + 15):
        for window in mixture.windows_for_step(seed, step, tokens):
            got[window.sources[0]] += len(window)
        for name, weight in mixture.weights.items():
            half = max(map(len, sources[name])) / 2
            # At both ends of the stretch, and a token where its border is rounded down.
            assert abs(got[name] - weight * tokens * (step + 1 - first)) <= 2 * half + 1


def test_every_epoch_goes_through_all_windows_in_a_new_order():
    mixture = Mixture({"a": made("a", [8] * 12)}, {"a": 2.5})
    epochs = []
    for epoch in range(4):
        steps = [mixture.windows_for_step(0, 3 * epoch + i, 32) for i in range(3)]
        # Within a step windows are shuffled once more, so compare what the steps hold.
        epochs.append(tuple(frozenset(int(w.tokens[0]) for w in step) for step in steps))
    assert all(frozenset().union(*epoch) == set(range(12)) for epoch in epochs)
    assert len(set(epochs)) == 4


def test_the_order_in_which_sources_are_named_changes_nothing():
    sources = {"a": made("a", [8] * 5), "b": made("b", [6] * 5)}
    swapped = dict(reversed(sources.items()))
    weights = {"a": 0.5, "b": 0.5}
    for step in range(4):
        one = Mixture(sources, weights).windows_for_step(0, step, 60)
        two = Mixture(swapped, dict(reversed(weights.items()))).windows_for_step(0, step, 60)
        assert [id(window) for window in one] == [id(window) for window in two]


def test_mixtures_that_cannot_work_are_refused_with_a_cure():
    windows = made("a", [8])
    for weights in ({"b": 1.0}, {"a": 0.0}, {"a": -1.0}, {"a": float("nan")}):
        with pytest.raises(DataError):
            Mixture({"a": windows}, weights)
    with pytest.raises(DataError, match="no windows"):
        Mixture({"a": windows, "b": []}, {"a": 1, "b": 1})
    with pytest.raises(DataError, match="expected at least 9"):
        Mixture({"a": windows}, {"a": 1}).windows_for_step(0, 0, 8)
    with pytest.raises(DataError, match="step is -1"):
        Mixture({"a": windows}, {"a": 1}).windows_for_step(0, -1, 80)


def test_a_trimmed_conversation_keeps_its_mask_in_the_window():
    document = conversation([(2, [10], 2)])
    (window,) = build_windows([document], len(document) - 4)
    assert window.loss_mask.tolist() == [False] * 5 + [True] * 12


def test_a_window_of_a_long_document_is_gathered_without_making_its_other_pieces():
    document = text_document(range(100), "web")
    windows = build_windows([document], 10)
    with patch("openzaya.data.ap_trim._clip", wraps=_clip) as clips:
        found = sorted(window.tokens.tolist() for window in windows)
    assert found == [list(range(start, start + 10)) for start in range(0, 100, 10)]
    assert clips.call_count == 10
