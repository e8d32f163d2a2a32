"""How fast instruction checkers are, and what policies earn that do not answer.

    python bench/instruct.py                       all checkers on hostile texts, null policies
    python bench/instruct.py --problems 600 --chars 200000

A checker has to be done with 100 kB in 50 ms, the shared reading included (it stops after 20,000
characters, so that every checker is bounded). A null policy (empty,
echo, constant, random format-correct) may earn 0.05 on average at most.
"""

import argparse
import sys
import time
from random import Random

from openzaya.envs.base import Problem
from openzaya.envs.instruct import compose, kinds, task
from openzaya.envs.instruct.constraint import Draw
from openzaya.envs.instruct.reading import Reading
from openzaya.envs.instruct.topics import pool, pools, topics

MAX_CHECK_S = 0.05
MAX_NULL_REWARD = 0.05
WITNESS = "witness (must be 1)"
PATTERNS = (
    "a", "a ", "word ", ". ", "...", "?!", "a. ", "\n", "a\n", "\n\n", "a\n\n", " ", "\t", "- ",
    "- a\n", "1. a\n", "a) b\n", "# a\n", "## a\n", "> a\n", "|a", "| a | b |\n", "|\n",
    "---\n",
    "***\n", "******\n", "*",
    "*a", "**a", "`", "`a", "```\n", "<", "<<", "<<a", "<note>", "</note>",
    "[", "[a", "[a]", "(", "(a", "(a) ", '"', '"a', "\u201c", "\u201ca", "{", '{"a":', '"a":', "-",
    "--", " -- ", "a -- ", "a-", "a'", "a\u2019", ",", "a,", ";", "a; ", ":", "a: ", "Step 1: a\n",
    "P.S. a\n\n", "Part 1\n", "A", "A ", "AA ", "Aa. ", "\u0301", "a\u0301", "\u0939\u093f",
    "\u200b", "\ud800", "\0", "\u4e00", "e.g. ", "Dr. ", "0", "0 ", "9.", "\u00a0",
    "river anchor ", "the sea ", "\\", "<a style", "give it ", "[x]: #\n", "ignore all ",
)  # fmt: skip
CONSTANTS = (
    "There is a lot to say about this, and I will try to say it well. First of all, we should think"
    " about what we want and why we want it. Then we can look at what others have done before us"
    " and learn from them. In the end it is up to each of us to find a way that works. It takes"
    " time and water and light, but it is worth it for people in every house and every town.",
    "Sure! Here is my answer to your question, and I hope that it is what you were looking for.\n\n"
    "- First, think about the people and the time that you have.\n- Second, take a walk in the rain"
    " and look at the water, the trees and the sky.\n- Third, talk to a friend or a teacher.\n\n"
    "That is all there is to it.",
    "ok",
)


def slowest(chars: int) -> list[tuple[float, str, str]]:
    """Time every checker on every pattern, reading included; return (seconds, name, pattern)."""
    topic = topics()[0]
    checkers = [kind.sample(Draw(Random(7), 6, topic)) for kind in kinds.kinds().values()]
    times = []
    for pattern in PATTERNS:
        text = (pattern * (chars // len(pattern) + 1))[:chars]
        for checker in checkers:
            start = time.process_time()
            checker.check(Reading(text))
            times.append((time.process_time() - start, checker.name(), repr(pattern)))
    return sorted(times, reverse=True)


def salad(rng: Random) -> list[str]:
    """Return sentences of random words."""
    words = [*pool("keywords"), *pool("rare_keywords"), *pool("easy"), *pool("doubled")]
    words += [word for each in pools("suffixed").values() for word in each]
    return [
        f"{' '.join(rng.choices(words, k=rng.randint(5, 11))).capitalize()}." for _ in range(80)
    ]


def format_correct(problem: Problem, rng: Random) -> str:
    """Return random words in the format asked for: our writers' work without the gate."""
    topic, pairs = task.read(problem)
    told = tuple(instruction for _, instruction in pairs)
    planned = compose.Plan(topic, tuple(one for one, _ in pairs), told, problem.prompt)
    return compose.write(rng, planned, salad(rng), None) or ""


def null_rewards(count: int) -> dict[str, float]:
    """Return the mean reward of each null policy over problems of difficulty 0 to 9."""
    problems = [task.make(Random(seed), seed % 10) for seed in range(count)]
    replies = {
        "empty": [""] * count,
        "echo": [problem.prompt for problem in problems],
        **{f"constant {i}": [text] * count for i, text in enumerate(CONSTANTS)},
        "another's reference": [problem.reference for problem in problems[1:] + problems[:1]],
        "random format-correct": [format_correct(p, Random(i)) for i, p in enumerate(problems)],
        WITNESS: [problem.reference for problem in problems],
    }
    return {
        policy: sum(task.score(problem, reply).reward for problem, reply in pairs) / count
        for policy, said in replies.items()
        if (pairs := list(zip(problems, said, strict=True)))
    }


def main() -> int:
    """Print the figures; exit code 1 when one is out of bounds."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--problems", type=int, default=300)
    parser.add_argument("--chars", type=int, default=100_000)
    arguments = parser.parse_args()

    times = slowest(arguments.chars)
    p99 = times[len(times) // 100][0]
    print(f"{len(times)} checks of {arguments.chars:,} characters (CPU time, reading included)")
    print(f"p50 {times[len(times) // 2][0] * 1e3:.1f} ms, p99 {p99 * 1e3:.1f} ms")
    for seconds, name, pattern in times[:5]:
        print(f"  {seconds * 1e3:6.1f} ms  {name} on {pattern}")

    start = time.process_time()
    rewards = null_rewards(arguments.problems)
    print(f"mean reward over {arguments.problems} problems ({time.process_time() - start:.0f} s)")
    for name, reward in rewards.items():
        print(f"  {reward:.3f}  {name}")
    null = [reward for name, reward in rewards.items() if name != WITNESS]
    sound = rewards[WITNESS] == 1.0 and max(null) <= MAX_NULL_REWARD
    return 0 if sound and p99 <= MAX_CHECK_S else 1


if __name__ == "__main__":
    sys.exit(main())
