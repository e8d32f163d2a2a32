"""Mutants compile, differ, and make the mistakes they are named for."""

from random import Random

import pytest

from openzaya.envs.code.bank import State, sift, weakest
from openzaya.envs.code.mutate import Mutant, mutants

SOURCE = """\
def solve(items, k):
    best = None
    total = 0
    for item in items:
        if item < 0:
            continue
        total += item // k
        if best is None or item > best:
            best = item
        else:
            total -= 1
    return total
"""

EXPECTED = {
    "off by one": "if item < 1:",
    "comparison flip": "if item <= 0:",
    "missing edge case": "if False:",
    "wrong start": "best = 0",
    "dropped branch": "            best = item\n    return total",
    "int division": "-(-item // k)",
    "shadowed variable": "total += total // k",
    "early return": "            total -= 1\n        return total",
    "boolean flip": "if best is None and item > best:",
    "lost condition": "if best is None:",
    "wrong jump": "            break",
    "wrong update": "total = item // k",
    "wrong operator": "total -= item // k",
    "early exit": "        break\n    return total",
    "lost statement": "            pass",
    "lost repeats": "for item in dict.fromkeys(items):",
    "overflow": "total = (total + item // k) % 7",
}


@pytest.mark.parametrize("operator", EXPECTED)
def test_each_mistake_is_made(operator):
    made = [mutant.source for mutant in mutants(SOURCE) if mutant.operator == operator]
    assert any(EXPECTED[operator] in source for source in made), made


def test_mutants_are_different_programs_that_compile():
    made = mutants(SOURCE)
    assert len(made) > 50
    assert len({mutant.source for mutant in made}) == len(made)
    for mutant in made:
        compile(mutant.source, "<mutant>", "exec")
        assert mutant.source.strip() != SOURCE.strip()


def test_mutants_are_in_a_fixed_order_and_a_limited_choice_follows_its_stream():
    assert mutants(SOURCE) == mutants(SOURCE)
    some = mutants(SOURCE, Random(3), 10)
    assert len(some) == 10
    assert some == mutants(SOURCE, Random(3), 10)
    assert {mutant.source for mutant in some} <= {mutant.source for mutant in mutants(SOURCE)}


def test_a_mutant_is_kept_only_if_it_passes_the_samples_and_is_wrong_behind_them():
    right, wrong, late = State.RIGHT, State.WRONG, State.LATE
    rows = [
        [right, right, right, wrong],  # kept: passes both samples, killed by input 1
        [right, wrong, wrong, wrong],  # fails a sample
        [right, right, right, right],  # never wrong
        [right, right, late, late],  # only late
        [late, right, wrong, right],  # late on a sample
        [right, right, wrong, late],  # wrong, and late elsewhere
    ]
    batch = [Mutant(f"program {i}", "off by one") for i in range(len(rows))]
    kept = sift(batch, rows, samples=[0, 1], num_small=2)
    assert [(each.source, each.killers) for each in kept] == [("program 0", (1,))]


def test_samples_are_the_small_inputs_that_let_the_most_mutants_through():
    right, wrong = State.RIGHT, State.WRONG
    rows = [[wrong, right, right, wrong, right, right], [wrong, right, wrong, right, right, wrong]]
    assert weakest(rows, 5) == [1, 2, 4]
