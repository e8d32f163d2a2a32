"""Weight-only quantization: groups of integers with a shared scale, exact once they are floats.

A scale is a bfloat16 and a weight has at most 8 bits, so scale times weight is exact in fp32. The
engine multiplies the integers themselves, with activations of 16 bits.

Deviation: D-021.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from openzaya.core.errors import ConfigError

INT4_SHIFT = 8
"""Added to 4-bit weights, which are stored as 0 to 15."""
INT4_HALF = 16
"""A byte holds weight j of 32 below and weight j + 16 above."""
SHRINKS = (1.0, 0.95, 0.9, 0.85, 0.8, 0.75)
"""Scales tried per 4-bit group, as shares of the one that clips nothing."""
CHUNK_WEIGHTS = 2**22
"""Weights worked on at a time."""
QUANTIZED = (
    "embed_tokens.weight",
    "q_proj.weight",
    "k_proj.weight",
    "v_proj_current.weight",
    "v_proj_delayed.weight",
    "o_proj.weight",
    "experts.gate_up_proj",
    "experts.down_proj",
)
"""Ends of the names that are quantized. Routers, convolutions, norms, scales, temperatures and
biases stay: they are under 1% of the weights, and a router's rounding changes experts."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Format:
    """One way to store weights."""

    name: str
    """`int8` or `int4`."""
    bits: int
    """Bits of a weight."""
    group_size: int
    """Weights of a row that share a scale."""
    dtype: torch.dtype
    """How the integers are stored."""

    def shapes(self, shape: tuple[int, ...]) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Return the shapes of the integers and of the scales of a tensor.

        Raises ConfigError for rows that do not divide into groups.
        """
        *rows, cols = shape
        if cols % self.group_size:
            raise ConfigError(
                f"rows of {cols} weights do not divide into groups of {self.group_size}; "
                f"{self.name} cannot store this model"
            )
        return (*rows, cols * self.bits // 8), (*rows, cols // self.group_size)


FORMATS = {
    "int8": Format(name="int8", bits=8, group_size=64, dtype=torch.int8),
    "int4": Format(name="int4", bits=4, group_size=32, dtype=torch.uint8),
}


def format_of(data: Tensor) -> Format:
    """Return how these integers are stored."""
    return next(form for form in FORMATS.values() if form.dtype is data.dtype)


def is_quantized(name: str) -> bool:
    """Tell whether a quantized folder holds this parameter as integers."""
    return name.endswith(QUANTIZED)


def quantize(weight: Tensor, form: Format) -> tuple[Tensor, Tensor]:
    """Return the integers and the bfloat16 scales of a matrix or of a stack of them.

    Raises ConfigError for rows that do not divide into groups.
    """
    data_shape, scale_shape = form.shapes(tuple(weight.shape))
    groups_NG = weight.reshape(-1, form.group_size)
    chunks = torch.split(groups_NG, CHUNK_WEIGHTS // form.group_size)
    parts = [_quantize(chunk.float(), form) for chunk in chunks]
    data = torch.cat([data for data, _ in parts]).view(data_shape)
    return data, torch.cat([scales for _, scales in parts]).view(scale_shape)


def dequantize(data: Tensor, scales: Tensor) -> Tensor:
    """Return the weights as fp32, exactly as they are used."""
    form = format_of(data)
    packed_NB = data.reshape(-1, form.group_size * form.bits // 8)
    weights_NG = packed_NB
    if form.bits == 4:
        weights_NG = torch.cat((packed_NB & 15, packed_NB >> 4), dim=1).to(torch.int8) - INT4_SHIFT
    weights = weights_NG.float() * scales.reshape(-1, 1).float()
    return weights.view(*scales.shape[:-1], scales.shape[-1] * form.group_size)


def _quantize(groups_NG: Tensor, form: Format) -> tuple[Tensor, Tensor]:
    if form.bits == 8:
        largest_N1 = groups_NG.abs().amax(dim=1, keepdim=True)
        scales_N1 = (largest_N1 / 127).bfloat16()
        return _round(groups_NG, scales_N1, 127).to(form.dtype), scales_N1
    scales_N1, whole_NG = _best_int4(groups_NG)
    stored_NG = (whole_NG + INT4_SHIFT).to(torch.uint8)
    low_NB, high_NB = torch.split(stored_NG, INT4_HALF, dim=1)
    return low_NB | (high_NB << 4), scales_N1


def _best_int4(groups_NG: Tensor) -> tuple[Tensor, Tensor]:
    """Return the scales with the least squared error, and the weights in -8..7.

    The scale's sign is chosen so that the largest weight falls on -8, the longer side.
    """
    largest_N1 = groups_NG.gather(1, groups_NG.abs().argmax(dim=1, keepdim=True))
    best_N1 = torch.zeros_like(largest_N1).bfloat16()
    error_N1 = torch.full_like(largest_N1, torch.inf)
    for shrink in SHRINKS:
        scales_N1 = (largest_N1 * (-shrink / 8)).bfloat16()
        rounded_NG = _round(groups_NG, scales_N1, 7)
        tried_N1 = (rounded_NG * scales_N1.float() - groups_NG).pow(2).sum(dim=1, keepdim=True)
        better_N1 = tried_N1 < error_N1
        error_N1 = torch.where(better_N1, tried_N1, error_N1)
        best_N1 = torch.where(better_N1, scales_N1, best_N1)
    return best_N1, _round(groups_NG, best_N1, 7)


def _round(groups_NG: Tensor, scales_N1: Tensor, high: int) -> Tensor:
    wide_N1 = scales_N1.float()
    inverse_N1 = torch.where(wide_N1 == 0, wide_N1, 1 / wide_N1)
    return (groups_NG * inverse_N1).round().clamp_(-high - 1, high)
