"""The C++ of training, as functions of tensors."""

import ctypes
import logging
from functools import cache
from pathlib import Path

import torch

from openzaya.core.errors import ConfigError
from openzaya.core.native.build import load_library
from openzaya.core.native.calls import Functions

FOLDER = Path(__file__).parent
SOURCES = (
    "experts.h",
    "loss.h",
    "product.h",
    "attention.h",
    "cca.h",
    "rows.h",
    "kernels.cpp",
)
DTYPES = (torch.float32, torch.int32, torch.int64)

log = logging.getLogger(__name__)


@cache
def kernels() -> ctypes.CDLL:
    """Return the compiled library. Raises ConfigError where there is no compiler or it fails."""
    return load_library(FOLDER, SOURCES)


def reason_against_native(dtype: torch.dtype, device: torch.device) -> str:
    """Return why our C++ does not take such rows; "" when it does."""
    if device.type != "cpu" or dtype is not torch.float32:
        return f"the weights are {dtype} on {device.type}, expected torch.float32 on cpu"
    return _reason_against_library()


@cache
def _reason_against_library() -> str:
    try:
        kernels()
    except ConfigError as error:
        log.warning("training on this CPU is slower without our C++: %s", error)
        return str(error)
    return ""


def library_name() -> str:
    """Return a name that is another one where the last bits may be others."""
    return Path(kernels()._name).stem


call = Functions(lambda: kernels(), DTYPES).call
"""Call a function of the library by its name."""
