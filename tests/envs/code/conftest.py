"""The executor that the judge's tests run on."""

import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from openzaya.envs.code.judge import Judge
from openzaya.envs.code.runner import Runner
from openzaya.sandbox.executor import Result, Status


class Subprocesses:
    """Bare processes: no sandbox."""

    def run(self, request):
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / "main.py").write_text(request.source)
            try:
                done = subprocess.run(
                    [sys.executable, "-I", "-S", "main.py"],
                    input=request.stdin,
                    capture_output=True,
                    cwd=folder,
                    timeout=request.limits.wall_limit_s,
                    check=False,
                )
            except subprocess.TimeoutExpired:
                return Result(status=Status.TIME_WALL)
        if len(done.stdout) > request.limits.output_bytes:
            return Result(status=Status.OUTPUT)
        return Result(
            status=Status.OK if done.returncode == 0 else Status.EXIT,
            stdout=done.stdout,
            stderr=done.stderr,
        )

    def run_all(self, requests):
        return [self.run(request) for request in requests]

    def close(self):
        pass


@pytest.fixture(scope="session")
def executor():
    return Subprocesses()


@pytest.fixture
def judge(executor):
    return Judge(Runner(executor))
