"""Ctrl-C at any moment: one is enough, and it says so in a line.

Who imports a module may swallow the KeyboardInterrupt that is raised in it, as torch does around
numpy: the command would go on, with half a module. So Ctrl-C ends the process at once while
anything is imported; what was written until then is as whole as after a kill.
"""

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import NoReturn

EXIT_INTERRUPTED = 130
STOPPED = "stopped by Ctrl-C"
IMPORTS = ("<frozen importlib._bootstrap>", "<frozen importlib._bootstrap_external>")
"""Files of the frames below which a module is imported."""
Handler = Callable[[int, FrameType | None], object]


def end_at_once(_number: int, _frame: FrameType | None) -> NoReturn:
    """End the process, whoever would catch an exception."""
    with suppress(OSError):  # stderr may be closed
        os.write(2, f"openzaya: {STOPPED}\n".encode())
    os._exit(EXIT_INTERRUPTED)


def end_imports(number: int, frame: FrameType | None) -> None:
    """End the process at once below an import; raise KeyboardInterrupt elsewhere."""
    below = frame
    while below is not None:
        if below.f_code.co_filename in IMPORTS:
            end_at_once(number, frame)
        below = below.f_back
    raise KeyboardInterrupt


@contextmanager
def ctrl_c(handler: Handler) -> Iterator[None]:
    """Let Ctrl-C call `handler`, unless it is ignored, or this is not the main thread."""
    before = signal.getsignal(signal.SIGINT)
    is_main = threading.current_thread() is threading.main_thread()
    if not is_main or before in (signal.SIG_IGN, None):
        yield
        return
    signal.signal(signal.SIGINT, handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
