"""Attack the code families: wrong answers near the right one, and policies that know nothing.

For an instance, `wrong_replies` gives replies that are wrong for sure, known without asking the
family: changed outputs, illegal inputs, legal inputs that do not do what was asked (known from the
trusted solutions or from the bank), and mutants of the reference program. `policies` gives what
one-trick policies reply.
"""

import copy
import json
from collections.abc import Iterator
from random import Random
from typing import Any, cast

from openzaya.envs.base import Problem
from openzaya.envs.code import family
from openzaya.envs.code.bank import Banks
from openzaya.envs.code.template import Template, get, run_trusted, same
from openzaya.envs.code.values import Json, canonical

THOUGHT = "thinking\n</think>\n\n"
MAX_DRAWS = 60
NO_INPUT = '{"input": null}'


def reply(answer: str) -> str:
    """Return a reply whose think block is closed before the answer."""
    return THOUGHT + answer


def wrong_replies(name: str, problem: Problem, rng: Random, banks: Banks, count: int) -> list[str]:
    """Return up to `count` different replies that are wrong."""
    if name == "code_arc":
        kept = [each.source for each in banks.get(str(problem.data["template"])).kept]
        rng.shuffle(kept)
        return [reply(family.fenced(source)) for source in kept[:count]]
    key = "output" if name in ("code_output", "trace") else "input"
    if key == "output":
        values = changed(problem.data["output"], rng, count)
    else:
        values = wrong_inputs(name, problem, rng, banks, count)
    return [reply(family.written({key: value})) for value in values]


def changed(value: object, rng: Random, count: int) -> list[object]:
    """Return different values near a value."""
    found: dict[str, object] = {}
    for _ in range(40 * count):
        new = copy.deepcopy(value)
        for _ in range(rng.randint(1, 3)):
            new = rng.choice(list(near(new, rng)) or [[new]])
        if not same(new, value):
            found.setdefault(canonical(cast(Json, new)), new)
        if len(found) == count:
            break
    return list(found.values())


def near(value: Any, rng: Random) -> Iterator[object]:
    """Yield values one change away: off by one, another type, swapped, cut, repeated, turned."""
    if isinstance(value, bool) or value is None:
        yield [value]
    elif isinstance(value, int):
        yield from (value + 1, value - 1, -value - 1, 10 * value + 1, str(value), float(value))
        yield from (bool(value), [value])
    elif isinstance(value, str):
        yield from (f"{value}0", value[::-1], value[:-2], value + value, value.upper() + "1")
        yield from ([value], value.replace("1", "2"), value.replace(" ", ""))
        place, digit = rng.randrange(len(value) + 1), str(rng.randint(0, 9))
        yield value[:place] + digit + value[place + 1 :]
        yield value[:place] + digit + value[place:]
        yield value[:place] + value[place + 1 :]
    elif isinstance(value, list):
        yield from (value[:-1], value[::-1], [*value, 0], value + value, [value], str(value))
        if value:
            place = rng.randrange(len(value))
            for new in near(value[place], rng):
                yield [*value[:place], new, *value[place + 1 :]]
            yield [*value[1:], value[0]]


def wrong_inputs(
    name: str, problem: Problem, rng: Random, banks: Banks, count: int
) -> list[object]:
    """Return illegal inputs and legal ones that miss the goal, half and half where possible."""
    template = get(str(problem.data["template"]))
    right = json.loads(problem.reference)["input"]
    found: dict[str, object] = {}
    for given in [*template.rejected, *(spoiled(right, rng) for _ in range(MAX_DRAWS))]:
        argument = given
        if template.layout and isinstance(given, dict):
            continue
        if template.read_argument(argument) is None and len(found) < count // 2:
            found.setdefault(canonical(cast(Json, argument)), argument)
    misses = non_killers if name == "falsify" else non_targets
    for argument in misses(problem, template, rng, banks):
        if len(found) < count:
            found.setdefault(canonical(cast(Json, argument)), argument)
    return list(found.values())


def spoiled(argument: Any, rng: Random) -> object:
    """Return an input with one part changed; it may still be legal."""
    if not isinstance(argument, dict):
        return rng.choice(list(near(argument, rng)))
    new = copy.deepcopy(argument)
    name = rng.choice(list(new))
    if rng.random() < 0.2:
        del new[name]
    else:
        new[name] = rng.choice(list(near(new[name], rng)))
    return new


def non_targets(
    problem: Problem, template: Template, rng: Random, _banks: Banks
) -> Iterator[object]:
    """Yield legal inputs that give another output, the example among them."""
    yield problem.data["sample"]
    for turn in range(MAX_DRAWS):
        argument = template.argument(template.draw(rng, 2 + turn % 8))
        output = run_trusted(str(problem.data["source"]), argument)
        if not same(output, problem.data["target"]):
            yield argument


def non_killers(
    problem: Problem, template: Template, _rng: Random, banks: Banks
) -> Iterator[object]:
    """Yield inputs on which the candidate is known to be right."""
    bank = banks.get(template.name)
    for given in bank.samples:
        yield template.argument(given)
    kept = next(each for each in bank.kept if each.source == problem.data["candidate"])
    for index, given in enumerate(bank.inputs):
        if index not in kept.killers:
            yield template.argument(given)


def policies(name: str, problem: Problem, rng: Random) -> dict[str, str]:
    """Return what each policy replies: nothing, the prompt, a constant, a copy, a random form."""
    answers = {"empty": "", "echo": problem.prompt}
    if name == "code_arc":
        answers |= programs(problem, rng)
    elif name in ("code_output", "trace"):
        answers |= outputs(problem, rng)
    else:
        answers |= inputs(name, problem, rng)
    return {policy: reply(answer) for policy, answer in answers.items()}


def outputs(problem: Problem, rng: Random) -> dict[str, str]:
    """Return the policies for predicted outputs."""
    argument = problem.prompt.rsplit("\n\n", 2)[-2].split("\n", 1)[1]
    given = json.loads(argument)
    values = list(given.values()) if isinstance(given, dict) else [given]
    return {
        "constant": family.written({"output": 1}),
        "constant_empty": family.written({"output": []}),
        "copy": family.written({"output": rng.choice(values)}),
        "random": family.written({"output": scrambled(problem.data["output"], rng)}),
    }


def inputs(name: str, problem: Problem, rng: Random) -> dict[str, str]:
    """Return the policies for inputs."""
    template = get(str(problem.data["template"]))
    samples = [problem.data["sample"]] if name == "code_input" else listed_samples(problem.prompt)
    smallest = template.argument(template.draw(Random(0), 1))
    drawn = template.argument(template.draw(rng, rng.randint(1, 8)))
    return {
        "constant": family.written({"input": smallest}),
        "none": NO_INPUT,
        "copy": family.written({"input": rng.choice(samples)}),
        "random": family.written({"input": drawn}),
    }


def listed_samples(prompt: str) -> list[object]:
    """Return the inputs of the samples in a falsification prompt."""
    lines = [line for line in prompt.split("\n") if line.startswith("input ")]
    return [json.JSONDecoder().raw_decode(line.removeprefix("input "))[0] for line in lines]


def programs(problem: Problem, rng: Random) -> dict[str, str]:
    """Return the policies for programs: a constant, a table of the examples, the argument."""
    lines = problem.prompt.split("Examples, each as [input, result]:\n")[1].split("\n\n")[0]
    pairs = [json.loads(line) for line in lines.split("\n")]
    is_text = isinstance(pairs[0][0], str)
    table = {canonical(given): result for given, result in pairs}
    shown = rng.choice(pairs)[1]
    if is_text:
        read = "import sys\ntext = sys.stdin.read()\n"
        lookup = f"import json\n{read}print({table!r}.get(json.dumps(text), ''), end='')\n"
        bodies = ["print(0)\n", lookup, f"print({shown!r}, end='')\n", f"{read}print(text)\n"]
    else:
        head = "def solve(**given):\n    "
        key = "json.dumps(given, sort_keys=True, separators=(',', ':'))"
        lookup = f"import json\n{head}return {table!r}.get({key}, 0)\n"
        first = f"{head}return list(given.values())[0]\n"
        bodies = [f"{head}return 0\n", lookup, f"{head}return {shown!r}\n", first]
    names = ("constant", "copy", "random", "copy_input")
    return {name: family.fenced(body) for name, body in zip(names, bodies, strict=True)}


def scrambled(value: Any, rng: Random) -> object:
    """Return a random value of the same shape."""
    if isinstance(value, bool) or value is None:
        return rng.random() < 0.5
    if isinstance(value, int):
        return rng.randint(0, 20)
    if isinstance(value, str):
        return "".join(rng.choice(value) for _ in value)
    return [scrambled(item, rng) for item in value]
