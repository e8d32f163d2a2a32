"""Programs that ask the kernel for more than an ordinary program needs."""

from sandbox.hostile.case import Case

from openzaya.sandbox.executor import Limits, Status

ZEROS = "z = ctypes.create_string_buffer(4096)\n"


def calls(name: str, *numbers: int, source: str = "") -> Case:
    """Return a program that makes system calls with harmless arguments; all must be refused."""
    lines = "".join(f"print(call({number}, z, 0, z, 0, 0, 0))\n" for number in numbers)
    return Case(name=name, source=ZEROS + source + lines, tools=True, refused=True)


CASES = [
    calls("bpf, perf and userfaultfd", 321, 298, 323),
    calls("keyrings", 248, 249, 250),
    calls("io_uring", 425, 426, 427),
    calls("kernel images and modules", 246, 320, 175, 313, 176),
    calls("reboot, swap, accounting, quotas, kernel log", 169, 167, 168, 163, 179, 103),
    calls("ports and processor tables", 172, 173, 154),
    calls("memory policy and pages", 237, 238, 239, 256, 279, 27),
    calls("splices", 275, 276, 278),
    calls("whole-machine syncs", 162, 306),
    calls("message queues and asynchronous input", 240, 206),
    calls("landlock and seccomp", 444, 445, 446, 317),
    calls("secret memory and process madvise", 447, 440, 448),
    calls("calls of the future", 451, 460, 500, 1000),
    Case(
        name="namespaces by unshare and setns",
        source=(
            "for flag in (0x10000000, 0x20000, 0x40000000, 0x20000000, 0x8000000, 0x4000000,"
            " 0x2000000, 0x80):\n    print(call(272, flag))\n"
            "handle = os.open('/proc/self/ns/net', os.O_RDONLY)\nprint(call(308, handle, 0))"
        ),
        tools=True,
        refused=True,
    ),
    Case(
        name="namespaces by clone",
        source=(
            "for flag in (0x10000000, 0x20000, 0x40000000, 0x20000000, 0x8000000, 0x4000000,"
            " 0x2000000):\n    result = call(56, flag | 17, 0, 0, 0, 0)\n"
            "    if result == 'done': os._exit(0)\n    print(result)"
        ),
        tools=True,
        refused=True,
    ),
    Case(
        name="namespaces by clone3",
        source=(
            "args = (ctypes.c_uint64 * 11)(0x10000000, 0, 0, 0, 17)\nprint(call(435, args, 88))"
        ),
        tools=True,
        prints=b"ENOSYS\n",
    ),
    Case(
        name="a box in the box",
        source=(
            "import subprocess\nfor name in ('bwrap', '/usr/bin/bwrap', 'unshare', 'su', 'sudo'):\n"
            "    print(attempt(subprocess.run, [name, '--ro-bind', '/', '/', 'true']))"
        ),
        tools=True,
        prints=b"ENOENT\n" * 5,
    ),
    Case(
        name="becomes root",
        source=(
            "print(attempt(os.setuid, 0), attempt(os.setgid, 0), attempt(os.setgroups, [0]))\n"
            "print(attempt(os.setresuid, 0, 0, 0), attempt(os.setregid, 0, 0))\n"
            "header = (ctypes.c_uint32 * 2)(0x20080522, 0)\n"
            "print(call(126, header, (ctypes.c_uint32 * 6)(*[0xffffffff] * 6)))\n"
            "status = open('/proc/self/status').read()\n"
            "assert 'CapEff:\\t0000000000000000' in status\n"
            "assert 'CapBnd:\\t0000000000000000' in status\nassert 'NoNewPrivs:\\t1' in status\n"
            "assert 'Seccomp:\\t2' in status"
        ),
        tools=True,
        refused=True,
    ),
    Case(
        name="sets the clock",
        source=(
            "t = (ctypes.c_long * 4)(1, 1)\nprint(call(227, 0, t), call(164, t, 0), call(159, z),"
            " call(305, 0, z))"
        ).join((ZEROS, "")),
        tools=True,
        refused=True,
    ),
    Case(
        name="renames the machine",
        source=("b = ctypes.create_string_buffer(b'x')\nprint(call(170, b, 1), call(171, b, 1))"),
        tools=True,
        refused=True,
    ),
    Case(
        name="removes its filter",
        source="print(call(157, 22, 0, 0, 0, 0), call(157, 22, 1, 0, 0, 0), call(317, 0, 0, 0))",
        tools=True,
        refused=True,
    ),
    Case(
        name="terminal input",
        source=(
            "import fcntl\nfor number in (0x5412, 0x540E, 0x5414, 0x541C, 0x5404, 0x4B3A):\n"
            "    print(attempt(fcntl.ioctl, 0, number, b'x' * 64))"
        ),
        tools=True,
        refused=True,
    ),
    Case(
        name="a 32-bit call",
        source='int main() { asm volatile("int $0x80" :: "a"(20)); return 0; }',
        language="cpp",
        ends=(Status.POLICY,),
        signal=31,
    ),
    Case(
        name="an x32 call",
        source=(
            "#include <unistd.h>\n#include <sys/syscall.h>\n"
            "int main() { syscall(0x40000000 | 39); return 0; }"
        ),
        language="cpp",
        ends=(Status.POLICY,),
        signal=31,
    ),
    Case(
        name="raises SIGSYS by itself and survives as a crash",
        source="import os\nos.kill(os.getpid(), 31)",
        ends=(Status.POLICY,),
        signal=31,
    ),
    Case(
        name="crashes",
        source="import ctypes\nctypes.string_at(0)",
        ends=(Status.SIGNAL,),
        signal=11,
    ),
    Case(
        name="aborts and leaves no core",
        source="import os, resource\nassert resource.getrlimit(4) == (0, 0)\nos.abort()",
        ends=(Status.SIGNAL,),
        signal=6,
    ),
    Case(
        name="a pattern that never ends",
        source="import re\nre.match('(a+)+$', 'a' * 60 + 'b')",
        ends=(Status.TIME_CPU,),
        limits=Limits(cpu_s=0.5, wall_s=60),
    ),
]
