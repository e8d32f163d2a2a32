"""Make wrong programs from right ones by small changes of their syntax tree.

`mutants` only rewrites; whether a mutant is wrong at all is for `bank.py` to find out by running
it. The changes are those of `mistakes.py`.
"""

import ast
import copy
from dataclasses import dataclass
from random import Random

from openzaya.envs.code.mistakes import edits


@dataclass(frozen=True, slots=True)
class Mutant:
    """A changed program and the name of the change."""

    source: str
    operator: str


def mutants(source: str, rng: Random | None = None, limit: int | None = None) -> list[Mutant]:
    """Return the programs one change away that compile, each once.

    With `rng` the changes come in random order, and with `limit` only so many programs are made.
    """
    tree = ast.parse(source)
    sites = [
        (index, operator, change)
        for index, node in enumerate(ast.walk(tree))
        for operator, change in edits(node, tree)
    ]
    if rng is not None:
        rng.shuffle(sites)
    found: dict[str, str] = {ast.unparse(tree): ""}
    for index, operator, change in sites:
        if limit is not None and len(found) > limit:
            break
        changed = copy.deepcopy(tree)
        change(next(node for i, node in enumerate(ast.walk(changed)) if i == index))
        text = ast.unparse(ast.fix_missing_locations(changed))
        if text not in found and _compiles(text):
            found[text] = operator
    return [Mutant(f"{text}\n", operator) for text, operator in found.items() if operator]


def _compiles(text: str) -> bool:
    try:
        compile(text, "<mutant>", "exec")
    except (SyntaxError, ValueError):
        return False
    return True
