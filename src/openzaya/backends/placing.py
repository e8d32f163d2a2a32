"""Where a model folder runs best, and how much of that memory its cache may take."""

from pathlib import Path

import torch

from openzaya.backends.machine import choose_device, memory_bytes
from openzaya.core.errors import ConfigError
from openzaya.model.hub import resolve_folder
from openzaya.model.quantized import is_quantized_folder
from openzaya.model.shards import Shards

MIN_BYTES_GPU = 1 << 30
"""Smaller models have answered on a CPU before a GPU's kernels are compiled."""
WEIGHTS_SHARE = 0.8
"""Of a GPU's free memory at most, so that a cache fits as well."""
CACHE_SHARE = {"cpu": 0.5, "cuda": 0.8}
"""Of what is free once the weights are there. The pages of a mapped model compete for memory;
a GPU keeps room for what a pass computes."""


def device_of(folder: str | Path, wanted: str = "auto") -> str:
    """Return the torch device to load a folder on: `wanted`, or for "auto" the best there is.

    That is a GPU that computes and has room, except for small models, and for quantized ones, which
    run as integers on CPUs only. Raises ConfigError for a device that is not there.
    """
    if wanted != "auto":
        return _checked(wanted)
    if choose_device() == "cpu" or is_quantized_folder(folder):
        return "cpu"
    size = Shards(resolve_folder(folder)).num_bytes
    fits = size <= WEIGHTS_SHARE * free_bytes(torch.device("cuda"))
    return "cuda" if fits and size >= MIN_BYTES_GPU else "cpu"


def free_bytes(device: torch.device) -> int:
    """Return the memory that nobody uses on a device."""
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else memory_bytes()[1]


def cache_bytes(device: torch.device) -> int:
    """Return how much a cache may take on a device that holds the weights already."""
    return int(CACHE_SHARE[device.type] * free_bytes(device))


def _checked(wanted: str) -> str:
    if wanted not in CACHE_SHARE:
        raise ConfigError(
            f"device is {wanted!r}, expected auto, cpu or cuda; CUDA_VISIBLE_DEVICES says which GPU"
        )
    if wanted == "cuda" and not torch.cuda.is_available():
        raise ConfigError(
            f"device is cuda, and torch {torch.__version__} finds none here; choose device=auto, "
            "or install the torch build for this machine's GPU"
        )
    return wanted
