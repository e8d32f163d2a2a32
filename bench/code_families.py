"""Measure the code families: references accepted, wrong replies rejected, policies' mean rewards.

    python bench/code_families.py --instances 500 --backend zygote

For every family: so many generated instances over difficulties 0 to 7; the reference and 20 wrong
replies of each are scored, then the replies of policies that know nothing. Wrong replies are wrong
by construction (see `tests/envs/code/audit.py`): changed outputs, illegal inputs and legal ones
that miss, mutants of the reference program.
"""

import argparse
import sys
import time
from collections import Counter, defaultdict
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from envs.code import audit

from openzaya.core.records import Judgement
from openzaya.core.seeding import stream
from openzaya.envs.code.falsify import Falsify
from openzaya.envs.code.families import Family, families
from openzaya.sandbox.executor import Executor

NUM_DIFFICULTIES = 8


def main() -> None:
    """Run the measurement and print a table for each family."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--instances", type=int, default=50, help="instances of each family [50]")
    parser.add_argument("--mutants", type=int, default=20, help="wrong replies an instance [20]")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--families", default="", help="names, separated by commas [all]")
    parser.add_argument("--backend", default="bwrap", help="of the sandbox [bwrap]")
    options = parser.parse_args()
    with Executor.default(options.backend) as executor:
        every = families(executor)
        chosen = options.families.split(",") if options.families else list(every)
        falsify = every["falsify"]
        assert isinstance(falsify, Falsify)
        for name in chosen:
            measure(every[name], falsify, options)


def measure(env: Family, falsify: Falsify, options: argparse.Namespace) -> None:
    """Measure one family and print its figures."""
    counts: Counter[str] = Counter()
    rewards: defaultdict[str, float] = defaultdict(float)
    references: Counter[str] = Counter()
    make_s = 0.0
    start = time.monotonic()
    for index in range(options.instances):
        rng = stream(options.seed, "code families", env.name, index)
        begin = time.monotonic()
        problem = env.make(rng, index % NUM_DIFFICULTIES)
        make_s += time.monotonic() - begin
        references[problem.reference] += 1
        counts[f"reference {env.score(problem, audit.reply(problem.reference)).judgement}"] += 1
        replies = audit.wrong_replies(env.name, problem, rng, falsify.banks, options.mutants)
        counts["instances with fewer wrong replies"] += len(replies) < options.mutants
        for text in replies:
            verdict = env.score(problem, text)
            counts[f"wrong reply {verdict.judgement}"] += 1
            if verdict.judgement is Judgement.RIGHT:
                print(f"  accepted: {problem.data.get('template')} {text[-200:]!r}")
        for policy, text in audit.policies(env.name, problem, rng).items():
            verdict = env.score(problem, text)
            if verdict.judgement is Judgement.INFRA:
                counts["policy infra"] += 1
            else:
                rewards[policy] += verdict.reward
    print(f"{env.name}: {options.instances} instances, {time.monotonic() - start:.0f} s", end="")
    print(f" ({make_s:.0f} s of them making)")
    for what, count in sorted(counts.items()):
        print(f"  {what:36} {count}")
    rewards["most common reference"] = references.most_common(1)[0][1]
    for policy, reward in rewards.items():
        print(f"  policy {policy:29} {reward / options.instances:.3f}")


if __name__ == "__main__":
    main()
