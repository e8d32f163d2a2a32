"""Calls of our C++ with tensors."""

import ctypes
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from openzaya.core.native.build import compiler, load_library

FOLDER = Path(__file__).parent
SOURCES = ("experts.h", "loss.h", "kernels.cpp")
Argument = Tensor | int | float | None


@cache
def kernels() -> ctypes.CDLL:
    """Return the compiled library. Raises ConfigError where there is no compiler or it fails."""
    return load_library(FOLDER, SOURCES)


def reason_against_native(dtype: torch.dtype, device: torch.device) -> str:
    """Return why our C++ does not take such rows; "" when it does."""
    if device.type != "cpu" or dtype is not torch.float32:
        return f"the weights are {dtype} on {device.type}, expected torch.float32 on cpu"
    return "" if compiler() else "no C++ compiler was found, expected g++ or clang++"


def call(name: str, *args: Argument) -> None:
    """Call a function of the library, which takes addresses, int64 and float.

    Tensors must be contiguous and on the CPU; Python's lock is released meanwhile.
    """
    getattr(kernels(), name)(*(_as_c(value) for value in args))


def _as_c(value: Argument) -> ctypes.c_void_p | ctypes.c_int64 | ctypes.c_float:
    if isinstance(value, Tensor):
        assert value.is_contiguous(), tuple(value.stride())
        return ctypes.c_void_p(value.data_ptr())
    if isinstance(value, float):
        return ctypes.c_float(value)
    return ctypes.c_void_p(None) if value is None else ctypes.c_int64(value)
