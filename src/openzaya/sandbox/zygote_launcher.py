"""What runs between the host and the zygote's boxes: builds one small root, then forks boxes fast.

This file's text is sent to a fresh interpreter, so it stands alone: no openzaya. It moves into
namespaces of its own and a read-only root that holds an interpreter and nothing else of the
machine, imports what programs usually import, and then makes a box for each request: one clone into
seven fresh namespaces, three file systems, the supervisor. It holds nothing of any run: a box reads
its order itself, from its own socket, and the launcher has no copy of any descriptor by then.

The order of steps in `enter` is the security: identity, mounts, descriptors, order, rights,
system calls. Nothing of a program runs before the last of them.
"""

import _signal  # type: ignore[import-not-found]
import _socket
import array
import ctypes
import fcntl
import gc
import marshal
import os
import signal
import sys
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from types import CodeType
from typing import Any

NEW = {
    "mount": 0x00020000,
    "cgroup": 0x02000000,
    "uts": 0x04000000,
    "ipc": 0x08000000,
    "user": 0x10000000,
    "pid": 0x20000000,
    "net": 0x40000000,
}
"""Flags of clone(2), one for each kind of namespace."""
ALL_NEW = sum(NEW.values())
CLONE_PIDFD = 0x1000
SYS_CLONE, SYS_PIVOT_ROOT = 56, 155
SYS_OPEN_TREE, SYS_MOVE_MOUNT, SYS_CLOSE_RANGE, SYS_MOUNT_SETATTR = 428, 429, 436, 442
MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC = 1, 2, 4, 8
MS_REMOUNT, MS_BIND, MS_REC, MS_PRIVATE = 32, 4096, 16384, 1 << 18
MNT_DETACH = 2
HERE = -100
"""AT_FDCWD: paths are meant from the current folder."""
EMPTY_PATH, RECURSIVE = 0x1000, 0x8000
PR_SET_PDEATHSIG, PR_SET_SECCOMP, PR_CAPBSET_DROP, PR_SET_NO_NEW_PRIVS = 1, 22, 24, 38
CAPABILITY_HEAD = (ctypes.c_uint32 * 2)(0x20080522, 0)
NO_CAPABILITIES = (ctypes.c_uint32 * 6)()
BOX_INODES = 32768
"""Files that a box's folder can hold; the supervisor ends a program well before."""
NUM_HANDLES = 5
ABOVE = 32
"""A number above those that a box's descriptors end up with."""
READY, STARTED = b"ready", b"started"

libc = ctypes.PyDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long
libc.prctl.argtypes = (ctypes.c_int, *[ctypes.c_ulong] * 4)
libc.capset.argtypes = (ctypes.c_void_p, ctypes.c_void_p)


def begin() -> Any:
    """Read the setup from fd 0, become the launcher and serve; return only in a program.

    The channel to the host is the descriptor that the first argument names. The program is left
    in `sys.program`; what is returned is its Ending.
    """
    setup = marshal.load(sys.stdin.buffer)
    channel = _socket.socket(fileno=fcntl.fcntl(int(sys.argv[1]), fcntl.F_DUPFD, ABOVE))
    for number in range(NUM_HANDLES):  # what comes from the host is then above a box's own
        if number > 2:
            os.dup2(0, number)
    try:
        move_in(setup)
        box = Box(setup)
    except Exception as error:  # noqa: BLE001 - told to the host
        channel.send(f"{type(error).__name__}: {error}".encode())
        os._exit(1)
    setup.clear()
    ending = box.supervisor["Ending"]()
    gc.collect()
    gc.freeze()  # boxes shall not copy these pages only to look for garbage in them
    channel.send(READY)
    sys.program = serve(channel, box)  # type: ignore[attr-defined]
    return ending


def move_in(setup: dict[str, Any]) -> None:
    """Go on as process 1 of fresh namespaces, in a root with little in it; import the library."""
    child, _ = clone(ALL_NEW)
    if child:
        os.closerange(0, 1024)  # also our copy of the channel: the child's end is its end
        os.waitpid(child, 0)
        os._exit(0)
    prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    take_identity(setup["inside_id"], *setup["outside"])
    build_root(setup)
    for name in setup["modules"]:
        import_module(name)
    signal.signal(signal.SIGCHLD, collect)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())  # the host may have blocked it


def collect(_number: int, _frame: object) -> None:
    """Collect boxes that have ended, so that what they used is counted as this process's."""
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        return


class Box:
    """What all boxes have in common: made once, so that each has little left to do."""

    def __init__(self, setup: dict[str, Any]) -> None:
        self.inside_id: int = setup["inside_id"]
        self.rules = ctypes.create_string_buffer(setup["policy"], len(setup["policy"]))
        words = (len(setup["policy"]) // 8, ctypes.addressof(self.rules))
        self.policy = (ctypes.c_uint64 * 2)(*words)
        """The kernel's `struct sock_fprog`."""
        self.supervisor: dict[str, Any] = {
            "__name__": "supervisor",
            "__builtins__": __builtins__,
        }
        for code in marshal.loads(setup["supervisor"]):
            exec(code, self.supervisor)  # noqa: S102 - our own text


def serve(channel: _socket.socket, box: Box) -> CodeType:
    """Make a box for each request until the host is gone; return only in a program."""
    while True:
        tmp_bytes, handles = receive(channel)
        child = fork_box(handles[-1])
        if not child:
            channel.close()
            return enter(box, handles, tmp_bytes)
        for handle in handles:
            os.close(handle)


def receive(channel: _socket.socket) -> tuple[int, list[int]]:
    """Return the next request; end all boxes and this process when the host is gone."""
    room = _socket.CMSG_SPACE(NUM_HANDLES * 4)
    message, extra, _, _ = channel.recvmsg(64, room, _socket.MSG_CMSG_CLOEXEC)
    handles = array.array("i")
    for _, _, data in extra:
        handles.frombytes(data[: len(data) - len(data) % 4])
    if not message or len(handles) != NUM_HANDLES:
        os._exit(0)
    return int(message), list(handles)


def fork_box(handle: int) -> int:
    """Make the first process of a box; tell the host, on the box's own socket, how to reach it."""
    control = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM, 0, handle)
    try:
        child, pidfd = clone(ALL_NEW)
        if child:
            rights = (_socket.SOL_SOCKET, _socket.SCM_RIGHTS, array.array("i", [pidfd]))
            with suppress(OSError):  # nobody wants it any more: the closed socket tells the box
                control.sendmsg([STARTED], [rights])
            os.close(pidfd)
        return child
    except OSError as error:
        control.send(str(error).encode())
        return -1
    finally:
        control.detach()  # the descriptor is the request's


def enter(box: Box, handles: list[int], tmp_bytes: int) -> CodeType:
    """Become process 1 of a fresh box; return only in its program."""
    try:
        take_identity(box.inside_id, box.inside_id, box.inside_id)
        mount("tmpfs", "/tmp", f"size={tmp_bytes},nr_inodes={BOX_INODES},mode=755")
        mount("proc", "/proc", flags=MS_NOSUID | MS_NODEV | MS_NOEXEC)
        write("/proc/sys/user/max_user_namespaces", "0")
        os.chdir("/tmp")
        control, report = arrange(handles)
        order = box.supervisor["read_order"](control)
        _signal.signal(_signal.SIGCHLD, _signal.SIG_DFL)
        give_up_rights()
        prctl(PR_SET_PDEATHSIG, _signal.SIGKILL)
        filter_calls(box.policy)
    except BaseException as error:  # noqa: BLE001 - nothing of ours may go on in a half-made box
        os.write(2, f"{type(error).__name__}: {error}\n".encode())
        os._exit(1)
    program: CodeType = box.supervisor["start"](control, report, order)
    return program


def take_identity(inside_id: int, outside_uid: int, outside_gid: int) -> None:
    """Map the one user and group that exist in this user namespace."""
    write("/proc/self/setgroups", "deny")
    write("/proc/self/uid_map", f"{inside_id} {outside_uid} 1")
    write("/proc/self/gid_map", f"{inside_id} {outside_gid} 1")


def build_root(setup: dict[str, Any]) -> None:
    """Move into a root that holds the given paths of the machine, all of them read-only."""
    mount("none", "/", flags=MS_REC | MS_PRIVATE, kind=None)
    trees = {path: copy_tree(path) for path in (*setup["binds"], *setup["devices"])}
    mount("tmpfs", "/tmp", "size=1m,nr_inodes=1024,mode=755")
    os.chdir("/tmp")
    for name in ("tmp", "proc", "dev"):
        Path(name).mkdir()
    for target, path in setup["links"]:
        link = Path(path[1:])
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(target)
    for path, tree in trees.items():
        restrict(tree, MS_NOSUID | MS_NOEXEC if path in setup["devices"] else read_only())
        place(tree, path)
    for path in setup["hidden"]:
        mount("tmpfs", path[1:], "size=4k,nr_inodes=2,mode=755", read_only())
    # The old /proc must still be in sight: the kernel shows no more than it showed before.
    mount("proc", "proc", flags=MS_NOSUID | MS_NODEV | MS_NOEXEC)
    check(libc.syscall(SYS_PIVOT_ROOT, b".", b"."), "pivot_root")
    check(libc.umount2(b".", MNT_DETACH), "umount of the old root")
    os.chdir("/")
    mount("none", "/", flags=MS_REMOUNT | MS_BIND | read_only(), kind=None)
    check(libc.sethostname(b"box", 3), "sethostname")


def read_only() -> int:
    """Return the flags of what nobody may write to."""
    return MS_RDONLY | MS_NOSUID | MS_NODEV


def copy_tree(path: str) -> int:
    """Return a detached copy of the mounts at a path."""
    flags = 1 | os.O_CLOEXEC | RECURSIVE  # OPEN_TREE_CLONE
    return check(libc.syscall(SYS_OPEN_TREE, HERE, path.encode(), flags), path)


def restrict(tree: int, flags: int) -> None:
    """Set flags on every mount of a detached tree."""
    values = (ctypes.c_uint64 * 4)(flags, 0, 0, 0)
    done = libc.syscall(SYS_MOUNT_SETATTR, tree, b"", EMPTY_PATH | RECURSIVE, values, 32)
    check(done, "mount_setattr")


def place(tree: int, path: str) -> None:
    """Mount a detached tree at its path below the current folder."""
    point = Path(path[1:])
    point.parent.mkdir(parents=True, exist_ok=True)
    if Path(f"/proc/self/fd/{tree}").is_dir():
        point.mkdir(exist_ok=True)
    else:
        point.touch()
    done = libc.syscall(SYS_MOVE_MOUNT, tree, b"", HERE, path[1:].encode(), 4)  # F_EMPTY_PATH
    check(done, f"mounting {path}")
    os.close(tree)


def mount(
    source: str,
    path: str,
    options: str = "",
    flags: int = MS_NOSUID | MS_NODEV,
    kind: str | None = "",
) -> None:
    """Mount something; the kind of file system is its source's name unless given."""
    name = source if kind == "" else kind
    done = libc.mount(
        source.encode(),
        path.encode(),
        None if name is None else name.encode(),
        ctypes.c_ulong(flags),
        options.encode() or None,
    )
    check(done, f"mounting {source} at {path}")


def arrange(handles: list[int]) -> tuple[int, int]:
    """Make a request's descriptors 0 to 4 and close all others; return control and report."""
    for number, handle in enumerate(handles):
        os.dup2(handle, number)
    check(libc.syscall(SYS_CLOSE_RANGE, NUM_HANDLES, 0x7FFFFFFF, 0), "close_range")
    return 4, 3


def give_up_rights() -> None:
    """Lose every capability, also those that a program could come by later."""
    for number in range(64):
        if libc.prctl(PR_CAPBSET_DROP, number, 0, 0, 0):
            break  # the kernel knows no more of them
    check(libc.capset(CAPABILITY_HEAD, NO_CAPABILITIES), "capset")


def filter_calls(policy: "ctypes.Array[ctypes.c_uint64]") -> None:
    """Put this process and its children under a filter of system calls, for ever."""
    prctl(PR_SET_NO_NEW_PRIVS, 1)
    prctl(PR_SET_SECCOMP, 2, ctypes.addressof(policy))


def clone(flags: int) -> tuple[int, int]:
    """Fork into new namespaces; return the child's id and a descriptor for it, (0, -1) inside.

    It is the bare system call: Python's own fork would do its bookkeeping, which the supervisor's
    fork of the program then does, once.
    """
    pidfd = ctypes.c_int(-1)
    words = [flags | CLONE_PIDFD | signal.SIGCHLD, 0, ctypes.addressof(pidfd), 0, 0]
    child = libc.syscall(SYS_CLONE, *[ctypes.c_ulong(word) for word in words])
    return check(child, "clone into new namespaces"), pidfd.value


def prctl(option: int, value: int, more: int = 0) -> None:
    """Change one property of this process."""
    check(libc.prctl(option, value, more, 0, 0), f"prctl {option}")


def write(path: str, text: str) -> None:
    """Write to a file of the kernel's."""
    handle = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(handle, text.encode())
    finally:
        os.close(handle)


def check(done: int, what: str) -> int:
    """Return the result of a call. Raises OSError with `what` was tried if it is negative."""
    if done < 0:
        code = ctypes.get_errno()
        raise OSError(code, f"{what}: {os.strerror(code)}")
    return done
