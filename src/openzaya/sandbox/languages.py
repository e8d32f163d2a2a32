"""The languages a program may be written in: how each is compiled and started."""

from dataclasses import dataclass

from openzaya.core.errors import RequestError
from openzaya.sandbox.executor import MIB, Limits

WORK = "/tmp"
"""The working folder inside every box, and its only writable one."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Language:
    """How programs of one language are made and run."""

    name: str
    source: str
    """Name of the source file in the working folder."""
    program: str
    """Name of what is started: the source itself, or what the compiler makes."""
    compiler: tuple[str, ...] = ()
    """Compiler and its flags; empty where nothing is compiled."""
    processes: int = 16
    """Processes and threads alive at once, unless the request says otherwise."""

    @property
    def path(self) -> str:
        """What is started, as a path inside the box."""
        return f"{WORK}/{self.program}"

    @property
    def command(self) -> tuple[str, ...]:
        """The command that makes `program` of `source`."""
        return (*self.compiler, "-o", self.program, self.source)


LANGUAGES = {
    "python": Language(name="python", source="main.py", program="main.py"),
    "cpp": Language(
        name="cpp",
        source="main.cpp",
        program="main",
        compiler=("/usr/bin/g++", "-O2", "-std=c++20"),
        processes=1,
    ),
}
COMPILER_LIMITS = Limits(
    cpu_s=30.0,
    wall_s=90.0,
    memory_bytes=2048 * MIB,
    processes=16,
    file_bytes=64 * MIB,
    tmp_bytes=256 * MIB,
    output_bytes=64 * 1024,
)
SMALL_STACK_BYTES = 8 * MIB
LARGE_STACK_BYTES = 256 * MIB


def find(name: str) -> Language:
    """Return a language by its name; RequestError if there is none."""
    if name not in LANGUAGES:
        raise RequestError(f"found language {name!r}; expected one of {', '.join(LANGUAGES)}")
    return LANGUAGES[name]


def processes(language: Language, limits: Limits) -> int:
    """Return how many processes and threads a program may have."""
    return language.processes if limits.processes is None else limits.processes


def stack_bytes(language: Language, limits: Limits) -> int:
    """Return the stack limit: large only for compiled programs of one thread.

    Each thread reserves a stack of this size out of the memory limit, so a large one would leave
    room for few threads.
    """
    if language.compiler and processes(language, limits) == 1:
        return min(LARGE_STACK_BYTES, limits.memory_bytes // 2)
    return SMALL_STACK_BYTES
