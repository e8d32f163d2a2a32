"""The bubblewrap command line of a box: its namespaces, and the few files it can see.

Each line here closes a hole that the obvious command line leaves open; tests/sandbox/hostile has a
program for each. `/` and `/dev` are one small file system that is read-only by the time the
program starts, so `/tmp` is the only place to write, and it has a size.
"""

import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path

from openzaya.core.errors import SandboxError
from openzaya.sandbox.interpreter import FLAGS, Interpreter
from openzaya.sandbox.languages import WORK

DEVICES = ("null", "full", "random", "urandom")
"""Not `zero`: mapped, it is shared memory that is no file's, which no limit of a box counts."""
DEVICE_LINKS = (
    ("/proc/self/fd", "/dev/fd"),
    ("/proc/self/fd/0", "/dev/stdin"),
    ("/proc/self/fd/1", "/dev/stdout"),
    ("/proc/self/fd/2", "/dev/stderr"),
    (WORK, "/dev/shm"),
)
"""Links in /dev; shared memory and its semaphores are files of the working folder."""
ENVIRONMENT = {
    "HOME": WORK,
    "LC_ALL": "C.UTF-8",
    "PATH": "/usr/bin:/bin",
    "PYTHONHASHSEED": "0",
    "TMPDIR": WORK,
}
LOCALE = "/usr/lib/locale/C.utf8"
"""What LC_ALL names; without it a program that asks for its locale fails or writes `?`."""
INSIDE_ID = "1000"
"""User and group as the program sees them."""
LOADER = """
import sys, marshal, posix
c, r, n, b = *map(int, sys.argv[1:]), {"__name__": "supervisor", "__builtins__": __builtins__}, b""
s = int.from_bytes(posix.read(c, 8), "big")
while len(b) < s:
    b += posix.read(c, s - len(b)) or sys.exit("no supervisor came")
for b in marshal.loads(b):
    exec(b, n)
with n["Ending"]():
    exec(n["start"](c, r, n["read_order"](c)))
"""
"""The first code in a box: loads the supervisor, then in the child becomes the program."""
TOOLCHAIN = ("/usr/bin", "/usr/include", "/usr/lib/gcc", "/usr/libexec", "/etc/alternatives")
"""What compilers need besides."""


def find_bwrap() -> str:
    """Return the path of bubblewrap; SandboxError if it is not installed."""
    path = shutil.which("bwrap")
    if path is None:
        raise SandboxError(
            "found no bwrap on PATH; expected bubblewrap 0.8 or newer; "
            "install it: apt-get install bubblewrap (or dnf, apk, pacman)"
        )
    return path


def isolation() -> list[str]:
    """Return the options that separate a box from the machine and from other boxes."""
    words = ["--unshare-all", "--unshare-user", "--disable-userns", "--cap-drop", "ALL"]
    words += ["--die-with-parent", "--new-session", "--as-pid-1", "--hostname", "box"]
    words += ["--uid", INSIDE_ID, "--gid", INSIDE_ID, "--clearenv"]
    for name, value in ENVIRONMENT.items():
        words += ["--setenv", name, value]
    return words


def file_system(interpreter: Interpreter, *, compiler: bool) -> list[str]:
    """Return the options that lay out what a box can see, all of it read-only."""
    words: list[str] = []
    for name in ("/lib", "/lib64"):
        if Path(name).is_symlink():
            words += ["--symlink", str(Path(name).readlink()), name]
        elif Path(name).is_dir():
            words += ["--ro-bind", name, name]
    visible = outermost(wanted(interpreter, compiler=compiler))
    for path in visible:
        words += ["--ro-bind", path, path]
    for path in packages(interpreter):
        words += ["--size", "4096", "--tmpfs", path, "--remount-ro", path]
    for name in DEVICES if not compiler else ("null",):
        words += ["--dev-bind", f"/dev/{name}", f"/dev/{name}"]
    for target, name in DEVICE_LINKS if not compiler else ():
        words += ["--symlink", target, name]
    return [*words, "--proc", "/proc"]


def wanted(interpreter: Interpreter, *, compiler: bool) -> Iterator[str]:
    """Yield every path that boxes need of the machine."""
    yield from (interpreter.path, *interpreter.folders)
    for library in interpreter.libraries:
        folder = str(Path(library).parent)
        holds_python = any(Path(path).is_relative_to(folder) for path in interpreter.folders)
        yield library if holds_python else folder
    extra = ["/usr/lib64", "/etc/ld.so.cache", "/usr/share/zoneinfo", LOCALE]
    for path in [*extra, *TOOLCHAIN] if compiler else extra:
        if Path(path).exists() and not Path(path).is_symlink():
            yield path


def outermost(paths: Iterable[str]) -> list[str]:
    """Return the paths that lie in no other one, sorted."""
    found: list[str] = []
    for path in sorted(set(paths)):
        if not found or not Path(path).is_relative_to(found[-1]):
            found.append(path)
    return found


def packages(interpreter: Interpreter) -> list[str]:
    """Return the folders of installed packages inside the standard library, which stay hidden."""
    names = ("site-packages", "dist-packages")
    paths = [Path(folder, name) for folder in interpreter.folders for name in names]
    return [str(path) for path in paths if path.is_dir() and not path.is_symlink()]


def start(interpreter: Interpreter, *, control: int, report: int) -> list[str]:
    """Return the command that a box runs; the numbers are its ends of two pipes."""
    return [interpreter.path, *FLAGS, "-c", LOADER, str(control), str(report)]
