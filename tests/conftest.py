"""What every test gets: one thread, no network, and checked tensor names where torch is used.

The environment is set before any test module is imported, so that torch starts with one thread:
on a shared machine two OpenMP threads are ten times slower than one.
"""

import os

os.environ.update(
    OMP_NUM_THREADS="1",
    MKL_NUM_THREADS="1",
    HF_HUB_OFFLINE="1",
    TOKENIZERS_PARALLELISM="false",
)

import ipaddress
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

import shape_names

TESTS = Path(__file__).parent
TORCH_FOLDERS = ("model", "optim", "train", "engine", "rl", "parity", "eval", "serve")
NAMED_FOLDERS = ("model", "optim", "train", "engine", "rl")

# A slow example on a loaded machine is no failure.
settings.register_profile(
    "openzaya", deadline=None, suppress_health_check=[HealthCheck.too_slow], print_blob=True
)
settings.load_profile("openzaya")


def folder_of(path: Path) -> str:
    """Return the first folder below tests/ that `path` lies in, or an empty string."""
    parts = path.relative_to(TESTS).parts if path.is_relative_to(TESTS) else ()
    return parts[0] if len(parts) > 1 else ""


def has_cuda() -> bool:
    """Say whether torch sees a CUDA device."""
    import torch

    return torch.cuda.is_available()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark tests that need torch by their folder; skip GPU tests where there is no GPU."""
    for item in items:
        if folder_of(item.path) in TORCH_FOLDERS:
            item.add_marker(pytest.mark.torch)
        if item.get_closest_marker("gpu") and not has_cuda():
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    """Give torch one thread, whatever the test before chose, if some test module has imported it.

    Two processes share the cores already, and a child forked from a process whose OpenMP has run
    on several threads waits for ever for those it has not got.
    """
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.set_num_threads(1)


def is_loopback(address: Any) -> bool:
    """Say whether a socket address stays on this machine: a Unix path or a loopback host."""
    if not isinstance(address, tuple):
        return True
    host = str(address[0])
    if host in ("", "localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


@pytest.fixture(scope="session", autouse=True)
def no_network() -> Iterator[None]:
    """Fail any test that connects or looks up a name beyond this machine.

    The failure is no `Exception`, so code that handles network errors cannot hide it.
    """
    real = {name: getattr(socket.socket, name) for name in ("connect", "connect_ex")}
    real_lookup = socket.getaddrinfo

    def guard(name: str) -> Any:
        def guarded(self: socket.socket, address: Any) -> Any:
            if not is_loopback(address):
                pytest.fail(f"a test tried to reach {address!r}; tests use loopback only")
            return real[name](self, address)

        return guarded

    def lookup(host: Any, *args: Any, **kwargs: Any) -> Any:
        name = host.decode() if isinstance(host, bytes) else host
        if name is not None and not is_loopback((name,)):
            pytest.fail(f"a test tried to look up {name!r}; tests use loopback only")
        return real_lookup(host, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        for name in real:
            patch.setattr(socket.socket, name, guard(name))
        patch.setattr(socket, "getaddrinfo", lookup)
        yield


@pytest.fixture(autouse=True)
def tensor_names(request: pytest.FixtureRequest) -> Iterator[None]:
    """Check the shape suffix of every tensor local in openzaya while a tensor test runs."""
    if folder_of(request.path) not in NAMED_FOLDERS:
        yield
        return
    with shape_names.checked("openzaya") as problems:
        yield
    if problems:
        pytest.fail("tensor names that lie:\n" + "\n".join(sorted(problems)), pytrace=False)
