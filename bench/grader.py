"""What the math grader costs, misses and lets through, and where math-verify differs.

    python bench/grader.py                     times on cases.tsv: p50, p99, longest
    python bench/grader.py --audit 2000        right answers accepted, near misses rejected
    python bench/grader.py --compare 5000      disagreements with math-verify, classified

Everything that an answer is made of is drawn from a seed, so a figure can be repeated. The right
verdict is known by how an answer was made, not by a grader; a disagreement on which ours is another
one, or whose cause is in no table below, is `unexplained`.
"""

import argparse
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from random import Random

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from envs.math.audit import Pair, pairs
from math_cases import read_cases

from openzaya.core.records import Judgement
from openzaya.envs.math.gold import Gold
from openzaya.envs.math.grade import grade
from openzaya.sandbox.pool import Ended, Pool, PoolLimits
from openzaya.text.think import split_thinking

MATH_VERIFY = "openzaya.envs.math.verify_worker:grade_reply"
WRONGLY_ACCEPTED = {
    "work left undone: it is worked out instead": (
        "left undone: sum",
        "left undone: product",
        "left undone: root",
        "left undone: summation",
        "left undone: integral",
        "left undone: nested fraction",
    ),
    "ordered and unordered are the same to it": (
        "set for a tuple",
        "tuple for a set",
        "tuple with or",
        "set for an interval",
    ),
    "numbers are compared after rounding": (
        "decimal for a root",
        "decimal for pi",
        "nearly equal",
        "rounded decimal",
        "close fraction",
        "close fraction for pi",
    ),
    "units are dropped": ("other unit",),
    "a percentage equals its number and its hundredth": ("percent sign missing", "percent"),
    "a term without a value is simplified away": (
        "junk that is nowhere defined",
        "junk that is often undefined",
    ),
    "a ratio is a fraction to it": ("ratio",),
    "the last member of a false equality counts": ("false equality, right last",),
}
"""What math-verify accepts and we refuse, by class: styles of wrong answers."""
WRONGLY_REFUSED = {
    "tolerances cannot be declared": ("within the tolerance",),
    "sets of numbers: inequalities and set-builders are not intervals": (
        "inequalities for a union",
        "inequality for an interval",
        "reversed inequality",
        "set-builder",
    ),
    "vectors and tuples in other notation": (
        "column vector",
        "angle brackets",
        "named tuple, other order",
        "nested lists",
    ),
    "words and choices: no such kind, or the letter alone": (
        "letter with a value",
        "letter as text",
        "word",
        "word as text",
        "word with a capital",
    ),
    "number notation": (
        "plain mixed number",
        "thousands thin space",
        "repeating decimal",
        "unicode root",
    ),
    "degrees are no multiples of pi": ("degrees for a multiple of pi",),
    "log without a base is another function than ln": ("log for ln",),
    "a dot in front of the imaginary unit": ("dot",),
}
"""What math-verify refuses and we accept, by class: styles of right answers."""
EMPTY_BOX = "box and empty box"


def is_right(gold: Gold, reply: str) -> bool:
    """Grade a reply that carries its own think markers."""
    return grade(gold, reply, started_in_think=False).judgement is Judgement.RIGHT


def times() -> None:
    """Print what one verification costs, on every case of the regression file."""
    wall_ms, cpu_ms, expected = [], [], 0
    cases = read_cases()
    golds = [case.make_gold() for case in cases]
    for case, gold in zip(cases, golds, strict=True):
        began, began_cpu = time.perf_counter(), time.process_time()
        expected += is_right(gold, case.reply) == case.verdict
        cpu_ms.append(1000 * (time.process_time() - began_cpu))
        wall_ms.append(1000 * (time.perf_counter() - began))
    attacks = [case for case in cases if "attack" in case.tags]
    print(f"{len(cases)} cases, {len(attacks)} of them attacks: {expected} verdicts as expected")
    for name, values in (("wall", wall_ms), ("CPU", cpu_ms)):
        values.sort()
        p50, p99 = values[len(values) // 2], values[len(values) * 99 // 100]
        print(f"{name:>5}: p50 {p50:.2f} ms, p99 {p99:.2f} ms, longest {values[-1]:.1f} ms")


def audit(count: int, seed: int) -> None:
    """Print how many right answers are accepted and near misses rejected."""
    for right in (True, False):
        faults: dict[str, Pair] = {}
        done = 0
        styles: Counter[str] = Counter()
        for pair in pairs(Random(seed), count, right=right):
            styles[f"{pair.problem.kind}: {pair.style}"] += 1
            if is_right(pair.gold(), pair.reply) == right:
                done += 1
            else:
                faults.setdefault(pair.style, pair)
        what = "right answers accepted" if right else "near misses rejected"
        print(f"{done} of {count} {what} ({done / count:.2%}), in {len(styles)} styles")
        for style, pair in faults.items():
            print(f"  {style}: gold {pair.problem.gold}, reply {pair.reply!r}")


def both(count: int, seed: int) -> Iterator[Pair]:
    """Yield right and wrong pairs, half and half."""
    yield from pairs(Random(seed), (count + 1) // 2, right=True)
    yield from pairs(Random(seed + 1), count // 2, right=False)


def compare(count: int, seed: int) -> None:
    """Print disagreements with math-verify by class, with one example each."""
    classes: dict[str, list[Pair]] = defaultdict(list)
    agreed = ours_wrong = 0
    limits = PoolLimits(wall_s=20.0, cpu_s=20.0, start_s=120.0, memory_bytes=2**30)
    with Pool(1, limits=limits) as pool:
        for pair in both(count, seed):
            ours = is_right(pair.gold(), pair.reply)
            region = split_thinking(pair.reply, started_in_think=False).answer
            outcome = pool.call(MATH_VERIFY, pair.problem.gold, region)
            theirs = outcome.value is True if outcome.ended is Ended.VALUE else None
            ours_wrong += ours != pair.is_right
            if ours == theirs:
                agreed += 1
            else:
                classes[classify(pair, ours, theirs)].append(pair)
    print(f"{count} pairs: agreed on {agreed}, differed on {count - agreed}")
    print(f"ours against how the answer was made: {ours_wrong} wrong")
    print("math-verify is wrong, by class:")
    for name, members in sorted(classes.items(), key=lambda item: -len(item[1])):
        example = members[0]
        styles = ", ".join(sorted({pair.style for pair in members})[:12])
        print(f"{len(members):5}  {name} ({styles})")
        print(f"         gold {example.problem.gold!r}, answer {example.answer!r}")
    unexplained = sum(len(m) for name, m in classes.items() if name.startswith("unexplained"))
    print(f"unexplained: {unexplained}")


def classify(pair: Pair, ours: bool, theirs: bool | None) -> str:
    """Name the class of a disagreement: the error of math-verify, or `unexplained`."""
    unexplained = f"unexplained: {pair.problem.kind}, {pair.style}, {pair.wrapping}"
    if ours != pair.is_right:
        return unexplained
    if theirs is None:
        return "math-verify raises or is stopped"
    if not theirs and pair.wrapping == EMPTY_BOX:
        return "refused: an empty box behind the answer hides it"
    table, verb = (WRONGLY_ACCEPTED, "accepted") if theirs else (WRONGLY_REFUSED, "refused")
    names = [f"{verb}: {name}" for name, styles in table.items() if pair.style in styles]
    return names[0] if names else unexplained


def main() -> None:
    """Measure what the flags ask for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--audit", type=int, metavar="N", help="answers of each sign")
    parser.add_argument("--compare", type=int, metavar="N", help="pairs, half of them right")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    if args.audit:
        audit(args.audit, args.seed)
    if args.compare:
        compare(args.compare, args.seed)
    if not args.audit and not args.compare:
        times()


if __name__ == "__main__":
    main()
