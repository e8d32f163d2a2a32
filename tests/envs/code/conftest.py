"""The sandbox that the judge's tests run on: a real one."""

import shutil
from collections.abc import Iterator

import pytest

from openzaya.envs.code.judge import Judge
from openzaya.envs.code.runner import Runner
from openzaya.sandbox.executor import Executor


@pytest.fixture(scope="session")
def executor() -> Iterator[Executor]:
    if shutil.which("bwrap") is None:
        pytest.skip("bubblewrap is not installed")
    with Executor.default() as executor:
        yield executor


@pytest.fixture
def judge(executor: Executor) -> Judge:
    return Judge(Runner(executor))
