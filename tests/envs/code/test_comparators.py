"""The rules of comparison, one by one."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from openzaya.envs.code.comparators import Comparator, Comparison


@pytest.mark.parametrize(
    ("kind", "output", "expected", "accepted"),
    [
        ("exact", "a\r\nb", "a\nb\n", True),
        ("exact", "a \nb", "a\nb", False),
        ("exact", "a\nb\n\n", "a\nb", False),
        ("lines", "a  \nb\t\n\n", "a\nb", True),
        ("lines", "  a\nb", "a\nb", False),
        ("lines", "a b", "a  b", False),
        ("lines", "a\n\nb", "a\nb", False),
        ("lines", "", "\n", True),
        ("tokens", " a\n b ", "a b", True),
        ("tokens", "ab", "a b", False),
        ("tokens", "1.0", "1", False),
        ("tokens", "YES", "Yes", False),
        ("tokens_caseless", "YES no", "Yes NO", True),
        ("numbers", "1.0", "1", True),
        ("numbers", "+1 -0", "1 0", True),
        ("numbers", "1e0 .5", "1 0.50", True),
        ("numbers", "1000001", "1000000", False),  # integers are exact
        ("numbers", "1000000.1", "1000000", True),
        ("numbers", "100000000000000001", "100000000000000000", False),
        ("numbers", "nan", "nan", True),  # the same word
        ("numbers", "nan", "1", False),
        ("numbers", "inf", "1e400", False),
        ("numbers", "1e400", "1e401", False),
        ("numbers", "0x1", "1", False),
        ("numbers", "1_0", "10", False),
        ("numbers", "\u0661", "1", False),
        ("numbers", "1 2", "1", False),
        ("numbers", "9" * 401, "9" * 401 + ".0", False),
        ("unordered_lines", "b\na\nb", "b\nb\na", True),
        ("unordered_lines", "b\na", "b\nb\na", False),
    ],
)
def test_texts(kind, output, expected, accepted):
    assert Comparator(kind=Comparison(kind)).accepts(output, expected) is accepted


@pytest.mark.parametrize(
    ("kind", "output", "expected", "accepted"),
    [
        ("value", 1, 1, True),
        ("value", True, 1, False),
        ("value", 1.0, 1, False),
        ("value", {"a": 1, "b": 2}, {"b": 2, "a": 1}, True),
        ("value", [1, 2], [2, 1], False),
        ("value", 0.1 + 0.2, 0.3, False),
        ("value_close", 0.1 + 0.2, 0.3, True),
        ("value_close", [{"x": 1.0000001}], [{"x": 1.0}], True),
        ("value_close", 1, 1.0, False),
        ("value_close", 1.1, 1.0, False),
        ("value_numeric", 1, 1.0, True),
        ("value_numeric", 1.0, 1, True),
        ("value_numeric", True, 1.0, False),
        ("value_numeric", True, 1, False),
        ("value_numeric", 10**400, 1.0, False),
        ("value_numeric", 1000001, 1000000, False),
        ("value_unordered", [2, 1, 1], [1, 2, 1], True),
        ("value_unordered", [2, 1, 2], [1, 2, 1], False),
        ("value_unordered", [1, True], [1, 1], False),
        ("value_unordered", [[1, 2]], [[2, 1]], False),
        ("value_unordered", 5, 5, True),
        ("value_unordered", [1.5, [-0.0]], [[0.0], 1.5], True),
        ("value", "1", 1, False),
        ("value", None, False, False),
    ],
)
def test_values(kind, output, expected, accepted):
    assert Comparator(kind=Comparison(kind)).accepts(output, expected) is accepted


TEXT_RULES = [kind for kind in Comparison if not kind.is_for_values]


@given(text=st.text(max_size=200), kind=st.sampled_from(TEXT_RULES))
def test_every_text_rule_accepts_the_expected_text_and_forgives_crlf(text, kind):
    rule = Comparator(kind=kind)
    assert rule.accepts(text, text)
    assert rule.accepts(text.replace("\r", "").replace("\n", "\r\n"), text.replace("\r", ""))
    assert not rule.accepts(text + "\nx7", text)


def test_a_value_is_never_accepted_as_text():
    assert not Comparator().accepts(["a"], "a")
