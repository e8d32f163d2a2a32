"""The kernels run on the device if there is one, else on the CPU under Triton's interpreter."""

import os
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
