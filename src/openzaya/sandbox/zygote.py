"""The fast backend: boxes are forked from a launcher that has Python and the usual imports loaded.

What runs inside a box, the limits, the report and its reading are those of the bubblewrap backend;
compilers run under bubblewrap.
"""

import functools
import time
from hashlib import sha256
from pathlib import Path
from typing import Any

from openzaya.core.errors import SandboxError
from openzaya.sandbox import box, protocol, seccomp, zygote_launcher
from openzaya.sandbox.bwrap import STARTUP_S, BwrapExecutor, explain
from openzaya.sandbox.exchange import Bounds, exchange
from openzaya.sandbox.executor import Request, Result, Status
from openzaya.sandbox.interpreter import Interpreter
from openzaya.sandbox.launcher import Launcher, kill
from openzaya.sandbox.users import BOX_ID, Identity

BOOT = """
import marshal, sys
n = {"__name__": "launcher", "__builtins__": __builtins__}
exec(compile(marshal.load(sys.stdin.buffer), "<string>", "exec"), n)
with n["begin"]():
    exec(__import__("sys").__dict__.pop("program"))
"""
"""The first code of a launcher; in a box its last line is the program."""
MODULES = (
    *("array", "bisect", "cmath", "collections", "contextlib", "copy", "dataclasses", "datetime"),
    *("decimal", "enum", "fractions", "functools", "heapq", "io", "itertools", "json", "math"),
    *("operator", "os", "queue", "random", "re", "statistics", "string", "sys", "threading"),
    *("time", "traceback", "typing"),
)
"""What every launcher imports once, so that programs find it there."""


class ZygoteExecutor(BwrapExecutor):
    """Runs each program in a box forked from a launcher."""

    name = "zygote"

    def __init__(self, *, uid: int = BOX_ID):
        """Start the launcher; raises SandboxError if this machine cannot run one."""
        super().__init__(uid=uid)
        try:
            self.launcher_of(self.name, make_zygote)
        except SandboxError:
            self.close()
            raise
        self.proven = True  # the launcher stands in namespaces like those of a box

    @functools.cached_property
    def policy(self) -> str:
        """Fingerprint of all rules that boxes run under."""
        rules = repr((setup(self.interpreter, self.identity), text()))
        return sha256(rules.encode()).hexdigest()[:16]

    def attempt(self, request: Request, order: bytes, compiling: bool) -> Result:
        """Make a box, run an order in it, and return how it went."""
        if compiling:
            return super().attempt(request, order, compiling)
        bounds = Bounds(
            output_bytes=request.limits.output_bytes,
            report_bytes=protocol.report_limit(request),
            deadline=time.monotonic() + request.limits.wall_limit_s + STARTUP_S,
            stop=request.stop,
        )
        try:
            launcher = self.launcher_of(self.name, make_zygote)
            with launcher.started(b"%d" % request.limits.tmp_bytes) as (pidfd, pipes):
                said = exchange(pipes, request.stdin, order, bounds)
                if said.hung:
                    kill(pidfd)
        except (OSError, SandboxError) as error:
            return Result(status=Status.INFRA, backend=self.name, reason=str(error)[:500])
        result = protocol.result(said, request, backend=self.name, policy=self.policy)
        return explain(result, said)


def make_zygote(interpreter: Interpreter, identity: Identity) -> Launcher:
    """Start what forks boxes; raises SandboxError if this machine cannot run it."""
    return Launcher(interpreter, identity, BOOT, text(), setup(interpreter, identity))


@functools.cache
def text() -> str:
    """Return the launcher's program."""
    return Path(zygote_launcher.__file__).read_text(encoding="utf-8")


def setup(interpreter: Interpreter, identity: Identity) -> dict[str, Any]:
    """Return what a launcher must know: what boxes see, who they are, what they may call."""
    links = list(box.DEVICE_LINKS)
    binds = box.outermost(box.wanted(interpreter, compiler=False))
    for name in ("/lib", "/lib64"):
        if Path(name).is_symlink():
            links.append((str(Path(name).readlink()), name))
        elif Path(name).is_dir():
            binds.append(name)
    return {
        "binds": binds,
        "devices": [f"/dev/{name}" for name in box.DEVICES],
        "hidden": box.packages(interpreter),
        "inside_id": int(box.INSIDE_ID),
        "links": links,
        "modules": MODULES,
        "outside": (identity.uid, identity.gid),
        "policy": seccomp.policy(),
        "supervisor": interpreter.supervisor,
    }
