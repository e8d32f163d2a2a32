"""A gateway over the mock, both as processes, for all clients of this folder."""

from collections.abc import Iterator

import pytest
from server_process import python, server_process


@pytest.fixture(scope="session")
def mock_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    log = tmp_path_factory.mktemp("mock") / "mock.log"
    words = ["openzaya.backends.mock", "--port", "0", "--ttft", "0.005"]
    words += ["--set", "accuracy=0.6", "--set", "aggregation_accuracy=0.9", "--set", "ids=vllm"]
    with server_process(python(*words), log) as url:
        yield url


@pytest.fixture(scope="session")
def gateway_url(mock_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """`openzaya serve --upstream` with its journal in a folder of its own."""
    folder = tmp_path_factory.mktemp("gateway")
    words = ["openzaya", "serve", "--upstream", mock_url, "--port", "0"]
    words += ["--set", f"journal={folder / 'runs.db'}", "--set", "drain_s=3"]
    with server_process(python(*words), folder / "gateway.log") as url:
        yield url
