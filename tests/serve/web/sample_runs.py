"""The runs that tests and pictures of the page look at."""

from dataclasses import replace

from serve.web.play import Player
from serve.web.recorded_runs import PretendModel, Recording, record

from openzaya.ttc import MarkovianRSAConfig, presets

TAKE = "document.title='taken'"
HOSTILE = f'<img src=x onerror="{TAKE}"></script><script>{TAKE}</script>'
PROOF = r"""### Counting

Put $a' = a$, $b' = b + 1$ and $c' = c + 2$. Then $0 \le a' < b' < c' \le 8$, so the triples are the
**subsets of three** of $\{0, 1, \dots, 8\}$:

$$\binom{9}{3} = \frac{9 \cdot 8 \cdot 7}{3!} = 84.$$

### Check by the largest number

| $c$ | 0 | 1 | 2 | 3 | 4 | 5 | 6 |
|:----|--:|--:|--:|--:|--:|--:|--:|
| pairs with $a \le b \le c$ | 1 | 3 | 6 | 10 | 15 | 21 | 28 |
| sum so far | 1 | 4 | 10 | 20 | 35 | 56 | 84 |

The rows agree with \[\sum_{c=0}^{6} \binom{c+2}{2} = \binom{9}{3}.\] The answer is $\boxed{84}$."""
THOUGHTS = (
    "Split the sum by the residue of $n$ and treat each part alone.",
    "If $p$ divides both then it divides $b - a$, which leaves few cases.",
    "Check the small case first: $n = 3$ gives $4$, which fits the formula.",
    "Counting the pairs twice is the trap here, so divide by $2!$ at the end.",
    "Wait, the boundary term was dropped above; put it back and simplify.",
    r"The generating function $\frac{1}{(1 - z)^4}$ has a pole of order $4$ at $z = 1$.",
    r"By symmetry it is enough to take $a \le b$ and double what is off the diagonal.",
    r"With $x_1 + x_2 + x_3 + x_4 = 6$ this is $\binom{6 + 3}{3}$ by stars and bars.",
)
TURNED = "\u202e48\u202c \u200b\u2066"


def good_run(run_id: str = "run-16k") -> Recording:
    """A run of the recommended preset in which the right answer spreads."""
    return record(run_id, presets["16k"], PretendModel(proof=PROOF, sentences=THOUGHTS), age_s=600)


def hard_run() -> Recording:
    """A run with more, shorter traces over an upstream that often fails, with few places."""
    config = replace(presets["light"], rounds=3, num_candidates=12)
    model = PretendModel(skill=0.25, trust=0.8, fails=0.3, places=8, tail_method="ratio")
    return record("run-light", config, model, preset="light", age_s=4_000)


def large_run() -> Recording:
    """288 candidates: nine stages of 32."""
    model = PretendModel(skill=0.2, trust=0.72, mean_tokens=19_000, fails=0.03, places=96)
    return record("run-extra-high", presets["extra-high"], model, preset="extra-high", age_s=9_000)


def small_run(run_id: str = "run-small", *, rounds: int = 1) -> Recording:
    """Four candidates a stage, for tests that read every one."""
    config = MarkovianRSAConfig(
        num_candidates=4, tails_per_prompt=2, rounds=rounds, budget_tokens=9_000, tail_tokens=900
    )
    return record(run_id, config, PretendModel(skill=0.6), preset="", age_s=60)


def failed_run() -> Recording:
    """A run of which no candidate survived."""
    model = PretendModel(fails=1.0)
    return record("run-failed", presets["light"], model, preset="light", age_s=7_000)


def hostile_run() -> Recording:
    """A run whose model and asker try to break out of the page; one tail has a megabyte."""
    model = PretendModel(right=TURNED.replace(" ", ""), wrong=(HOSTILE.replace(" ", ""),))
    model.mark = HOSTILE + TURNED
    config = MarkovianRSAConfig(
        num_candidates=4, tails_per_prompt=2, rounds=1, budget_tokens=40_000, tail_tokens=900
    )
    made = record("run-hostile", config, model, question=f"{HOSTILE} {TURNED} which?")
    made.candidates[0]["tail"] = "0123456789abcde\n" * 65_536
    return made


def fill_list(player: Player, count: int = 8) -> None:
    """Add runs of other questions, so that the list is a list."""
    questions = (
        ("How many primes p below 10,000 have p + 2 and p + 6 prime too?", "55"),
        ("Find the remainder of 7^2026 divided by 1,000.", "649"),
        ("A circle touches all sides of a triangle with sides 13, 14, 15. Find its radius.", "4"),
        ("How many divisors does 2,026! have that are perfect cubes of a prime?", "306"),
    )
    for i in range(count):
        config = presets["nano"] if i % 3 else presets["light"]
        question, right = questions[i % 4]
        tokens = 200.0 if i % 3 else 7_000.0
        model = PretendModel(right=right, mean_tokens=tokens, skill=0.5, places=16)
        made = record(
            f"run-{i:02d}",
            config,
            model,
            question=question,
            preset="nano" if i % 3 else "light",
            seed=i,
            age_s=20_000 + 5_000 * i,
        )
        if i == 4:
            made.run["run"].update(state="cancelled")
        player.add(made)
