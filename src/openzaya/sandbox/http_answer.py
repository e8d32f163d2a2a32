"""Read what a sandbox server answered, as if an enemy had written it."""

import binascii
import json
from typing import Any, cast

from openzaya.sandbox.executor import Request, Result, Status


class Unusable(Exception):
    """What came back is no answer; the message says why."""


def read_answer(body: bytes, request: Request, wall_s: float) -> Result:
    """Return the result that an answer tells. Raises Unusable for one that makes no sense."""
    try:
        answer = json.loads(body)
        if not isinstance(answer, dict):
            raise Unusable("its answer is no object")
        result = told(answer) if "verdict" in answer else derived(answer, wall_s)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise Unusable(f"its answer makes no sense ({type(error).__name__}: {error})") from error
    unasked = result.files.keys() - set(request.fetch)
    too_much = max(len(result.stdout), len(result.stderr)) > request.limits.output_bytes
    if unasked or (too_much and result.status is Status.OK):
        raise Unusable("its answer holds more than was asked for")
    return result


def told(answer: dict[str, Any]) -> Result:
    """Read the answer of a server of ours."""
    detail = answer["detail"]
    status = Status(answer["verdict"])
    part = answer["compile_result"] if status is Status.COMPILE else answer["run_result"]
    if status is Status.INFRA:
        part = {"stdout": "", "stderr": ""}
    return Result(
        status=status,
        stdout=stream(part, detail, "stdout"),
        stderr=stream(part, detail, "stderr"),
        exit_code=whole(detail["exit_code"]),
        signal=whole(detail["signal"]),
        cpu_s=float(detail["cpu_s"]),
        wall_s=float(detail["wall_s"]),
        peak_bytes=int(detail["peak_bytes"]),
        files=read_files(answer),
        backend=f"http:{detail['backend']}",
        policy=str(detail["policy"]),
        reason=str(detail["reason"]),
    )


def derived(answer: dict[str, Any], wall_s: float) -> Result:
    """Read the answer of a foreign server, whose fields do not tell every end apart."""
    if answer["status"] not in ("Success", "Failed"):
        raise Unusable(f"{answer['status']}: {str(answer.get('message'))[:200]}")
    compiled = answer.get("compile_result")
    if compiled is not None and compiled["return_code"] != 0:
        status, code, part = refused(compiled), None, compiled
    else:
        part = answer["run_result"]
        status, code = ending(part)
    if (status is Status.OK) is not (answer["status"] == "Success"):
        raise Unusable(f"it says {answer['status']}, but the program's end was {status}")
    return Result(
        status=status,
        stdout=stream(part, {}, "stdout"),
        stderr=stream(part, {}, "stderr"),
        exit_code=code if code is not None and code >= 0 else None,
        signal=-code if code is not None and code < 0 else None,
        wall_s=float(part.get("execution_time") or wall_s),
        files=read_files(answer),
        backend="http",
        reason="" if status is Status.OK else f"the server says {part['status']}",
    )


def refused(compiled: dict[str, Any]) -> Status:
    """Return that the compiler refused; one that was too slow says nothing about the program."""
    if compiled["status"] != "Finished" or whole(compiled["return_code"]) is None:
        raise Unusable(f"its compiler: {compiled['status']}")
    return Status.COMPILE


def ending(part: dict[str, Any]) -> tuple[Status, int | None]:
    """Return how a program ended, and its code: negative for a signal."""
    if part["status"] == "TimeLimitExceeded":
        return Status.TIME_WALL, None
    code = whole(part["return_code"])
    if part["status"] != "Finished" or code is None:
        raise Unusable(f"the run: {part['status']} with code {code}")
    if code == 0:
        return Status.OK, 0
    return (Status.EXIT if code > 0 else Status.SIGNAL), code


def stream(part: dict[str, Any], detail: dict[str, Any], name: str) -> bytes:
    """Return the bytes of a stream: exact ones if they are there, else those of its text."""
    exact = detail.get(f"{name}_base64")
    if exact is not None:
        return binascii.a2b_base64(exact, strict_mode=True)
    text = part[name]
    if text is not None and not isinstance(text, str):
        raise TypeError(f"{name} is no text")
    return (text or "").encode("utf-8", "surrogatepass")


def read_files(answer: dict[str, Any]) -> dict[str, bytes]:
    """Return the files that were fetched."""
    files = cast("dict[str, str]", answer.get("files") or {})
    return {name: binascii.a2b_base64(data, strict_mode=True) for name, data in files.items()}


def whole(value: object) -> int | None:
    """Return a whole number or None. Raises TypeError for anything else."""
    if value is None or (isinstance(value, int) and not isinstance(value, bool)):
        return value
    raise TypeError(f"{value!r:.40} is no whole number")
