"""What may be asked of the sandbox server, and what it answers: SandboxFusion's shape, and more.

The fields of SandboxFusion keep their names and meanings. `limits` and `stdin_base64` are ours;
so are `verdict` and `detail` in the answer, which tell what `status` cannot.

Source: github.com/bytedance/SandboxFusion, `POST /run_code` (behaviour only).
"""

import binascii
from base64 import b64encode
from typing import Annotated, Any, Literal

from pydantic import Field

from openzaya.core.errors import RequestError
from openzaya.sandbox.executor import MIB, Limits, Request, Result, Status
from openzaya.sandbox.languages import LANGUAGES
from openzaya.serve.errors import bad_request
from openzaya.serve.strict import Strict

MOST_SECONDS = 300.0
MOST_MEMORY_MIB = 4096
MOST_CODE_CHARACTERS = 1 << 20
DEFAULT_SECONDS = 10.0
NO_LIMIT = -1
"""SandboxFusion's word for memory without a limit; here the default of `Limits`."""

FileName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]{1,100}$")]
Seconds = Annotated[float, Field(ge=0.01, le=MOST_SECONDS)]
Argument = Annotated[str, Field(max_length=4096)]


class LimitsBody(Strict):
    """All limits of a run, for those who need more than `run_timeout`."""

    cpu_s: Seconds = DEFAULT_SECONDS
    wall_s: Annotated[float, Field(ge=0.01, le=2 * MOST_SECONDS + 1)] | None = None
    memory_bytes: Annotated[int, Field(ge=32 * MIB, le=MOST_MEMORY_MIB * MIB)] = 512 * MIB
    processes: Annotated[int, Field(ge=1, le=256)] | None = None
    file_bytes: Annotated[int, Field(ge=0, le=64 * MIB)] = 16 * MIB
    tmp_bytes: Annotated[int, Field(ge=MIB, le=256 * MIB)] = 64 * MIB
    open_files: Annotated[int, Field(ge=8, le=1024)] = 64
    output_bytes: Annotated[int, Field(ge=0, le=16 * MIB)] = MIB


class RunCode(Strict):
    """The body of POST /run_code."""

    code: Annotated[str, Field(max_length=MOST_CODE_CHARACTERS)]
    language: Literal["python", "cpp"]
    compile_timeout: Annotated[float, Field(ge=0, le=MOST_SECONDS)] = DEFAULT_SECONDS
    """Taken and not used: compilers have the server's own limits."""
    run_timeout: Seconds = DEFAULT_SECONDS
    """Seconds on the clock, and of CPU time."""
    memory_limit_MB: Annotated[int, Field(le=MOST_MEMORY_MIB)] = NO_LIMIT
    stdin: str | None = None
    stdin_base64: str | None = None
    """Instead of `stdin`, for input that is no text."""
    files: Annotated[dict[FileName, str | None], Field(max_length=256, default_factory=dict)]
    """Contents in base64 by name."""
    fetch_files: Annotated[list[FileName], Field(max_length=256, default_factory=list)]
    args: Annotated[list[Argument], Field(max_length=256, default_factory=list)]
    limits: LimitsBody | None = None
    """Instead of `run_timeout` and `memory_limit_MB`."""


def to_request(body: RunCode) -> Request:
    """Return what is to be run. Raises ApiError 400 for fields that contradict each other."""
    if body.stdin is not None and body.stdin_base64 is not None:
        raise bad_request("stdin and stdin_base64 are both given; send one", "stdin_base64")
    if body.stdin_base64 is not None:
        stdin = decoded(body.stdin_base64, "stdin_base64")
    else:
        stdin = (body.stdin or "").encode()
    files = {
        name: decoded(content, f"files.{name}")
        for name, content in body.files.items()
        if content is not None
    }
    return Request(
        source=body.code,
        language=body.language,
        stdin=stdin,
        arguments=tuple(body.args),
        files=files,
        fetch=tuple(body.fetch_files),
        limits=to_limits(body),
    )


def to_limits(body: RunCode) -> Limits:
    """Return the limits of a run."""
    if body.limits is not None:
        return Limits(**body.limits.model_dump())
    memory = {}
    if body.memory_limit_MB != NO_LIMIT:
        if body.memory_limit_MB < 32:
            raise bad_request("expected -1 or at least 32", "memory_limit_MB")
        memory["memory_bytes"] = body.memory_limit_MB * MIB
    return Limits(cpu_s=body.run_timeout, wall_s=body.run_timeout, **memory)


def decoded(text: str, param: str) -> bytes:
    """Return the bytes behind base64; ApiError 400 if it is none."""
    try:
        return binascii.a2b_base64(text.encode("ascii"), strict_mode=True)
    except (ValueError, UnicodeEncodeError):
        raise bad_request(f"{param} is not base64", param) from None


def refusal(error: RequestError) -> Exception:
    """Return the answer for a request that no sandbox could run."""
    return bad_request(str(error)[:500])


def to_answer(result: Result, request: Request) -> dict[str, Any]:
    """Return the body that tells how a run went."""
    failed_ourselves = result.status is Status.INFRA
    status = {Status.OK: "Success", Status.INFRA: "SandboxError"}.get(result.status, "Failed")
    return {
        "status": status,
        "message": result.reason if failed_ourselves else "",
        "compile_result": compile_part(result, request),
        "run_result": None if failed_ourselves else run_part(result),
        "executor_pod_name": None,
        "files": {name: b64encode(data).decode() for name, data in result.files.items()},
        "verdict": result.status.value,
        "detail": {
            "exit_code": result.exit_code,
            "signal": result.signal,
            "cpu_s": result.cpu_s,
            "wall_s": result.wall_s,
            "peak_bytes": result.peak_bytes,
            "backend": result.backend,
            "policy": result.policy,
            "reason": result.reason,
            **exact_bytes(result),
        },
    }


def compile_part(result: Result, request: Request) -> dict[str, Any] | None:
    """Return what the compiler did; None for languages without one."""
    if not LANGUAGES[request.language].compiler or result.status is Status.INFRA:
        return None
    refused = result.status is Status.COMPILE
    return {
        "status": "Finished",
        "execution_time": result.wall_s if refused else 0.0,
        "return_code": (result.exit_code or 1) if refused else 0,
        "stdout": text(result.stdout) if refused else "",
        "stderr": text(result.stderr) if refused else "",
    }


def run_part(result: Result) -> dict[str, Any] | None:
    """Return what the program did; None if it never ran."""
    if result.status is Status.COMPILE:
        return None
    late = result.status in (Status.TIME_CPU, Status.TIME_WALL)
    code = result.exit_code if result.signal is None else -result.signal
    if code is None or (code == 0 and result.status is not Status.OK):
        code = -9  # a limit of ours ended it, or it went beyond one and then ended well
    return {
        "status": "TimeLimitExceeded" if late else "Finished",
        "execution_time": result.wall_s,
        "return_code": None if late else code,
        "stdout": text(result.stdout),
        "stderr": text(result.stderr),
    }


def exact_bytes(result: Result) -> dict[str, str]:
    """Return streams in base64 that are no UTF-8, which text fields cannot hold."""
    streams = {"stdout_base64": result.stdout, "stderr_base64": result.stderr}
    return {name: b64encode(data).decode() for name, data in streams.items() if not is_text(data)}


def is_text(data: bytes) -> bool:
    """Say whether bytes are UTF-8."""
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


def text(data: bytes) -> str:
    """Return a stream as text, what is no UTF-8 replaced."""
    return data.decode(errors="replace")
