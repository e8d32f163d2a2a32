"""The C++ of Muon: whole steps, from gradient to weight, in half precision.

Letters: N matrices of one shape, I rows, O columns.
"""

import ctypes
import logging
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from openzaya.core.errors import ConfigError
from openzaya.core.native.build import load_library
from openzaya.core.native.calls import Functions

FOLDER = Path(__file__).parent
SOURCES = ("half.h", "newton_schulz.h", "kernels.cpp")

log = logging.getLogger(__name__)


@cache
def kernels() -> ctypes.CDLL:
    """Return the compiled library. Raises ConfigError where there is no compiler or it fails."""
    return load_library(FOLDER, SOURCES)


call = Functions(lambda: kernels(), (torch.float32,)).call
"""Call a function of the library by its name."""


@cache
def reason_against_half() -> str:
    """Return why this machine's Muon does not compute in half precision; "" when it does."""
    try:
        lanes = kernels().half_lanes()
    except ConfigError as error:
        log.warning("Muon on this CPU is slower without our C++: %s", error)
        return str(error)
    return "" if lanes else "the processor does not compute in half precision (fp16)"


def library_name() -> str:
    """Return a name that is another one where the last bits may be others."""
    return Path(kernels()._name).stem


@dataclass(frozen=True, kw_only=True, slots=True)
class HalfStep:
    """A step of Muon on matrices in fp32, one thread a call; see `optim.muon` for the rule.

    A matrix is computed by itself: its bits depend neither on the others nor on the threads.
    """

    num_ns_steps: int
    keep: float
    """What the weights are multiplied by."""
    factor: float
    """What the directions are multiplied by, before they are added."""
    momentum: float = 0.0
    nesterov: bool = False

    def apply(self, weight_NIO: Tensor, grad_NIO: Tensor, average_NIO: Tensor | None) -> None:
        """Move the weights and, where there is one, the average of the gradients."""
        call(
            "muon_step",
            grad_NIO,
            average_NIO,
            1.0 - self.momentum,
            int(self.nesterov),
            *grad_NIO.shape,
            self.num_ns_steps,
            self.keep,
            self.factor,
            weight_NIO,
        )


def direction(matrices_NIO: Tensor, out_NIO: Tensor, num_steps: int) -> None:
    """Write what is nearly U V' of every matrix U S V'; both are fp32 and contiguous."""
    HalfStep(num_ns_steps=num_steps, keep=0.0, factor=1.0).apply(
        out_NIO.zero_(), matrices_NIO, None
    )
