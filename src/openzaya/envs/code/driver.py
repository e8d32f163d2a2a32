"""What runs inside the box around a candidate: calls its function and reports the value.

The host sends this file's text to the sandbox as the program, and one JSON job on stdin. The job
holds the candidate and its inputs, never an expected output. Nothing here imports openzaya, and
little is imported at all: imports are most of what a call costs.

The report leaves by a private copy of stdout, as one JSON line a call; the candidate's own prints
go to stderr. The candidate shares this process, so it can write a report itself: that is another
way of returning a value, no more, since the host compares whatever value arrives. A second report,
or none, is refused there.

With "fork" every call runs in a forked child with clean memory, one after the other in one box:
quicker, but files and daemons of one call are seen by the next. Only for programs of our own.
"""

from __future__ import annotations

import json
import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:  # importing typing would cost more than all the rest
    from types import CodeType
    from typing import Any

Module = type(sys)
MAX_DEPTH = 64
MAX_DETAIL_CHARS = 400
READ_BYTES = 65_536


class NoValue(Exception):
    """The candidate returned something that is no JSON value."""


def plain(value: Any, depth: int = 0) -> Any:
    """Return a value of exactly JSON's types; tuples become lists, subclasses are refused."""
    kind = type(value)
    if kind in (str, bool, type(None), int, float):
        return value
    if depth >= MAX_DEPTH:
        raise NoValue(f"nested more than {MAX_DEPTH} deep")
    if kind in (list, tuple):
        return [plain(item, depth + 1) for item in value]
    if kind is dict:
        for key in value:
            if type(key) is not str:
                raise NoValue(f"a dict key has type {type(key).__name__}")
        return {key: plain(item, depth + 1) for key, item in value.items()}
    raise NoValue(f"type {kind.__name__} is no JSON type")


def load(job: dict[str, Any]) -> list[CodeType]:
    """Compile prelude and candidate apart, without this file's future; raises as `compile`."""
    texts = {"prelude.py": job["prelude"], "candidate.py": job["source"]}
    return [compile(text, name, "exec", dont_inherit=True) for name, text in texts.items() if text]


def call_entry(codes: list[CodeType], entry: str, given: Any) -> Any:
    """Run the candidate's module, then its function."""
    module = Module("candidate")
    sys.modules["candidate"] = module
    for code in codes:
        exec(code, module.__dict__)  # noqa: S102 - inside the box
    owner, _, name = entry.rpartition(".")
    function = getattr(getattr(module, owner)(), name) if owner else getattr(module, name)
    return function(**given) if isinstance(given, dict) else function(*given)


def run_main(codes: list[CodeType], text: str) -> str:
    """Run a program that reads stdin; return what it printed."""
    import io

    module = Module("__main__")
    sys.modules["__main__"] = module
    sys.stdin = io.TextIOWrapper(io.BytesIO(text.encode()), encoding="utf-8")
    sys.stdout = io.TextIOWrapper(io.BytesIO(), encoding="utf-8", write_through=True)
    out = sys.stdout.buffer
    try:
        for code in codes:
            exec(code, module.__dict__)  # noqa: S102 - inside the box
    except SystemExit as end:
        if end.code not in (None, 0):
            raise RuntimeError(f"exit code {end.code}") from None
    return out.getvalue().decode()  # type: ignore[no-any-return]


def answer(job: dict[str, Any], given: Any) -> dict[str, Any]:
    """Run one call; return the report: a value, or how it failed."""
    try:
        codes = load(job)
    except BaseException as error:  # noqa: BLE001 - compile raises many kinds
        return failed("compile", error)
    try:
        entry = job["entry"]
        value = call_entry(codes, entry, given) if entry else run_main(codes, given)
        return {"value": plain(value)}
    except NoValue as error:
        return failed("bad_value", error)
    except MemoryError as error:
        return failed("memory", error)
    except (SystemExit, GeneratorExit) as error:
        return failed("no_value", error)
    except BaseException as error:  # noqa: BLE001 - whatever the candidate raises
        return failed("crash", error)


def failed(kind: str, error: BaseException) -> dict[str, Any]:
    """Return the report of a failure; its text is for people only."""
    import traceback

    try:
        text = "".join(traceback.format_exception_only(error)).strip()
    except BaseException:  # noqa: BLE001 - the error is the candidate's object
        text = "an error that cannot be printed"
    return {"failure": kind, "detail": text[-MAX_DETAIL_CHARS:]}


def frame(report: dict[str, Any]) -> bytes:
    """Return a report as one line; NaN, infinities and integers of too many digits have none."""
    try:
        return json.dumps(report, allow_nan=False).encode() + b"\n"
    except (ValueError, RecursionError) as error:
        return frame(failed("bad_value", error))


def put(channel: int, data: bytes) -> None:
    """Write all of `data`."""
    while data:
        data = data[os.write(channel, data) :]


def in_child(job: dict[str, Any], given: Any) -> bytes:
    """Run one call in a forked child under its own limits; return its frame."""
    import select
    import signal
    import time

    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        signal.signal(signal.SIGPROF, signal.SIG_DFL)
        signal.setitimer(signal.ITIMER_PROF, job["cpu_s"])
        put(writer, frame(answer(job, given)))
        os._exit(0)
    os.close(writer)
    data, end = b"", time.monotonic() + job["wall_s"]
    while (left := end - time.monotonic()) > 0 and len(data) <= job["output_bytes"]:
        if not select.select([reader], [], [], left)[0]:
            break
        piece = os.read(reader, READ_BYTES)
        if not piece:
            break
        data += piece
    os.close(reader)
    os.kill(pid, signal.SIGKILL)
    _, status = os.waitpid(pid, 0)
    if len(data) > job["output_bytes"]:
        return frame({"failure": "output", "detail": "too long"})
    if data.endswith(b"\n"):
        return data
    late = left <= 0 or (os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGPROF)
    return frame({"failure": "time" if late else "no_value", "detail": f"status {status}"})


def main() -> None:
    """Read the job, point the candidate's stdout at stderr, report every call."""
    job = json.loads(sys.stdin.buffer.read())
    channel = os.dup(1)
    os.dup2(2, 1)
    empty = os.open("/dev/null", os.O_RDONLY)
    os.dup2(empty, 0)
    calls = job.pop("calls")
    if not job["fork"]:
        put(channel, frame(answer(job, calls[0])))
        os._exit(0)  # nothing of the candidate runs after its value: no atexit hook, no thread
    for given in calls:
        put(channel, in_child(job, given))


if __name__ == "__main__":
    main()
