"""The process in which a `Pool` calls functions; started as a file, by a bare interpreter.

It has an empty environment and no `site`, and takes its import path from the first frame. A frame
is a length in four bytes, big-endian, and JSON. What a function prints goes nowhere.
"""

import ctypes
import json
import math
import os
import resource
import signal
import socket
import struct
import sys
import time
from collections.abc import Callable
from importlib import import_module
from typing import Any, cast

HEADER = struct.Struct("!I")
MIB = 2**20
PR_SET_PDEATHSIG = 1


def main() -> None:
    """Serve calls until the other end of fd 0 closes."""
    channel = take_channel()
    setup = receive(channel)
    die_with(setup["parent"])
    sys.path[:] = setup["path"]
    confine(setup)
    send(channel, prepare(setup["preload"]))
    while True:
        call = receive(channel)
        function = load(call["function"])
        send(channel, {"kind": "started"} if callable(function) else function)
        if callable(function):
            send(channel, answer(function, call["arguments"], setup))


def take_channel() -> socket.socket:
    """Move the channel away from fd 0 and point the three standard streams to nothing."""
    channel = socket.socket(fileno=os.dup(0))
    nothing = os.open(os.devnull, os.O_RDWR)
    for stream in range(3):
        os.dup2(nothing, stream)
    os.close(nothing)
    return channel


def die_with(parent: int) -> None:
    """Ask the kernel to kill this process when its parent ends, however that happens."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)  # it ended before we asked


def confine(setup: dict[str, Any]) -> None:
    """Set the limits that hold for all calls."""
    for kind, most in (
        (resource.RLIMIT_AS, setup["memory_bytes"]),
        (resource.RLIMIT_FSIZE, setup["result_bytes"]),
        (resource.RLIMIT_NOFILE, setup["open_files"]),
        (resource.RLIMIT_CORE, 0),
    ):
        try:
            resource.setrlimit(kind, (most, most))
        except (OSError, ValueError):
            if sys.platform == "linux":
                raise  # other kernels lack some of them


def prepare(modules: list[str]) -> dict[str, Any]:
    """Import what calls will need, so that no call pays for it."""
    for name in modules:
        try:
            import_module(name)
        except Exception as error:  # noqa: BLE001 - told to the parent
            return {"kind": "broken", "message": f"importing {name}: {describe(error)}"}
    return {"kind": "ready"}


def load(function: str) -> Callable[..., object] | dict[str, Any]:
    """Return the function called "module:name", or the frame that says why there is none."""
    module, _, name = function.partition(":")
    try:
        return cast("Callable[..., object]", getattr(import_module(module), name))
    except Exception as error:  # noqa: BLE001 - told to the parent
        return {"kind": "broken", "message": f"{function}: {describe(error)}"}


def answer(
    function: Callable[..., object], arguments: list[Any], setup: dict[str, Any]
) -> dict[str, Any]:
    """Call a function; return the frame with its result or what it raised."""
    began = time.process_time()
    # The limit counts the CPU time of the whole process, in seconds; only its soft part moves.
    resource.setrlimit(
        resource.RLIMIT_CPU, (math.ceil(began + setup["cpu_s"]), resource.RLIM_INFINITY)
    )
    try:
        frame = {"kind": "value", "value": function(*arguments)}
        if len(json.dumps(frame, allow_nan=False)) > setup["result_bytes"]:
            most = setup["result_bytes"]
            frame = {"kind": "raised", "message": f"the result is longer than {most} bytes"}
    except MemoryError:
        frame = {"kind": "memory", "message": f"more than {setup['memory_bytes'] // MIB} MiB"}
    except BaseException as error:  # noqa: BLE001 - also SystemExit: the function is not trusted
        frame = {"kind": "raised", "message": describe(error)}
    return frame | {"cpu_s": time.process_time() - began}


def describe(error: BaseException) -> str:
    """Return an error's type and message, cut to a size that surely fits a frame."""
    try:
        return f"{type(error).__name__}: {error}"[:1000]
    except Exception:  # noqa: BLE001 - its own __str__ failed
        return type(error).__name__


def send(channel: socket.socket, frame: dict[str, Any]) -> None:
    """Write one frame."""
    body = json.dumps(frame, allow_nan=False).encode("ascii")
    channel.sendall(HEADER.pack(len(body)) + body)


def receive(channel: socket.socket) -> dict[str, Any]:
    """Read one frame; end the process when there is none."""
    (length,) = HEADER.unpack(read_exactly(channel, HEADER.size))
    return cast("dict[str, Any]", json.loads(read_exactly(channel, length)))


def read_exactly(channel: socket.socket, length: int) -> bytes:
    """Read so many bytes; end the process when the channel ends first."""
    body = bytearray()
    while len(body) < length:
        part = channel.recv(min(length - len(body), MIB))
        if not part:
            os._exit(0)
        body += part
    return bytes(body)


if __name__ == "__main__":
    main()
