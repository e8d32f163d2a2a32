"""The system-call filter, by what a small interpreter of BPF and the kernel say it does."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from openzaya.sandbox import seccomp

INTEL = seccomp.AUDIT_ARCH


def decide(program: bytes, number: int, arguments=(0,) * 6, arch=INTEL) -> int:
    """Run a filter as the kernel would, on one call."""
    import struct

    data = struct.pack("=IIQ6Q", number, arch, 0, *arguments)
    code = list(struct.iter_unpack("=HBBI", program))
    place = accumulator = 0
    while True:
        operation, if_true, if_false, operand = code[place]
        place += 1
        if operation == seccomp.LOAD:
            accumulator = int.from_bytes(data[operand : operand + 4], "little")
        elif operation == seccomp.AND:
            accumulator &= operand
        elif operation == seccomp.JUMP:
            place += operand
        elif operation == seccomp.IF_EQUAL:
            place += if_true if accumulator == operand else if_false
        elif operation == seccomp.IF_AT_LEAST:
            place += if_true if accumulator >= operand else if_false
        else:
            assert operation == seccomp.RETURN
            return operand


def test_every_call_number_gets_the_action_of_its_list():
    allowed = set(seccomp.ALLOWED.values())
    asked = {rule.number for rule in seccomp.ARGUMENT_RULES.values()}
    absent = set(seccomp.NOT_THERE.values())
    assert not allowed & asked
    assert not (allowed | asked) & absent
    for number in {*range(600)} - asked:
        expected = (
            seccomp.ALLOW
            if number in allowed
            else seccomp.ABSENT
            if number in absent or number > seccomp.NEWEST
            else seccomp.DENY
        )
        assert decide(seccomp.policy(), number) == expected, number


@pytest.mark.parametrize(
    ("name", "good", "bad"),
    [
        ("socket", [1], [0, 2, 10, 16, 17, 38, 40]),
        ("socketpair", [1], [2, 40]),
        ("clone", [17, 0x003D0F00], [0x10000000, 0x20000, 0x3D0F00 | 0x40000000, 0x2000, 0x80]),
        ("prlimit64", [0], [1, 7]),
        ("sched_setaffinity", [0], [1]),
        ("setsockopt", [2, 20], [7, 8, 32, 33]),
        ("prctl", [4, 15, 38], [22, 36, 55, 0x59616D61]),
        ("mmap", [0x1, 0x2, 0x22, 0x20022, 0x812], [0x21, 0x3, 0x8, 0x28, 0x40022, 0x40002]),
        ("madvise", [0, 4, 8, 14], [9, 12, 20, 21, 25]),
    ],
)
def test_arguments_decide_about_some_calls(name, good, bad):
    number = seccomp.ARGUMENT_RULES[name].number
    place = seccomp.ARGUMENT_RULES[name].argument
    for values, expected in ((good, seccomp.ALLOW), (bad, seccomp.DENY)):
        for value in values:
            for high in (0, 1 << 40):  # the kernel ignores the upper half, and so must we
                arguments = [0] * 6
                arguments[place] = value | high
                assert decide(seccomp.policy(), number, arguments) == expected, hex(value)


def test_locks_leases_and_owners_are_refused_but_descriptors_can_be_copied():
    number = seccomp.ARGUMENT_RULES["fcntl"].number
    for command in range(2000):
        expected = seccomp.ALLOW if command in {0, 1, 2, 3, 4, 1030, 1032} else seccomp.DENY
        assert decide(seccomp.policy(), number, (0, command, 0, 0, 0, 0)) == expected


def test_other_architectures_and_x32_are_killed():
    assert decide(seccomp.policy(), 0, arch=0x40000003) == seccomp.KILL
    assert decide(seccomp.policy(), 0x40000000) == seccomp.KILL
    assert decide(seccomp.policy(), 0xFFFFFFFF) == seccomp.KILL


@pytest.mark.skipif(sys.platform != "linux", reason="seccomp is Linux's")
def test_the_kernel_takes_a_filter_and_keeps_to_it():
    source = (
        "import os\nfrom filtered import install\nfrom openzaya.sandbox.seccomp import *\n"
        "install(assemble({83: DENY}, default=ALLOW, newer=ALLOW))\n"  # mkdir
        "try: os.mkdir('/nonexistent/x')\nexcept OSError as error: print(error.errno)\n"
        "try: os.rmdir('/nonexistent/x')\nexcept OSError as error: print(error.errno)"
    )
    places = [str(Path(__file__).parent), str(Path(seccomp.__file__).parents[2])]
    done = subprocess.run(
        [sys.executable, "-c", source],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(places)},
        capture_output=True,
        check=True,
    )
    assert done.stdout.split() == [str(errno.EPERM).encode(), str(errno.ENOENT).encode()]
