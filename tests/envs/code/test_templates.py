"""Laws that every template keeps, parametrized over the folder."""

import json
import random
from random import Random

import pytest

from openzaya.core.errors import EnvError
from openzaya.envs.code import template as templates
from openzaya.envs.code.answers import can_be_asked
from openzaya.envs.code.bank import FEW, LIMITS, build
from openzaya.envs.code.matrix import Matrix
from openzaya.envs.code.template import get, names, ranked, run_trusted, same, weight

NAMES = names()
SIZES = (1, 2, 3, 5, 8, 12, 18, 24, 60)
LEAST_KEPT = 20


def amount(value):
    """Count what an input holds: bits of integers, characters, items."""
    if isinstance(value, int):
        return value.bit_length()
    if isinstance(value, str):
        return len(value)
    items = value.values() if isinstance(value, dict) else value
    return sum(1 + amount(item) for item in items)


def test_there_are_at_least_sixty_templates_in_both_modes_and_some_with_checkers():
    every = [get(name) for name in NAMES]
    assert len(every) >= 60
    assert sum(each.mode == "stdin" for each in every) >= 8
    assert sum(each.check is not None for each in every) >= 4


@pytest.mark.parametrize("name", NAMES)
def test_solutions_agree_on_legal_generated_inputs_of_all_sizes(name):
    template = get(name)
    assert 2 <= len(template.solutions) <= 4
    for size in SIZES:
        for seed in range(8):
            given = template.draw(Random(f"{seed} {size}"), size)
            assert template.accepts(given)
            assert json.loads(json.dumps(given)) == given
            first = template.answer(given)
            for index in range(len(template.solutions)):
                output = template.answer(given, index)
                assert template.is_right(given, output, first), (given, index, output, first)


@pytest.mark.parametrize("name", NAMES)
def test_solutions_leave_their_arguments_and_say_the_same_twice(name):
    template = get(name)
    given = template.draw(Random(5), 6)
    before = json.dumps(given)
    for index in range(len(template.solutions)):
        assert template.answer(given, index) == template.answer(given, index)
    assert json.dumps(given) == before


@pytest.mark.parametrize("name", NAMES)
def test_listed_bad_inputs_and_odd_values_are_rejected(name):
    template = get(name)
    assert len(template.rejected) >= 3
    good = template.draw(Random(1), 4)
    for bad in [*template.rejected, None, [], "", 7, {}, good | {"more": 1}, [good], str(good)]:
        assert not template.accepts(bad), bad
    for field in good:
        missing = {key: value for key, value in good.items() if key != field}
        assert not template.accepts(missing)
        for odd in (None, True, 1.5, float("nan"), [[[]]], {"a": 1}, "\ud800", 10**40, ["x"] * 999):
            assert not template.accepts(good | {field: odd}), (field, odd)


@pytest.mark.parametrize("name", NAMES)
def test_the_generator_is_a_function_of_its_stream_and_grows_with_the_size(name):
    template = get(name)
    before = random.getstate()
    sizes = (1, max(3, template.max_size // 2), template.max_size)
    amounts = []
    for size in sizes:
        drawn = [template.draw(Random(seed), size) for seed in range(60)]
        assert drawn == [template.draw(Random(seed), size) for seed in range(60)]
        amounts.append(sum(map(amount, drawn)))
    assert random.getstate() == before
    assert amounts[0] < amounts[1] < amounts[2]
    assert template.draw(Random(3), 10**6) == template.draw(Random(3), template.max_size)


@pytest.mark.parametrize("name", NAMES)
def test_small_inputs_keep_the_bounds_of_an_answer(name):
    template = get(name)
    fits = [
        can_be_asked({"input": template.argument(template.draw(Random(seed), 4))})
        for seed in range(20)
    ]
    assert sum(fits) >= 10


@pytest.mark.parametrize("name", [name for name in NAMES if get(name).layout])
def test_stdin_inputs_survive_being_written_and_read(name):
    template = get(name)
    for size in SIZES:
        given = template.draw(Random(size), size)
        text = template.argument(given)
        assert isinstance(text, str)
        assert template.read_argument(text) == given
        assert template.read_argument(text + "1\n") is None
        assert template.read_argument(f" {text}") is None
        assert template.read_argument(given) is None


@pytest.mark.parametrize("name", [name for name in NAMES if get(name).check])
def test_checkers_take_what_solutions_say_and_nothing_odd(name):
    template = get(name)
    assert template.check is not None
    for seed in range(20):
        given = template.draw(Random(seed), 6)
        for index in range(len(template.solutions)):
            assert template.check(given, template.answer(given, index))
        for odd in (None, {}, True, 1.0, [None], ["0"], [[0]], [0.0], 99, [99], "x", "9 9", [-5]):
            assert not template.check(given, odd), (given, odd)


def test_templates_are_ranked_by_weighted_size_and_loops_weigh_more():
    order = ranked()
    assert sorted(order) == NAMES
    sizes = [min(map(weight, get(name).solutions)) for name in order]
    assert sizes == sorted(sizes)
    flat, looped = "x = 1\ny = 2\n", "for x in z:\n    y = 2\n"
    assert weight(looped) > weight(flat)


def test_an_unknown_template_is_refused_with_what_there_is():
    with pytest.raises(EnvError, match=r"no code template 'nothing'.*longest_run"):
        templates.get("nothing")


def test_listing_templates_imports_none():
    import subprocess
    import sys

    code = (
        "import sys; from openzaya.envs.code import template; names = template.names();"
        "bad = [m for m in sys.modules if m.startswith('openzaya.envs.code.templates.')];"
        "assert len(names) >= 60 and not bad and 'torch' not in sys.modules, bad"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_outputs_are_compared_by_type_and_floats_to_six_places():
    assert same([1, [2, "a"]], [1, [2, "a"]])
    assert not same(True, 1)
    assert not same(1.0, 1)
    assert not same([1], [1, 2])
    assert not same([True], [1])
    assert same(0.1 + 0.2, 0.3)
    assert not same(0.3, 0.30001)
    assert same("1 2 \n3\n\n", "1 2\n3")
    assert not same("1\n2", "1 2")


def test_a_trusted_program_reads_its_own_input_and_prints_into_its_own_output(capsys):
    source = "a = input()\nprint(a, input(), sep='-', end='!')\n"
    assert run_trusted(source, "x\ny\n") == "x-y!"
    assert capsys.readouterr().out == ""


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_every_template_has_at_least_twenty_mutants_that_pass_the_samples_and_are_wrong(
    name, executor
):
    bank = build(get(name), Matrix(executor, LIMITS), enough=FEW)
    assert len({kept.source for kept in bank.kept}) >= LEAST_KEPT
    assert not {kept.source for kept in bank.kept} & set(get(name).solutions)
