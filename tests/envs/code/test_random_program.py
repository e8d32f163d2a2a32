"""Random programs end, stay small and grow with the difficulty."""

import ast
import time
from random import Random

import pytest

from openzaya.envs.code.random_program import MAX_DEPTH, arguments, program
from openzaya.envs.code.template import run_trusted


def depth_of(node, depth=0):
    inner = depth + isinstance(node, ast.For)
    return max([inner, *(depth_of(child, inner) for child in ast.iter_child_nodes(node))])


@pytest.mark.parametrize("difficulty", [0, 3, 8, 40])
def test_programs_end_soon_with_small_values_on_every_input(difficulty):
    for seed in range(30):
        source = program(Random(seed), difficulty)
        assert not [n for n in ast.walk(ast.parse(source)) if isinstance(n, ast.While)]
        start = time.process_time()
        a, b, c, out = run_trusted(source, arguments(Random(seed)))
        assert time.process_time() - start < 0.5
        assert all(type(value) is int and abs(value) < 10_000 for value in (a, b, c, *out))


def test_programs_grow_longer_and_deeper():
    def lengths(difficulty):
        return sum(len(program(Random(seed), difficulty)) for seed in range(60))

    def depths(difficulty):
        return sum(depth_of(ast.parse(program(Random(seed), difficulty))) for seed in range(60))

    assert lengths(0) < lengths(2) < lengths(6) < lengths(15)
    assert depths(0) == 0 < depths(2) < depths(12)
    assert all(depth_of(ast.parse(program(Random(s), 50))) <= MAX_DEPTH for s in range(30))


def test_the_same_stream_writes_the_same_program():
    assert program(Random(7), 9) == program(Random(7), 9)
    assert program(Random(7), 9) != program(Random(8), 9)
