"""What runs inside a box as its process 1: starts the program, watches it, tells how it ended.

This file's text and that of ending.py are compiled by the interpreter of the box and sent in
through a pipe, so they stand alone: no openzaya, and only modules that cost no start-up time
(`signal` costs 5 ms, `_signal` nothing; even __future__ is a file to read, so annotations that
Python could not evaluate are quoted). It forks; the child becomes the program, the parent watches.
Nobody in the box can forge what it reports or look into it: it is process 1, which no signal from
inside reaches, it is not dumpable, so that /proc/1 is closed, and the only ends of its two pipes
are its own.
"""

import _ctypes
import _signal  # type: ignore[import-not-found]
import errno
import gc
import marshal
import posix
import resource
import sys
import time

TYPE_CHECKING = False
if TYPE_CHECKING:  # typing costs 9 ms of every run
    from types import CodeType
    from typing import Any

    Spent = dict[tuple[str, bytes], int]

SET_ATTRIBUTE = _ctypes.dlsym(_ctypes.dlopen(None, 0), "prctl")  # type: ignore[arg-type]
"""Address of prctl(2); the ctypes package would cost 4 ms."""
TICK_S = 0.02
"""Seconds between two looks at memory and CPU time."""
MOST_FILES = 16384
"""Files in the working folder; their names and nodes are memory that no size limit counts."""
SOCKET_BYTES, DATAGRAM_SOCKET_BYTES = 1 << 18, 3 << 20
"""Most that waits in one socket: of one sender, or in eleven datagrams of as many senders."""
PR_SET_DUMPABLE = 4
CHUNK_BYTES = 1 << 20
PAGE = posix.sysconf("SC_PAGE_SIZE")
CLOCK_TICKS = posix.sysconf("SC_CLK_TCK")


def start(control: int, report: int, order: "dict[str, Any]") -> "CodeType":
    """Run one program; return only in the child, with what it is to execute as Python.

    `control` stays open as long as the host wants the program to run; `report` takes the result.
    """
    prctl(PR_SET_DUMPABLE, 0)
    _signal.signal(_signal.SIGINT, _signal.SIG_DFL)  # process 1 must have no handler at all
    _signal.pthread_sigmask(_signal.SIG_BLOCK, {_signal.SIGCHLD})
    posix.set_blocking(control, False)
    check_limits(order["rlimits"])
    began = time.monotonic()
    if not put_all(order["files"]):
        send(report, f"files 0 0 {time.monotonic() - began:.6f} 0 0\nend\n".encode())
        posix._exit(0)
    gc.freeze()  # collections in the child then copy no page of ours
    child = posix.fork()
    if not child:
        posix.close(control)
        posix.close(report)
        return become(order)
    for stream in (0, 1, 2):  # the program alone decides when its streams end
        posix.close(stream)
    spent: Spent = {}
    ended, status, peak, starved = watch(child, control, began, order, spent)
    wall_s = time.monotonic() - began
    end_all()
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    peak = max(peak, used.ru_maxrss * 1024)
    cpu_s = max(used.ru_utime + used.ru_stime, seen_s(spent))
    line = f"{ended} {status} {cpu_s:.6f} {wall_s:.6f} {peak} {starved:.6f}\n"
    send(report, line.encode())
    room = order["fetch_room"]
    for place, name in enumerate(order["fetch"]):
        content = get(name, min(room, order["fetch_bytes"]))
        if content is not None:
            room -= len(content)
            send(report, f"{place} {len(content)}\n".encode() + content)
    send(report, b"end\n")
    posix._exit(0)


def become(order: "dict[str, Any]") -> "CodeType":
    """Turn the child into the program: its limits, its signals, then its code."""
    posix.setsid()
    prctl(PR_SET_DUMPABLE, 1)  # else its own files in /proc are closed to it
    write_file("/proc/self/oom_score_adj", b"1000")  # the host's memory killer takes it first
    for what, value in order["rlimits"]:
        resource.setrlimit(what, (value, value))
    _signal.pthread_sigmask(_signal.SIG_SETMASK, ())
    ignored = (_signal.SIGPIPE, _signal.SIGXFSZ) if order["python"] else ()  # as Python does
    for number in range(1, _signal.NSIG):  # whoever started us may have ignored others
        if _signal.getsignal(number) == _signal.SIG_IGN and number not in ignored:
            _signal.signal(number, _signal.SIG_DFL)
    argv = order["argv"]
    if not order["python"]:
        try:
            posix.execve(argv[0], argv, posix.environ)
        except OSError as error:
            send(2, f"{argv[0]}: {error.strerror}\n".encode())
            posix._exit(127)
    _signal.signal(_signal.SIGINT, _signal.default_int_handler)
    module = sys.modules["__main__"].__dict__
    for name in [name for name in module if not name.startswith("__")]:
        del module[name]
    module["__file__"] = argv[0]
    sys.argv[:] = argv
    sys.path.insert(0, argv[0].rpartition("/")[0])
    return compile(order["source"], argv[0], "exec", dont_inherit=True)


def check_limits(limits: "list[tuple[int, int]]") -> None:
    """Raise OSError, before there is a program to fail by it, where a limit cannot be so high."""
    for what, value in limits:
        most = resource.getrlimit(what)[1]
        if most != resource.RLIM_INFINITY and value > most:
            names = [name for name in dir(resource) if getattr(resource, name) == what]
            name = next(name for name in names if name.startswith("RLIMIT_"))
            raise OSError(f"{name} shall be {value}, but the hard limit here is {most}")


def watch(
    child: int, control: int, began: float, order: "dict[str, Any]", spent: "Spent"
) -> tuple[str, int, int, float]:
    """Wait for the program's end or a reason to end it; `spent` is as in `usage`.

    Returns why it ended, its wait status (0 if it had to be ended), the largest memory seen in
    bytes, and for the clock's limit the seconds that others kept a thread from a processor.
    """
    peak = 0
    looked = began
    while True:
        _signal.sigtimedwait({_signal.SIGCHLD}, TICK_S)
        status = reap(child)
        if status is not None:
            return "exit", status, peak, 0.0
        if told_to_end(control):
            return "asked", 0, peak, 0.0
        now = time.monotonic()
        if now - looked < TICK_S / 2:
            continue  # somebody sends signals; that must not make us busy
        looked = now
        memory, cpu_s = usage(order["memory_bytes"], spent)
        if now - began > order["wall_s"]:
            return "wall", 0, peak, starved_s(cpu_s)
        peak = max(peak, memory)
        if memory > order["memory_bytes"]:
            return "memory", 0, peak, 0.0
        space = posix.statvfs(".")
        if space.f_files - space.f_ffree > MOST_FILES:
            return "files", 0, peak, 0.0
        if cpu_s > order["cpu_s"]:
            return "cpu", 0, peak, 0.0


def reap(child: int) -> int | None:
    """Collect every process that has ended; return the program's wait status if it is among them.

    Orphans become ours, so all that happened in the box ends up in our resource usage.
    """
    while True:
        try:
            pid, status = posix.waitpid(-1, posix.WNOHANG)
        except ChildProcessError:
            return None
        if pid == child:
            return status
        if pid == 0:
            return None


def end_all() -> None:
    """Kill and collect every other process of the box; the kernel does it in one step."""
    try:
        posix.kill(-1, _signal.SIGKILL)
        while True:
            posix.waitpid(-1, 0)
    except OSError:  # no process left
        return


def told_to_end(control: int) -> bool:
    """Say whether the host has closed its end of the control pipe."""
    try:
        return posix.read(control, 1) == b""
    except BlockingIOError:
        return False


def usage(limit: int, spent: "Spent") -> tuple[int, float]:
    """Return memory (bytes) and CPU time (s) of all processes of the box together.

    Resident sizes count shared pages for each process; only when they exceed the limit is it worth
    asking the kernel for each process's fair share. `spent` keeps the CPU ticks that each process
    was seen with, by its id and start: a parent that ignores SIGCHLD makes the kernel forget them.
    """
    own = resource.getrusage(resource.RUSAGE_CHILDREN)
    ticks = 0
    sizes = {}
    for pid in others():
        fields = read_file(f"/proc/{pid}/stat").rpartition(b")")[2].split()
        if len(fields) > 21:
            ticks += sum(map(int, fields[11:15]))  # its own and its collected children's
            spent[pid, fields[19]] = sum(map(int, fields[11:13]))
            sizes[pid] = int(fields[21]) * PAGE
    memory, waiting = sum(sizes.values()), socket_bytes()
    if memory + waiting > limit:
        memory = sum(share(pid, size) for pid, size in sizes.items())
    return memory + waiting, max(ticks / CLOCK_TICKS + own.ru_utime + own.ru_stime, seen_s(spent))


def socket_bytes() -> int:
    """Return what may wait in the sockets of the box, those that nobody has accepted included.

    The kernel holds it, in no process's memory, also when its sender has ended.
    """
    table = b""
    handle = posix.open("/proc/net/unix", posix.O_RDONLY | posix.O_CLOEXEC)
    while piece := posix.read(handle, CHUNK_BYTES):
        table += piece
    posix.close(handle)
    datagrams = table.count(b" 0002 ")  # a name may hold this, too, to its owner's disadvantage
    return (table.count(b"\n") - 1) * SOCKET_BYTES + datagrams * DATAGRAM_SOCKET_BYTES


def seen_s(spent: "Spent") -> float:
    """Return the CPU time (s) that was seen, never more than there was."""
    return sum(spent.values()) / CLOCK_TICKS


def share(pid: str, size: int) -> int:
    """Return a process's proportional share of the memory it maps, or `size` if it is hidden."""
    for line in read_file(f"/proc/{pid}/smaps_rollup").splitlines():
        if line.startswith(b"Pss:"):
            return int(line.split()[1]) * 1024
    return size


def starved_s(cpu_s: float) -> float:
    """Return the most seconds that a thread was ready to run while others had the processors.

    Others are those outside the box: while the rest of its own box ran, which used `cpu_s` with it,
    a thread may have waited for nobody else. What nobody collects can have run a tick unseen.
    """
    cpu_s += TICK_S * num_made()
    starved = 0.0
    for pid in others():
        for thread in listing(f"/proc/{pid}/task"):
            fields = read_file(f"/proc/{pid}/task/{thread}/schedstat").split()
            if len(fields) > 1:
                ran_s, waited_s = int(fields[0]) / 1e9, int(fields[1]) / 1e9
                starved = max(starved, waited_s - (cpu_s - ran_s))
    return starved


def num_made() -> int:
    """Return how many processes and threads the box has had: the last id that was given."""
    words = read_file("/proc/loadavg").split()
    return int(words[4]) if len(words) > 4 else 0


def others() -> list[str]:
    """Return the process ids of the box but our own."""
    return [name for name in listing("/proc") if name.isdigit() and name != "1"]


def listing(path: str) -> list[str]:
    """Return a folder's names; none if it has just gone."""
    try:
        return posix.listdir(path)
    except OSError:
        return []


def read_file(path: str) -> bytes:
    """Return the start of a small file of /proc; nothing if its process has just gone."""
    try:
        handle = posix.open(path, posix.O_RDONLY | posix.O_CLOEXEC)
    except OSError:
        return b""
    try:
        return posix.read(handle, 4096)
    except OSError:
        return b""
    finally:
        posix.close(handle)


def write_file(path: str, content: bytes) -> None:
    """Write to an existing file; nothing happens if it is not there."""
    try:
        handle = posix.open(path, posix.O_WRONLY)
    except OSError:
        return
    posix.write(handle, content)
    posix.close(handle)


def put_all(files: "list[tuple[str, bytes, int]]") -> bool:
    """Make files in the working folder; say whether they found room."""
    try:
        for name, content, mode in files:
            put(name, content, mode)
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        return False
    return True


def put(name: str, content: bytes, mode: int) -> None:
    """Make a file in the working folder."""
    handle = posix.open(name, posix.O_CREAT | posix.O_EXCL | posix.O_WRONLY, mode)
    send(handle, content)
    posix.close(handle)


def get(name: str, limit: int) -> bytes | None:
    """Return a plain file of the working folder; None for anything else.

    All processes are dead by now, so nothing can change between the check and the reading. A
    file with a second name is refused: the program could have linked it from elsewhere.
    """
    flags = posix.O_RDONLY | posix.O_NOFOLLOW | posix.O_NONBLOCK
    try:
        handle = posix.open(name, flags)
    except OSError:
        return None
    try:
        found = posix.fstat(handle)
        plain = found.st_mode & 0o170000 == 0o100000 and found.st_nlink == 1
        if not plain or found.st_size > limit:
            return None
        content = b""
        while piece := posix.read(handle, limit):
            content += piece
        return content
    except OSError:
        return None
    finally:
        posix.close(handle)


def send(handle: int, content: bytes) -> None:
    """Write all of it."""
    view = memoryview(content)
    while view:
        view = view[posix.write(handle, view) :]


def prctl(option: int, value: int) -> None:
    """Set an attribute of this process."""
    if _ctypes.call_function(SET_ATTRIBUTE, (option, value)):
        raise OSError(f"prctl({option}, {value}) failed")


def read_order(control: int) -> "dict[str, Any]":
    """Return what the host wants to be run."""
    order: dict[str, Any] = marshal.loads(read_frame(control))
    return order


def read_frame(handle: int) -> bytes:
    """Return the bytes that come with their number before them; EOFError if they are cut."""
    return read_exactly(handle, int.from_bytes(read_exactly(handle, 8), "big"))


def read_exactly(handle: int, count: int) -> bytes:
    """Return so many bytes; EOFError if there are fewer. The `io` objects would cost more."""
    pieces = []
    while count:
        piece = posix.read(handle, min(count, CHUNK_BYTES))
        if not piece:
            raise EOFError("the host is gone")
        pieces.append(piece)
        count -= len(piece)
    return b"".join(pieces)
