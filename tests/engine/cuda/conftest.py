"""The kernels run on the device if there is one, else on the CPU under Triton's interpreter."""

import importlib.util
import os
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import torch

HAS_DEVICE = torch.cuda.is_available()
if not HAS_DEVICE:
    os.environ["TRITON_INTERPRET"] = "1"  # before the first import of Triton


@pytest.fixture(scope="session")
def device() -> Any:
    return torch.device("cuda" if HAS_DEVICE else "cpu")


@pytest.fixture(autouse=True)
def without_gradients() -> Iterator[None]:
    with torch.no_grad():
        yield


@pytest.fixture(autouse=True)
def kernels_unwatched(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take the check of tensors' names off while the interpreter runs a kernel.

    It looks at every call, of which a kernel makes many, and no tensor of torch is inside.
    """
    if HAS_DEVICE or importlib.util.find_spec("triton") is None:
        return
    from triton.runtime.interpreter import GridExecutor

    run = GridExecutor.__call__

    def unwatched(self: Any, *args: Any, **named: Any) -> Any:
        watching = sys.getprofile()
        sys.setprofile(None)
        try:
            return run(self, *args, **named)
        finally:
            sys.setprofile(watching)

    monkeypatch.setattr(GridExecutor, "__call__", unwatched)
