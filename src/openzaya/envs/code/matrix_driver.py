"""What runs inside the box when many programs of our own meet many inputs.

The host sends this file's text as the program and one JSON job on stdin; nothing here imports
openzaya. Every program runs in a forked child, its inputs one after the other with the module run
afresh for each. A child reports one JSON line an input; the parent puts them on stdout as one JSON
value: a list for each program, null where a program did not get that far.

Only for programs that do not attack the judge: references, mutants, submissions from data sets.
"""

import contextlib
import io
import json
import os
import resource
import select
import signal
import sys
import time
from typing import Any

MAX_VALUE_CHARS = 65_536
READ_BYTES = 65_536


class Late(BaseException):
    """The input's time is up."""


def on_alarm(_signal: int, _frame: object) -> None:
    """Raise Late wherever the program is."""
    raise Late


def run(code: Any, argument: Any) -> Any:
    """Run a program on one input and return its value or what it printed."""
    namespace: dict[str, Any] = {"__name__": "__main__"}
    if isinstance(argument, dict):
        exec(code, namespace)  # noqa: S102 - inside the box
        return namespace["solve"](**argument)
    out = io.StringIO()
    sys.stdin = io.StringIO(argument)
    with contextlib.redirect_stdout(out):
        exec(code, namespace)  # noqa: S102 - inside the box
    return out.getvalue()


def report(code: Any, text: str, cpu_s: float) -> str:
    """Run one input, given as JSON, under its own CPU limit; return one line of JSON."""
    argument = json.loads(text)
    try:
        try:
            signal.setitimer(signal.ITIMER_PROF, cpu_s)
            value = run(code, argument)
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0)
    except Late:
        return LATE
    except MemoryError:
        return failed("memory")
    except BaseException as error:  # noqa: BLE001 - whatever the program raises
        return failed("crash", type(error).__name__)
    try:
        line = json.dumps({"value": value}, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        return failed("bad_value", type(error).__name__)
    return line if len(line) <= MAX_VALUE_CHARS else failed("output")


def failed(kind: str, detail: str = "") -> str:
    """Return the line of an input that gave no value."""
    return json.dumps({"failure": kind, "detail": detail})


LATE = failed("time")


def child(source: str, texts: list[str], cpu_s: float, channel: int) -> None:
    """Run a program on all inputs, up to the first on which it is late; write a line for each."""
    whole = int(cpu_s * len(texts)) + 2
    resource.setrlimit(resource.RLIMIT_CPU, (whole, whole + 1))
    signal.signal(signal.SIGPROF, on_alarm)
    try:
        code = compile(source, "program.py", "exec")
    except (SyntaxError, ValueError) as error:
        os.write(channel, (failed("compile", str(error)) + "\n").encode() * len(texts))
        return
    for text in texts:
        line = report(code, text, cpu_s)
        data = (line + "\n").encode()
        while data:
            data = data[os.write(channel, data) :]
        if line == LATE:
            return


def run_program(source: str, texts: list[str], cpu_s: float, wall_s: float) -> list[Any]:
    """Run one program in a child and return its reports, null for inputs it did not reach."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reader)
        quiet = os.open("/dev/null", os.O_RDWR)
        for descriptor in (0, 1, 2):
            os.dup2(quiet, descriptor)
        try:
            child(source, texts, cpu_s, writer)
        finally:
            os._exit(0)
    os.close(writer)
    data, end = b"", time.monotonic() + wall_s
    while select.select([reader], [], [], max(0.0, end - time.monotonic()))[0]:
        piece = os.read(reader, READ_BYTES)
        if not piece:
            break
        data += piece
    os.close(reader)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    lines = data.decode(errors="replace").split("\n")[:-1]
    reports: list[Any] = [json.loads(line) for line in lines[: len(texts)]]
    return reports + [None] * (len(texts) - len(reports))


def main() -> None:
    """Read the job and report every program."""
    job = json.loads(sys.stdin.buffer.read())
    texts = [json.dumps(argument) for argument in job["arguments"]]
    answers = [
        run_program(source, texts, job["cpu_s"], job["wall_s"]) for source in job["programs"]
    ]
    sys.stdout.write(json.dumps(answers))


if __name__ == "__main__":
    main()
