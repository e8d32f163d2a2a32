"""A joined text is a text like any other, and says what it was made of."""

from copy import deepcopy

from openzaya.core.joined import Joined


def test_a_joined_text_equals_its_text_and_keeps_its_pieces():
    text = Joined.of(part for part in ("a", "", "bc"))
    assert text == "abc"
    assert hash(text) == hash("abc")
    assert text.pieces == ("a", "", "bc")


def test_a_deep_copy_is_the_same_text():
    text = Joined.of(["a", "b"])
    assert deepcopy({"content": text})["content"] is text
