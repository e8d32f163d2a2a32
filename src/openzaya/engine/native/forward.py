"""The C++ forward pass behind the same interface as torch's."""

import ctypes
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from openzaya.core.native.build import load_library
from openzaya.engine.native import layout
from openzaya.engine.sampling import SamplingBatch
from openzaya.model.cache import Cache
from openzaya.model.quantized import QuantizedZaya
from openzaya.model.zaya import Zaya

FOLDER = Path(__file__).parent
SOURCES = (
    "pool.h",
    "formats.h",
    "matmul.h",
    "products.h",
    "attention.h",
    "sample.h",
    "forward.cpp",
)


@cache
def kernels() -> ctypes.CDLL:
    """Return our library with the types of its functions; compiling it takes 15 s, once."""
    library = load_library(FOLDER, SOURCES)
    library.zaya_open.restype = ctypes.c_void_p
    library.zaya_open.argtypes = [ctypes.c_void_p, ctypes.c_int]
    library.zaya_refresh.restype = None
    library.zaya_refresh.argtypes = [ctypes.c_void_p, ctypes.c_void_p]
    library.zaya_close.restype = None
    library.zaya_close.argtypes = [ctypes.c_void_p]
    library.zaya_forward.restype = None
    library.zaya_forward.argtypes = [ctypes.c_void_p] * 3
    library.zaya_draw.restype = None
    library.zaya_draw.argtypes = [
        ctypes.c_void_p,
        ctypes.c_void_p,
        ctypes.c_int64,
        *[ctypes.c_void_p] * 5,
    ]
    return library


def tensors_of(model: Zaya | QuantizedZaya) -> Mapping[str, Tensor | tuple[Tensor, Tensor]]:
    """Return the tensors of a model by parameter name."""
    if isinstance(model, QuantizedZaya):
        return model.tensors
    return model.state_dict()


class NativePass:
    """Runs a model in C++; see `engine/passes.py` for the interface.

    Activations are fp32 whatever the weights are, and the tail of each sequence is kept in fp32. A
    token's numbers do not depend on the tokens computed with it, bit for bit.

    Raises ConfigError where there is no compiler or the model's shape does not fit.

    Paper: II; IV-D.
    Deviation: D-020.
    """

    def __init__(
        self,
        model: Zaya | QuantizedZaya,
        num_slots: int,
        max_tokens: int,
        threads: int,
        num_blocks: Mapping[str, int] | None = None,
    ) -> None:
        self.device = torch.device("cpu")
        self.cache = Cache(
            model.config,
            num_slots,
            max_tokens,
            model.dtype,
            num_blocks=num_blocks,
            state_dtype=torch.float32,
        )
        self._library = kernels()
        self._model = model
        self._threads = threads
        self._handle: int | None = None
        self._logits = torch.empty(0)
        self._layers = (layout.CacheLayer * model.config.num_hidden_layers)()
        for index, kind in enumerate(model.config.layer_types):
            self._layers[index] = layout.CacheLayer(
                keys=self.cache.keys[index].data_ptr(),
                values=self.cache.values[index].data_ptr(),
                table=self.cache.tables[kind].ctypes.data,
            )
        self._store = layout.Cache(
            layers=self._layers,
            conv=self.cache.conv.data_ptr(),
            delayed=self.cache.delayed.data_ptr(),
            num_slots=num_slots,
            max_blocks=next(iter(self.cache.tables.values())).shape[1],
            is_bf16=self.cache.keys[0].dtype is torch.bfloat16,
        )
        self.refresh()

    def refresh(self) -> None:
        """Read the model's tensors anew; the threads and their memory stay."""
        self._weights = layout.Weights(
            self._model.config,
            tensors_of(self._model),
            self._model.rope_thetas,
            self.cache.max_tokens,
        )
        model = ctypes.byref(self._weights.model)
        if self._handle is None:
            self._handle = self._library.zaya_open(model, self._threads)
        else:
            self._library.zaya_refresh(self._handle, model)

    def close(self) -> None:
        """End the threads; the pass cannot run any more."""
        if self._handle is not None:
            self._library.zaya_close(self._handle)
            self._handle = None

    def __del__(self) -> None:
        """Free the threads of a pass that nobody closed."""
        if getattr(self, "_handle", None) is not None:
            self.close()

    def run(
        self,
        ids: npt.NDArray[np.int64],
        lengths: Sequence[int],
        slots: Sequence[int],
        outputs: npt.NDArray[np.int64],
        *,
        want_experts: bool,
    ) -> tuple[Tensor, npt.NDArray[np.uint8] | None]:
        """Continue the slots; see `Pass.run`."""
        config, cache = self._model.config, self.cache
        chosen = cache.select(list(slots), list(lengths))
        starts = np.zeros(len(lengths) + 1, dtype=np.int32)
        np.cumsum(lengths, out=starts[1:])
        ids = np.ascontiguousarray(ids, dtype=np.int64)
        places = np.asarray(slots, dtype=np.int32)
        past = np.asarray(chosen.starts, dtype=np.int32)
        wanted = np.asarray(outputs, dtype=np.int32)
        ends = chosen.inner_ends.astype(np.int32)
        logits_NV = self._logits_buffer(len(wanted))
        experts = None
        if want_experts:
            experts = np.empty((len(ids), config.num_hidden_layers), dtype=np.uint8)
        batch = layout.Batch(
            ids=ids.ctypes.data,
            starts=starts.ctypes.data,
            slots=places.ctypes.data,
            past=past.ctypes.data,
            outputs=wanted.ctypes.data,
            snapshots=ends.ctypes.data,
            logits=logits_NV.data_ptr(),
            experts=None if experts is None else experts.ctypes.data,
            snapshot_conv=cache.inner_conv.data_ptr(),
            snapshot_delayed=cache.inner_delayed.data_ptr(),
            num_tokens=len(ids),
            num_sequences=len(lengths),
            num_outputs=len(wanted),
            num_snapshots=len(ends),
        )
        self._library.zaya_forward(self._handle, ctypes.byref(self._store), ctypes.byref(batch))
        cache.advance(chosen, list(lengths))
        return logits_NV, experts

    def draw(
        self, logits_BV: Tensor, uniforms: npt.NDArray[np.float32], batch: SamplingBatch
    ) -> tuple[Tensor, Tensor] | None:
        """Draw a token for every row, [B], with its log-probability, [B].

        The meaning is that of `sampling.sample`, except that a draw at the very border of two
        tokens may round to the other one. None when some row samples from a part of the vocabulary.
        """
        if batch.truncation is not None:
            return None
        count = logits_BV.shape[0]
        logits_BV = logits_BV.float().contiguous()
        ones_B1 = torch.ones(count, 1) if batch.temperature_B1 is None else batch.temperature_B1
        greedy_B = torch.full((count,), batch.all_greedy)
        if batch.greedy_B is not None:
            greedy_B = batch.greedy_B
        uniforms = np.ascontiguousarray(uniforms)
        tokens_B = torch.empty(count, dtype=torch.int64)
        logprobs_B = torch.empty(count)
        self._library.zaya_draw(
            self._handle,
            logits_BV.data_ptr(),
            count,
            ones_B1.data_ptr(),
            greedy_B.data_ptr(),
            uniforms.ctypes.data,
            tokens_B.data_ptr(),
            logprobs_B.data_ptr(),
        )
        return tokens_B, logprobs_B

    def _logits_buffer(self, rows: int) -> Tensor:
        """Return [N, V] numbers to write to: fresh memory would cost a page fault per 4 KiB."""
        vocab = self._model.config.vocab_size
        if self._logits.numel() < rows * vocab:
            self._logits = torch.empty(rows * vocab)
        return self._logits[: rows * vocab].view(rows, vocab)
