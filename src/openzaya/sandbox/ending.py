"""How a program ends inside a box: as under the interpreter, but faster.

Like the supervisor, this file's text is sent into boxes: it stands alone, and imports only what
costs no start-up time.
"""

import _signal  # type: ignore[import-not-found]
import _sitebuiltins
import atexit
import builtins
import gc
import posix
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:  # typing costs 9 ms of every run
    from types import TracebackType
    from typing import NoReturn

OURS = ("<string>", "<supervisor>")
"""File names that our own texts are compiled under; tracebacks of programs begin after them."""


class Ending:
    """The end of a program as the interpreter would make it, but for what is not the program's.

    Its threads are awaited, its exit functions run, its objects die (files are written out by
    that). Taking the imported library apart as well would copy every page of it, for nothing: the
    program was forked from the process that imported it.
    """

    def __init__(self) -> None:
        self.preloaded = frozenset(sys.modules)
        """Names of the modules that every program finds imported."""
        self.last = next(reversed(sys.modules))
        """The newest of them: what a program imports comes after it."""
        sys.excepthook = show
        for name in ("exit", "quit"):  # made by the module `site`, which boxes do without
            setattr(builtins, name, _sitebuiltins.Quitter(name, "Ctrl-D (i.e. EOF)"))

    def __enter__(self) -> None:
        """Begin the program."""

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> "NoReturn":
        """Show an uncaught error, take the program apart and leave with its exit code."""
        status = 0
        try:
            if isinstance(error, SystemExit):
                raise error
            if error is not None:
                status = -_signal.SIGINT if isinstance(error, KeyboardInterrupt) else 1
                show_error(error)
        except SystemExit as asked:
            status = exit_code(asked.code)
        del error, _trace
        if threading := sys.modules.get("threading"):
            threading._shutdown()
        atexit._run_exitfuncs()
        take_apart([*self.imported(), "__main__"])
        status = flush(status)
        if status < 0:
            _signal.signal(-status, _signal.SIG_DFL)
            posix.kill(posix.getpid(), -status)
        posix._exit(status)

    def imported(self) -> "list[str]":
        """Return the names of the modules that the program has imported, in that order.

        Looking from the end touches nothing of those that were there before, or their pages would
        be copied.
        """
        names = []
        for name in reversed(sys.modules):
            if name == self.last:
                break
            if name not in self.preloaded:
                names.append(name)
        return names[::-1]


def take_apart(names: "list[str]") -> None:
    """Let go of all that some modules hold, in the interpreter's order: private names first."""
    for name in names:
        module = sys.modules.pop(name, None)
        if not isinstance(module, type(sys)):  # some put classes there, `typing` for one
            continue
        held = module.__dict__
        for private in (True, False):
            for key in [key for key in held if isinstance(key, str) and key != "__builtins__"]:
                if (key[:1] == "_" and key[1:2] != "_") is private:
                    held[key] = None
    gc.collect()


def flush(status: int) -> int:
    """Write out the two streams; return the exit code, 120 if that of stdout fails."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name, None)
        try:
            if stream is not None and not stream.closed:
                stream.flush()
        except BaseException as error:  # noqa: BLE001 - as the interpreter does
            if name == "stdout":
                status = 120
                tell_ignored(stream, error)
    return status


def tell_ignored(stream: object, error: BaseException) -> None:
    """Say that an error went nowhere; saying so may fail, too."""
    try:
        sys.stderr.write(f"Exception ignored in: {stream!r}\n")
        sys.__excepthook__(type(error), error.with_traceback(None), None)
    except BaseException:  # noqa: BLE001 - as the interpreter does
        return


def show_error(error: BaseException) -> None:
    """Hand an uncaught error to the program's hook, or to Python's own if that fails."""
    try:
        sys.excepthook(type(error), error, error.__traceback__)
    except SystemExit:
        raise
    except BaseException as second:  # noqa: BLE001 - as the interpreter does
        if second.__context__ is error:
            second.__context__ = None
        sys.stderr.write("Error in sys.excepthook:\n")
        show(type(second), second, second.__traceback__)
        sys.stderr.write("\nOriginal exception was:\n")
        show(type(error), error, error.__traceback__)


def show(kind: type[BaseException], value: BaseException, trace: "TracebackType | None") -> None:
    """Print an uncaught error as Python does, without the frames that are not the program's."""
    while trace and trace.tb_frame.f_code.co_filename in OURS:
        trace = trace.tb_next
    sys.__excepthook__(kind, value.with_traceback(trace), trace)


def exit_code(asked: object) -> int:
    """Return the exit code that sys.exit was asked for."""
    if asked is None:
        return 0
    if isinstance(asked, int):
        return asked & 0xFF
    sys.stderr.write(f"{asked}\n")
    return 1
