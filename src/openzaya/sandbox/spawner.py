"""What starts bubblewrap for the host: a small process that is the user of boxes already.

Forked from the host itself, every box would first cost a copy of the host's page tables, which is
milliseconds for a trainer with gigabytes. This file's text is sent to a fresh interpreter, so it
stands alone: no openzaya. It knows nothing of any run: it hands descriptors on, and keeps none.
"""

import _signal  # type: ignore[import-not-found]
import _socket
import array
import fcntl
import marshal
import os
import sys

NUM_HANDLES = 6
"""Descriptors that come with a request, for bubblewrap to find as 0 to 5."""
REPORT, CONTROL, RULES = 3, 4, 5
"""What they are beside the three streams; the answer to a request goes to its control socket."""
ABOVE = 32
"""A number above those that a box's descriptors end up with."""
READY, STARTED = b"ready", b"started"
ROOM = 65536


def begin() -> None:
    """Become the spawner and serve until the host is gone.

    The channel to the host is the descriptor that the first argument names.
    """
    channel = _socket.socket(fileno=fcntl.fcntl(int(sys.argv[1]), fcntl.F_DUPFD_CLOEXEC, ABOVE))
    os.close(int(sys.argv[1]))
    for number in range(3, NUM_HANDLES):  # what comes from the host is then above a box's own
        os.dup2(0, number, inheritable=False)
    _signal.signal(_signal.SIGCHLD, collect)
    _signal.pthread_sigmask(_signal.SIG_SETMASK, ())  # the host may have blocked it
    channel.send(READY)
    while True:
        room = _socket.CMSG_SPACE(NUM_HANDLES * 4)
        message, extra, _, _ = channel.recvmsg(ROOM, room, _socket.MSG_CMSG_CLOEXEC)
        handles = array.array("i")
        for _, _, data in extra:
            handles.frombytes(data[: len(data) - len(data) % 4])
        if not message or len(handles) != NUM_HANDLES:
            os._exit(0)  # bubblewrap dies with us, and its boxes with it
        start(marshal.loads(message), list(handles))
        for handle in handles:
            os.close(handle)


def start(command: tuple[str, ...], handles: list[int]) -> None:
    """Start a command with these descriptors as 0, 1, ...; answer on the control socket."""
    control = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM, 0, handles[CONTROL])
    try:
        pid = os.posix_spawn(
            command[0],
            command,
            {},
            file_actions=[(os.POSIX_SPAWN_DUP2, one, n) for n, one in enumerate(handles)],
            setsid=True,
            setsigdef=(_signal.SIGPIPE, _signal.SIGXFSZ),  # Python ignores these
        )
        pidfd = os.pidfd_open(pid)
        rights = (_socket.SOL_SOCKET, _socket.SCM_RIGHTS, array.array("i", [pidfd]))
        control.sendmsg([STARTED], [rights])
        os.close(pidfd)
    except OSError as error:
        answer(control, f"{command[0]}: {error.strerror}".encode())
    finally:
        control.detach()  # the descriptor is the request's


def answer(control: _socket.socket, words: bytes) -> None:
    """Tell the host why there is no box, if it still listens."""
    try:
        control.send(words)
    except OSError:
        return


def collect(_number: int, _frame: object) -> None:
    """Collect what has ended, so that what it used is counted as this process's."""
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        return
