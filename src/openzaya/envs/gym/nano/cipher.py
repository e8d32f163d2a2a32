"""Apply a substitution table to a word of digits.

The table maps letters to digits; the answer is the tagged list of looked-up values.
"""

from dataclasses import replace
from random import Random

from openzaya.core.records import Verdict, right, wrong
from openzaya.envs.base import Problem, Solution, Teacher, check_difficulty
from openzaya.envs.readers import TAGS, has_recap, read_tagged, tagged

KEYS = "ABCDEFGHIJ"
"""Letters that a table can map."""


def make(rng: Random, difficulty: int) -> Problem:
    """Difficulty 0, 1, 2, ... looks up 4, 6, 8, ... letters, at most 26."""
    check_difficulty(difficulty)
    keys = rng.sample(KEYS, min(4 + difficulty, len(KEYS)))
    table = {key: rng.randint(0, 9) for key in keys}
    word = [rng.choice(keys) for _ in range(min(2 * difficulty + 4, len(TAGS)))]
    shown = "".join(f"{key}{value}" for key, value in table.items())
    asked = "".join(TAGS[i] + key for i, key in enumerate(word))
    values = [table[key] for key in word]
    data: dict[str, object] = {"word": "".join(word), "values": values}
    return Problem(f"cipher {shown} {asked}", tagged(values), data)


def score(problem: Problem, answer: str) -> Verdict:
    """Right when every letter is looked up rightly."""
    values, wanted = read_tagged(answer), read_tagged(problem.reference)
    assert wanted is not None
    if values == wanted:
        return right()
    return wrong(f"expected {len(wanted)} values like a3b0, found {answer[:40]!r}")


def teach(problem: Problem, rng: Random, teacher: Teacher) -> Solution:
    """Look up letter after letter, then list the values."""
    word, values = str(problem.data["word"]), problem.data["values"]
    assert isinstance(values, list)
    found = [teacher.digit(rng, value) for value in values]
    pairs = zip(word, found, strict=True)
    steps = [f"{TAGS[i]}{key}{value}" for i, (key, value) in enumerate(pairs)]
    recap = tagged(found)
    reasoning = "#" + recap if teacher.recap_only else "".join(steps) + "#" + recap
    return Solution(reasoning, recap)


def merge(problem: Problem, tails: list[str], rng: Random, teacher: Teacher) -> Solution:
    """Merge the recaps letter by letter; look up again when there are not two of them."""
    num_parts = len(str(problem.data["word"]))
    enough = sum(has_recap(tail, num_parts) for tail in tails) >= 2
    return teach(problem, rng, replace(teacher, recap_only=enough))
