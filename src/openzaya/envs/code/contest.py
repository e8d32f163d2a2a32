"""The contest environment: a statement in, a program out, judged by running it.

It has the shape of an `Environment` (name, family, make, score) over a fixed set of problems, from
a loader or from a generator of seeds.
"""

from collections.abc import Sequence
from random import Random

from openzaya.core.errors import EnvError
from openzaya.core.records import Verdict, wrong
from openzaya.envs.base import Problem as Prompted
from openzaya.envs.base import check_difficulty
from openzaya.envs.code.extract import extract_program
from openzaya.envs.code.judge import CodeVerdict, Judge
from openzaya.envs.code.problem import Mode, Problem, Test

MAX_EXAMPLE_CHARS = 2_000
"""Visible tests that are longer are left out of the prompt."""
MAX_EXAMPLES = 4
NAMES = {"python": "Python 3", "cpp": "C++17"}


class Contest:
    """Problems to solve by writing a program.

    Difficulty 0, 1, 2, ... draws from the easiest, second easiest, ... of `num_levels` equal
    shares of the problems, in the order of their own difficulty; problems without one come first.
    """

    name = "contest"
    family = "code"

    def __init__(self, problems: Sequence[Problem], judge: Judge, *, num_levels: int = 10) -> None:
        if not problems:
            raise EnvError("a contest needs problems; the loader's report says why it kept none")
        ordered = sorted(problems, key=lambda problem: (problem.difficulty or 0.0, problem.id))
        self.by_id = {problem.id: problem for problem in ordered}
        if len(self.by_id) != len(ordered):
            raise EnvError("two problems of the contest have the same id; load each source once")
        self.ordered = ordered
        self.judge = judge
        self.num_levels = min(num_levels, len(ordered))

    def make(self, rng: Random, difficulty: int) -> Prompted:
        """Draw a problem of that level and write its prompt."""
        check_difficulty(difficulty)
        level = min(difficulty, self.num_levels - 1)
        start = level * len(self.ordered) // self.num_levels
        end = (level + 1) * len(self.ordered) // self.num_levels
        problem = self.ordered[rng.randrange(start, end)]
        reference = next((each.source for each in problem.accepted), "")
        return Prompted(write_prompt(problem), reference, {"id": problem.id})

    def score(self, problem: Prompted, reply: str, *, started_in_think: bool = True) -> Verdict:
        """Judge a whole reply."""
        return self.explain(problem, reply, started_in_think=started_in_think).verdict

    def explain(
        self, problem: Prompted, reply: str, *, started_in_think: bool = True
    ) -> CodeVerdict:
        """Judge a whole reply; the answer has flags and a private reason as well."""
        full = self.by_id.get(str(problem.data.get("id")))
        if full is None:
            raise EnvError(f"this contest has no problem {problem.data.get('id')!r}")
        found = extract_program(
            reply,
            languages=languages_of(full),
            started_in_think=started_in_think,
        )
        if found.reason:
            return CodeVerdict(
                verdict=wrong(found.reason), private_reason=found.reason, num_passed=0, num_run=0
            )
        return self.judge.judge(full, full.candidate(found.source, found.language))


def languages_of(problem: Problem) -> tuple[str, ...]:
    """Return the languages a problem can be solved in: functions are Python."""
    return ("python",) if problem.mode is Mode.FUNCTION else ("python", "cpp")


def write_prompt(problem: Problem) -> str:
    """Return what a model is asked: statement, form of data, examples, what to write."""
    parts = [problem.statement.strip()]
    if problem.io_spec:
        parts.append(f"Input and output:\n{problem.io_spec.strip()}")
    shown = [text for test in problem.public_tests if (text := show_example(problem, test))]
    parts += [f"Example {i + 1}\n{text}" for i, text in enumerate(shown[:MAX_EXAMPLES])]
    if problem.starter:
        parts.append(f"Complete this code:\n```python\n{problem.starter.rstrip()}\n```")
    parts.append(ask_for(problem))
    return "\n\n".join(parts)


def show_example(problem: Problem, test: Test) -> str:
    """Return a visible test as text, or nothing when it is too long for a prompt."""
    if problem.mode is Mode.STDIN:
        text = f"Input:\n{str(test.input).rstrip()}\nOutput:\n{str(test.output).rstrip()}"
    elif isinstance(test.input, dict):
        given = ", ".join(f"{name}={value!r}" for name, value in test.input.items())
        text = f"{problem.entry}({given}) -> {test.output!r}"
    else:
        items = test.input if isinstance(test.input, list) else []
        given = ", ".join(map(repr, items))
        text = f"{problem.entry}({given}) -> {test.output!r}"
    return text if len(text) <= MAX_EXAMPLE_CHARS else ""


def ask_for(problem: Problem) -> str:
    """Return the last paragraph: what to write, its limits, where to put it."""
    names = " or ".join(NAMES[language] for language in languages_of(problem))
    if problem.mode is Mode.FUNCTION:
        owner, _, name = problem.entry.rpartition(".")
        place = f" as a method of the class {owner}" if owner else ""
        task = f"Write the {names} function {name}{place}. It must return JSON values."
    else:
        task = f"Write a {names} program that reads standard input and writes standard output."
    return (
        f"{task} Only the standard library is there, and no network. "
        f"Each test may take {problem.limits.cpu_s:g} seconds and "
        f"{problem.limits.memory_bytes // 2**20} MiB. "
        "Put the whole program into one code block at the end of your answer."
    )
