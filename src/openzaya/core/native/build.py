"""Compile a folder of C++ for this machine's processor, once, and load it.

The compiler is the user's own (g++ or clang++, or what CXX names); the result is kept in the
user's cache folder under a name made of everything that it depends on.
"""

import ctypes
import hashlib
import logging
import os
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from openzaya.core.errors import ConfigError

_log = logging.getLogger("openzaya.native")

SHARED = Path(__file__).parent
"""Headers that every library may include."""
FLAGS = ("-O3", "-march=native", "-std=c++20", "-shared", "-fPIC", "-pthread")
COMPILERS = ("g++", "clang++", "c++")
COMPILE_TIMEOUT_S = 300


def compiler() -> str | None:
    """Return the C++ compiler's path, or None where there is none."""
    chosen = os.environ.get("CXX", "")
    names = (chosen,) if chosen else COMPILERS
    return next((path for path in map(shutil.which, names) if path), None)


def cache_folder() -> Path:
    """Return where compiled libraries are kept: OPENZAYA_CACHE, or the user's cache folder."""
    own = os.environ.get("OPENZAYA_CACHE", "")
    if own:
        return Path(own)
    base = os.environ.get("XDG_CACHE_HOME", "")
    try:
        return (Path(base) if base else Path.home() / ".cache") / "openzaya"
    except RuntimeError:  # a user without a home: nothing can be kept, as in a read-only one
        return Path(os.devnull) / "openzaya"


def load_library(folder: Path, sources: Sequence[str]) -> ctypes.CDLL:
    """Return the library of `folder`, compiling it at the first call on this machine (seconds).

    `sources` names all of its files; the last one includes the others and is what is compiled.

    Raises ConfigError where there is no compiler or it fails.
    """
    path = compiler()
    if path is None:
        raise ConfigError(
            "no C++ compiler was found, expected g++ or clang++ (or the one that CXX names); "
            'install one, or choose kernels="torch"'
        )
    files = [*sorted(SHARED.glob("*.h")), *(folder / name for name in sources)]
    target = cache_folder() / f"zaya-{folder.parent.name}-{_fingerprint(path, files)}.so"
    if not target.exists():
        try:
            _compile(path, files[-1], target)
        except OSError as error:
            return _load_once(path, files[-1], target.name, error)
    return ctypes.CDLL(str(target))


def _load_once(path: str, source: Path, name: str, why: OSError) -> ctypes.CDLL:
    """Compile for this process alone, as the cache folder cannot be written."""
    _log.warning(
        "compiled code cannot be kept (%s), so every start takes seconds more; set OPENZAYA_CACHE "
        "to a folder that this user may write",
        why,
    )
    with tempfile.TemporaryDirectory() as folder:  # what is loaded needs its file no more
        target = Path(folder) / name
        _compile(path, source, target)
        return ctypes.CDLL(str(target))


def _fingerprint(path: str, files: Sequence[Path]) -> str:
    """Return a name for what the library depends on: sources, compiler, flags and processor."""
    version = subprocess.run(
        [path, "-march=native", "-E", "-v", "-x", "c++", os.devnull],
        capture_output=True,
        check=False,
        timeout=COMPILE_TIMEOUT_S,
    )
    digest = hashlib.sha256(version.stderr)
    digest.update(" ".join(FLAGS).encode())
    for file in files:
        digest.update(file.read_bytes())
    return digest.hexdigest()[:16]


def _compile(path: str, source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    # Compiled aside and renamed: another process never loads half a file.
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        fresh = Path(folder) / target.name
        done = subprocess.run(
            [path, *FLAGS, f"-I{SHARED}", str(source), "-o", str(fresh)],
            capture_output=True,
            text=True,
            check=False,
            timeout=COMPILE_TIMEOUT_S,
        )
        if done.returncode:
            raise ConfigError(
                f"{path} could not compile {source.name}: {done.stderr.strip()[-500:]}; set CXX "
                'to another compiler, or choose kernels="torch"'
            )
        fresh.replace(target)
