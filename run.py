#!/usr/bin/env python3
"""Set up .venv with pip and run one task in it: python3 run.py VERB [arguments].

    setup      install the core (setup dev: the tools for tests as well; setup dev,real: all)
    demo       answer held-out problems with the bundled nano model
    test       run the tests that take no time; arguments go on to pytest
    test-slow  run all tests but those of test-real
    test-real  run those that want a browser, PostgreSQL or somebody else's server
    speedrun   train the nano model through every stage of the recipe
    check      formatting, lint, types, import contract, budgets
    fix        format and repair what the linter can repair
    bench      list bench/*.py; bench NAME runs one

Only the standard library is used, and no network but pip's. A second run installs nothing.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

ROOT = Path(__file__).resolve().parent
VENV = ROOT / ".venv"
BIN = VENV / ("Scripts" if os.name == "nt" else "bin")
PYTHON = BIN / ("python.exe" if os.name == "nt" else "python")
STAMP = VENV / "openzaya-setup.json"
CONSTRAINTS = ROOT / "constraints.txt"
PIP_INSTALL = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
OLD_PYTHON = "openzaya needs Python 3.11 or newer, this is {}.{}; try: make PYTHON=python3.12 setup"
NO_VENV = "this Python has no venv/ensurepip; on Debian: apt-get install python3-venv; then again"
NO_GPU = """warning: a CUDA build of torch without a GPU: it works, but takes 2 GB more disk.
cure: rm -rf .venv; PIP_EXTRA_INDEX_URL=(the CPU index that pytorch.org names) make setup"""
SHOW_TORCH = """
import importlib.util, json, pathlib, runpy
v = runpy.run_path(pathlib.Path(importlib.util.find_spec("torch").origin).with_name("version.py"))
print(json.dumps([str(v["__version__"]), v.get("cuda"), v.get("hip")]))
"""
FAST = ["-m", "not slow and not gpu"]
REAL = ["-m", "not gpu", "tests/gateway_clients", "tests/serve/web", "tests/ttc_journal"]
CHECKS = [
    ["ruff", "format", "--check", "--quiet", "."],
    ["ruff", "check", "--quiet", "."],
    ["mypy", "--no-error-summary"],
    ["lint-imports", "--no-logo"],
    ["pytest", "-q", "tests/house", *FAST, "--no-header"],
]
FIXES = [["ruff", "check", "--fix", "--quiet", "."], ["ruff", "format", "."]]


def child_env() -> dict[str, str]:
    """Return the environment of everything we start: our venv first, our choice of torch."""
    env = {**os.environ, "VIRTUAL_ENV": str(VENV), "PIP_CONSTRAINT": CONSTRAINTS.as_uri()}
    env["PATH"] = f"{BIN}{os.pathsep}{env.get('PATH', os.defpath)}"
    env.pop("PYTHONHOME", None)
    return env


def fingerprint() -> str:
    """Return a hash of what decides the installation."""
    parts = [(ROOT / "pyproject.toml").read_bytes(), CONSTRAINTS.read_bytes()]
    parts.append(f"{sys.version_info[:2]} {ROOT}".encode())  # a moved venv is a broken one
    return hashlib.sha256(b"\0".join(parts)).hexdigest()


@contextmanager
def alone() -> Iterator[None]:
    """Wait until no other run.py of this folder sets up; two in one .venv break it.

    The lock is on this file and goes with the process. Without flock everybody is alone.
    """
    with Path(__file__).open() as file:
        try:
            if fcntl:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("waiting for another set-up in this folder")
            fcntl.flock(file, fcntl.LOCK_EX)
        except OSError:  # a file system that has no locks
            pass
        yield


@alone()
def setup(extra: str) -> None:
    """Make .venv hold openzaya with `extra`, names with commas; do nothing when it already does."""
    extras = {"", *extra.split(",")}
    want = {"hash": fingerprint(), "root": str(ROOT), "extras": sorted(extras)}
    try:
        have = json.loads(STAMP.read_text()) if PYTHON.exists() else {}
    except (OSError, ValueError):  # no stamp, or one that a crash has torn
        have = {}
    if have.get("hash") == want["hash"]:
        if extras <= set(have["extras"]):
            return
        want["extras"] = sorted({*have["extras"], *extras})
    start = time.monotonic()
    if not PYTHON.exists() or have.get("root", str(ROOT)) != str(ROOT):
        if not all(map(importlib.util.find_spec, ("venv", "ensurepip"))):
            sys.exit(NO_VENV)
        say(f"making {VENV}")
        run([sys.executable, "-m", "venv", "--clear", str(VENV)])
    STAMP.unlink(missing_ok=True)
    say(f"installing openzaya{f'[{extra}]' if extra else ''} with pip, about a minute")
    target = f"{ROOT}[{extra}]" if extra else str(ROOT)
    run([str(PYTHON), *PIP_INSTALL, "-c", str(CONSTRAINTS), "-e", target])
    STAMP.write_text(json.dumps(want))
    report_torch()
    say(f"ready after {time.monotonic() - start:.0f} s")


def report_torch() -> None:
    """Say which build of torch was installed; warn of a CUDA build on a host without a GPU."""
    found = subprocess.run([str(PYTHON), "-c", SHOW_TORCH], capture_output=True, check=True)
    version, cuda, hip = json.loads(found.stdout)
    kind = f"CUDA {cuda}" if cuda else f"ROCm {hip}" if hip else "CPU"
    say(f"torch {version}, {kind} build")
    if cuda and not (Path("/dev/nvidia0").exists() or shutil.which("nvidia-smi")):
        say(NO_GPU)


def run(command: list[str]) -> None:
    """Run a command of the set-up; stop with its exit code when it fails."""
    code = subprocess.run(command, env=child_env(), cwd=ROOT, check=False).returncode
    if code:
        say(f"failed: {' '.join(command)}\nthe reason is above; running this again continues")
        sys.exit(code)


def say(line: str) -> None:
    """Print a line of our own to stderr; stdout belongs to the task."""
    print(f"run.py: {line}", file=sys.stderr, flush=True)


def become(command: list[str]) -> None:
    """Turn into a command of the venv, so that signals and exit codes are its own."""
    command = [shutil.which(command[0], path=str(BIN)) or command[0], *command[1:]]
    if os.name == "nt":
        sys.exit(subprocess.run(command, env=child_env(), cwd=ROOT, check=False).returncode)
    os.chdir(ROOT)
    os.execve(command[0], command, child_env())


def run_all(commands: list[list[str]]) -> None:
    """Run all commands, also after a failure; exit 1 if one failed."""
    failed = []
    for command in commands:
        path = shutil.which(command[0], path=str(BIN)) or command[0]
        if subprocess.run([path, *command[1:]], env=child_env(), cwd=ROOT, check=False).returncode:
            failed.append(" ".join(command[:2]))
    say(f"failed: {', '.join(failed)}" if failed else "all good")
    sys.exit(bool(failed))


def bench(rest: list[str]) -> None:
    """Run one script of bench/, or list them."""
    scripts = {path.stem: path for path in sorted((ROOT / "bench").glob("*.py"))}
    if rest[:1] and rest[0] in scripts:
        become(["python", str(scripts[rest[0]]), *rest[1:]])
    print("run one with: python3 run.py bench NAME [--help]", *scripts, sep="\n  ")
    sys.exit(2 if rest else 0)


def main(argv: list[str]) -> None:
    """Set up what the verb needs, then run it."""
    if sys.version_info < (3, 11):
        sys.exit(OLD_PYTHON.format(*sys.version_info))
    verb, rest = (argv[0], argv[1:]) if argv else ("help", [])
    workers = str(max(2, min(8, os.cpu_count() or 2)))
    tasks = {
        "setup": (" ".join(rest), lambda: say(f"nothing else to do; activate with {BIN}/activate")),
        "demo": ("", lambda: become(["openzaya", "demo", *rest])),
        "speedrun": ("", lambda: become(["openzaya", "speedrun", *rest])),
        "test": ("dev", lambda: become(["pytest", "-n", workers, *FAST, *rest])),
        "test-slow": ("dev", lambda: become(["pytest", "-n", workers, *rest])),
        "test-real": ("dev,real", lambda: become(["pytest", "-n", workers, *REAL, *rest])),
        "check": ("dev", lambda: run_all(CHECKS)),
        "fix": ("dev", lambda: run_all(FIXES)),
        "bench": ("dev", lambda: bench(rest)),
    }
    if verb not in tasks or (verb == "setup" and " ".join(rest) not in ("", "dev", "dev,real")):
        print(__doc__)
        sys.exit(0 if verb in ("help", "-h", "--help") else 2)
    extra, task = tasks[verb]
    setup(extra)
    task()


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except KeyboardInterrupt:
        say("stopped by Ctrl-C; running this again continues")
        sys.exit(130)
