"""CodeI/O: say what a program returns, or find an input for which it returns a given value.

Outputs that a constant would hit are not asked for: over the generator, the outputs must have at
least MIN_ENTROPY_BITS of entropy, and the one that is asked for must be rare, not trivial, and not
be written in the input. An input is validated before anything runs, and only the sandbox runs it.

Paper: IV-B5.
Source: arXiv:2502.07316; both directions, with exact answers instead of a tolerance.
Deviation: D-031.
"""

import math
from collections import Counter
from functools import cache
from random import Random
from typing import cast

from openzaya.core.errors import EnvError
from openzaya.core.records import Verdict, infra, right, wrong
from openzaya.core.seeding import stream
from openzaya.envs.base import Problem, check_difficulty
from openzaya.envs.code import family
from openzaya.envs.code.answers import can_be_asked
from openzaya.envs.code.grammar import Given
from openzaya.envs.code.matrix import Matrix
from openzaya.envs.code.template import Template, get, same
from openzaya.envs.code.values import Json, canonical, same_value
from openzaya.sandbox.executor import Executor

MIN_ENTROPY_BITS = 3.0
"""Of the outputs over the generator, estimated from NUM_DRAWS inputs."""
MAX_SHARE = 0.1
"""Largest share of the generator's inputs that may have the output that is asked for."""
NUM_DRAWS = 64
MAX_TRIES = 400
SMALLEST = 3
"""Size of the inputs at difficulty 0; one more for each step."""


class CodeOutput:
    """Output prediction. It runs nothing when scoring, so it needs no executor."""

    name = "code_output"
    family = "code"

    def make(self, rng: Random, difficulty: int) -> Problem:
        """Draw a program and an input; both grow with the difficulty."""
        template, index, given, output = draw(rng, difficulty)
        source = template.solutions[index]
        about = f"{template.statement}\n\n" if rng.random() < 0.5 else ""
        return output_problem(source, template.argument(given), output, about)

    def score(self, problem: Problem, reply: str, *, started_in_think: bool = True) -> Verdict:
        """Right when the last JSON object holds exactly the output, types included."""
        return score_output(problem, reply, started_in_think=started_in_think)


class CodeInput:
    """Input prediction. The program runs in the sandbox on the input that a reply gives."""

    name = "code_input"
    family = "code"

    def __init__(self, executor: Executor) -> None:
        self.matrix = Matrix(executor)

    def make(self, rng: Random, difficulty: int) -> Problem:
        """Draw a program, an example and the output of another input."""
        template, index, given, output = draw(rng, difficulty)
        sample = other_input(template, rng, difficulty, index, output)
        source = template.solutions[index]
        shown = template.answer(sample, index)
        about = f"{template.statement}\n\n" if rng.random() < 0.5 else ""
        kind = "prints" if template.layout else "returns"
        prompt = (
            f"{about}This Python program is given:\n{family.fenced(source)}\n\n"
            f"{family.form_of_input(template)}\n\n"
            f"For example, for the input {family.written(template.argument(sample))} it {kind} "
            f"{family.written(shown)}.\n\n"
            f"Find another legal input for which it {kind} exactly {family.written(output)}; if "
            "there are several, any of them is right.\n"
            f"{family.form_of_answer(template, 'input')}"
        )
        data: dict[str, object] = {
            "template": template.name,
            "source": source,
            "sample": template.argument(sample),
            "target": output,
        }
        return Problem(prompt, family.written({"input": template.argument(given)}), data)

    def score(self, problem: Problem, reply: str, *, started_in_think: bool = True) -> Verdict:
        """Right when a legal input, other than the example, gives the output asked for."""
        found = family.answered_input(problem, reply, started_in_think=started_in_think)
        if isinstance(found, Verdict):
            return found
        template, given = found
        argument = template.argument(given)
        if same_value(cast(Json, argument), cast(Json, problem.data["sample"])):
            return wrong("the input is the example's; another one was asked for")
        outcome = self.matrix.run_one(family.text_of(problem, "source"), argument)
        if outcome.infra:
            return infra(outcome.infra)
        if outcome.failure is not None:
            return wrong(f"on this input the program fails: {outcome.failure}")
        if same(outcome.value, problem.data["target"]):
            return right()
        return wrong(f"on this input the program gives {canonical(outcome.value)[:200]}")


def output_problem(source: str, argument: object, output: object, about: str = "") -> Problem:
    """Return the problem to say what a program gives for an argument."""
    text = isinstance(argument, str)
    ask = (
        "What does it print, given this text on standard input?"
        if text
        else "What does solve return, called with these arguments?"
    )
    form = (
        'End your answer with one JSON object: {"output": "<the printed text, with \\n for the '
        'end of a line>"}.'
        if text
        else 'End your answer with one JSON object: {"output": <the value as JSON>}; tuples are '
        "written as lists, True and False as true and false, None as null."
    )
    prompt = (
        f"{about}This Python program is given:\n{family.fenced(source)}\n\n"
        f"{ask}\n{family.written(argument)}\n\n{form}"
    )
    return Problem(prompt, family.written({"output": output}), {"output": output})


def score_output(problem: Problem, reply: str, *, started_in_think: bool) -> Verdict:
    """Compare the value that a reply answers with the stored output."""
    value, refused = family.answered_value(reply, "output", started_in_think=started_in_think)
    if refused is not None:
        return refused
    return right() if same(value, problem.data["output"]) else wrong("not the program's output")


def draw(rng: Random, difficulty: int) -> tuple[Template, int, Given, object]:
    """Draw a template, one of its solutions, and an input whose output can be asked for."""
    check_difficulty(difficulty)
    for _ in range(MAX_TRIES):
        template = family.choose(rng, difficulty)
        index = rng.randrange(len(template.solutions))
        size = min(SMALLEST + difficulty, template.max_size)
        counts = outputs(template.name, index, size)
        if entropy_bits(counts) < MIN_ENTROPY_BITS:
            continue
        given = template.draw(rng, size)
        output = template.answer(given, index)
        if template.answer(given, index) != output:
            raise EnvError(f"template {template.name}: two runs of solution {index} disagree")
        if can_ask(template.argument(given), output, counts):
            return template, index, given, output
    raise EnvError(f"no input with a telling output in {MAX_TRIES} draws at {difficulty}")


def other_input(
    template: Template, rng: Random, difficulty: int, index: int, output: object
) -> Given:
    """Draw an input that gives another output, to be shown as the example."""
    for _ in range(MAX_TRIES):
        given = template.draw(rng, min(SMALLEST + difficulty, template.max_size))
        shown = template.answer(given, index)
        if not same(shown, output) and can_be_asked({"input": template.argument(given)}):
            return given
    raise EnvError(f"template {template.name} gives hardly any other output than {output!r}")


@cache
def outputs(name: str, index: int, size: int) -> Counter[str]:
    """Count the outputs of a solution over the generator's inputs of one size."""
    template = get(name)
    rng = stream(0, "outputs", name, index, size)
    return Counter(
        canonical(cast(Json, template.answer(template.draw(rng, size), index)))
        for _ in range(NUM_DRAWS)
    )


def entropy_bits(counts: Counter[str]) -> float:
    """Return the entropy of counted outputs in bits."""
    total = counts.total()
    return -sum(n / total * math.log2(n / total) for n in counts.values())


def can_ask(argument: object, output: object, counts: Counter[str]) -> bool:
    """Say whether an output is rare, not trivial, small, and not written in the input."""
    text = canonical(cast(Json, output))
    if counts[text] > MAX_SHARE * counts.total() or is_trivial(output):
        return False
    if not can_be_asked({"output": output}) or not can_be_asked({"input": argument}):
        return False
    shown = canonical(cast(Json, argument))
    inner = text.strip('"[]').removesuffix("\\n")
    return inner not in shown


def is_trivial(output: object) -> bool:
    """Say whether an output is among those that a guess would try first."""
    if isinstance(output, bool) or output is None:
        return True
    if isinstance(output, int):
        return abs(output) <= 2
    if isinstance(output, str | list):
        return len(output) < 2
    return False
