"""Triton, imported in one place, and the two things that every kernel file needs of it.

Triton ships with CUDA builds of torch and is no dependency of ours, so its names are `Any` to the
type checker, and only `engine/cuda/` imports this file.

Letters of the kernels' shapes: T packed tokens, D model, C convolved channels, H query heads, K
key/value heads, J = H + K, P per head, W value channels, E experts, F expert width, R router
latent, X = E + 1 classes, S positions of a cache block, L layers.
"""

import importlib
import os
from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

triton: Any = importlib.import_module("triton")
tl: Any = importlib.import_module("triton.language")

if TYPE_CHECKING:
    Value = Any
    constexpr = Any

    def jit(function: Callable[..., object]) -> Any:
        """Make a kernel, or a function that kernels call."""
else:
    jit = triton.jit
    # Annotations of a kernel are compiled too, so they must be names of Triton's own.
    Value = tl.tensor  # a pointer, a number or a block of numbers
    constexpr = tl.constexpr  # known when the kernel is compiled

MIN_TILE = 16
"""Smallest side of a matrix product's tile."""
OVERLAP_ARCH = 90
"""Compute capability, times ten, from which on kernels can overlap."""


def is_interpreted() -> bool:
    """Tell whether Triton runs kernels in Python, on CPU tensors (TRITON_INTERPRET=1)."""
    return os.environ.get("TRITON_INTERPRET") == "1"


def mode_of(x: Tensor) -> str:
    """Return how products with a weight of this dtype are taken; see `product`."""
    is_low = x.dtype is torch.bfloat16 and not is_interpreted()
    return "low" if is_low else "ieee"


def wide_mode(weight: Tensor) -> str:
    """Return how products of this weight are taken whose other side must stay fp32."""
    if is_interpreted():
        return "ieee"
    return "split" if weight.dtype is torch.bfloat16 else "tf32x3"


def tile(size: int, least: int = MIN_TILE) -> int:
    """Return the power of two that holds `size` rows or channels."""
    return max(least, 1 << (size - 1).bit_length())


def cdiv(size: int, step: int) -> int:
    """Return how many steps cover a size."""
    return -(-size // step)


@cache
def overlaps() -> bool:
    """Tell whether a kernel may begin while the one before it still runs (Hopper and later)."""
    if is_interpreted():
        return False
    found: int = triton.runtime.driver.active.get_current_target().arch
    return found >= OVERLAP_ARCH


@jit
def wait_for_earlier(OVERLAPS: constexpr) -> None:
    """Wait until all earlier kernels have ended; from here on the next one may begin.

    Before this a kernel may read weights, inputs of the pass, and what the kernel before the one
    just before it wrote: that one waited in the same way before it let this one begin.
    """
    if OVERLAPS:
        tl.extra.cuda.gdc_wait()
        tl.extra.cuda.gdc_launch_dependents()


def overlapping() -> dict[str, bool]:
    """Return the launch arguments of a kernel that calls `wait_for_earlier`."""
    return {"OVERLAPS": True, "launch_pdl": True} if overlaps() else {"OVERLAPS": False}


@jit
def product(a: Value, b: Value, acc: Value, MODE: constexpr) -> Value:
    """Return acc [M, N] + a [M, K] @ b [K, N], summed in fp32.

    "low" multiplies bf16 as it is. "split" takes a bf16 weight as it is and the fp32 side as the
    sum of two bf16 numbers, which keeps 16 bits of each. "tf32x3" and "ieee" raise both sides to
    fp32 first; the former splits both and is nearly exact, the latter is exact.
    """
    if MODE == "low":
        return tl.dot(a, b, acc)
    if MODE == "split":
        high = a.to(b.dtype)
        rest = (a - high.to(tl.float32)).to(b.dtype)
        return tl.dot(rest, b, tl.dot(high, b, acc))
    if MODE == "tf32x3":
        return tl.dot(a.to(tl.float32), b.to(tl.float32), acc, input_precision="tf32x3")
    return tl.dot(a.to(tl.float32), b.to(tl.float32), acc, input_precision="ieee")


@jit
def load_fp32(pointer: Value, mask: Value) -> Value:
    """Return numbers of any dtype as fp32; zero where masked."""
    return tl.load(pointer, mask=mask, other=0.0).to(tl.float32)
