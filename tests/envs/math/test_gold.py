"""Golds declare their type at load; what does not fit is refused there."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from openzaya.core.errors import ConfigError, DataError
from openzaya.core.records import Judgement
from openzaya.envs.math.gold import Gold, Rules, parse_gold
from openzaya.envs.math.grade import explain, grade
from openzaya.envs.math.kinds import Kind
from openzaya.envs.math.limits import Refused
from openzaya.envs.math.parse import parse


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("42", "integer"),
        ("1,234", "integer"),
        ("1/2", "rational"),
        ("0.5", "rational"),
        (r"\sqrt{2}", "expression"),
        ("2x+1", "expression"),
        ("(1,2)", "tuple"),
        (r"\{1,2\}", "set"),
        ("1, 2", "set"),
        ("[0,1)", "interval"),
        (r"(0,\infty)", "interval"),
        ("x > 3", "interval"),
        (r"\begin{pmatrix}1&2\\3&4\end{pmatrix}", "matrix"),
        ("B", "choice"),
        ("(C)", "choice"),
        ("yes", "text"),
        ("x = 5", "integer"),
        (r"x \in \{1,2\}", "set"),
        (r"1 \pm \sqrt{2}", "set"),
        (r"\langle 1,2\rangle", "tuple"),
        ("y = 2x", "expression"),
        ("p - q", "expression"),
        (r"\text{even}", "text"),
        (r"\text{June 20}", "text"),
        (r"\textbf{(C)}", "choice"),
        ("073", "integer"),
        ("50 degrees", "integer"),
        (r"5\text{ m}", "integer"),
        (r"10^\circ\text{C}", "integer"),
        ("5m", "expression"),
        ("12 apples", "integer"),
        ("x = 1, y = 2", "tuple"),
        ("x_1 = 1, x_2 = 2", "set"),
    ],
)
def test_the_kind_is_told_from_the_text(text, kind):
    gold = parse_gold(text)
    assert gold.kind is Kind(kind)
    assert grade(gold, text, started_in_think=False).judgement is Judgement.RIGHT


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("nan", None),
        ("NaN", "integer"),
        ("1/0", None),
        ("0/0", "rational"),
        ("1/2", "integer"),
        (r"\sqrt2", "rational"),
        ("", "integer"),
        ("(1,2)", "integer"),
        ("5", "tuple"),
        ("(2,1)", "matrix"),
        ("K", "choice"),
        ("9^{9^{9^9}}", "integer"),
        (r"\sum_{k=1}^5 k", "integer"),
        ("x \\equiv 3 \\pmod 7", None),
        ("\ud800", None),
        ("1" * 5000, None),
        ("x", "integer"),
        (r"\ln(-x^2)", "expression"),
        ("x/0", "expression"),
        ("x + y = 5", None),
        ("xy = 1", None),
        ("caf\u00e9", "text"),
    ],
)
def test_a_gold_that_does_not_fit_is_refused_when_it_is_loaded(text, kind):
    with pytest.raises(DataError, match=r"gold"):
        parse_gold(text, kind)


def test_an_unknown_kind_and_rules_without_sense_are_refused():
    with pytest.raises(DataError, match="choose one of: integer"):
        parse_gold("1", "number")
    with pytest.raises(ConfigError, match="tolerance is nan"):
        Rules(tolerance=float("nan"))
    with pytest.raises(ConfigError, match="allow names 'magic'"):
        Rules(allow=frozenset({"magic"}))
    with pytest.raises(DataError, match="unit 'parsec'"):
        parse_gold("3", "integer", Rules(unit="parsec"))


def test_only_the_second_tier_takes_golds_of_other_kinds():
    gold = parse_gold("y = 2x", "other", Rules(second_tier=True))
    assert gold.kind is Kind.OTHER
    with pytest.raises(ConfigError, match="give grade"):
        grade(gold, "y = 2x")


GOLDS = [
    parse_gold("42"),
    parse_gold("2x+1", None, Rules(variables=("x",))),
    parse_gold(r"\{1,2\}"),
    parse_gold("[0,1)"),
    parse_gold("B"),
    parse_gold("yes"),
    parse_gold(r"\begin{pmatrix}1&2\\3&4\end{pmatrix}"),
]
PIECES = st.sampled_from(
    [
        *(
            r"\boxed{",
            "}",
            "{",
            r"\frac",
            r"\sqrt",
            "(",
            ")",
            "[",
            "]",
            "|",
            "^",
            "_",
            "!",
            "%",
            "=",
        ),
        *(
            r"\begin{pmatrix}",
            r"\end{pmatrix}",
            "&",
            r"\\",
            r"\text{",
            "or",
            "and",
            ",",
            "<",
            r"\le",
        ),
        *("4", "2", "0", ".", "x", "e", "i", "pi", r"\pi", "-", "+", "/", "*", r"\pm", r"\infty"),
        *(
            r"\cup",
            r"\in",
            " ",
            "\n",
            "$",
            "answer is ",
            "</think>",
            "sin",
            r"\log",
            "\u2212",
            "\0",
        ),
    ]
)


@given(st.sampled_from(GOLDS), st.one_of(st.lists(PIECES, max_size=30).map("".join), st.text()))
def test_no_reply_whatever_raises(gold, reply):
    verdict = grade(gold, reply, started_in_think=False)
    assert verdict.judgement in (Judgement.RIGHT, Judgement.WRONG)


@given(st.lists(PIECES, max_size=20).map("".join), st.lists(st.sampled_from(" \n"), max_size=3))
def test_white_space_around_an_answer_changes_nothing(answer, space):
    padded = "".join(space) + answer + "".join(space)
    gold: Gold = GOLDS[0]
    first = grade(gold, f"\\boxed{{{answer}}}", started_in_think=False).judgement
    assert grade(gold, f"\\boxed{{{padded}}}", started_in_think=False).judgement is first


@given(st.integers(-(10**9), 10**9))
def test_a_whole_number_equals_itself_and_no_neighbour(number):
    gold = parse_gold(str(number), "integer")
    assert grade(gold, f"\\boxed{{{number}}}", started_in_think=False).reward == 1.0
    assert grade(gold, f"\\boxed{{{number + 1}}}", started_in_think=False).reward == 0.0


def test_the_region_starts_behind_the_think_block_also_when_the_prompt_opened_it():
    gold = parse_gold("42")
    assert grade(gold, "\\boxed{42}\n</think>\nno").reward == 0.0
    assert grade(gold, "hm\n</think>\n\\boxed{42}").reward == 1.0
    assert grade(gold, "\\boxed{42}").reason.startswith("the reasoning was never closed")


def test_an_explanation_names_region_candidates_reading_and_rule():
    grading = explain(parse_gold("42"), "so</think>It is \\boxed{6*7}")
    assert grading.region == "It is \\boxed{6*7}"
    assert grading.readings[0].candidate.text == "6*7"
    assert grading.readings[0].parsed == "(* 6 7)"
    assert grading.rule == "form"
    assert "left to be worked out" in grading.verdict.reason


def test_declared_variables_stay_and_without_any_the_letters_of_the_formula_are_taken():
    declared = parse_gold("2x+1", None, Rules(variables=("x", "y")))
    assert declared.rules.variables == ("x", "y")
    assert parse_gold("2x+z", "expression").rules.variables == ("x", "z")


def test_formulas_are_compared_at_points_that_change_with_the_process():
    from openzaya.envs.math import equal

    gold = parse_gold("2x+1", None, Rules(variables=("x",)))
    first = equal.Comparer(gold.scope(), b"gold").points(gold.shape.items[0], ("x",))
    again = equal.Comparer(gold.scope(), b"gold").points(gold.shape.items[0], ("x",))
    other = equal.Comparer(gold.scope(), b"other").points(gold.shape.items[0], ("x",))
    assert first == again
    assert first != other
    assert len(first) == equal.NUM_POINTS


@pytest.mark.parametrize("text", ["(" * 50 + "1", "1+" * 2500 + "1", "x" * 9000, "1," * 300 + "1"])
def test_the_parser_counts_and_stops(text):
    with pytest.raises(Refused):
        parse(text, frozenset("x"))


@pytest.mark.parametrize(
    "answer", [r"2x+\sqrt{x}-\sqrt{x}", r"2(\sqrt{x})^2", r"2\sqrt{x^2}", "2|x|"]
)
def test_half_of_the_line_is_never_missed_by_chance(answer, monkeypatch):
    """Signs come in turn, so no choice of the secret lets a half-defined formula pass."""
    from openzaya.envs.math import equal

    gold = parse_gold("2x", None, Rules(variables=("x",)))
    for secret in range(20):
        monkeypatch.setattr(equal, "_SECRET", secret.to_bytes(16, "big"))
        assert grade(gold, f"\\boxed{{{answer}}}", started_in_think=False).reward == 0.0
        assert grade(gold, r"\boxed{x+x}", started_in_think=False).reward == 1.0


def test_powers_with_a_variable_exponent_have_a_value_everywhere(monkeypatch):
    from openzaya.envs.math import equal

    gold = parse_gold("2e^{4x}", None, Rules(variables=("x",)))
    for secret in range(20):
        monkeypatch.setattr(equal, "_SECRET", secret.to_bytes(16, "big"))
        assert grade(gold, r"\boxed{2(e^x)^4}", started_in_think=False).reward == 1.0
        assert grade(gold, r"\boxed{2e^{3x}}", started_in_think=False).reward == 0.0
