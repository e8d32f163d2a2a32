"""What a paragraph, a sentence and a word are."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from openzaya.envs.instruct.edit import swap_word
from openzaya.envs.instruct.reading import Reading, split_sentences, words


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("It works. It does!", 2),
        ("Dr. Lee, e.g. at 3.5 degrees, left.", 1),
        ("J. Smith came. So did I. He left.", 3),
        ("Wait... what?", 2),
        ('He said "no." Then he left.', 2),
        ("(It rained.) We stayed.", 2),
        ("- one\n- two\nprose that goes\non here", 3),
        ("# A heading\n\nText", 2),
        ("1. First item.\n2. Second item.", 2),
        ("No end", 1),
        ("... !!! ???", 0),
        ("Well?! Yes.", 2),
        ("Add 2 tbsp. of oil, then go up Mt. Etna.", 1),
    ],
)
def test_sentences_end_at_marks_blank_lines_and_list_items(text, count):
    assert len(Reading(text).sentences) == count


def test_hyphens_and_apostrophes_join_a_word_and_markers_are_none():
    assert words("A well-known rock--n roll isn\u2019t it's") == [
        "a", "well-known", "rock", "n", "roll", "isn't", "it's",
    ]  # fmt: skip
    assert words("At 6:30 it cost 1,234.50 euros, 3-4 of 5.") == [
        "at", "6:30", "it", "cost", "1,234.50", "euros", "3-4", "of", "5",
    ]  # fmt: skip
    assert Reading("a well\u2011known fact").words == ["a", "well-known", "fact"]
    assert Reading("1. one\na) two\n- [x] three\n> - four\n## five 6").words == [
        "one", "two", "three", "four", "five", "6",
    ]  # fmt: skip


def test_paragraphs_stand_between_blank_lines_whatever_the_line_ends():
    text = "\r\n  One.  \r\n \t\r\n\r\nTwo\r\nlines.\r\n"
    assert Reading(text).paragraphs == ["One.", "Two\nlines."]
    assert Reading(text).lines == ["One.", "Two", "lines."]


@given(st.text(max_size=300))
def test_reading_is_total_and_blind_to_outer_whitespace(text):
    plain, padded = Reading(text), Reading(f" \n\t{text}  \n\n")
    for part in ("text", "lines", "paragraphs", "sentences", "words", "counts", "letters"):
        assert getattr(plain, part) == getattr(padded, part)


@given(st.text(max_size=200))
def test_no_sentence_loses_a_word(text):
    flat = " ".join(text.split())
    assert words(" ".join(split_sentences(flat))) == words(" ".join(Reading(flat).sentences))


def test_a_swapped_word_is_gone_as_a_word_and_only_as_a_word():
    text = "The cat, CAT! concat cat-like cats cat's cat"
    assert swap_word(text, "cat", "dog") == "The dog, dog! concat cat-like cats cat's dog"
