"""Where the kernels can run; free of Triton, so that the answer costs no import of it."""

import os
from importlib.util import find_spec

import torch

from openzaya.model.config import ZayaConfig

DTYPES = (torch.bfloat16, torch.float32)
MIN_DEVICE = (8, 0)
"""Oldest compute capability with bf16 products."""
MAX_ROUTER_WIDTH = 1024
MAX_EXPERTS = 255


def reason_against(config: ZayaConfig, dtype: torch.dtype, device: torch.device) -> str:
    """Return why the kernels cannot run a model of this shape, dtype and device; "" if they can.

    On a CPU they run under Triton's interpreter only, for tests.
    """
    interpreted = os.environ.get("TRITON_INTERPRET") == "1"
    if device.type != "cuda" and not interpreted:
        return f"the model is on {device}, expected cuda"
    if find_spec("triton") is None:
        return "the package triton is not installed; it comes with CUDA builds of torch"
    if device.type == "cuda":
        found = torch.cuda.get_device_capability(device)
        if found < MIN_DEVICE:
            return f"the device has compute capability {found}, expected at least {MIN_DEVICE}"
    if dtype not in DTYPES:
        return f"the weights are {dtype}, expected bfloat16 or float32"
    return _reason_against_shape(config)


def _reason_against_shape(config: ZayaConfig) -> str:
    width = config.head_dim
    if width < 16 or width > 256 or width & (width - 1):
        return f"head_dim is {width}, expected a power of two from 16 to 256"
    for name in ("hidden_size", "moe_intermediate_size"):
        value = getattr(config, name)
        if value % 16:
            return f"{name} is {value}, expected a multiple of 16"
    if config.router_hidden_size > MAX_ROUTER_WIDTH:
        return (
            f"router_hidden_size is {config.router_hidden_size}, expected at most "
            f"{MAX_ROUTER_WIDTH}"
        )
    if config.num_experts > MAX_EXPERTS:
        return f"num_experts is {config.num_experts}, expected at most {MAX_EXPERTS}"
    return ""
