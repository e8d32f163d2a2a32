"""The schema: what is refused, and that JSON gives back the same problem."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from openzaya.core.errors import DataError
from openzaya.envs.code.comparators import VALUES, Comparator, Comparison
from openzaya.envs.code.problem import (
    Failure,
    Mode,
    Problem,
    Program,
    Provenance,
    Rejected,
    Test,
)
from openzaya.envs.code.problem_json import from_json, to_json
from openzaya.envs.code.values import canonical, check_value, parse_value, same_value
from openzaya.sandbox.executor import Limits

OWN = Provenance(source="test", license="Apache-2.0")

FULL = Problem(
    id="sum",
    statement="Add the numbers.",
    mode=Mode.FUNCTION,
    entry="add",
    io_spec="a list of ints -> int",
    starter="def add(xs):\n",
    public_tests=(Test(input=[[1, 2]], output=3),),
    private_tests=(Test(input={"xs": [1, -1]}, output=0), Test(input=[[]], output=0)),
    accepted=(Program(source="def add(xs): return sum(xs)", entry="add"),),
    rejected=(
        Rejected(
            program=Program(source="def add(xs): return 3", entry="add"),
            failure=Failure.WRONG_ANSWER,
            killer=Test(input=[[5]], output=5),
        ),
    ),
    comparator=Comparator(kind=Comparison.VALUE_CLOSE, relative=1e-3),
    checker=Program(source="def check(i, o, e): return o == e", entry="check"),
    limits=Limits(cpu_s=1.5),
    provenance=OWN,
    tags=("easy",),
    difficulty=800.0,
)

values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


def test_a_problem_survives_json_with_every_field():
    assert from_json(to_json(FULL)) == FULL
    assert "\n" not in to_json(FULL)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"entry": ""}, "names its entry"),
        ({"mode": "stdin", "entry": "", "comparator": None}, "must be str"),
        ({"mode": "stdin", "entry": "", "comparator": None, "prelude": "x"}, "prelude"),
        ({"mode": "both"}, "problem.mode"),
        ({"id": 7}, "problem.id"),
        ({"surprise": 1}, "unknown field 'surprise'"),
        ({"schema": "openzaya.problem/0"}, "schema"),
        ({"public_tests": [{"input": [1]}]}, "lacks a field"),
        ({"public_tests": [{"input": "text", "output": 1}]}, "must be list or dict"),
        ({"comparator": {"kind": "lines"}}, "does not fit"),
        ({"comparator": {"kind": "value", "relative": 2.0}}, "relative"),
        ({"limits": {"cpu_s": "4"}}, "cpu_s"),
        ({"statement": None}, "statement"),
    ],
)
def test_a_field_that_does_not_fit_is_refused_by_name(change, message):
    table = json.loads(to_json(FULL)) | change
    with pytest.raises(DataError, match=message):
        from_json(json.dumps(table))


@given(values)
def test_values_survive_their_canonical_text(value):
    assert same_value(parse_value(canonical(value)), value)


@pytest.mark.parametrize(
    "text", ["NaN", "[Infinity]", "{'a': 1}", '{"a":1,"a":2}', "", "[" * 50_000]
)
def test_what_is_no_json_value_is_refused(text):
    with pytest.raises(DataError):
        parse_value(text)


class Always(str):
    """Equal to everything."""

    __slots__ = ()

    def __eq__(self, other):
        return True

    __hash__ = str.__hash__


@pytest.mark.parametrize(
    "value", [(1, 2), {1, 2}, {1: 2}, b"x", float("nan"), Always("x"), [Always("x")], object()]
)
def test_only_exact_types_are_values(value):
    with pytest.raises(DataError):
        check_value(value)


def test_true_and_1_and_1_point_0_are_three_values():
    for left in (True, 1, 1.0):
        for right in (True, 1, 1.0):
            assert same_value([left], [right]) == (type(left) is type(right))
            assert VALUES.accepts({"k": left}, {"k": right}) == (type(left) is type(right))
