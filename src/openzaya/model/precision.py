"""The fp32 sets: which operations leave the weight dtype, in one place.

Paper: IV-D.
Deviation: D-006.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from openzaya.model.config import Precision


@dataclass(frozen=True, kw_only=True, slots=True)
class Rules:
    """What happens in fp32 although the weights may be bf16."""

    fp32_norm: bool
    """RMSNorm: the whole operation instead of the statistics only."""
    fp32_cca: bool
    """CCA state, convolutions, QK-mean, QK-norm, temperature and rotation."""
    fp32_router: bool
    """The router's softmax."""
    fp32_residual: bool
    """Both branches of a residual addition instead of the stream only."""
    fp32_head: bool
    """LM head and its result."""


HF = Rules(fp32_norm=False, fp32_cca=False, fp32_router=False, fp32_residual=False, fp32_head=False)
PAPER = Rules(fp32_norm=True, fp32_cca=True, fp32_router=True, fp32_residual=True, fp32_head=True)


def rules_of(precision: Precision) -> Rules:
    """Return the fp32 set that a config's `precision` names."""
    return PAPER if precision == "paper" else HF


def is_low(dtype: torch.dtype) -> bool:
    """Tell whether a dtype rounds more coarsely than fp32."""
    return dtype in (torch.bfloat16, torch.float16)


def raise_to_fp32(x: Tensor) -> Tensor:
    """Return `x` in fp32 if its dtype is coarser, else `x` itself."""
    return x.float() if is_low(x.dtype) else x
