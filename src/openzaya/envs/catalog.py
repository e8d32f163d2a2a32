"""Find environments by their file names; listing them imports nothing."""

import difflib
from functools import cache
from importlib import import_module
from pathlib import Path
from types import ModuleType

from openzaya.core.errors import EnvError
from openzaya.envs.base import Environment

_GYM = Path(__file__).parent / "gym"


def _files() -> dict[str, str]:
    """Map each environment's name to its family, by listing the folders."""
    return {
        path.stem: path.parent.name
        for path in sorted(_GYM.glob("*/*.py"))
        if not path.stem.startswith("_")
    }


def names(family: str | None = None) -> list[str]:
    """Return the names of all environments, or of one family, in alphabetical order."""
    return [name for name, home in _files().items() if family in (None, home)]


@cache
def get(name: str) -> Environment:
    """Return the environment called `name`. Raises EnvError with a suggestion if there is none."""
    files = _files()
    if name not in files:
        near = difflib.get_close_matches(name, files, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(files)}"
        raise EnvError(f"there is no environment {name!r}; {hint}")
    module: ModuleType = import_module(f"openzaya.envs.gym.{files[name]}.{name}")
    return Environment(
        name=name,
        family=files[name],
        make=module.make,
        judge=module.score,
        teach=getattr(module, "teach", None),
        merge=getattr(module, "merge", None),
    )
