"""Compile, without a device, every kernel that a pass launches, for compute capability 9.0.

    python compile_kernels.py bfloat16

Triton's driver is replaced by one that names the target and nothing else, and launches by
compilations; the pass then runs on CPU tensors and computes nothing. Prints each kernel's name.
"""

import sys
from typing import Any

import numpy as np
import torch
from triton.backends.compiler import GPUTarget
from triton.runtime import driver, jit

from openzaya.engine.cuda.forward import CudaPass
from openzaya.model.config import ZayaConfig
from openzaya.model.zaya import Zaya

MAX_SHARED_BYTES = 232_448
"""Shared memory that a program of this target can have."""


class Target:
    """Says what to compile for."""

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", 90, 32)

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return 0


def compile_only(launch: Any) -> Any:
    """Return a launcher that compiles."""

    def run(self: Any, *args: Any, grid: Any, warmup: bool, **options: Any) -> None:
        kernel = launch(self, *args, grid=grid, warmup=True, **options)
        assert kernel.asm["cubin"]
        assert kernel.metadata.shared <= MAX_SHARED_BYTES, (self.fn.__name__, kernel.metadata)
        sys.stdout.write(f"{self.fn.__name__} {kernel.metadata.shared}\n")

    return run


def main(dtype: torch.dtype) -> None:
    """Run one pass of each sort."""
    driver.set_active(Target())
    jit.JITFunction.run = compile_only(jit.JITFunction.run)
    torch.set_default_dtype(dtype)
    config = ZayaConfig(
        vocab_size=512,
        hidden_size=256,
        num_hidden_layers=2,
        moe_intermediate_size=256,
        layer_types=("hybrid", "hybrid_sliding"),
        sliding_window=500,
        skip_mode="identity",
        precision="paper",
    )
    model = Zaya(config).eval()
    torch.set_default_dtype(torch.float32)
    forward = CudaPass(model, 5, 1024)
    forward.cache.keeps_ends = True
    forward._processors = 132  # as an H200 has: few would leave attention in one piece
    ids, no = np.arange(600) % 500, False
    forward.run(ids[:2], [1, 1], [0, 1], np.arange(2), want_experts=no)
    forward.run(ids, [600], [0], np.array([599]), want_experts=no)
    forward.run(ids[:5], [1] * 5, [*range(5)], np.arange(5), want_experts=no)
    from openzaya.engine.cuda.draw import draw
    from openzaya.engine.cuda.grouped import gated

    gated(torch.zeros(2, 512, dtype=dtype))

    row = torch.zeros(2)
    draw(torch.zeros(2, 512), row, row.int(), row)


if __name__ == "__main__":
    main(getattr(torch, sys.argv[1]))
