"""Functions that misbehave, for the workers of a pool to call."""

import os
import signal
import sys
import threading
import time


def echo(value):
    return value


def pid():
    return os.getpid()


def hang_in_c(begun=""):
    """No signal handler of Python gets a turn while this runs; a file `begun` says that it does."""
    if begun:
        open(begun, "w").close()  # noqa: PTH123
    return 9 ** (9**9)


def sleep(seconds):
    time.sleep(seconds)
    return seconds


def spin_past_the_limit(seconds):
    """Burn CPU in several threads, so that CPU time runs ahead of the clock where it can."""
    end = time.process_time() + seconds
    while time.process_time() < end:
        pass
    return seconds


def allocate(num_bytes):
    return len(bytearray(num_bytes))


def allocate_bit_by_bit():
    kept = []
    while True:
        kept.append(bytearray(2**20))


def crash():
    os.kill(os.getpid(), signal.SIGSEGV)


def leave(code):
    os._exit(code)


def say_goodbye():
    sys.exit(3)


def fail(message):
    raise ValueError(message)


def fail_to_say_why():
    class Mute(Exception):
        def __str__(self):
            raise RuntimeError("no words")

    raise Mute


def recurse():
    return recurse()


def nest(depth):
    value = []
    for _ in range(depth):
        value = [value]
    return value


def number():
    return float("nan")


def long_text(length):
    return "x" * length


def print_much():
    sys.stdout.write("x" * 2**20)
    sys.stderr.write("y" * 2**20)
    return "printed"


def write_file(path, num_bytes):
    with open(path, "wb") as file:  # noqa: PTH123
        file.write(b"x" * num_bytes)
    return os.path.getsize(path)  # noqa: PTH202


def environment():
    return dict(os.environ)


def forge():
    """Write a frame of one's own into every descriptor."""
    body = b'{"kind": "value", "value": "forged", "cpu_s": 0}garbage'
    for descriptor in range(3, 64):
        try:
            os.write(descriptor, len(body).to_bytes(4, "big") + body)
        except OSError:
            continue
    os._exit(0)


def child_that_stays(path):
    """Leave a process behind; its id goes to a file."""
    child = os.fork()
    if child == 0:
        time.sleep(60)
        os._exit(0)
    with open(path, "w") as file:  # noqa: PTH123
        file.write(str(child))
    time.sleep(60)


def threads():
    return threading.active_count()
