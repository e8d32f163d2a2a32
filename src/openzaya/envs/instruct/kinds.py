"""The constraint classes: found by listing the families' folder; which of them clash."""

import difflib
from functools import cache
from importlib import import_module
from itertools import combinations
from pathlib import Path

from openzaya.core.errors import EnvError
from openzaya.envs.instruct.constraint import Constraint

_FOLDER = Path(__file__).parent / "families"


@cache
def kinds() -> dict[str, type[Constraint]]:
    """Return every constraint class by name, in the order of files and lines."""
    found: dict[str, type[Constraint]] = {}
    for path in sorted(_FOLDER.glob("[!_]*.py")):
        module = import_module(f"openzaya.envs.instruct.families.{path.stem}")
        for value in vars(module).values():
            own = isinstance(value, type) and value.__module__ == module.__name__
            if own and not value.__name__.startswith("_"):
                assert issubclass(value, Constraint), value
                assert value.name() not in found, value
                found[value.name()] = value
    return found


def family(kind: type[Constraint]) -> str:
    """Return the family of a constraint: the name of its file."""
    return kind.__module__.rpartition(".")[2]


def get(name: str) -> type[Constraint]:
    """Return a constraint class. Raises EnvError with a suggestion if there is none."""
    if name not in kinds():
        near = difflib.get_close_matches(name, kinds(), n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(kinds())}"
        raise EnvError(f"there is no constraint {name!r}; {hint}")
    return kinds()[name]


def clash(one: type[Constraint], other: type[Constraint]) -> bool:
    """Say whether two constraints may not stand in one prompt; every one clashes with itself."""
    return bool(
        one is other
        or one.claims & other.claims
        or one.needs & other.bans
        or one.bans & other.needs
    )


@cache
def clashes() -> frozenset[frozenset[str]]:
    """Return the conflict table: all pairs of names that clash."""
    pairs = combinations(kinds().items(), 2)
    return frozenset(frozenset((a, b)) for (a, x), (b, y) in pairs if clash(x, y))
