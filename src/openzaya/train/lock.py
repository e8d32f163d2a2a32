"""One trainer in a folder at a time, and an end that is asked for: the lock and the signals."""

import fcntl
import os
import signal
import socket
import threading
from pathlib import Path
from types import FrameType, TracebackType
from typing import Self

from openzaya.core.errors import CheckpointError

LOCK = "LOCK"


class RunLock:
    """Holds a folder for one trainer; the kernel lets go of it when the process ends, however.

    The lock is `flock` on the file LOCK, which stays and says who held it last; processes forked
    meanwhile hold it too. Raises CheckpointError for a folder that is held by another trainer or
    cannot be written.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._descriptor = -1

    def __enter__(self) -> Self:
        path = self.folder / LOCK
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise CheckpointError(
                f"checkpoints could not be written to {self.folder} ({error}); choose another "
                "folder or mend its permissions"
            ) from error
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            holder = path.read_text(encoding="utf-8").strip() or "another process"
            os.close(self._descriptor)
            if not isinstance(error, BlockingIOError):
                raise CheckpointError(
                    f"{path} cannot be locked ({error}); choose a folder on a file "
                    "system that has flock"
                ) from error
            raise CheckpointError(
                f"{self.folder} is in use by {holder}; wait for it, stop it or choose another "
                "folder"
            ) from error
        os.ftruncate(self._descriptor, 0)
        os.pwrite(self._descriptor, f"pid {os.getpid()} on {socket.gethostname()}\n".encode(), 0)
        return self

    def __exit__(self, *_error: object) -> None:
        os.close(self._descriptor)


STOPS = (signal.SIGTERM, signal.SIGUSR1)
"""What asks for the end; batch systems can send SIGUSR1 some time before they take the machine."""


class StopSignal:
    """Turns SIGTERM or SIGUSR1 into `requested`; a SIGTERM after that ends the process at once.

    Signals reach the main thread only: anywhere else nothing changes and `requested` stays False.
    """

    def __init__(self) -> None:
        self.requested = False
        self._before: dict[signal.Signals, signal._HANDLER] = {}
        self._is_main = threading.current_thread() is threading.main_thread()

    def __enter__(self) -> Self:
        if self._is_main:
            self._before = {number: signal.signal(number, self._request) for number in STOPS}
        return self

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _where: TracebackType | None,
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _request(self, _number: int, _frame: FrameType | None) -> None:
        self.requested = True
        # A batch system may repeat SIGUSR1, to the launcher and to us; that is no reason to hurry.
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
