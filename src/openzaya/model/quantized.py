"""A model whose large matrices are integers, as the engine's CPU kernels run it."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from openzaya.core.errors import CheckpointError
from openzaya.model.checkpoint import QUANTIZATION, Source, check_sums, expected_shapes
from openzaya.model.config import Precision, ZayaConfig
from openzaya.model.hub import resolve_folder
from openzaya.model.quantize import is_quantized
from openzaya.model.shards import read_json


class QuantizedZaya:
    """The tensors of a quantized folder; it has no forward pass of its own.

    `openzaya.load` of the same folder gives the dequantized model, whose numbers differ only by
    the rounding of activations to 16 bits.
    """

    device = torch.device("cpu")

    def __init__(
        self, config: ZayaConfig, tensors: Mapping[str, Tensor | tuple[Tensor, Tensor]]
    ) -> None:
        """Take tensors by parameter name: integers with their scales, or a plain tensor."""
        self.config = config
        self.tensors = tensors
        self.rope_thetas = config.rope_thetas

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of what is not quantized, and of keys and values in a cache."""
        norm = self.tensors["norm.weight"]
        assert isinstance(norm, Tensor)
        return norm.dtype


def is_quantized_folder(path: str | Path) -> bool:
    """Tell from its config alone whether a model folder is quantized."""
    return QUANTIZATION in read_json(resolve_folder(path) / "config.json")


def load_quantized(path: str | Path, precision: Precision = "hf") -> QuantizedZaya:
    """Map a folder that `openzaya convert --weights` wrote; a small one is verified and copied.

    Raises CheckpointError for a folder that is not quantized or cannot be read whole.
    """
    source = Source(path)
    if source.form is None:
        raise CheckpointError(
            f"{source.folder} is not quantized; load it with openzaya.load, or quantize it with "
            "`openzaya convert --weights int4`"
        )
    check_sums(source)
    tensors: dict[str, Tensor | tuple[Tensor, Tensor]] = {}
    for name in expected_shapes(source.config):
        get = source.get_quantized if is_quantized(name) else source.get
        tensors[name] = get(name, copy=source.is_small)
    return QuantizedZaya(replace(source.config, precision=precision), tensors)
