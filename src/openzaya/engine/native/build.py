"""Compile the C++ forward pass for this machine's processor, once, and load it.

The compiler is the user's own (g++ or clang++, or what CXX names); the result is kept in the
user's cache folder under a name made of everything that it depends on.
"""

import ctypes
import hashlib
import os
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path

from openzaya.core.errors import ConfigError

SOURCES = (
    "vec.h",
    "pool.h",
    "formats.h",
    "matmul.h",
    "products.h",
    "attention.h",
    "sample.h",
    "forward.cpp",
)
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
    return (Path(base) if base else Path.home() / ".cache") / "openzaya"


@cache
def load_library() -> ctypes.CDLL:
    """Return the compiled library, compiling it at the first call on this machine (15 s).

    Raises ConfigError where there is no compiler or it fails.
    """
    path = compiler()
    if path is None:
        raise ConfigError(
            "no C++ compiler was found, expected g++ or clang++ (or the one that CXX names); "
            'install one, or choose kernels="torch"'
        )
    folder = Path(__file__).parent
    target = cache_folder() / f"zaya-{_fingerprint(path, folder)}.so"
    if not target.exists():
        _compile(path, folder / SOURCES[-1], target)
    library = ctypes.CDLL(str(target))
    library.zaya_open.restype = ctypes.c_void_p
    library.zaya_open.argtypes = [ctypes.c_void_p, ctypes.c_int]
    library.zaya_refresh.restype = None
    library.zaya_refresh.argtypes = [ctypes.c_void_p, ctypes.c_void_p]
    library.zaya_close.restype = None
    library.zaya_close.argtypes = [ctypes.c_void_p]
    library.zaya_forward.restype = None
    library.zaya_forward.argtypes = [ctypes.c_void_p] * 3
    library.zaya_draw.restype = None
    library.zaya_draw.argtypes = [
        ctypes.c_void_p,
        ctypes.c_void_p,
        ctypes.c_int64,
        *[ctypes.c_void_p] * 5,
    ]
    return library


def _fingerprint(path: str, folder: Path) -> str:
    """Return a name for what the library depends on: sources, compiler, flags and processor."""
    version = subprocess.run(
        [path, "-march=native", "-E", "-v", "-x", "c++", os.devnull],
        capture_output=True,
        check=False,
        timeout=COMPILE_TIMEOUT_S,
    )
    digest = hashlib.sha256(version.stderr)
    digest.update(" ".join(FLAGS).encode())
    for name in SOURCES:
        digest.update((folder / name).read_bytes())
    return digest.hexdigest()[:16]


def _compile(path: str, source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    # Compiled aside and renamed: another process never loads half a file.
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        fresh = Path(folder) / target.name
        done = subprocess.run(
            [path, *FLAGS, str(source), "-o", str(fresh)],
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
