"""How a program ends in a box forked from a launcher: as under the interpreter, but faster.

Like the launcher, this file's text is sent to a fresh interpreter and stands alone.
"""

import atexit
import gc
import os
import signal
import sys
import threading
from contextlib import suppress
from typing import NoReturn


class Ending:
    """The end of a program as the interpreter would make it, but for what is not the program's.

    Its threads are awaited, its exit functions run, its objects die (files are written out by
    that). Taking the imported library apart as well would copy every page of it, for nothing.
    """

    def __init__(self, preloaded: frozenset[str]) -> None:
        self.preloaded = preloaded
        """Names of the modules that every program finds imported."""

    def __enter__(self) -> None:
        """Begin the program."""

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> NoReturn:
        """Show an uncaught error, take the program apart and leave with its exit code."""
        status = 0
        try:
            if isinstance(error, SystemExit):
                raise error
            if error is not None:
                status = -signal.SIGINT if isinstance(error, KeyboardInterrupt) else 1
                show(error)
        except SystemExit as asked:
            status = exit_code(asked.code)
        del error, _trace
        threading._shutdown()  # type: ignore[attr-defined]
        atexit._run_exitfuncs()
        take_apart([name for name in sys.modules if name not in self.preloaded])
        take_apart(["__main__"])
        status = flush(status)
        if status < 0:
            signal.signal(-status, signal.SIG_DFL)
            os.kill(os.getpid(), -status)
        os._exit(status)


def take_apart(names: list[str]) -> None:
    """Let go of all that some modules hold, in the interpreter's order: private names first."""
    for name in names:
        module = sys.modules.pop(name, None)
        held = getattr(module, "__dict__", {})
        for private in (True, False):
            for key in [key for key in held if key != "__builtins__"]:
                if (key[:1] == "_" and key[1:2] != "_") is private:
                    held[key] = None
    gc.collect()


def flush(status: int) -> int:
    """Write out the two streams; return the exit code, 120 if that of stdout fails."""
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream is not None and not stream.closed:
                stream.flush()
        except BaseException as error:  # noqa: BLE001 - as the interpreter does
            if stream is sys.stdout:
                status = 120
                with suppress(BaseException):
                    sys.stderr.write(f"Exception ignored in: {stream!r}\n")
                    sys.__excepthook__(type(error), error.with_traceback(None), None)
    return status


def show(error: BaseException) -> None:
    """Hand an uncaught error to the program's hook, or to Python's own if that fails."""
    try:
        sys.excepthook(type(error), error, error.__traceback__)
    except SystemExit:
        raise
    except BaseException as second:  # noqa: BLE001 - as the interpreter does
        sys.__excepthook__(type(second), second, second.__traceback__)
        sys.__excepthook__(type(error), error, error.__traceback__)


def exit_code(asked: object) -> int:
    """Return the exit code that sys.exit was asked for."""
    if asked is None:
        return 0
    if isinstance(asked, int):
        return asked & 0xFF
    sys.stderr.write(f"{asked}\n")
    return 1
