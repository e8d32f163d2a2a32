"""Find the Python that runs inside boxes, and the least of the file system that it needs."""

import base64
import json
import subprocess
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from openzaya.core.errors import SandboxError
from openzaya.sandbox.users import Identity

SYSTEM_PYTHON = "/usr/bin/python3"
OLDEST = (3, 11)
FLAGS = ("-P", "-s", "-S", "-B")
"""No site-packages and no folder of a script on the path (a program gets its own when it starts),
no bytecode written. `-I` would also ignore PYTHONHASHSEED, the one variable of Python's that a box
sets: sets of strings iterate alike in every run."""
ASK_TIMEOUT_S = 30.0
TEXTS = ("ending.py", "supervisor.py")
"""Files that make up the supervisor."""
QUESTION = """
import base64, importlib, json, marshal, os, re, sys, sysconfig
libraries = "_ssl _hashlib _sqlite3 _ctypes _lzma _bz2 zlib _curses readline _uuid _decimal"
for name in libraries.split():
    try:
        importlib.import_module(name)
    except ImportError:
        pass
mapped = {line.split(None, 5)[5].strip() for line in open("/proc/self/maps") if " /" in line}
texts = json.loads(sys.stdin.read())
codes = [compile(text, "<supervisor>", "exec", optimize=2) for text in texts]
print(json.dumps({
    "version": sys.version_info[:3],
    "path": os.path.realpath(sys.executable),
    "folders": sorted({sysconfig.get_path(name) for name in ("stdlib", "platstdlib")}),
    "libraries": sorted(path for path in mapped if re.search(r"\\.so[.0-9]*$", path)),
    "supervisor": base64.b64encode(marshal.dumps(codes)).decode(),
}))
"""
"""Asked of an interpreter: what it is, what it loads, and our supervisor in its bytecode."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Interpreter:
    """A Python that boxes can run."""

    path: str
    version: tuple[int, ...]
    folders: tuple[str, ...]
    """Its standard library."""
    libraries: tuple[str, ...]
    """Shared objects that it and its standard library load."""
    supervisor: bytes
    """The marshalled list of code of TEXTS, which only this version can load."""


@cache
def find_interpreter(identity: Identity) -> Interpreter:
    """Return the system's Python if it is new enough, else the running one; asked only once.

    Raises SandboxError, with what each candidate said, if the box's user can run neither.
    """
    refusals = []
    for path in dict.fromkeys((SYSTEM_PYTHON, running_python())):
        found = ask(path, identity)
        if isinstance(found, str):
            refusals.append(f"{path}: {found}")
        elif found.version < OLDEST:
            refusals.append(f"{path}: it is version {'.'.join(map(str, found.version))}")
        else:
            return found
    raise SandboxError(
        f"found no Python that boxes can run ({'; '.join(refusals)}); expected Python "
        f"{OLDEST[0]}.{OLDEST[1]} or newer that every user may read; install the system's python3, "
        "or do not keep the running one in a folder that only root can enter"
    )


def running_python() -> str:
    """Return the real interpreter behind the running one's virtual environment."""
    return str(Path(sys.executable).resolve())


def ask(path: str, identity: Identity) -> Interpreter | str:
    """Run an interpreter as the user of boxes; return what it is, or why it cannot be used."""
    if not Path(path).is_file():
        return "there is no such file"
    texts = [Path(__file__).with_name(name).read_text(encoding="utf-8") for name in TEXTS]
    try:
        done = subprocess.run(
            [path, *FLAGS, "-c", QUESTION],
            input=json.dumps(texts).encode(),
            capture_output=True,
            env={},
            cwd="/",
            timeout=ASK_TIMEOUT_S,
            check=True,
            **identity.drop(),
        )
        answer = json.loads(done.stdout)
    except PermissionError:
        return f"user {identity.uid} may not read it, or we may not become that user"
    except subprocess.CalledProcessError as error:
        lines = error.stderr.decode(errors="replace").strip().splitlines()
        return lines[-1] if lines else f"it ended with code {error.returncode}"
    except (OSError, ValueError, subprocess.TimeoutExpired) as error:
        return str(error)
    return Interpreter(
        path=answer["path"],
        version=tuple(answer["version"]),
        folders=tuple(answer["folders"]),
        libraries=tuple(answer["libraries"]),
        supervisor=base64.b64decode(answer["supervisor"]),
    )
