"""What the code families share: the reply's final answer, the choice of a template, prompt parts.

A family is an object with the catalog's interface: `name`, `family`, `make(rng, difficulty)` and
`score(problem, reply)`. It is an object and not a module because it needs the caller's executor:
that is made once, costs processes, and must be closed by whoever opened it, so it is handed to the
constructor and never looked up. What a problem needs for scoring is in its `data`, so a problem
that went through JSON can be scored by another process's family.
"""

import json
from random import Random

from openzaya.core.errors import DataError
from openzaya.core.records import Verdict, wrong
from openzaya.envs.base import Problem, check_difficulty
from openzaya.envs.code.answers import last_object
from openzaya.envs.code.grammar import Given, describe
from openzaya.envs.code.template import Template, get, ranked
from openzaya.envs.code.values import Json
from openzaya.text.think import split_thinking

WINDOW = 24
"""How many templates are drawn from at one difficulty."""
STEP = 4
"""How many places up the ranking the window moves for one step of difficulty."""


def final_answer(reply: str, *, started_in_think: bool) -> str | Verdict:
    """Return the text after the think block, or why the reply is wrong without one."""
    thought = split_thinking(reply, started_in_think=started_in_think)
    if not thought.closed:
        return wrong("the reasoning was never closed, so there is no final answer")
    answer = thought.answer.strip()
    return answer or wrong("the final answer is empty")


def answered_value(reply: str, key: str, *, started_in_think: bool) -> tuple[Json, Verdict | None]:
    """Return the JSON value that a reply answers, or the verdict that there is none."""
    answer = final_answer(reply, started_in_think=started_in_think)
    if isinstance(answer, Verdict):
        return None, answer
    try:
        return last_object(answer, key), None
    except DataError as error:
        return None, wrong(str(error))


def answered_input(
    problem: Problem, reply: str, *, started_in_think: bool
) -> tuple[Template, Given] | Verdict:
    """Return the problem's template and the legal input that a reply answers, or a verdict."""
    value, refused = answered_value(reply, "input", started_in_think=started_in_think)
    if refused is not None:
        return refused
    template = get(text_of(problem, "template"))
    given = template.read_argument(value)
    return wrong("the input is not legal") if given is None else (template, given)


def choose(rng: Random, difficulty: int, *, unique_only: bool = False) -> Template:
    """Draw a template: small programs at difficulty 0, larger and deeper ones from there on."""
    check_difficulty(difficulty)
    names = [name for name in ranked() if not (unique_only and get(name).check)]
    start = min(STEP * difficulty, len(names) - WINDOW)
    return get(rng.choice(names[start : start + WINDOW]))


def written(value: object) -> str:
    """Return a value as JSON on one line."""
    return json.dumps(value)


def form_of_input(template: Template) -> str:
    """Describe a legal input in words."""
    words = describe(template.inputs)
    if not template.layout:
        return f"The arguments of solve are:\n{words}"
    lines = "\n".join(f"    {line}" for line in template.layout)
    return (
        f"The values are:\n{words}\n"
        "They stand on standard input in these lines (#x is the number of items of x, x... all "
        f"items of x on one line, x* one line for each item of x):\n{lines}"
    )


def form_of_answer(template: Template, key: str) -> str:
    """Return the sentence that says how an input is to be answered."""
    if template.layout:
        value = '"<the text of standard input, with \\n for the end of a line>"'
    else:
        value = "{" + ", ".join(f'"{name}": ...' for name in template.inputs) + "}"
    return (
        f'End your answer with one JSON object: {{"{key}": {value}}}. It must be shorter than '
        "1,024 bytes, with fewer than 20 items in any list and fewer than 100 characters in any "
        "string."
    )


def fenced(source: str) -> str:
    """Return a program as a code block."""
    return f"```python\n{source.rstrip()}\n```"


def text_of(problem: Problem, key: str) -> str:
    """Return a text from a problem's data. Raises DataError for a problem of another family."""
    value = problem.data.get(key)
    if not isinstance(value, str):
        raise DataError(f"the problem has no {key!r} in its data; it is of another family")
    return value
