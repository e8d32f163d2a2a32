"""Overrides, files, errors and round trips of config trees."""

import math
import tomllib
from dataclasses import dataclass, field, replace
from enum import StrEnum
from hashlib import sha256
from pathlib import Path
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from openzaya.core import config as configs
from openzaya.core.errors import ConfigError


class Color(StrEnum):
    RED = "red"
    BLUE = "dark blue"


@dataclass(frozen=True, kw_only=True, slots=True)
class Inner:
    rate: float = 0.5
    taps: tuple[int, ...] = (1, 2)
    pair: tuple[int, str] = (3, "x")
    note: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Outer:
    """Every kind of field that recipes use."""

    tail_tokens: int = 4_096
    budget_tokens: int = 8_192
    strict: bool = False
    mode: Literal["zero", "identity"] = "zero"
    color: Color = Color.RED
    folder: Path = Path("runs")
    limit: int | None = None
    inner: Inner = field(default_factory=Inner)
    stages: tuple[Inner, ...] = (Inner(), Inner(rate=0.25))
    weights: dict[str, float] = field(default_factory=lambda: {"web": 1.0})

    def __post_init__(self) -> None:
        if self.tail_tokens > self.budget_tokens:
            raise ConfigError("tail_tokens exceeds budget_tokens; choose a smaller tail")


def override(config, changes):
    """Return `config` with fields by dotted path changed as --set does."""
    return configs.resolve(config, [], [f"{path}={text}" for path, text in changes.items()])


@pytest.mark.parametrize(
    ("path", "text", "expected"),
    [
        ("tail_tokens", "1_024", replace(Outer(), tail_tokens=1024)),
        ("strict", "yes", replace(Outer(), strict=True)),
        ("strict", "False", Outer()),
        ("mode", "identity", replace(Outer(), mode="identity")),
        ("color", "dark blue", replace(Outer(), color=Color.BLUE)),
        ("folder", "/x/y", replace(Outer(), folder=Path("/x/y"))),
        ("limit", "7", replace(Outer(), limit=7)),
        ("limit", "none", Outer()),
        ("inner.rate", "1e-3", replace(Outer(), inner=Inner(rate=1e-3))),
        ("inner.rate", "2", replace(Outer(), inner=Inner(rate=2.0))),
        ("inner.taps", "4,5,6", replace(Outer(), inner=Inner(taps=(4, 5, 6)))),
        ("inner.taps", "[7]", replace(Outer(), inner=Inner(taps=(7,)))),
        ("inner.taps", "()", replace(Outer(), inner=Inner(taps=()))),
        ("inner.pair", "9, why", replace(Outer(), inner=Inner(pair=(9, "why")))),
        ("inner.note", "a=b", replace(Outer(), inner=Inner(note="a=b"))),
        ("stages.1.rate", "1", replace(Outer(), stages=(Inner(), Inner(rate=1.0)))),
        ("weights.code", "2", replace(Outer(), weights={"web": 1.0, "code": 2.0})),
    ],
)
def test_an_assignment_is_read_by_the_type_of_its_field(path, text, expected):
    assert override(Outer(), {path: text}) == expected


def test_an_override_keeps_what_it_does_not_name():
    start = Outer(strict=True, inner=Inner(note="kept"))
    changed = override(start, {"inner.rate": "0.1"})
    assert changed == replace(start, inner=Inner(note="kept", rate=0.1))


def test_settings_that_depend_on_each_other_may_change_together():
    """Neither order of single steps would pass the check of tail against budget."""
    changed = override(Outer(), {"tail_tokens": "50", "budget_tokens": "60"})
    assert (changed.tail_tokens, changed.budget_tokens) == (50, 60)
    raised = override(changed, {"tail_tokens": "500", "budget_tokens": "600"})
    assert (raised.tail_tokens, raised.budget_tokens) == (500, 600)
    with pytest.raises(ConfigError, match="exceeds budget_tokens"):
        override(changed, {"tail_tokens": "500"})


@pytest.mark.parametrize(
    ("path", "text", "message"),
    [
        ("tail_token", "1", "Outer has no field 'tail_token'; did you mean 'tail_tokens'"),
        ("inner.zzz", "1", "Inner has no field 'zzz'; known fields: rate, taps, pair, note"),
        ("tail_tokens", "many", "tail_tokens is 'many', but must be int"),
        ("tail_tokens", "1.5", "tail_tokens is '1.5', but must be int"),
        ("strict", "maybe", "strict is 'maybe', but must be bool"),
        ("mode", "zeros", "mode is 'zeros'; did you mean 'zero'"),
        ("color", "blu", "color is 'blu'; choices: red, dark blue"),
        ("inner", "3", "inner is '3', but must be Inner"),
        ("tail_tokens.x", "3", "tail_tokens is int, not a table"),
        ("inner.pair", "1", "inner.pair is '1', but must be"),
        ("inner.taps", "1,b", "inner.taps.1 is 'b', but must be int"),
        ("stages.2.rate", "1", "stages has items 0 to 1, not '2'"),
        ("inner.rate", "nan", "inner.rate is nan; give a number"),
    ],
)
def test_a_wrong_assignment_says_what_was_found_and_what_would_do(path, text, message):
    with pytest.raises(ConfigError) as caught:
        override(Outer(), {path: text})
    assert message in str(caught.value)
    assert "--set" in str(caught.value)


@pytest.mark.parametrize(
    ("mapping", "message"),
    [
        ({"strict": 1}, "a.toml: strict is 1 (int), but must be bool"),
        ({"inner": {"rate": math.nan}}, "a.toml: inner.rate is nan; give a number"),
        ({"tail_tokens": True}, "a.toml: tail_tokens is True (bool), but must be int"),
        ({"tail_tokens": "5"}, "a.toml: tail_tokens is '5' (str), but must be int"),
        ({"inner": {"taps": 3}}, "a.toml: inner.taps is 3 (int), but must be tuple"),
        ({"inner": {"taps": ["3"]}}, "a.toml: inner.taps.0 is '3' (str), but must be int"),
        ({"innner": {}}, "did you mean 'inner'"),
        ({"stages": [{"rat": 1}]}, "a.toml: Inner has no field 'rat'; did you mean 'rate'"),
        ({"weights": {"web": "x"}}, "a.toml: weights.web is 'x' (str), but must be float"),
    ],
)
def test_a_file_is_not_parsed_but_checked(mapping, message):
    with pytest.raises(ConfigError) as caught:
        configs.from_mapping(Outer, mapping, "a.toml")
    assert message in str(caught.value)


def test_a_missing_required_field_is_named():
    @dataclass(frozen=True)
    class Needy:
        path: str
        steps: int = 1

    with pytest.raises(ConfigError, match=r"run.toml: Needy needs 'path'.*type str"):
        configs.from_mapping(Needy, {"steps": 3}, "run.toml")


def test_a_free_table_of_a_file_stands_for_itself_and_an_assignment_adds_to_it(tmp_path):
    path = tmp_path / "a.toml"
    path.write_text("[weights]\ncode = 0.5\n")
    assert configs.resolve(Outer(), [path], []).weights == {"code": 0.5}
    both = configs.resolve(Outer(), [path], ["weights.math=2"])
    assert both.weights == {"code": 0.5, "math": 2.0}


def test_files_merge_in_order_and_assignments_win(tmp_path):
    """Tables merge, arrays replace, and an assignment reaches into a file's array."""
    first, second = tmp_path / "a.toml", tmp_path / "b.toml"
    first.write_text('tail_tokens = 9_000\n[inner]\nrate = 0.1\nnote = "first"\n')
    second.write_text(
        "budget_tokens = 9_999\n[inner]\nrate = 0.2\n[[stages]]\nrate = 1\n"
        "[[stages]]\nrate = 2\n[[stages]]\nrate = 3\n"
    )
    found = configs.resolve(Outer(), [first, second], ["stages.2.note=last", "strict=on"])
    assert (found.tail_tokens, found.budget_tokens, found.strict) == (9_000, 9_999, True)
    assert found.inner == Inner(rate=0.2, note="first")
    assert found.stages == (Inner(rate=1.0), Inner(rate=2.0), Inner(rate=3.0, note="last"))


@pytest.mark.parametrize("assignment", ["strict", "=3", ""])
def test_an_assignment_without_path_or_value_is_refused(assignment):
    with pytest.raises(ConfigError, match="path=value"):
        configs.resolve(Outer(), [], [assignment])


@pytest.mark.parametrize(
    "pair", [{"inner": "1", "inner.rate": "2"}, {"inner.rate": "2", "inner": "1"}]
)
def test_paths_that_cross_are_refused(pair):
    with pytest.raises(ConfigError, match="sets both"):
        override(Outer(), pair)


def test_an_unreadable_or_broken_file_is_a_config_error(tmp_path):
    with pytest.raises(ConfigError, match=r"cannot read .*nowhere.toml: No such file"):
        configs.load_toml(tmp_path / "nowhere.toml")
    broken = tmp_path / "broken.toml"
    broken.write_text("a = = 3\n")
    with pytest.raises(ConfigError, match=r"broken.toml is not valid TOML.*line 1"):
        configs.load_toml(broken)
    broken.write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match="not valid TOML"):
        configs.load_toml(broken)


inners = st.builds(
    Inner,
    rate=st.floats(allow_nan=False),
    taps=st.lists(st.integers(-(2**63), 2**63 - 1), max_size=3).map(tuple),
    pair=st.tuples(st.integers(0, 9), st.text(max_size=8)),
    note=st.none() | st.text(max_size=8).filter(lambda text: text.lower() != "none"),
)
outers = st.builds(
    Outer,
    tail_tokens=st.integers(0, 10),
    budget_tokens=st.integers(10, 20),
    strict=st.booleans(),
    mode=st.sampled_from(["zero", "identity"]),
    color=st.sampled_from(Color),
    limit=st.none() | st.integers(0, 9),
    inner=inners,
    stages=st.lists(inners, max_size=3).map(tuple),
    weights=st.dictionaries(st.text(max_size=6), st.floats(0, 1), max_size=3),
)


@given(config=outers)
def test_toml_written_is_the_config_read(config):
    mapping = tomllib.loads(configs.dump_toml(config))
    assert configs.from_mapping(Outer, mapping, "dump") == config


@given(a=outers, b=outers)
def test_hash_and_diff_agree_about_equality(a, b):
    same = configs.to_mapping(a) == configs.to_mapping(b)
    assert (configs.config_hash(a) == configs.config_hash(b)) is same
    assert (configs.diff(a, b) == []) is same


def test_diff_names_each_path_with_both_values():
    changed = override(Outer(), {"inner.rate": "0.75", "stages.1.note": "n"})
    assert configs.diff(Outer(), changed) == [
        "inner.rate: 0.5 -> 0.75",
        "stages.1.note: None -> n",
    ]


def test_the_hash_is_that_of_canonical_json():
    """Pinned: run folders of older versions are found by this hash."""
    canonical = b'{"note":null,"pair":[3,"x"],"rate":0.5,"taps":[1,2]}'
    assert configs.config_hash(Inner()) == sha256(canonical).hexdigest()
