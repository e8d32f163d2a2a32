"""CodeARC in a single turn: a specification and examples in, a program out.

Half of the prompts hold the statement, the others only the form of the input and the examples, so
that the rule has to be induced. A program is judged on hidden tests alone: none of them is among
the examples, there are at least MIN_HIDDEN, and they hold an input for each mutant of the bank
that kills it, so a program that is nearly right fails. Templates with several right outputs are
left out: examples would not show the rule.

Paper: IV-B5.
Source: arXiv:2503.23145, without its interactive queries.
Deviation: D-030.
"""

from collections.abc import Sequence
from random import Random

from openzaya.core.errors import DataError, EnvError
from openzaya.core.records import Verdict, wrong
from openzaya.envs.base import Problem as Prompted
from openzaya.envs.code import family
from openzaya.envs.code.bank import Bank, Banks, distinct
from openzaya.envs.code.comparators import TEXTS, VALUES
from openzaya.envs.code.extract import extract_program
from openzaya.envs.code.grammar import Given
from openzaya.envs.code.judge import CodeVerdict, Judge
from openzaya.envs.code.problem import Mode, Problem, Program, Provenance, Test
from openzaya.envs.code.problem_json import from_json, to_json
from openzaya.envs.code.template import Template
from openzaya.envs.code.values import canonical, check_value

MIN_HIDDEN = 20
NUM_GENERATED = 24
"""Hidden tests drawn from the generator, besides the killers."""
NUM_EXAMPLES = 10
"""Examples at difficulty 0; one fewer for every second step, never below FEWEST_EXAMPLES."""
FEWEST_EXAMPLES = 5
MAX_EXAMPLE_CHARS = 400
SIZES = (1, 2, 3, 4, 6, 8, 12, 16, 20, 24)


class CodeArc:
    """Programs from examples."""

    name = "code_arc"
    family = "code"

    def __init__(self, banks: Banks, judge: Judge) -> None:
        self.banks = banks
        self.judge = judge

    def make(self, rng: Random, difficulty: int) -> Prompted:
        """Draw a template and examples; larger programs and fewer examples with the difficulty.

        Raises SandboxError when mutants cannot be run.
        """
        template = family.choose(rng, difficulty, unique_only=True)
        told = rng.random() < 0.5
        count = max(FEWEST_EXAMPLES, NUM_EXAMPLES - difficulty // 2)
        bank = self.banks.get(template.name)
        shown = examples(template, bank, rng, count)
        problem = build(template, bank, rng, shown)
        reference = family.fenced(rng.choice(template.solutions))
        data: dict[str, object] = {"problem": to_json(problem), "template": template.name}
        return Prompted(prompt(template, shown, told=told), reference, data)

    def score(self, problem: Prompted, reply: str, *, started_in_think: bool = True) -> Verdict:
        """Judge the last program of a reply on the hidden tests."""
        found = extract_program(reply, started_in_think=started_in_think)
        if found.reason:
            return wrong(found.reason)
        return self.judge_source(problem, found.source).verdict

    def judge_source(self, problem: Prompted, source: str) -> CodeVerdict:
        """Judge the text of a program."""
        full = from_json(family.text_of(problem, "problem"))
        return self.judge.judge(full, full.candidate(source))


def build(template: Template, bank: Bank, rng: Random, shown: Sequence[Given]) -> Problem:
    """Return the problem with its hidden tests, killers first, and none of the examples."""
    seen = {canonical(given) for given in shown}
    hidden: dict[str, Given] = {}
    for given in [*killers(bank), *distinct(template, rng, 2 * NUM_GENERATED, SIZES)]:
        key = canonical(given)
        if key not in seen and len(hidden) < NUM_GENERATED + len(killers(bank)):
            hidden.setdefault(key, given)
    if len(hidden) < MIN_HIDDEN:
        raise EnvError(
            f"template {template.name} has only {len(hidden)} inputs for hidden tests; at least "
            f"{MIN_HIDDEN} are needed: widen its generator"
        )
    is_text = bool(template.layout)
    return Problem(
        id=f"{template.name}/{rng.getrandbits(48):012x}",
        statement=template.statement,
        mode=Mode.STDIN if is_text else Mode.FUNCTION,
        entry="" if is_text else "solve",
        io_spec=family.form_of_input(template),
        private_tests=tuple(test(template, given) for given in hidden.values()),
        accepted=tuple(
            Program(source=source, entry="" if is_text else "solve")
            for source in template.solutions
        ),
        comparator=TEXTS if is_text else VALUES,
        provenance=Provenance(source=f"openzaya template {template.name}", license="Apache-2.0"),
    )


def examples(template: Template, bank: Bank, rng: Random, count: int) -> list[Given]:
    """Return the bank's samples and further inputs that are short enough to read.

    Killers are never shown: they are needed among the hidden tests, which hold no example.
    """
    found = list(bank.samples)
    seen = {canonical(given) for given in [*found, *killers(bank)]}
    for given in distinct(template, rng, 6 * count, SIZES[1:7]):
        short = len(canonical(check_value([*pair(template, given)]))) <= MAX_EXAMPLE_CHARS
        if short and canonical(given) not in seen and len(found) < count:
            found.append(given)
    return found


def killers(bank: Bank) -> list[Given]:
    """Return few inputs that together kill every mutant of the bank, best ones first."""
    alive = {index: set(kept.killers) for index, kept in enumerate(bank.kept)}
    chosen: list[Given] = []
    while alive:
        counts = [
            sum(place in kills for kills in alive.values()) for place in range(len(bank.inputs))
        ]
        best = counts.index(max(counts))
        chosen.append(bank.inputs[best])
        alive = {index: kills for index, kills in alive.items() if best not in kills}
    return chosen


def test(template: Template, given: Given) -> Test:
    """Return the hidden test of an input, on whose output all solutions agree."""
    argument, output = pair(template, given)
    for index in range(1, len(template.solutions)):
        if not template.is_right(given, template.answer(given, index), output):
            raise DataError(f"template {template.name}: solutions disagree on {argument!r}")
    return Test(input=check_value(argument), output=check_value(output))


def pair(template: Template, given: Given) -> tuple[object, object]:
    """Return an argument with the trusted output."""
    return template.argument(given), template.answer(given)


def prompt(template: Template, shown: Sequence[Given], *, told: bool) -> str:
    """Return what a model is asked, with or without the statement."""
    task = (
        "Write a Python 3 program that reads standard input and prints the result."
        if template.layout
        else "Write the Python 3 function solve, called with these arguments by name."
    )
    rule = template.statement if told else "The rule is not told: find it from the examples."
    pairs = "\n".join(family.written(pair(template, given)) for given in shown)
    return (
        f"{task}\n\n{rule}\n\n{family.form_of_input(template)}\n"
        f"Result: {template.output}.\n\n"
        f"Examples, each as [input, result]:\n{pairs}\n\n"
        "It is judged on other inputs. Put the whole program into one code block (```python) at "
        "the end of your answer."
    )
