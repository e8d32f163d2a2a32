"""The forward pass over cache slots: by torch, our C++ kernels or our Triton kernels."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from openzaya.core.errors import ConfigError
from openzaya.core.native.build import compiler
from openzaya.engine.cuda.support import reason_against as reason_against_cuda
from openzaya.engine.native.forward import NativePass
from openzaya.engine.native.layout import FORMATS, reason_against
from openzaya.engine.sampling import SamplingBatch
from openzaya.model.cache import Cache
from openzaya.model.checkpoint import load
from openzaya.model.quantized import QuantizedZaya, is_quantized_folder, load_quantized
from openzaya.model.zaya import Zaya

Kernels = Literal["auto", "cuda", "native", "torch"]
Experts = npt.NDArray[np.uint8]


class Pass(Protocol):
    """Continues cache slots by new tokens."""

    cache: Cache
    """The sequences."""
    device: torch.device
    """Where logits come back."""

    def run(
        self,
        ids: npt.NDArray[np.int64],
        lengths: Sequence[int],
        slots: Sequence[int],
        outputs: npt.NDArray[np.int64],
        *,
        want_experts: bool,
    ) -> tuple[Tensor, Experts | None]:
        """Continue `slots[i]` by the next `lengths[i]` of the packed ids.

        Returns the logits [N, V] after the packed tokens named by `outputs`, good until the next
        run, and the class of every token and layer [T, L] (E = skip) if wanted.
        """
        ...

    def draw(
        self, logits_BV: Tensor, uniforms: npt.NDArray[np.float32], batch: SamplingBatch
    ) -> tuple[Tensor, Tensor] | None:
        """Draw tokens and their log-probabilities faster than torch; None where it cannot."""
        ...

    def refresh(self) -> None:
        """Take notice of changed weights."""
        ...


class TorchPass:
    """The model's own forward: any device, any shape."""

    def __init__(
        self,
        model: Zaya,
        num_slots: int,
        max_tokens: int,
        num_blocks: Mapping[str, int] | None = None,
    ) -> None:
        self.device = model.device
        self.cache = Cache(
            model.config,
            num_slots,
            max_tokens,
            model.dtype,
            model.device,
            num_blocks=num_blocks,
        )
        self._model = model

    def run(
        self,
        ids: npt.NDArray[np.int64],
        lengths: Sequence[int],
        slots: Sequence[int],
        outputs: npt.NDArray[np.int64],
        *,
        want_experts: bool,
    ) -> tuple[Tensor, Experts | None]:
        """Run trunk and head; see `Pass.run`."""
        trunk = self._model.trunk(
            torch.from_numpy(ids).to(self.device),
            lengths=lengths,
            cache=self.cache,
            slots=list(slots),
        )
        hidden_ND = trunk.hidden_TD[torch.from_numpy(outputs).to(self.device)]
        experts = trunk.experts_TL.to(torch.uint8).cpu().numpy() if want_experts else None
        return self._model.head(hidden_ND), experts

    def draw(
        self, logits_BV: Tensor, uniforms: npt.NDArray[np.float32], batch: SamplingBatch
    ) -> tuple[Tensor, Tensor] | None:
        """Leave it to `sampling.sample`."""

    def refresh(self) -> None:
        """Nothing to do: the model's own tensors are read at every run."""


def load_model(
    path: str | Path, dtype: str = "float32", device: str = "cpu"
) -> Zaya | QuantizedZaya:
    """Load a folder as the engine runs it best: a quantized one as integers where that works.

    Raises what `openzaya.load` raises.
    """
    if device != "cpu" or not is_quantized_folder(path):
        return load(path, dtype=dtype, device=device)
    model = load_quantized(path)
    return load(path, dtype=dtype) if _reason_against_native(model) else model


def make_pass(
    model: Zaya | QuantizedZaya,
    num_slots: int,
    max_tokens: int,
    kernels: Kernels = "auto",
    num_blocks: Mapping[str, int] | None = None,
) -> Pass:
    """Return the pass that `kernels` names; "auto" takes our kernels where they work.

    "native" needs a CPU, a C++ compiler, fp32 or bf16 weights and widths that are multiples of 32.
    "cuda" needs a CUDA device with bf16 products, Triton and widths that are multiples of 16. Else
    torch runs the model. Raises ConfigError when one is asked for and cannot be.
    """
    if isinstance(model, QuantizedZaya):
        return _quantized_pass(model, num_slots, max_tokens, kernels, num_blocks)
    against_native = _reason_against_native(model)
    if kernels == "native" and against_native:
        raise ConfigError(f'the C++ kernels cannot run: {against_native}; choose kernels="torch"')
    if kernels == "native" or (kernels == "auto" and not against_native):
        return NativePass(model, num_slots, max_tokens, torch.get_num_threads(), num_blocks)
    against_cuda = reason_against_cuda(model.config, model.dtype, model.device)
    if kernels == "cuda" and against_cuda:
        raise ConfigError(f'the CUDA kernels cannot run: {against_cuda}; choose kernels="torch"')
    if kernels == "cuda" or (
        kernels == "auto" and model.device.type == "cuda" and not against_cuda
    ):
        from openzaya.engine.cuda.forward import CudaPass  # imports Triton, which may be missing

        return CudaPass(model, num_slots, max_tokens, num_blocks)
    return TorchPass(model, num_slots, max_tokens, num_blocks)


def _quantized_pass(
    model: QuantizedZaya,
    num_slots: int,
    max_tokens: int,
    kernels: Kernels,
    num_blocks: Mapping[str, int] | None,
) -> Pass:
    named = kernels in ("torch", "cuda")
    reason = f"{kernels} was asked for" if named else _reason_against_native(model)
    if reason:
        raise ConfigError(
            f"a quantized model runs on the C++ kernels only, and {reason}; load the folder with "
            "openzaya.load, which dequantizes it"
        )
    return NativePass(model, num_slots, max_tokens, torch.get_num_threads(), num_blocks)


def _reason_against_native(model: Zaya | QuantizedZaya) -> str:
    if model.device.type != "cpu":
        return f"the model is on {model.device}, expected cpu"
    if model.dtype not in FORMATS:
        return f"the weights are {model.dtype}, expected float32 or bfloat16"
    if compiler() is None:
        return "there is no C++ compiler"
    return reason_against(model.config)
