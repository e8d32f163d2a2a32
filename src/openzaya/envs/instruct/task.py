"""Instruction following as an environment: `make` and `score`.

    problem = task.make(Random(0), difficulty=4)
    task.score(problem, reply)         # the final answer: what follows the think block

A reply is right when it passes the gate and keeps every constraint, as strictly as worded; the
reward model, where there is one, multiplies that. Difficulty is number times rarity: at difficulty
d the rarities (1 to 3) of at most five constraints add up to d + 1, and arguments grow with d.

Paper: IV-B7.
Deviation: D-033.
"""

from dataclasses import asdict
from random import Random

from openzaya.core.errors import EnvError
from openzaya.core.records import Verdict, right, wrong
from openzaya.envs.base import Problem, check_difficulty
from openzaya.envs.instruct.compose import draw, gate, plan, witness
from openzaya.envs.instruct.constraint import Constraint
from openzaya.envs.instruct.kinds import get
from openzaya.envs.instruct.reading import MAX_REPLY_CHARS, Reading
from openzaya.envs.instruct.topics import Topic, topic, topics

MAX_ANSWER_CHARS = MAX_REPLY_CHARS
"""What the catalog's environment takes; a letter or an essay is longer than other answers."""
MAX_DRAWS = 200
"""Most combinations tried for one problem; about one in ten has no witness."""


def make(rng: Random, difficulty: int) -> Problem:
    """Difficulty 0, 1, 2, ... 14: constraints whose rarities add up to 1, 2, 3, ... 15."""
    check_difficulty(difficulty)
    for _ in range(MAX_DRAWS):
        base = rng.choice(topics())
        constraints = draw(rng, difficulty, base)
        if constraints is None:
            continue
        planned = plan(rng, base, constraints)
        reference = witness(Random(rng.getrandbits(64)), planned)
        if reference is not None:
            told = zip(constraints, planned.instructions, strict=True)
            stored = [_stored(one, instruction) for one, instruction in told]
            data: dict[str, object] = {"topic": base.name, "constraints": stored}
            return Problem(planned.prompt, reference, data)
    raise EnvError(
        f"no satisfiable prompt in {MAX_DRAWS} draws at difficulty {difficulty}; expected one in a"
        " few: a writer in envs/instruct/families is broken"
    )


def _stored(constraint: Constraint, instruction: str) -> dict[str, object]:
    arguments = {
        key: list(value) if isinstance(value, tuple) else value
        for key, value in asdict(constraint).items()
    }
    return {"name": constraint.name(), "arguments": arguments, "instruction": instruction}


def read(problem: Problem) -> tuple[Topic, list[tuple[Constraint, str]]]:
    """Return the topic of a problem and its constraints, each with its instruction."""
    stored = problem.data["constraints"]
    assert isinstance(stored, list)
    pairs = [(get(row["name"]).restore(row["arguments"]), row["instruction"]) for row in stored]
    return topic(str(problem.data["topic"])), pairs


def score(problem: Problem, answer: str) -> Verdict:
    """Right when the gate passes and every constraint holds; the score is the share below that."""
    if len(answer) > MAX_ANSWER_CHARS:
        return wrong(f"the reply has {len(answer)} characters, more than {MAX_ANSWER_CHARS}")
    base, pairs = read(problem)
    reply = Reading(answer)
    refused = gate(problem.prompt, base, [one for one, _ in pairs]).refuse(reply)
    if refused is not None:
        return wrong(refused)
    broken = [instruction for one, instruction in pairs if not one.check(reply)]
    if not broken:
        return right()
    kept = len(pairs) - len(broken)
    return wrong(f"not kept: {' / '.join(broken)}", 0.99 * kept / len(pairs))
