"""Find environments by name; listing them imports nothing.

A file of `gym/` is an environment; so is each module in FAMILIES, whose problems need more than a
file.
"""

import difflib
from functools import cache
from importlib import import_module
from pathlib import Path

from openzaya.core.errors import EnvError
from openzaya.envs.base import MAX_ANSWER_CHARS, Environment

FAMILIES = {"instruct": "openzaya.envs.instruct.task"}
"""Module of each environment that is a family of its own."""
_GYM = Path(__file__).parent / "gym"


def _modules() -> dict[str, tuple[str, str]]:
    """Map each environment's name to its family and its module."""
    found = {name: (name, module) for name, module in FAMILIES.items()}
    for path in _GYM.glob("*/*.py"):
        if not path.stem.startswith("_"):
            family = path.parent.name
            found[path.stem] = (family, f"openzaya.envs.gym.{family}.{path.stem}")
    return dict(sorted(found.items()))


def names(family: str | None = None) -> list[str]:
    """Return the names of all environments, or of one family, in alphabetical order."""
    return [name for name, (home, _) in _modules().items() if family in (None, home)]


@cache
def get(name: str) -> Environment:
    """Return the environment called `name`. Raises EnvError with a suggestion if there is none."""
    modules = _modules()
    if name not in modules:
        near = difflib.get_close_matches(name, modules, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(modules)}"
        raise EnvError(f"there is no environment {name!r}; {hint}")
    family, path = modules[name]
    module = import_module(path)
    return Environment(
        name=name,
        family=family,
        make=module.make,
        judge=module.score,
        teach=getattr(module, "teach", None),
        merge=getattr(module, "merge", None),
        max_answer_chars=getattr(module, "MAX_ANSWER_CHARS", MAX_ANSWER_CHARS),
    )
