"""Which system calls a boxed program may make, as a BPF program built without any library.

The list is a positive one: what honest Python and C++ programs were seen to need. Everything else
fails with EPERM, so that a program sees an ordinary error; calls newer than the list, and the two
whose flags a filter cannot see (clone3, openat2), fail with ENOSYS, so that libc falls back to the
older ones. Another architecture and the x32 calls end the process with SIGSYS.

A filter sees numbers, never what a pointer points to; rules about arguments look at one of them.
"""

import errno
import platform
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache

from openzaya.core.errors import SandboxError

KILL = 0x80000000
ALLOW = 0x7FFF0000
ERRNO = 0x00050000
"""Or-ed with the error number that the call fails with."""
DENY = ERRNO | errno.EPERM
ABSENT = ERRNO | errno.ENOSYS

MACHINE = "x86_64"
AUDIT_ARCH = 0xC000003E
X32_BIT = 0x40000000
NEWEST = 450
"""The last call that the list below had in view; later ones do not exist for the program."""

LOAD, AND, JUMP, IF_EQUAL, IF_AT_LEAST, RETURN = 0x20, 0x54, 0x05, 0x15, 0x35, 0x06
OFFSET_NUMBER, OFFSET_ARCH, OFFSET_ARGUMENTS = 0, 4, 16

# fmt: off
FILES = {
    "read": 0, "write": 1, "open": 2, "close": 3, "stat": 4, "fstat": 5, "lstat": 6, "lseek": 8,
    "pread64": 17, "pwrite64": 18, "readv": 19, "writev": 20, "access": 21, "pipe": 22, "dup": 32,
    "dup2": 33, "sendfile": 40, "fsync": 74, "fdatasync": 75, "truncate": 76, "ftruncate": 77,
    "getdents": 78, "getcwd": 79, "chdir": 80, "fchdir": 81, "rename": 82, "mkdir": 83, "rmdir": 84,
    "creat": 85, "link": 86, "unlink": 87, "symlink": 88, "readlink": 89, "chmod": 90, "fchmod": 91,
    "umask": 95, "mknod": 133, "statfs": 137, "fstatfs": 138, "getxattr": 191, "lgetxattr": 192,
    "fgetxattr": 193, "listxattr": 194, "llistxattr": 195, "flistxattr": 196, "getdents64": 217,
    "fadvise64": 221, "openat": 257, "mkdirat": 258, "mknodat": 259, "newfstatat": 262,
    "unlinkat": 263, "renameat": 264, "linkat": 265, "symlinkat": 266, "readlinkat": 267,
    "fchmodat": 268, "faccessat": 269, "utimensat": 280, "fallocate": 285, "dup3": 292,
    "pipe2": 293, "preadv": 295, "pwritev": 296, "renameat2": 316, "copy_file_range": 326,
    "statx": 332, "close_range": 436, "faccessat2": 439,
}
MEMORY = {
    "mprotect": 10, "munmap": 11, "brk": 12, "mremap": 25, "msync": 26, "membarrier": 324,
}
PROCESSES = {
    "fork": 57, "vfork": 58, "execve": 59, "exit": 60, "wait4": 61, "kill": 62, "exit_group": 231,
    "waitid": 247, "getpid": 39, "getppid": 110, "getpgrp": 111, "setpgid": 109, "setsid": 112,
    "getpgid": 121, "getsid": 124, "gettid": 186, "tkill": 200, "tgkill": 234, "getuid": 102,
    "getgid": 104, "geteuid": 107, "getegid": 108, "getgroups": 115, "getresuid": 118,
    "getresgid": 120, "capget": 125, "getrlimit": 97, "setrlimit": 160, "getrusage": 98,
    "times": 100, "uname": 63, "sysinfo": 99, "arch_prctl": 158, "set_tid_address": 218,
    "getcpu": 309, "getrandom": 318, "getpriority": 140, "sched_yield": 24, "sched_getparam": 143,
    "sched_getscheduler": 145, "sched_get_priority_max": 146, "sched_get_priority_min": 147,
    "sched_getaffinity": 204, "futex": 202, "set_robust_list": 273, "rseq": 334,
}
SIGNALS_AND_TIME = {
    "rt_sigaction": 13, "rt_sigprocmask": 14, "rt_sigreturn": 15, "rt_sigpending": 127,
    "rt_sigtimedwait": 128, "rt_sigqueueinfo": 129, "rt_sigsuspend": 130, "sigaltstack": 131,
    "rt_tgsigqueueinfo": 297, "restart_syscall": 219, "pause": 34, "nanosleep": 35, "alarm": 37,
    "getitimer": 36, "setitimer": 38, "gettimeofday": 96, "time": 201, "timer_create": 222,
    "timer_settime": 223, "timer_gettime": 224, "timer_getoverrun": 225, "timer_delete": 226,
    "clock_gettime": 228, "clock_getres": 229, "clock_nanosleep": 230,
}
WAITING_AND_UNIX_SOCKETS = {
    "poll": 7, "select": 23, "pselect6": 270, "ppoll": 271, "epoll_create": 213, "epoll_wait": 232,
    "epoll_ctl": 233, "epoll_pwait": 281, "epoll_create1": 291, "signalfd4": 289, "eventfd2": 290,
    "connect": 42, "accept": 43, "sendto": 44, "recvfrom": 45, "sendmsg": 46, "recvmsg": 47,
    "shutdown": 48, "bind": 49, "listen": 50, "getsockname": 51, "getpeername": 52,
    "getsockopt": 55, "accept4": 288,
}
# fmt: on
ALLOWED = {**FILES, **MEMORY, **PROCESSES, **SIGNALS_AND_TIME, **WAITING_AND_UNIX_SOCKETS}
"""Calls that are allowed whatever their arguments, by name."""


@dataclass(frozen=True, slots=True)
class ArgumentRule:
    """Allow a call only if one argument, masked, is one of some values.

    The kernel takes all these arguments as 32-bit numbers, so the low word decides.
    """

    number: int
    argument: int
    """Its position, from 0."""
    values: tuple[int, ...]
    mask: int = 0xFFFFFFFF


NEW_NAMESPACES = 0x7E020000
"""CLONE_NEWNS, CGROUP, UTS, IPC, USER, PID and NET."""
CLONE_PTRACE, CLONE_PIDFD, CLONE_INTO_NEW_TIME = 0x2000, 0x1000, 0x80
AF_UNIX = 1
MAP_SHARED, MAP_PRIVATE, MAP_TYPE, MAP_ANONYMOUS, MAP_HUGETLB = 0x01, 0x02, 0x0F, 0x20, 0x40000

ARGUMENT_RULES = {
    "socket": ArgumentRule(41, 0, (AF_UNIX,)),
    "socketpair": ArgumentRule(53, 0, (AF_UNIX,)),
    "clone": ArgumentRule(
        56, 0, (0,), NEW_NAMESPACES | CLONE_PTRACE | CLONE_PIDFD | CLONE_INTO_NEW_TIME
    ),
    # copies, flags and sizes of descriptors; no locks, leases or owners
    "fcntl": ArgumentRule(72, 1, (0, 1, 2, 3, 4, 1030, 1032)),
    # files, and memory of one's own; that which is shared without a file stays when it is out of
    # all processes' sight, and neither it nor huge pages are in the sizes that a box's limit counts
    "mmap": ArgumentRule(
        9,
        3,
        (MAP_SHARED, MAP_PRIVATE, MAP_PRIVATE | MAP_ANONYMOUS),
        MAP_TYPE | MAP_ANONYMOUS | MAP_HUGETLB,
    ),
    # how it will be used, that it is not needed, guards; not: put it out to swap, merge it
    "madvise": ArgumentRule(28, 2, (0, 1, 2, 3, 4, 8, 10, 11, 14, 15, 16, 17, 18, 19, 102, 103)),
    # is it a terminal, its size; bytes waiting; blocking and closing on exec
    "ioctl": ArgumentRule(16, 1, (0x5401, 0x5413, 0x541B, 0x5421, 0x5450, 0x5451)),
    # addresses, keepalive, linger, credentials, time-outs; no sizes: what waits in a socket is
    # memory that no limit of a box counts
    "setsockopt": ArgumentRule(54, 2, (2, 9, 13, 16, 20, 21)),
    # death signal, dumpable, name, a look at capabilities, no new privileges
    "prctl": ArgumentRule(157, 0, (1, 2, 3, 4, 15, 16, 23, 38, 39)),
    # only one's own limits and processors: the supervisor has the same user
    "prlimit64": ArgumentRule(302, 0, (0,)),
    "sched_setaffinity": ArgumentRule(203, 0, (0,)),
}
"""Calls that are allowed with certain arguments only, by name; else they fail with EPERM."""

NOT_THERE = {"clone3": 435, "openat2": 437, "futex_waitv": 449}
"""Calls that libc does without when told that they do not exist."""

Instruction = tuple[int, int, int, int]
"""BPF: operation, jump if true, jump if false, operand."""
Action = int | ArgumentRule


@cache
def policy() -> bytes:
    """Return the filter for boxed programs, as an array of the kernel's `struct sock_filter`."""
    actions: dict[int, Action] = dict.fromkeys(ALLOWED.values(), ALLOW)
    actions |= {rule.number: rule for rule in ARGUMENT_RULES.values()}
    actions |= dict.fromkeys(NOT_THERE.values(), ABSENT)
    return assemble(actions, default=DENY)


def assemble(actions: Mapping[int, Action], *, default: int, newer: int = ABSENT) -> bytes:
    """Return a filter that does `actions` by call number, and `default` for all other numbers.

    Numbers above NEWEST do `newer`. Raises SandboxError on a machine without a table of calls.
    """
    if platform.machine() != MACHINE:
        raise SandboxError(
            f"found a {platform.machine()} processor; the sandbox's list of system calls is for "
            f"{MACHINE}; run programs on such a machine, through the HTTP backend"
        )
    code: list[Instruction] = [
        (LOAD, 0, 0, OFFSET_ARCH),
        (IF_EQUAL, 1, 0, AUDIT_ARCH),
        (RETURN, 0, 0, KILL),
        (LOAD, 0, 0, OFFSET_NUMBER),
        (IF_AT_LEAST, 0, 1, X32_BIT),
        (RETURN, 0, 0, KILL),
        *search(ranges(actions, default, newer)),
    ]
    return b"".join(struct.pack("=HBBI", *instruction) for instruction in code)


def ranges(actions: Mapping[int, Action], default: int, newer: int) -> list[tuple[int, Action]]:
    """Return (first number, action) of each range of call numbers with one action, in order."""
    found: list[tuple[int, Action]] = []
    for number in range(NEWEST + 2):
        action = newer if number > NEWEST else actions.get(number, default)
        if not found or found[-1][1] != action:
            found.append((number, action))
    return found


def search(parts: Sequence[tuple[int, Action]]) -> list[Instruction]:
    """Return a binary search over ranges; the accumulator holds the call's number."""
    if len(parts) == 1:
        return leaf(parts[0][1])
    middle = len(parts) // 2
    below = search(parts[:middle])
    return [
        (IF_AT_LEAST, 0, 1, parts[middle][0]),
        (JUMP, 0, 0, len(below)),
        *below,
        *search(parts[middle:]),
    ]


def leaf(action: Action) -> list[Instruction]:
    """Return the instructions that decide one call."""
    if isinstance(action, int):
        return [(RETURN, 0, 0, action)]
    tests: list[Instruction] = [
        (IF_EQUAL, len(action.values) - place, 0, value)
        for place, value in enumerate(action.values)
    ]
    return [
        (LOAD, 0, 0, OFFSET_ARGUMENTS + 8 * action.argument),
        (AND, 0, 0, action.mask),
        *tests,
        (RETURN, 0, 0, DENY),
        (RETURN, 0, 0, ALLOW),
    ]
