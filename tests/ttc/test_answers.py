"""Which answers count as equal in the vote."""

import json
import time
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from openzaya.ttc.answers import canonical, classes, tool_call_answer

EQUAL = [
    ["1/2", "0.5", ".5", "0.50", "$\\frac{1}{2}$", "\\dfrac12", "2/4", "x = 1/2", "$x=0.5$."],
    ["1000", "1,000", "1,000.0", "$1{,}000$", "1\\,000", "+1000", "\\boxed{1000}"],
    ["12", "12 cm", "12\\text{ cm}", "12 \\mathrm{cm}", "12.", "**12**", "`12`", "12 centimeters"],
    ["7 cm^2", "7", "7 cm^{2}", "7 square centimetres", "7\\,\\text{cm}^2", "7cm^2", "7 sq cm"],
    ["45", "45^\\circ", "45^{\\circ}", "45 degrees", "45\u00b0", "45 deg"],
    ["20^\\circ\\text{C}", "20 \u00b0C", "20 degrees Celsius", "20"],
    ["13 ways", "13", "13 paths", "13 red apples"],
    ["\\sin 30^\\circ", "\\sin 30\u00b0", "\\sin 30^{\\circ}"],
    ["-3", "$-3$", "\\(-3\\)", "- 3", "-3.0", "y=-3"],
    ["B", "(B)", "B.", "B)", "\\text{B}", "**(B)**"],
    ["yes", "Yes", "YES."],
    ["(1,2)", "(1, 2)", "\\left(1, 2\\right)", "$(1,\\,2)$"],
    ["x^2+1", "x^2 + 1", "$x^2+1$"],
    ["3/2", "1 1/2", "1\\frac{1}{2}", "$1\\tfrac12$", "\\frac 3 2", "1.5"],
    ["-1/4", "-\\frac14", "\\frac{-1}{4}", "\u22120.25"],
    ["10%", "10\\%", "10 %", "10.0 percent"],
    ["5 m", "5\\text{m}", "5\\,\\mathrm{m}", "5 meters"],
    ["\\$5", "$5", "5 dollars", "5 US dollars"],
    ["6 h", "6 hours", "6 hrs", "6"],
    ["[0,1)", "[0, 1)", "\\left[0, 1\\right)"],
    ["\\{1,2\\}", "\\{1, 2\\}"],
    ["(-\\infty,2]", "(-\\infty, 2]"],
    ["2\\sqrt{3}", "2 \\sqrt3"],
    ["\\sqrt{3}/2", "\\frac{\\sqrt{3}}{2}", "\\dfrac{\\sqrt3}2"],
    ["2\\pi/3", "\\frac{2\\pi}{3}"],
    [
        "\\begin{pmatrix}1&2\\\\3&4\\end{pmatrix}",
        "\\begin{pmatrix} 1 & 2 \\\\ 3 & 4 \\end{pmatrix}",
    ],
    ["x^2y", "x^{2}y"],
    ["the red one", "the  red\none", "the red one."],
]


@pytest.mark.parametrize("group", EQUAL, ids=lambda group: group[0])
def test_forms_of_one_answer_are_one_class(group):
    assert len(set(classes(group, canonical))) == 1


def test_different_answers_stay_apart():
    apart = [group[0] for group in EQUAL] + [
        *("91 dozens", "91 fifths", "91 halves", "91 tenths", "91 thousands", "91 hundredths"),
        *("91", "91 negative", "91 point five", "91 base eight"),
        "0.333", "1/3", "50%", "a", "b", "X", "x", "12 cm and 3 mm", "1,00", "1/0", "(2,1)",
        "no", "3 4", "34", "1.2.3", "11/2", "2", "2x", "2y", "2i", "2pi", "2n", "2 x", "1e3", "1",
        "8 am", "8 pm", "8", "8 million", "8 thousand", "1, 234", "1234", "1 2 3", "123", "[1 2]",
        "[12]", "1/2x", "\\frac{1}{2}x", "\\frac{x+1}{2}", "x+\\frac{1}{2}", "\\frac{1}{x+1}",
        "1/x+1", "\\frac{1}{2\\pi}", "\\frac{1}{2}\\pi", "2 5/2", "5\\frac{1}{0}", "3 or 4",
        "12 of 13", "[1, 2]", "[1, 3]", "red one", "",
        "5 cm", "5 m^2", "5 s", "5", "20 rad", "20 F", "6 min", "\\sin 30",
    ]  # fmt: skip
    assert len(set(classes(apart, canonical))) == len(apart)


def test_a_bare_number_goes_with_a_unit_only_while_there_is_one():
    both = ["5", "5 cm", None, "5 centimeters", "6"]
    assert classes(both, canonical) == ["5\u00a0cm", "5\u00a0cm", None, "5\u00a0cm", "6"]
    three = classes(["5", "5 cm", "5 m", "5"], canonical)
    assert three == ["5", "5\u00a0cm", "5\u00a0m", "5"]
    assert classes(["5", "5 cm"], str) == ["5", "5 cm"]


@given(st.text(max_size=40))
def test_spaces_around_an_answer_never_matter(text):
    assert canonical(f" {text}\n ") == canonical(text)


@given(st.fractions(min_value=-(10**9), max_value=10**9, max_denominator=999))
def test_a_fraction_is_its_lowest_terms(value):
    assert canonical(str(value)) == str(value)
    assert canonical(f"{value.numerator * 3}/{value.denominator * 3}") == str(value)
    whole, thousandths = divmod(abs(value.numerator), 1000)
    assert canonical(f"{whole}.{thousandths:03}") == str(Fraction(abs(value.numerator), 1000))


@pytest.mark.parametrize(
    "hostile",
    [
        "{" * 100_000,
        "\\text{" * 60,
        "$" * 500,
        "1," * 250,
        "\\frac{" * 80,
        "a" * 500 + "=",
        "9" * 512,
        "\\frac{" + "{a}" * 160,
        "1 " * 250,
    ],
)
def test_hostile_answers_cost_little(hostile):
    begun = time.process_time()
    canonical(hostile)
    assert time.process_time() - begun < 1.0


CALL = {
    "id": "x1",
    "type": "function",
    "function": {"name": "add", "arguments": '{"b": 2, "a": 1}'},
}


def test_tool_calls_vote_by_name_and_arguments():
    same = [
        [CALL],
        json.dumps([CALL]),
        [{"function": {"name": "add", "arguments": {"a": 1, "b": 2}}, "id": "other"}],
        '{"name": "add", "arguments": {"a":1,"b":2}}',
    ]
    answers = {tool_call_answer(calls) for calls in same}
    assert answers == {'[{"arguments":{"a":1,"b":2},"name":"add"}]'}
    other = {"name": "add", "arguments": {"a": 1, "b": 3}}
    assert tool_call_answer([other]) not in answers
    assert tool_call_answer([CALL, other]) != tool_call_answer([other, CALL])
    assert canonical(answers.pop()) == '[{"arguments":{"a":1,"b":2},"name":"add"}]'


@pytest.mark.parametrize(
    "nothing", ["", "7", "[]", "[7]", "{}", "null", '[{"name": 3}]', "[" * 9999]
)
def test_what_holds_no_call_is_no_answer(nothing):
    assert tool_call_answer(nothing) is None
