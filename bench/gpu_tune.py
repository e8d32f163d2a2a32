"""Launch parameters of the CUDA kernels, one changed at a time: time of a whole pass.

    python bench/gpu_tune.py                    about two minutes with an 8B model
    python bench/gpu_tune.py --preset s --layers 4

The model has random weights in bf16 and few layers; the time is that of the whole pass, the head
included. Each line is one JSON object.
"""

import argparse
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from gpu_engine import random_model, say, seconds

from openzaya.engine.cuda import (
    cca,
    experts,
    forward,
    linear,
    plan,
    router,
    router_rows,
)
from openzaya.engine.cuda.forward import CudaPass
from openzaya.model.presets import preset
from openzaya.model.zaya import Zaya

VARIANTS: dict[str, list[tuple[Any, str, tuple[int, ...]]]] = {
    "1": [
        (linear, "PROGRAM_WEIGHTS", (4096, 16_384)),
        (linear, "HEAD_WEIGHTS", (16_384, 65_536)),
        (forward, "SHORT_BLOCKS", (8,)),
        (forward, "FEW_ROWS", (0,)),
    ],
    "2": [(forward, "FEW_ROWS", (1,))],
    "4": [(forward, "FEW_ROWS", (1,))],
    "8": [(forward, "FEW_ROWS", (8,))],
    "64": [
        (experts, "BLOCK_OUT", (16, 64)),
        (experts, "BLOCK_INNER", (64, 256)),
        (experts, "STAGES", (3, 6)),
        (router_rows, "MAX_ROWS", (1,)),
        (cca, "STAGES", (2,)),
    ],
    "2048": [
        (router, "TOKEN_TILE", (16, 64)),
        (router, "WARPS", (4,)),
        (cca, "MAX_TOKEN_TILE", (32, 128)),
        (cca, "WARPS", (4, 16)),
        (cca, "STAGES", (2,)),
        (cca, "BLOCK_J", (32, 128)),
        (plan, "QUERY_ROWS", (32, 128)),
    ],
}
"""By rows of a step, or tokens of each of eight prompts: module, constant, values tried."""


@contextmanager
def changed(module: Any, name: str, value: int) -> Iterator[None]:
    """Give a constant another value for a while."""
    before = getattr(module, name)
    setattr(module, name, value)
    try:
        yield
    finally:
        setattr(module, name, before)


def step_s(model: Zaya, rows: int, repeats: int) -> float:
    """Return the device time of a decode step of `rows` sequences of 192 tokens."""
    pass_ = CudaPass(model, rows, 512)
    ids = np.random.default_rng(0).integers(2, 1000, rows * 192)
    last = np.arange(rows) * 192 + 191
    pass_.run(ids, [192] * rows, [*range(rows)], last, want_experts=False)
    step, outputs, slots = ids[:rows], np.arange(rows), [*range(rows)]
    return seconds(
        lambda: pass_.run(step, [1] * rows, slots, outputs, want_experts=False), repeats, 16
    )


def prefill_s(model: Zaya, length: int, repeats: int) -> float:
    """Return the device time of eight prompts of `length` tokens."""
    pass_ = CudaPass(model, 8, length)
    ids = np.random.default_rng(0).integers(2, 1000, 8 * length)
    last = np.arange(8) * length + length - 1

    def run() -> None:
        for slot in range(8):
            pass_.cache.reset(slot)
        pass_.run(ids, [length] * 8, [*range(8)], last, want_experts=False)

    return seconds(run, repeats)


def main() -> None:
    """Measure everything."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--preset", default="zaya1-8b")
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--only", default=",".join(VARIANTS), help="rows or tokens to try")
    args = parser.parse_args()
    begin = time.perf_counter()
    shape = preset(args.preset, precision="paper", num_hidden_layers=args.layers)
    model = random_model(shape, torch.bfloat16)
    for size in args.only.split(","):
        measure = prefill_s if int(size) > 512 else step_s

        def us(measure: Any = measure, size: str = size) -> float:
            return round(measure(model, int(size), args.repeats) * 1e6, 1)

        say("tune", size=int(size), us=us())
        for module, name, values in VARIANTS[size]:
            for value in values:
                what = f"{module.__name__.rsplit('.', 1)[1]}.{name}={value}"
                with changed(module, name, value):
                    try:
                        say("tune", size=int(size), change=what, us=us())
                    except Exception as problem:  # noqa: BLE001 (the next value may work)
                        say(
                            "tune",
                            change=what,
                            problem=f"{type(problem).__name__}: {problem}"[:200],
                        )
    say("elapsed", seconds=round(time.perf_counter() - begin))


if __name__ == "__main__":
    main()
