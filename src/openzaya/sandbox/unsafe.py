"""No sandbox at all: programs run with the caller's own rights, files and network.

For machines of no value that cannot make a sandbox, and only by an explicit flag. Limits of time
and output hold, those of memory and size for each process; nothing else does, and what a program
leaves running in a session of its own stays.
"""

import os
import resource
import signal
import subprocess
import tempfile
import threading
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from openzaya.core.errors import SandboxError
from openzaya.sandbox import checks, protocol, supervisor
from openzaya.sandbox.compiler import Compiler
from openzaya.sandbox.exchange import Bounds, Exchange, Pipes, exchange
from openzaya.sandbox.executor import Executor, Request, Result, Status, num_cores
from openzaya.sandbox.interpreter import running_python
from openzaya.sandbox.languages import Language

FLAGS = ("-s", "-B")
"""As a script is usually run: `exit` and the script's folder are there, as a box has them."""
HARMLESS = {"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8", "PYTHONHASHSEED": "0"}
PER_PROCESS = {resource.RLIMIT_CPU, resource.RLIMIT_FSIZE, resource.RLIMIT_CORE, resource.RLIMIT_AS}


class UnsafeExecutor(Executor):
    """Runs programs as ordinary child processes; every result says backend="none"."""

    name = "none"

    def __init__(self) -> None:
        """Refuse root, whose rights no program may have."""
        if os.geteuid() == 0:
            raise SandboxError(
                'found root; expected an ordinary user for backend "none", which gives programs '
                "the caller's rights; run as another user, or use the sandbox"
            )
        self.python = running_python()
        self.slots = threading.BoundedSemaphore(num_cores())
        self.compiler = Compiler(self.run_command)

    def run(self, request: Request) -> Result:
        """Run one program to its end; see Executor.run."""
        language = checks.check(request)
        if not language.compiler:
            argv = (self.python, *FLAGS, language.source, *request.arguments)
            return self.run_command(request, language, argv, None)
        built = self.compiler.build(request, language)
        if isinstance(built, Result):
            return built
        argv = (f"./{language.program}", *request.arguments)
        return self.run_command(request, language, argv, built)

    def close(self) -> None:
        """Keep nothing between runs."""

    def run_command(
        self, request: Request, language: Language, argv: tuple[str, ...], program: bytes | None
    ) -> Result:
        """Run a command in a temporary folder."""
        with self.slots, tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            source = request.source.encode("utf-8", "surrogatepass")
            (folder / language.source).write_bytes(source)
            for file, content in request.files.items():
                (folder / file).write_bytes(content)
            if program is not None:
                (folder / language.program).write_bytes(program)
                (folder / language.program).chmod(0o700)
            try:
                result = self.attempt(request, language, argv, folder)
            except OSError as error:
                return Result(status=Status.INFRA, backend=self.name, reason=str(error))
            found = {
                file: supervisor.get(str(folder / file), request.limits.file_bytes)
                for file in request.fetch
            }
            files = {file: content for file, content in found.items() if content is not None}
            return replace(result, files=files)

    def attempt(
        self, request: Request, language: Language, argv: tuple[str, ...], folder: Path
    ) -> Result:
        """Start a command, feed it, take its output, and return how it ended."""
        ends = [os.pipe() for _ in range(5)]
        (stdin, stdin_in), (control, control_in), (stdout, stdout_in) = ends[:3]
        (stderr, stderr_in), (report, report_in) = ends[3:]
        began = time.monotonic()
        try:
            child = subprocess.Popen(
                argv,
                stdin=stdin,
                stdout=stdout_in,
                stderr=stderr_in,
                cwd=folder,
                env=HARMLESS,
                start_new_session=True,
            )
        finally:
            for handle in (stdin, stdout_in, stderr_in, report_in):
                os.close(handle)
        for what, value in protocol.rlimits(request, language):
            if what in PER_PROCESS:
                with suppress(OSError):  # it has ended already
                    resource.prlimit(child.pid, what, (value, value))
        killer = threading.Thread(target=kill_when_closed, args=(control, child.pid))
        killer.start()
        pipes = Pipes(
            stdin=stdin_in, control=control_in, stdout=stdout, stderr=stderr, report=report
        )
        bounds = Bounds(
            output_bytes=request.limits.output_bytes,
            report_bytes=0,
            deadline=began + request.limits.wall_limit_s,
            stop=request.stop,
        )
        said = exchange(pipes, request.stdin, b"", bounds)
        killer.join()
        return self.ended(child, said, request, time.monotonic() - began)

    def ended(
        self, child: subprocess.Popen[bytes], said: Exchange, request: Request, wall_s: float
    ) -> Result:
        """Collect the child and say how it went."""
        _, wait_status, used = os.wait4(child.pid, 0)
        child.returncode = code = os.waitstatus_to_exitcode(wait_status)
        cpu_s, peak = used.ru_utime + used.ru_stime, used.ru_maxrss * 1024
        ended = "exit" if not said.late else "asked" if request.is_stopped else "wall"
        status, reason = protocol.judge(
            said, request, ended=ended, code=code, cpu_s=cpu_s, peak=peak
        )
        return Result(
            status=status,
            stdout=bytes(said.stdout),
            stderr=bytes(said.stderr),
            exit_code=code if ended == "exit" and code >= 0 else None,
            signal=-code if ended == "exit" and code < 0 else None,
            cpu_s=cpu_s,
            wall_s=wall_s,
            peak_bytes=peak,
            backend=self.name,
            policy="none",
            reason=reason,
        )


def kill_when_closed(control: int, group: int) -> None:
    """Wait until the other end of a pipe is closed, then kill a process group."""
    os.read(control, 1)
    os.close(control)
    with suppress(ProcessLookupError):
        os.killpg(group, signal.SIGKILL)
