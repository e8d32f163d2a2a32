"""Laws that every constraint keeps, parametrized over the folder of families."""

import inspect
import json
import random
import string
from dataclasses import asdict, fields
from random import Random

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from openzaya.core.errors import EnvError
from openzaya.envs.instruct import compose, kinds
from openzaya.envs.instruct.constraint import Draw
from openzaya.envs.instruct.reading import Reading
from openzaya.envs.instruct.topics import topics

KINDS = kinds.kinds()
NAMES = list(KINDS)
LEVELS = (0, 3, 6, 14)


def sampled(name, seed, level):
    """Return a constraint and the topic it was drawn for."""
    rng = Random(f"{name} {seed} {level}")
    topic = rng.choice(topics())
    return KINDS[name].sample(Draw(rng, level, topic)), topic


def test_there_are_more_than_eighty_kinds_in_many_families():
    assert len(NAMES) >= 80
    assert len({kinds.family(kind) for kind in KINDS.values()}) >= 15
    assert {kind.rarity for kind in KINDS.values()} == {1, 2, 3}


@pytest.mark.parametrize("name", NAMES)
def test_the_examples_hold_and_fail_as_they_say(name):
    kind = KINDS[name]
    assert kind.examples
    for shown in kind.examples:
        constraint = kind.restore(shown.arguments)
        assert constraint.check(Reading(shown.holds)), shown.holds
        assert not constraint.check(Reading(shown.fails)), shown.fails


@pytest.mark.parametrize("name", NAMES)
def test_every_wording_names_every_argument_and_nothing_else(name):
    kind = KINDS[name]
    assert len(kind.wordings) >= 2
    for wording in kind.wordings:
        named = {field for _, field, _, _ in string.Formatter().parse(wording) if field}
        own = {field.name for field in fields(kind)}
        assert named <= own
        assert own - named <= {"request"}, wording
        assert wording[0].isupper()
        assert wording[-1] in '.")*}'


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("level", LEVELS)
def test_what_the_writer_writes_passes_and_what_the_spoiler_spoils_fails(name, level):
    for seed in range(3):
        constraint, topic = sampled(name, seed, level)
        planned = compose.plan(Random(seed), topic, [constraint])
        text = compose.witness(Random(seed), planned)
        assert text is not None, constraint
        assert constraint.check(Reading(text))
        assert not constraint.check(Reading(constraint.violate(text))), constraint


@pytest.mark.parametrize("name", NAMES)
def test_arguments_are_drawn_from_the_stream_and_survive_json(name):
    before = random.getstate()
    for level in LEVELS:
        (one, _), (same, _) = sampled(name, 1, level), sampled(name, 1, level)
        assert one == same
        assert KINDS[name].restore(json.loads(json.dumps(asdict(one)))) == one
        assert hash(one) == hash(same)
    assert random.getstate() == before


@pytest.mark.parametrize("name", NAMES)
def test_nothing_is_no_reply(name):
    """An empty text, a single letter or an ok keeps no constraint but a limit from above."""
    limits = ("at_most", "avoid", "no_", "short", "all_", "paragraph_sentences", "word", "sentence")
    for level in LEVELS:
        constraint, _ = sampled(name, 2, level)
        assert not constraint.check(Reading("")) or any(part in name for part in limits)
        if not any(part in name for part in limits):
            assert not constraint.check(Reading("ok."))


CONSTRAINTS = [sampled(name, 5, level)[0] for name in NAMES for level in (0, 14)]
PIECES = st.sampled_from([
    "\n", "\n\n", " ", "- ", "* ", "1. ", "# ", "> ", "|", "***", "******", "---", "```", "`", "*",
    "**", "<<", ">>", "<note>", "</note>", "[", "]", "[ ] ", "(", ")", '"', "\u201c", "...", "--",
    "?", "!", ".", ",", ";", ":", "{", "}", "\\", "Step 1: ", "P.S. ", "TL;DR:", "a) ", "Dear ",
    "word", "river", "THE", "q", "\ud800", "\0", "\u202e", "\u0301", "\u200b", "\u0664", "\r\n",
])  # fmt: skip
TEXTS = st.one_of(st.text(max_size=120), st.lists(PIECES, max_size=40).map("".join))


@settings(max_examples=60, deadline=None)
@given(text=TEXTS)
@example(text="{" * 2_000)
@example(text='{"a":' * 2_000)
@example(text="9" * 5_000)
def test_checkers_are_total_and_blind_to_outer_whitespace_and_line_ends(text):
    windows = "\r\n".join(text.replace("\r\n", "\n").replace("\r", "\n").split("\n"))
    readings = [Reading(text), Reading(f"\n {text}\t\n"), Reading(windows)]
    for constraint in CONSTRAINTS:
        verdicts = {constraint.check(reading) for reading in readings}
        assert verdicts in ({True}, {False}), constraint


@settings(max_examples=60, deadline=None)
@given(word=st.text(alphabet=string.punctuation + "ab \\", min_size=1, max_size=12))
def test_arguments_full_of_pattern_characters_are_plain_text(word):
    """A constraint restored from data may hold anything: it is compared, never run as a pattern."""
    for name in ("include_words", "avoid_words", "starts_with", "ends_with", "bold_word",
                 "phrase_verbatim", "refrain", "named_sections", "tag_pair", "word_uppercase",
                 "signed_by", "labelled_parts", "no_mark"):  # fmt: skip
        own = {}
        for field in fields(KINDS[name]):
            own[field.name] = {"count": 2, "words": [word], "labels": [word]}.get(field.name, word)
        constraint = KINDS[name].restore(own)
        for text in (word, f"a {word} b", "a+b (a+)+$", "aaaa " * 20):
            assert constraint.check(Reading(text)) in (True, False)


def test_an_unknown_name_gets_a_suggestion_and_a_wrong_argument_a_cure():
    with pytest.raises(EnvError, match="did you mean 'words_at_least'"):
        kinds.get("words_atleast")
    with pytest.raises(EnvError, match=r"words_at_least does not take .*make the problem again"):
        kinds.get("words_at_least").restore({"counts": 3})


def test_checkers_do_not_look_at_anything_but_the_reply():
    """Pure: no clock, no randomness, no files in the modules of constraints."""
    banned = ("import random", "import time", "open(", "eval(", "exec(", "import os")
    for kind in KINDS.values():
        source = inspect.getsource(inspect.getmodule(kind))
        assert not [word for word in banned if word in source.replace("json.loads(", "")]


def test_digits_hyphens_and_apostrophes_are_no_letters():
    at_most_nine = kinds.get("no_long_words").restore({"length": 9})
    assert at_most_nine.check(Reading("Its well-being couldn't cost 1,234,567.89 euros."))
    assert not at_most_nine.check(Reading("A well-mannered dog."))
    one_of_ten = kinds.get("long_words_at_least").restore({"length": 10, "count": 1})
    assert not one_of_ten.check(Reading("It cost 1111111111 or 2,222,222.22 euros."))


def test_a_phrase_has_the_article_of_its_word():
    phrases = {
        kinds.get("phrase_verbatim").sample(Draw(Random(seed), 9, topics()[0])).phrase
        for seed in range(60)
    }
    assert any(phrase.startswith("an ") for phrase in phrases)
    assert not any(phrase[:3] in ("a a", "a e", "a i", "a o", "a u") for phrase in phrases)
