"""Compile programs inside a box, once for each source."""

import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

from openzaya.core.errors import SandboxError
from openzaya.sandbox.executor import MIB, Request, Result, Status
from openzaya.sandbox.languages import COMPILER_LIMITS, Language

CACHE_BYTES = 128 * MIB
RunCommand = Callable[[Request, Language, tuple[str, ...], bytes | None], Result]
"""Runs a command in a fresh box; see BwrapExecutor.run_command."""
UNFIT = b"PCH"
"""What the compiler says where a precompiled header does not fit into memory as it must."""


class Compiler:
    """Turns sources into programs; remembers both programs and refusals by the source's hash."""

    def __init__(self, run: RunCommand, options: tuple[str, ...] = ()):
        """`options` name precompiled headers; without them a program compiles the same, later."""
        self.run = run
        self.options = options
        self.built: OrderedDict[str, bytes | Result] = OrderedDict()
        self.lock = threading.Lock()

    def build(self, asked: Request, language: Language) -> bytes | Result:
        """Return the program, or the result that says why there is none.

        Raises SandboxError where the compiler is not installed.
        """
        if not Path(language.compiler[0]).exists():
            raise SandboxError(
                f"found no {language.compiler[0]}; expected the compiler of {language.name} "
                "there; install it: apt-get install g++"
            )
        words = repr((language.compiler, asked.source))
        key = sha256(words.encode("utf-8", "backslashreplace")).hexdigest()
        with self.lock:
            if key in self.built:
                self.built.move_to_end(key)
                return self.built[key]
        found = self.compile(asked, language)
        if isinstance(found, Result) and found.status is Status.INFRA:
            return found
        with self.lock:
            self.built[key] = found
            while sum(map(size, self.built.values())) > CACHE_BYTES:
                self.built.popitem(last=False)
        return found

    def compile(self, asked: Request, language: Language) -> bytes | Result:
        """Run the compiler in a box and bring the program back."""
        request = Request(
            source=asked.source,
            language=language.name,
            fetch=(language.program,),
            limits=COMPILER_LIMITS,
            stop=asked.stop,
        )
        result = self.run(request, language, (*language.command, *self.options), None)
        if result.status is not Status.OK and UNFIT in result.stderr:
            result = self.run(request, language, language.command, None)
        if result.status is Status.INFRA:
            return replace(result, reason=f"compiling: {result.reason}")
        program = result.files.get(language.program)
        if result.status is Status.OK and program:
            return program
        reason = result.reason or "it made no program"
        return replace(result, status=Status.COMPILE, files={}, reason=f"the compiler: {reason}")


def size(built: bytes | Result) -> int:
    """Return what a cache entry weighs in bytes, its bookkeeping estimated."""
    return 1024 + (len(built) if isinstance(built, bytes) else len(built.stderr))
