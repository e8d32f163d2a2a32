"""Calls of our C++ with tensors."""

import ctypes
import logging
from collections.abc import Callable
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from openzaya.core.errors import ConfigError
from openzaya.core.native.build import load_library

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
Argument = Tensor | int | float | None

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


def call(name: str, *args: Argument) -> None:
    """Call a function of the library, which takes addresses, int64 and float.

    Tensors must be contiguous, on the CPU and of one of `DTYPES`. Python's lock is released
    meanwhile.
    """
    function = _functions.get(name) or _function(name, args)
    function(*[_address(value) if isinstance(value, Tensor) else value for value in args])


_functions: dict[str, Callable[..., None]] = {}


def _function(name: str, args: tuple[Argument, ...]) -> Callable[..., None]:
    """Find a function; the first call tells which arguments are floats, all else is a word."""
    function = getattr(kernels(), name)
    function.argtypes = [
        ctypes.c_float if isinstance(value, float) else ctypes.c_void_p for value in args
    ]
    function.restype = None
    _functions[name] = function
    return function  # type: ignore[no-any-return]


def _address(x: Tensor) -> int:
    assert x.dtype in DTYPES, x.dtype
    assert x.is_contiguous(), (tuple(x.shape), x.stride())
    return x.data_ptr()
