"""Compile element-wise regions for accelerators; on a CPU they run as they are.

A region is a pure function of tensors and numbers. Only regions are compiled, never whole layers:
a region compiles in seconds, and one compiled region serves all layers.
"""

import functools
import logging
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import torch
from torch import Tensor

P = ParamSpec("P")
R = TypeVar("R")

log = logging.getLogger(__name__)


class Compiling:
    """Whether regions are compiled, and what became of those that could not be."""

    def __init__(self) -> None:
        """Start with compilation on."""
        self.wanted = True
        """False runs every region eagerly."""
        self.on_cpu = False
        """True compiles regions of CPU tensors as well, which tests do."""
        self.backend = "inductor"
        """Any backend of torch.compile."""
        self.failures: dict[str, str] = {}
        """First line of what went wrong, by region; such a region runs eagerly from then on."""

    def applies_to(self, values: tuple[object, ...]) -> bool:
        """Tell whether a region with these arguments is to be compiled."""
        first = next((value for value in values if isinstance(value, Tensor)), None)
        if not self.wanted or first is None:
            return False
        return first.device.type == "cuda" or self.on_cpu


COMPILING = Compiling()
"""The settings of this process."""


def region(function: Callable[P, R]) -> Callable[P, R]:
    """Return `function` compiled on first use on an accelerator, and as it is elsewhere.

    A region that cannot be compiled runs eagerly from then on, with a warning: the result is the
    same, the speed is not.
    """
    compiled: list[tuple[str, Callable[P, R]]] = []

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        name = function.__name__
        if name in COMPILING.failures or not COMPILING.applies_to((*args, *kwargs.values())):
            return function(*args, **kwargs)
        if not compiled or compiled[0][0] != COMPILING.backend:
            compiled[:] = [(COMPILING.backend, torch.compile(function, backend=COMPILING.backend))]
        try:
            return compiled[0][1](*args, **kwargs)
        except torch.cuda.OutOfMemoryError:
            raise
        except Exception as error:  # noqa: BLE001 - the compiler may raise anything
            COMPILING.failures[name] = f"{type(error).__name__}: {error}".splitlines()[0][:300]
            log.warning(
                "%s could not be compiled and runs slower from now on: %s",
                name,
                COMPILING.failures[name],
            )
            return function(*args, **kwargs)

    return call
